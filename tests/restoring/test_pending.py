"""The list of duplicates that wait for what they refer to."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.restoring.pending import Pending, Referring

WAITING = st.lists(
    st.builds(
        Referring,
        st.integers(0, (1 << 64) - 1),
        st.binary(min_size=8, max_size=8),
        st.integers(0, 5),
        st.integers(0, (1 << 16) - 1),
        st.integers(0, (1 << 16) - 1),
    ),
    max_size=20,
)


@pytest.fixture
def pending() -> Iterator[Pending]:
    pending = Pending.new()
    yield pending
    os.close(pending._fd)


@given(first=WAITING, second=WAITING)
def test_each_view_is_told_once_of_all_that_was_added(
    first: list[Referring], second: list[Referring]
) -> None:
    pending = Pending.new()
    other = pending.apart()
    pending.add(first)
    found = {number: other.take(number) for number in range(6)}
    other.add(second)
    for number in range(6):
        found[number] += other.take(number)
        wanted = [each for each in first + second if each.storage_block == number]
        assert found[number] == wanted == pending.take(number)
        assert not pending.take(number)
    assert pending.pages() == sorted({each.page for each in first + second})
    os.close(pending._fd)


def test_what_a_killed_writer_has_left_half_is_left_out(pending: Pending) -> None:
    whole = Referring(7, b"h" * 8, 3, 1, 2)
    pending.add([whole])
    os.pwritev(pending._fd, [b"half"], 0, os.RWF_APPEND)
    assert pending.take(3) == [whole]
    assert pending.pages() == [7]


def test_a_new_view_of_an_empty_list_has_nothing(pending: Pending) -> None:
    assert (pending.apart().take(0), pending.pages()) == ([], [])
