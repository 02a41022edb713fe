"""The feed of a suspend: whatever the machine does before it is stopped, what counts is memory at the stop."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.saving.simulation import PLAYED, FakePipeline, Machine, Step, play, step_lists
from vmckpt.pages import PageRange
from vmckpt.saving.pipeline import Batch
from vmckpt.saving.rounds import RoundsFeed, StopRule, Tracing
from vmckpt.trace.rules import Mode, Rule

PAGES = 8
STEPS = step_lists(PAGES, 200)
RULES = pytest.mark.parametrize("rule", list(Rule), ids=lambda rule: rule.value)


class Suspend:
    """A suspend of a machine of PAGES pages, the first `data` of which are not holes."""

    def __init__(
        self,
        stop: StopRule,
        rule: Rule = Rule.ACCESS,
        *,
        block_pages: int = 1,
        batch_blocks: int = 3,
        data: int = PAGES,
    ) -> None:
        self.machine = Machine(
            [page + 1 if page < data else 0 for page in range(PAGES)], rule, Mode.SUSPEND, block_pages
        )
        self.held: list[int] = []
        self.armed: list[list[PageRange]] = []
        self.done: list[Batch] = []
        self.written_at_once: list[int] = []  # when traces have been set
        self.feed = RoundsFeed(
            self.machine.journal,
            Tracing(self.machine.hear, self.arm, self.hold),
            range(-(-data // block_pages)),
            block_pages=block_pages,
            batch_blocks=batch_blocks,
            rule=stop,
            on_done=self.done.append,
            pages_of=lambda _: block_pages,
        )
        self.pipeline = FakePipeline(self.feed, self.machine.memory, PAGES, block_pages)

    def arm(self, ranges: Sequence[PageRange]) -> None:
        self.armed.append(list(ranges))
        self.machine.arm(ranges)
        for page in self.written_at_once:
            self.machine.write(page, 0)

    def hold(self) -> None:
        assert self.held == []
        self.machine.hold()
        self.held = list(self.machine.memory.pages)

    def generations(self) -> list[int]:
        """Of the blocks that are in the file, as the feed told them."""
        return [batch.generation for batch in self.done for _ in batch.blocks]

    def saved(self) -> list[int]:
        return [self.pipeline.saved.get(page, 0) for page in range(PAGES)]


@contextlib.contextmanager
def suspend_of(stop: StopRule) -> Iterator[Suspend]:
    suspend = Suspend(stop)
    with suspend.machine:
        yield suspend


@RULES
@PLAYED
@given(
    steps=STEPS,
    looks_first=st.booleans(),
    block_pages=st.integers(1, 3),
    batch_blocks=st.integers(1, 4),
    left=st.integers(0, 3),
    rounds=st.integers(0, 4),
    data=st.integers(0, PAGES),
)
def test_what_counts_is_memory_at_the_stop(
    rule: Rule,
    steps: list[Step],
    looks_first: bool,
    block_pages: int,
    batch_blocks: int,
    left: int,
    rounds: int,
    data: int,
) -> None:
    stop = StopRule(left, 1.0, rounds, 1e9)
    suspend = Suspend(stop, rule, block_pages=block_pages, batch_blocks=batch_blocks, data=data)
    with suspend.machine as machine:
        machine.looks_first = looks_first
        play(steps, suspend.pipeline, machine)
        suspend.pipeline.run_out()
    assert suspend.held == machine.memory.pages
    assert suspend.saved() == suspend.held


@RULES
@PLAYED
@given(steps=STEPS, block_pages=st.integers(1, 2))
def test_a_comparison_counts_only_with_what_the_file_says_of_the_page(
    rule: Rule, steps: list[Step], block_pages: int
) -> None:
    suspend = Suspend(StopRule(0, 1.0, 4, 1e9), rule, block_pages=block_pages)
    with suspend.machine as machine:
        seen: list[tuple[int, int]] = []
        finish = suspend.pipeline.finish

        def checked() -> None:
            before = dict(suspend.pipeline.saved)
            finish()
            for page, number in suspend.pipeline.trusted[len(seen) :]:
                assert before[page] == number
            seen[:] = suspend.pipeline.trusted

        suspend.pipeline.finish = checked  # type: ignore[method-assign]  # watched
        play(steps, suspend.pipeline, machine)
        suspend.pipeline.run_out()


def busy(suspend: Suspend, writes: Callable[[], None]) -> None:
    """Run to the end; the machine writes before each step for as long as it may."""
    while not suspend.pipeline.ended:
        if not suspend.held:
            writes()
        suspend.pipeline.advance()


def test_a_machine_that_never_stops_writing_is_stopped() -> None:
    with suspend_of(StopRule(left_pages=1)) as suspend:

        def writes() -> None:
            for block in range(4):
                suspend.machine.write(block, 0)

        busy(suspend, writes)
    assert suspend.feed.reason == "no fewer pages from round to round"
    assert suspend.saved() == suspend.held
    assert suspend.feed.left_pages == 4


def test_a_round_whose_blocks_are_all_written_at_once_is_not_the_end() -> None:
    with suspend_of(StopRule(left_pages=0, shrink=1.0)) as suspend:
        suspend.written_at_once = [2, 5]
        suspend.machine.write(2, 0)
        suspend.machine.write(5, 0)
        suspend.pipeline.run_out()
    assert suspend.feed.reason == "rounds"
    assert suspend.saved() == suspend.held


def test_an_idle_machine_is_stopped_after_one_round_with_nothing_left() -> None:
    with suspend_of(StopRule()) as suspend:
        suspend.pipeline.run_out()
    assert (suspend.feed.rounds, suspend.feed.left_pages) == (0, 0)
    assert suspend.generations() == [0] * PAGES
    assert suspend.feed.reason == "few pages left"
    assert suspend.armed == []


def test_what_is_written_before_it_was_saved_goes_out_once() -> None:
    with suspend_of(StopRule(left_pages=0)) as suspend:
        suspend.machine.write(6, 0)
        suspend.pipeline.run_out()
    assert suspend.generations() == [0] * PAGES
    assert suspend.saved() == suspend.held
    assert suspend.armed == [[PageRange(6, 7)]]


def test_what_is_written_while_it_is_read_is_left_for_the_next_round() -> None:
    with suspend_of(StopRule(left_pages=0)) as suspend:
        feed = suspend.feed
        first, second = feed.next(), feed.next()
        assert first is not None
        assert second is not None
        for page in (1, *second.blocks):
            suspend.machine.write(page, 0)
        assert feed.intact(first) == first._replace(blocks=(0, 2))
        assert feed.intact(second) is None
        feed.done(first._replace(blocks=(0, 2)))
        suspend.pipeline.run_out()
    assert suspend.generations() == [0] * PAGES
    assert suspend.armed == [[PageRange(1, 2), PageRange(3, 6)]]


def test_writes_are_traced_no_further_than_memory_ends() -> None:
    suspend = Suspend(StopRule(left_pages=0), block_pages=3)
    with suspend.machine as machine:
        machine.write(PAGES - 1, 0)
        suspend.pipeline.run_out()
    assert suspend.armed == [[PageRange(6, PAGES)]]


def test_read_blocks_go_first_to_their_vcpus_stream() -> None:
    with suspend_of(StopRule()) as suspend:
        for block, vcpu in ((7, 1), (3, 0), (5, 1)):
            suspend.machine.read(block, vcpu)
        suspend.pipeline.run_out()
    assert suspend.pipeline.streams[2] == [7, 5]
    assert suspend.pipeline.streams[1] == [3]
    assert sorted(suspend.pipeline.streams[0]) == [0, 1, 2, 4, 6]


@pytest.mark.parametrize(
    ("left", "before", "rounds", "elapsed_s", "reason"),
    [
        (2048, None, 0, 0.0, "few pages left"),
        (2049, None, 0, 0.0, None),
        (7500, 10_000, 1, 0.0, None),
        (7501, 10_000, 1, 0.0, "no fewer pages from round to round"),
        (5000, 10_000, 8, 0.0, "rounds"),
        (5000, 10_000, 2, 30.0, "time"),
        (5000, 10_000, 2, 29.9, None),
    ],
)
def test_the_stop_rule(
    left: int, before: int | None, rounds: int, elapsed_s: float, reason: str | None
) -> None:
    assert StopRule().reason(left, before, rounds, elapsed_s) == reason
