"""What every test of the kernel room gets: a time limit, and a skip where the kernel lacks what it needs."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.bounded import bounded_by
from vmckpt.kernel.features import probe
from vmckpt.kernel.uffdio import Feature

LIMIT_S = 10


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A fault that nobody answers blocks for ever: end the test instead."""
    with bounded_by(LIMIT_S):
        yield


@pytest.fixture
def needs() -> Callable[[Feature], None]:
    """Skip, with the reason, unless this process can have these features of userfaultfd."""

    def check(features: Feature) -> None:
        reason = probe().lacks(features)
        if reason:
            pytest.skip(reason)

    return check
