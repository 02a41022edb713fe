"""When this process started."""

import subprocess
import sys
import time

from vmckpt.kernel.clock import process_started_s


def test_it_is_before_now_and_does_not_move() -> None:
    first = process_started_s()
    assert first < time.monotonic()
    assert abs(process_started_s() - first) < 0.05


def test_a_process_knows_its_age() -> None:
    before = time.monotonic()
    program = "from vmckpt.kernel.clock import process_started_s; print(process_started_s())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert before - 0.05 < float(done.stdout) < time.monotonic()
