"""The frame table against a naive model: a dictionary of pages, and sets that are counted afresh each time."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vmckpt.machine.frames import SPARE_FRAMES, FrameTable

PAGES = 8
pages = st.integers(0, PAGES - 1)


class Frames(RuleBasedStateMachine):
    """The model knows of each page its frame, of each frame when it was left last, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.table = FrameTable(PAGES)
        self.frame_of = {page: page for page in range(PAGES)}
        self.clock = 0
        self.left_at: dict[int, int] = {}
        self.stamps: list[tuple[int, int]] = []
        self.taken: int | None = None

    def users(self, frame: int) -> set[int]:
        return {page for page, own in self.frame_of.items() if own == frame}

    def limbo(self) -> set[int]:
        return {frame for frame in self.left_at if not self.users(frame)} - {PAGES}

    def move(self, page: int, frame: int) -> None:
        self.left_at[self.frame_of[page]] = self.clock
        self.frame_of[page] = frame
        self.table.move(page, frame)

    @rule(page=pages, other=pages)
    def share(self, page: int, other: int) -> None:
        if self.frame_of[page] != self.frame_of[other]:
            self.move(page, self.frame_of[other])

    @rule(page=pages)
    def share_zero(self, page: int) -> None:
        if self.frame_of[page] != PAGES:
            self.move(page, PAGES)

    @rule(page=pages)
    def write(self, page: int) -> None:
        if not self.table.may_write(page):
            target = self.table.take(page)
            assert target not in self.limbo()
            assert not self.users(target)
            assert target != PAGES
            self.move(page, target)

    @rule(page=pages)
    def go_home(self, page: int) -> None:
        home_is_free = not self.users(page) and page not in self.limbo()
        if not home_is_free:
            with pytest.raises(LookupError):
                self.table.take_home(page)
        elif self.frame_of[page] != page:
            self.move(page, self.table.take_home(page))

    @rule(page=pages)
    def evict(self, page: int) -> None:
        others = self.users(page) - {page}
        if others:
            target = self.table.take(min(others))
            for other in others:
                self.move(other, target)

    @rule(page=pages)
    def change_the_mind(self, page: int) -> None:
        self.table.put_back(self.table.take(page))

    @rule(start=pages)
    def nobody_takes_what_is_reserved(self, start: int) -> None:
        self.table.reserved = range(start, PAGES)
        taken = [self.table.take(page) for page in range(PAGES)]
        assert not set(taken) & set(self.table.reserved)
        for frame in taken:
            self.table.put_back(frame)
        self.table.reserved = range(0)

    @rule()
    def begin_fence(self) -> None:
        self.stamps.append((self.table.stamp(), self.clock))
        self.clock += 1

    @precondition(lambda self: self.stamps)
    @rule()
    def end_fence(self) -> None:
        stamp, began = self.stamps.pop()
        passed = {frame for frame in self.limbo() if self.left_at[frame] <= began}
        assert self.table.fenced(stamp) == sorted(passed)
        self.left_at = {frame: left for frame, left in self.left_at.items() if left > began}

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        by_frame = {frame: self.users(frame) for frame in set(self.frame_of.values())}
        own = {frame for frame, users in by_frame.items() if len(users) == 1 and frame != PAGES}
        assert self.table.shared_pages == PAGES - len(own)
        assert self.table.freed_pages == PAGES - len(by_frame) + (PAGES in by_frame)
        assert self.table.limbo_frames == len(self.limbo())

    @invariant()
    def each_page_is_where_the_model_has_it(self) -> None:
        for page, frame in self.frame_of.items():
            assert self.table.frame_of(page) == frame
            alone = self.users(frame) == {page} and frame != PAGES
            assert self.table.is_alone(page) == alone
            assert self.table.is_at_home(page) == (alone and frame == page)
            assert self.table.may_write(page) == (alone and frame not in self.left_at)
        for frame in range(PAGES + 1 + SPARE_FRAMES if len(self.left_at) < 2 else 12):
            if frame != PAGES:
                assert set(self.table.users_of(frame)) == self.users(frame)

    @invariant()
    def no_frame_is_both_free_and_in_use(self) -> None:
        used, limbo, free = set(self.frame_of.values()) - {PAGES}, self.limbo(), set(self.table._free)
        assert not free & used
        assert not free & limbo
        assert free | used | limbo == set(range(PAGES + 1 + SPARE_FRAMES)) - {PAGES}


Frames.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestFrames = Frames.TestCase


def test_when_no_frame_is_free_there_is_one_after_a_fence() -> None:
    table = FrameTable(4)
    for _ in range(SPARE_FRAMES):
        table.move(0, table.take(0))
    with pytest.raises(LookupError):
        table.take(1)
    table.fenced(table.stamp())
    table.take(1)
    assert table.limbo_frames == 0


def test_what_was_left_after_the_fence_began_is_not_free() -> None:
    table = FrameTable(4)
    stamp = table.stamp()
    table.move(1, 0)
    assert table.fenced(stamp) == []
    assert table.fenced(table.stamp()) == [1]


def test_a_frame_that_a_sharer_left_is_written_in_place_only_after_a_fence() -> None:
    table = FrameTable(4)
    table.move(1, 0)
    assert not table.may_write(0)
    table.fenced(table.stamp())
    table.move(1, table.take(1))
    assert table.is_alone(0)
    assert not table.may_write(0)  # somebody may still read page 1 there
    table.fenced(table.stamp())
    assert table.may_write(0)
