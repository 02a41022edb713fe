"""What every test of the kernel room gets: a time limit, and a skip where the kernel lacks what it needs."""

import signal
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from vmckpt.kernel.features import probe
from vmckpt.kernel.uffdio import Feature

LIMIT_S = 10


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A fault that nobody answers blocks for ever: end the test instead."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def needs() -> Callable[[Feature], None]:
    """Skip, with the reason, unless this process can have these features of userfaultfd."""

    def check(features: Feature) -> None:
        reason = probe().lacks(features)
        if reason:
            pytest.skip(reason)

    return check
