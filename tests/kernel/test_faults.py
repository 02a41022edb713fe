"""How filling pages goes and where it stops: asked of the kernel and of the fake, which has to agree."""

from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from tests.kernel.fake import FakeFaults
from tests.kernel.guest import Guest, page_of
from vmckpt.kernel.faults import CopyOutcome, Event, EventKind, Faults, Stop
from vmckpt.kernel.memory import Advice
from vmckpt.kernel.uffdio import Feature, Mode
from vmckpt.layout import PAGE_BYTES

PAGES = 8
FEATURES = Feature.MISSING_SHMEM | Feature.MINOR_SHMEM | Feature.EVENT_REMOVE


class Side(Protocol):
    """A guest of eight pages of a memfd, all of them holes."""

    faults: Faults

    def at(self, page: int) -> int: ...

    def give(self, page: int, byte: int) -> None:
        """Put a page into the file without mapping it."""

    def content(self, page: int) -> bytes: ...

    def start_removing(self, page: int, pages: int) -> None: ...

    def end(self) -> None: ...


class KernelSide:
    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.faults: Faults = guest.trap(Mode.MISSING | Mode.MINOR, FEATURES)
        self.at = guest.at
        self.give = guest.fill
        self.content = guest.content
        self.end = guest.kill

    def start_removing(self, page: int, pages: int) -> None:
        self.guest.start("advise", Advice.DONTNEED, page, pages)
        self.guest.wait_for_event()


class FakeSide:
    def __init__(self) -> None:
        self.fake = FakeFaults(PAGES)
        self.faults: Faults = self.fake
        self.start_removing = self.fake.remove

    def at(self, page: int) -> int:
        return self.fake.address + page * PAGE_BYTES

    def give(self, page: int, byte: int) -> None:
        self.fake.content[page] = page_of(byte)

    def content(self, page: int) -> bytes:
        return self.fake.content.get(page, bytes(PAGE_BYTES))

    def end(self) -> None:
        self.fake.ended = True


@pytest.fixture(params=["kernel", "fake"])
def side(request: pytest.FixtureRequest, needs: Callable[[Feature], None]) -> Iterator[Side]:
    if request.param == "fake":
        yield FakeSide()
        return
    needs(FEATURES)
    with Guest(PAGES) as guest:
        yield KernelSide(guest)


def outcome(pages: int, stop: Stop) -> CopyOutcome:
    return CopyOutcome(pages * PAGE_BYTES, stop)


THREE = page_of(1) + page_of(2) + page_of(3)
EIGHT = b"".join(page_of(byte) for byte in range(1, PAGES + 1))


def test_copy_fills_missing_pages(side: Side) -> None:
    assert side.faults.copy(side.at(2), THREE, len(THREE)) == outcome(3, Stop.DONE)
    assert [side.content(page)[0] for page in range(6)] == [0, 0, 1, 2, 3, 0]


def test_a_copy_that_meets_a_present_page_stops_there_and_says_so(side: Side) -> None:
    side.give(3, 99)
    assert side.faults.copy(side.at(0), EIGHT, len(EIGHT)) == outcome(3, Stop.EXISTS)
    assert [side.content(page)[0] for page in range(PAGES)] == [1, 2, 3, 99, 0, 0, 0, 0]


def test_a_copy_onto_a_present_page_changes_nothing(side: Side) -> None:
    side.give(0, 99)
    assert side.faults.copy(side.at(0), EIGHT, len(EIGHT)) == outcome(0, Stop.EXISTS)
    assert side.content(0) == page_of(99)


def test_nothing_can_be_filled_while_a_remove_event_is_unread(side: Side) -> None:
    side.start_removing(6, 1)
    assert side.faults.copy(side.at(0), THREE, len(THREE)) == outcome(0, Stop.AGAIN)
    assert side.faults.zero(side.at(3), PAGE_BYTES) == outcome(0, Stop.AGAIN)
    assert side.faults.proceed(side.at(3), PAGE_BYTES) == outcome(0, Stop.AGAIN)
    assert side.faults.read_events() == [Event(EventKind.REMOVE, side.at(6), side.at(7), 0, 0)]


def test_pages_can_be_filled_once_the_remove_event_is_read(side: Side) -> None:
    side.start_removing(6, 2)
    assert [event.end for event in side.faults.read_events()] == [side.at(8)]
    if isinstance(side, KernelSide):
        side.guest.answer()  # the removal itself goes on only now
    assert side.faults.copy(side.at(0), THREE, len(THREE)) == outcome(3, Stop.DONE)


def test_a_range_that_is_not_registered_is_absent(side: Side) -> None:
    assert side.faults.copy(side.at(PAGES), THREE, len(THREE)) == outcome(0, Stop.ABSENT)
    assert side.faults.zero(side.at(PAGES), PAGE_BYTES) == outcome(0, Stop.ABSENT)
    assert side.faults.proceed(side.at(PAGES), PAGE_BYTES) == outcome(0, Stop.ABSENT)


def test_a_range_that_ends_outside_is_absent_as_a_whole(side: Side) -> None:
    assert side.faults.copy(side.at(PAGES - 1), THREE, len(THREE)) == outcome(0, Stop.ABSENT)


def test_a_guest_that_has_ended_is_gone(side: Side) -> None:
    side.end()
    assert side.faults.copy(side.at(0), THREE, len(THREE)) == outcome(0, Stop.GONE)
    assert side.faults.zero(side.at(0), PAGE_BYTES) == outcome(0, Stop.GONE)
    assert side.faults.proceed(side.at(0), PAGE_BYTES) == outcome(0, Stop.GONE)
    assert side.faults.read_events() == []
    side.faults.wake(side.at(0), PAGE_BYTES)


def test_zero_makes_pages(side: Side) -> None:
    assert side.faults.zero(side.at(0), 2 * PAGE_BYTES) == outcome(2, Stop.DONE)
    assert side.faults.zero(side.at(0), 2 * PAGE_BYTES) == outcome(0, Stop.EXISTS)


def test_proceed_maps_what_the_file_has(side: Side) -> None:
    side.give(0, 7)
    side.give(1, 8)
    assert side.faults.proceed(side.at(0), 2 * PAGE_BYTES) == outcome(2, Stop.DONE)
    assert side.faults.proceed(side.at(0), 2 * PAGE_BYTES) == outcome(0, Stop.EXISTS)


def test_proceed_stops_at_a_hole(side: Side) -> None:
    side.give(0, 7)
    assert side.faults.proceed(side.at(0), 2 * PAGE_BYTES) == outcome(1, Stop.HOLE)
    assert side.faults.proceed(side.at(1), PAGE_BYTES) == outcome(0, Stop.HOLE)


def test_without_events_reading_returns_at_once(side: Side) -> None:
    assert side.faults.read_events() == []


def test_the_fake_stops_half_way_when_told() -> None:
    fake = FakeFaults(PAGES)
    fake.cut_after_pages = 1
    assert fake.copy(fake.address, THREE, len(THREE)) == outcome(1, Stop.AGAIN)
    assert fake.copy(fake.address + PAGE_BYTES, THREE, 2 * PAGE_BYTES) == outcome(2, Stop.DONE)
    assert fake.woken == [(fake.address, PAGE_BYTES), (fake.address + PAGE_BYTES, 2 * PAGE_BYTES)]
