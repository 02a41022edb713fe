"""A time limit for what starts processes: a page that nobody brings blocks for ever."""

from collections.abc import Iterator

import pytest

from tests.support.bounded import bounded_by

LIMIT_S = 60


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    with bounded_by(LIMIT_S):
        yield
