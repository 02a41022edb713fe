"""What every test of the trace room gets: a time limit, and a skip where the kernel lacks what it needs."""

from collections.abc import Iterator

import pytest

from tests.support.bounded import bounded_by
from tests.trace.vcpu import ALL
from vmckpt.kernel.features import probe

LIMIT_S = 20


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A trap that nobody answers blocks for ever: end the test instead."""
    with bounded_by(LIMIT_S):
        yield


@pytest.fixture
def kernel_traces() -> None:
    """Skip, with the reason, unless this process can trace first touches and writes with the kernel."""
    reason = probe().lacks(ALL)
    if reason:
        pytest.skip(reason)
