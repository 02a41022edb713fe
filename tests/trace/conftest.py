"""What every test of the trace room gets: a time limit, and a skip where the kernel lacks what it needs."""

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from tests.trace.vcpu import ALL
from vmckpt.kernel.features import probe

LIMIT_S = 20


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A trap that nobody answers blocks for ever: end the test instead."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def kernel_traces() -> None:
    """Skip, with the reason, unless this process can trace first touches and writes with the kernel."""
    reason = probe().lacks(ALL)
    if reason:
        pytest.skip(reason)
