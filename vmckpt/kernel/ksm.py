"""Linux KSM, which merges equal pages: its counters, its settings, and scans brought to an end.

    lacks() ─▶ tuned(settings) ─▶ scan(): wait until nothing more is merged ─▶ counters() ─▶ unmerged, settings as before

KSM is one for the whole machine. Whoever tunes it here gives everything back as it was, on an error and on Ctrl-C as well;
where it is at work for somebody else already, `lacks` says so, and it is left alone.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vmckpt.errors import FeatureError, IoError

__all__ = ["DIRECTORY", "Counters", "counters", "lacks", "scan", "split_count", "tuned"]

DIRECTORY = "/sys/kernel/mm/ksm"

_STOP, _RUN, _UNMERGE = 0, 1, 2
_KEPT = ("run", "pages_to_scan", "sleep_millisecs", "max_page_sharing", "use_zero_pages", "smart_scan")
_VMSTAT = "/proc/vmstat"
_LOOK_S = 0.02


class Counters(NamedTuple):
    """What KSM counts (Documentation/admin-guide/mm/ksm.rst), in pages unless said otherwise."""

    pages_shared: int
    """Frames that are shared."""
    pages_sharing: int
    """Further pages that these frames serve."""
    pages_unshared: int
    """Pages looked at that no other equals."""
    pages_volatile: int
    """Pages that change too fast."""
    ksm_zero_pages: int
    """Zero pages mapped to the kernel's own, with `use_zero_pages` on."""
    general_profit: int
    """Bytes that are saved, less what KSM needs to keep track."""
    full_scans: int
    """How often all memory was gone through."""


def lacks(directory: str = DIRECTORY) -> str:
    """Why KSM cannot be tried out here, as half a sentence; empty where it can."""
    if not os.path.isdir(directory):
        return "this kernel has no KSM"
    if not os.access(os.path.join(directory, "run"), os.W_OK):
        return "only root may tell KSM what to do"
    missing = [name for name in Counters._fields if not os.path.exists(os.path.join(directory, name))]
    if missing:
        return f"this kernel's KSM has no {missing[0]}"
    if _read(directory, "run") != _STOP or _read(directory, "pages_shared"):
        return "KSM is at work on this machine already"
    if other := _mergeable_elsewhere():
        return f"process {other} has mergeable memory, which would be counted as well"
    return ""


def _mergeable_elsewhere() -> int:
    """A process other than this one that has mergeable memory (QEMU's, for one); 0: none, or the kernel does not tell."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/ksm_stat", encoding="ascii") as file:
            if int(pid) != os.getpid() and "ksm_mergeable: yes" in file.read():
                return int(pid)
    return 0


def counters(directory: str = DIRECTORY) -> Counters:
    """What KSM counts now.

    Raises:
        FeatureError: this kernel's KSM has not all of it.
    """
    return Counters(*(_read(directory, name) for name in Counters._fields))


@contextlib.contextmanager
def tuned(settings: Mapping[str, int], directory: str = DIRECTORY) -> Iterator[None]:
    """KSM with other settings; after it, all that it merged is unmerged, and the settings are as they were.

    Args:
        settings: by the names of their files; `run` is not one of them, `scan` sets it.
        directory: where they are.

    Raises:
        FeatureError: this KSM cannot be tried out, or has no such setting.
        IoError: the kernel refuses one.
    """
    if reason := lacks(directory):
        raise FeatureError(f"cannot try KSM out: {reason}")
    before = {name: _read(directory, name) for name in {*settings, *_present(directory)} - {"run"}}
    try:
        for name, value in settings.items():
            _write(directory, name, value)
        yield
    finally:
        _put_back(directory, before)


def _put_back(directory: str, before: Mapping[str, int]) -> None:
    # Once more where a second Ctrl-C comes in between: what is written twice is as good as once.
    try:
        _restore(directory, before)
    except KeyboardInterrupt:
        _restore(directory, before)
        raise


def _restore(directory: str, before: Mapping[str, int]) -> None:
    _write(directory, "run", _UNMERGE)  # `max_page_sharing` cannot be changed while pages are merged
    for name, value in before.items():
        _write(directory, name, value)
    _write(directory, "run", _STOP)


def _present(directory: str) -> list[str]:
    return [name for name in _KEPT if os.path.exists(os.path.join(directory, name))]


def scan(least_scans: int, limit_s: float, directory: str = DIRECTORY) -> Counters:
    """Let KSM go through all memory until nothing changes any more, then stop it.

    Args:
        least_scans: full scans, at least. A page is merged at the second one that sees it unchanged.
        limit_s: seconds, at most.
        directory: where KSM's files are.

    Raises:
        IoError: it did not come to an end in time, or the kernel refuses.
    """
    _write(directory, "run", _RUN)
    try:
        return _settled(least_scans, time.monotonic() + limit_s, directory)
    finally:
        _write(directory, "run", _STOP)


def _settled(least_scans: int, end: float, directory: str) -> Counters:
    first = last = counters(directory)
    while True:
        time.sleep(_LOOK_S)
        now = counters(directory)
        if now.full_scans > last.full_scans:
            same = now._replace(full_scans=0) == last._replace(full_scans=0)
            if same and now.full_scans - first.full_scans >= least_scans:
                return now
            last = now
        if time.monotonic() > end:
            raise IoError(
                f"KSM went through all memory {now.full_scans - first.full_scans} times and was not done in time"
            )


def split_count() -> int:
    """How many large pages this machine has split since it was booted (`thp_split_page`).

    Raises:
        FeatureError: the kernel does not say.
    """
    try:
        with open(_VMSTAT, encoding="ascii") as file:
            for line in file:
                if line.startswith("thp_split_page "):
                    return int(line.split()[1])
    except OSError as error:
        raise FeatureError(f"cannot read {_VMSTAT}: {error.strerror}") from error
    raise FeatureError(f"{_VMSTAT} has no thp_split_page: this kernel has no large pages")


def _read(directory: str, name: str) -> int:
    path = os.path.join(directory, name)
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except OSError as error:
        raise FeatureError(f"cannot read KSM's {name}: {error.strerror}") from error
    except ValueError as error:
        raise FeatureError(f"KSM's {name} is not a number") from error


def _write(directory: str, name: str, value: int) -> None:
    path = os.path.join(directory, name)
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{value}\n")
    except OSError as error:
        raise IoError.of(error, f"cannot set KSM's {name} to {value}", path=path) from error
