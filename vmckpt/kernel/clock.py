"""When this process started, on the scale of `time.monotonic`: what a command's own time is counted from.

The kernel keeps it in clock ticks (10 ms each, as a rule), so a time counted from it is up to a tick too long.
"""

import os
import time

from vmckpt.errors import FeatureError

__all__ = ["process_started_s"]

_START_FIELD = 19  # of those behind the process's name, which may hold anything


def process_started_s() -> float:
    """When this process started, interpreter and all, in seconds of `time.monotonic`.

    Raises:
        FeatureError: this system does not tell.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        ticks = int(fields[_START_FIELD])
        since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, IndexError, AttributeError) as error:
        raise FeatureError(f"cannot tell when this process started: {error}") from error
    age_s = since_boot_s - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - max(age_s, 0.0)
