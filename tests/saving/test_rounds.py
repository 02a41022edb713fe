"""The feed of a suspend: whatever the machine does before it is stopped, what counts is memory at the stop."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.saving.simulation import FakePipeline, Memory, Step, Tracer, play
from vmckpt.pages import PageRange
from vmckpt.saving.rounds import RoundsFeed, StopRule, Tracing
from vmckpt.trace.journal import Journal

PAGES = 8

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["write", "write", "write", "read", "hand_out", "scan", "scan", "judge", "compare", "finish"]
            + ["advance"] * 4
        ),
        st.integers(0, PAGES - 1),
        st.integers(0, 1),
    ),
    max_size=200,
)


class Suspend:
    """A suspend of a machine of PAGES pages, the first `data` of which are not holes."""

    def __init__(self, journal: Journal, rule: StopRule, batch_blocks: int = 3, data: int = PAGES) -> None:
        self.memory = Memory([page + 1 if page < data else 0 for page in range(PAGES)])
        self.tracer = Tracer(self.memory, journal, copies=False)
        self.held: list[int] = []
        self.armed: list[list[PageRange]] = []
        self.written_at_once: list[int] = []  # when traces have been set
        tracing = Tracing(self.tracer.hear, self.arm, self.hold)
        self.feed = RoundsFeed(
            journal,
            tracing,
            range(data),
            block_pages=1,
            batch_blocks=batch_blocks,
            rule=rule,
            on_done=lambda _: None,
        )
        self.pipeline = FakePipeline(self.feed, self.memory)

    def arm(self, ranges: Sequence[PageRange]) -> None:
        self.armed.append(list(ranges))
        self.tracer.arm(ranges)
        for block in self.written_at_once:
            self.tracer.write(block, 0)

    def hold(self) -> None:
        assert self.held == []
        self.held = list(self.memory.pages)

    def saved(self) -> list[int]:
        return [self.pipeline.saved.get(block, (0, 0))[1] for block in range(PAGES)]


@given(
    steps=STEPS,
    batch_blocks=st.integers(1, 4),
    left=st.integers(0, 3),
    rounds=st.integers(0, 4),
    data=st.integers(0, PAGES),
)
def test_what_counts_is_memory_at_the_stop(
    steps: list[Step], batch_blocks: int, left: int, rounds: int, data: int
) -> None:
    with Journal(PAGES, 1, 2) as journal:
        suspend = Suspend(journal, StopRule(left, 1.0, rounds, 1e9), batch_blocks, data)
        play(steps, suspend.pipeline, suspend.tracer, lambda: bool(suspend.held))
        suspend.pipeline.run_out()
    assert suspend.held == suspend.memory.pages
    assert suspend.saved() == suspend.held


@given(steps=STEPS)
def test_a_comparison_counts_only_with_what_the_file_says_of_the_page(steps: list[Step]) -> None:
    with Journal(PAGES, 1, 2) as journal:
        suspend = Suspend(journal, StopRule(0, 1.0, 4, 1e9))
        seen: list[tuple[int, int]] = []
        finish = suspend.pipeline.finish

        def checked() -> None:
            before = dict(suspend.pipeline.saved)
            finish()
            for page, number in suspend.pipeline.trusted[len(seen) :]:
                assert before[page][1] == number
            seen[:] = suspend.pipeline.trusted

        suspend.pipeline.finish = checked  # type: ignore[method-assign]  # watched
        play(steps, suspend.pipeline, suspend.tracer, lambda: bool(suspend.held))
        suspend.pipeline.run_out()


def busy(suspend: Suspend, writes: Callable[[], None]) -> None:
    """Run to the end; the machine writes before each step for as long as it may."""
    while not suspend.pipeline.ended:
        if not suspend.held:
            writes()
        suspend.pipeline.advance()


def test_a_machine_that_never_stops_writing_is_stopped() -> None:
    with Journal(PAGES, 1, 1) as journal:
        suspend = Suspend(journal, StopRule(left_pages=1))

        def writes() -> None:
            for block in range(4):
                suspend.tracer.write(block, 0)

        busy(suspend, writes)
    assert suspend.feed.reason == "no fewer pages from round to round"
    assert suspend.saved() == suspend.held
    assert suspend.feed.left_blocks == 4


def test_a_round_whose_blocks_are_all_written_at_once_is_not_the_end() -> None:
    with Journal(PAGES, 1, 1) as journal:
        suspend = Suspend(journal, StopRule(left_pages=0, shrink=1.0))
        suspend.written_at_once = [2, 5]
        suspend.tracer.write(2, 0)
        suspend.tracer.write(5, 0)
        suspend.pipeline.run_out()
    assert suspend.feed.reason == "rounds"
    assert suspend.saved() == suspend.held


def test_an_idle_machine_is_stopped_after_one_round_with_nothing_left() -> None:
    with Journal(PAGES, 1, 1) as journal:
        suspend = Suspend(journal, StopRule())
        suspend.pipeline.run_out()
    assert (suspend.feed.rounds, suspend.feed.left_blocks, suspend.feed.resaved_blocks) == (0, 0, 0)
    assert suspend.feed.reason == "few pages left"
    assert suspend.armed == []


def test_what_is_written_before_it_was_saved_goes_out_once() -> None:
    with Journal(PAGES, 1, 1) as journal:
        suspend = Suspend(journal, StopRule(left_pages=0))
        suspend.tracer.write(6, 0)
        suspend.pipeline.run_out()
    assert suspend.feed.resaved_blocks == 0
    assert suspend.saved() == suspend.held
    assert suspend.armed == [[PageRange(6, 7)]]


def test_read_blocks_go_first_to_their_vcpus_stream() -> None:
    with Journal(PAGES, 1, 2) as journal:
        suspend = Suspend(journal, StopRule())
        for block, vcpu in ((7, 1), (3, 0), (5, 1)):
            suspend.tracer.read(block, vcpu)
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
