"""A time limit for what starts processes: a page that nobody brings blocks for ever."""

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

LIMIT_S = 60


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
