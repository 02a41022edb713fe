"""A time limit for tests that wait for a page: one that nobody brings blocks for ever."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def bounded_by(limit_s: int) -> Iterator[None]:
    """End what takes longer with TimeoutError."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took more than {limit_s} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
