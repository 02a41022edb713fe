"""The shared memory: slots, the log, and what a fork sees of it."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmckpt.layout import PAGE_BYTES
from vmckpt.trace.journal import MOST_VCPUS, RELEASED, Entry, Journal, pack_entry

entries = st.builds(
    Entry,
    vcpu=st.integers(0, MOST_VCPUS - 1),
    page=st.integers(0, (1 << 56) - 1),
    write=st.booleans(),
    copied=st.booleans(),
)


@pytest.fixture
def journal() -> Iterator[Journal]:
    with Journal(page_count=10, block_pages=4, vcpus=1) as made:
        yield made


def log(journal: Journal, entry: Entry) -> None:
    journal.log(pack_entry(entry.vcpu, entry.page, entry.write, entry.copied))


@settings(deadline=None)
@given(st.lists(entries, max_size=30))
def test_what_is_logged_comes_out_in_order(logged: list[Entry]) -> None:
    with Journal(10, 4, MOST_VCPUS) as journal:
        for entry in logged:
            log(journal, entry)
        assert journal.entries() == logged
        assert journal.entries() == []
        assert journal.traps_write == sum(entry.write for entry in logged)
        assert journal.traps_read + journal.traps_write == len(logged)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=60))
def test_the_log_goes_around_its_ring(bursts: list[int]) -> None:
    page = 0
    with Journal(1, 1, 1) as journal:  # four or eight words
        for burst in bursts:
            for _ in range(min(burst, 4)):
                log(journal, Entry(0, page, write=False, copied=False))
                page += 1
            assert [entry.page for entry in journal.entries()] == list(range(page - min(burst, 4), page))
        assert journal.lost == 0


def test_a_full_log_loses_what_comes_last_and_says_so() -> None:
    with Journal(1, 1, 1) as journal:
        for page in range(10):
            log(journal, Entry(0, page, write=True, copied=False))
        kept = journal.entries()
        assert [entry.page for entry in kept] == list(range(len(kept)))
        assert (len(kept) + journal.lost, journal.traps_write) == (10, 10)
        log(journal, Entry(0, 77, write=True, copied=False))
        assert [entry.page for entry in journal.entries()] == [77]


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40))
def test_no_two_copies_share_a_slot(steps: list[int]) -> None:
    with Journal(9, 2, 1) as journal:
        held: list[int] = []  # blocks that have a slot
        blocks, most = iter(range(journal.block_count)), 0
        for step in steps:
            if step and held:
                block = held.pop(step % len(held))
                journal.release(block)
                assert journal.captures[block] == RELEASED
            elif (block := next(blocks, -1)) >= 0:
                number = journal.take_slot()
                assert number + 1 not in [journal.captures[other] for other in held]
                journal.captures[block] = number + 1
                held.append(block)
                most = max(most, len(held))
                assert number < most  # one given back comes before a new one


def test_the_slot_given_back_last_is_taken_first(journal: Journal) -> None:
    for block in range(3):
        journal.captures[block] = journal.take_slot() + 1
    journal.release(0)
    journal.release(2)
    assert [journal.take_slot(), journal.take_slot()] == [2, 0]


@pytest.mark.parametrize("value", [0, RELEASED], ids=["never copied", "released"])
def test_only_a_copy_can_be_given_back(journal: Journal, value: int) -> None:
    journal.captures[1] = value
    with pytest.raises(ValueError, match="memory block 1 has no copy"):
        journal.release(1)


def test_slots_are_a_block_long_and_apart(journal: Journal) -> None:
    assert (journal.block_count, journal.block_bytes) == (3, 4 * PAGE_BYTES)
    for number in range(3):
        with journal.slot(number) as slot:
            slot[:] = bytes([number + 1]) * journal.block_bytes
    for number in range(3):
        with journal.slot(number) as slot:
            assert bytes(slot) == bytes([number + 1]) * journal.block_bytes


def test_fields_do_not_overlap(journal: Journal) -> None:
    fields = (journal.captures, journal.saved, journal.dirty)
    for number, field in enumerate(fields, start=1):
        for block in range(3):
            field[block] = number
    assert [list(field) for field in fields] == [[1] * 3, [2] * 3, [3] * 3]
    assert journal.entries() == []
    assert journal.take_slot() == 0


def test_a_fork_shares_it(journal: Journal) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            number = journal.take_slot()
            journal.slot(number)[:3] = b"abc"
            journal.captures[1] = number + 1
            log(journal, Entry(0, 5, write=True, copied=True))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert journal.entries() == [Entry(0, 5, write=True, copied=True)]
    assert journal.captures[1] == 1
    with journal.slot(0) as slot:
        assert bytes(slot[:3]) == b"abc"
    assert journal.traps_write == 1


def test_slots_are_made_ready_up_to_the_last(journal: Journal) -> None:
    pieces = 0
    while journal.make_ready():
        pieces += 1
    assert pieces == 2  # 48 KiB in pieces of 32
    journal.take_slot()
    assert not journal.make_ready()


def test_closing_with_a_slot_in_use_and_twice_is_fine() -> None:
    journal = Journal(10, 4, 1)
    slot = journal.slot(0)
    journal.close()
    journal.close()
    assert bytes(slot) == bytes(4 * PAGE_BYTES)  # a view that somebody holds stays good
    slot.release()


def test_more_vcpus_than_an_entry_tells_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 16 vCPUs"):
        Journal(10, 4, MOST_VCPUS + 1)
