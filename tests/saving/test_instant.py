"""The feed of a checkpoint: whatever the machine does in between, what is saved is memory of the instant."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.saving.simulation import PLAYED, FakePipeline, Machine, Step, play, step_lists
from vmckpt.layout import PAGE_BYTES
from vmckpt.saving.instant import InstantFeed, InstantMemory
from vmckpt.saving.pipeline import Batch
from vmckpt.trace.journal import RELEASED
from vmckpt.trace.rules import Mode, Rule

PAGES = 8
STEPS = step_lists(PAGES, 120, "trace_again")
RULES = pytest.mark.parametrize("rule", list(Rule), ids=lambda rule: rule.value)


class Checkpoint:
    """A checkpoint of a machine of PAGES pages, the first `data` of which are not holes. Use it as a context manager."""

    def __init__(
        self,
        rule: Rule = Rule.ACCESS,
        *,
        block_pages: int = 1,
        batch_blocks: int = 4,
        kept: int = 0,
        data: int = PAGES,
    ) -> None:
        self.machine = Machine(
            [page + 1 if page < data else 0 for page in range(PAGES)], rule, Mode.CHECKPOINT, block_pages
        )
        self.instant = list(self.machine.memory.pages)
        self.journal = self.machine.journal
        self.done: list[Batch] = []
        self.feed = InstantFeed(
            self.journal,
            self.machine.hear,
            range(-(-data // block_pages)),
            block_pages=block_pages,
            batch_blocks=batch_blocks,
            on_done=self.done.append,
            kept_bytes=kept * block_pages * PAGE_BYTES,
        )
        source = InstantMemory(self.machine.memory, self.journal, block_pages)
        self.pipeline = FakePipeline(self.feed, source, PAGES, block_pages)

    def saved(self) -> list[int]:
        return [self.pipeline.saved.get(page, 0) for page in range(PAGES)]

    def held(self) -> list[int]:
        """Blocks whose captures were not given back."""
        return [block for block, slot in enumerate(self.journal.captures) if slot not in {0, RELEASED}]


@pytest.fixture
def checkpoint() -> Iterator[Checkpoint]:
    checkpoint = Checkpoint()
    with checkpoint.machine:
        yield checkpoint


@RULES
@PLAYED
@given(
    steps=STEPS,
    block_pages=st.integers(1, 3),
    batch_blocks=st.integers(1, 4),
    kept=st.integers(0, 3),
    data=st.integers(0, PAGES),
)
def test_what_is_saved_is_memory_of_the_instant(
    rule: Rule, steps: list[Step], block_pages: int, batch_blocks: int, kept: int, data: int
) -> None:
    checkpoint = Checkpoint(rule, block_pages=block_pages, batch_blocks=batch_blocks, kept=kept, data=data)
    with checkpoint.machine as machine:
        play(steps, checkpoint.pipeline, machine)
        checkpoint.pipeline.run_out()
        machine.end_touch()
        machine.hear()
    assert checkpoint.saved() == checkpoint.instant
    assert all(number == checkpoint.instant[page] for page, number in checkpoint.pipeline.trusted)
    told = [block for batch in checkpoint.done for block in batch.blocks]
    assert sorted(told) == sorted(checkpoint.pipeline.generations)


@RULES
@PLAYED
@given(steps=STEPS, block_pages=st.integers(1, 2))
def test_captures_are_given_back_but_for_those_kept(rule: Rule, steps: list[Step], block_pages: int) -> None:
    checkpoint = Checkpoint(rule, block_pages=block_pages, batch_blocks=3, kept=2)
    with checkpoint.machine as machine:
        play(steps, checkpoint.pipeline, machine)
        checkpoint.pipeline.run_out()
        machine.end_touch()
        checkpoint.feed.next()  # hears of those captured at the very end
        assert len(checkpoint.held()) <= 2


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("heard", ["before it is in the file", "after that"])
def test_a_copy_made_of_a_block_that_was_found_intact_meanwhile_is_given_back(heard: str, kept: int) -> None:
    checkpoint = Checkpoint(kept=kept)
    with checkpoint.machine as machine:
        pipeline = checkpoint.pipeline
        pipeline.hand_out()
        for _ in range(4):
            pipeline.scan(0)
        machine.begin_touch(2, 0, write=True, halt="take_slot")  # the tracer saw that it was not saved
        assert list(checkpoint.journal.saved[:4]) == [0, 0, 0, 0]
        pipeline.judge()
        assert list(checkpoint.journal.saved[:4]) == [1, 1, 1, 1]
        machine.end_touch()
        assert checkpoint.journal.captures[2] == 1
        for do in ([pipeline.hand_out, pipeline.finish], [pipeline.finish, pipeline.hand_out])[
            heard == "after that"
        ]:
            do()
        assert checkpoint.journal.captures[2] == (1 if kept else RELEASED)
        assert checkpoint.feed.steady(2) == bool(kept)
        pipeline.run_out()
    assert checkpoint.saved() == checkpoint.instant
    assert pipeline.streams == {0: list(range(PAGES))}


def test_captured_blocks_go_to_their_vcpus_stream_in_the_order_of_access(checkpoint: Checkpoint) -> None:
    for block, vcpu in ((7, 0), (3, 1), (5, 0), (6, 1), (1, 0)):
        checkpoint.machine.write(block, vcpu)
    checkpoint.pipeline.run_out()
    assert checkpoint.pipeline.streams == {0: [0, 2, 4], 1: [7, 5, 1], 2: [3, 6]}


def test_a_batch_that_was_captured_while_it_was_read_is_read_again(checkpoint: Checkpoint) -> None:
    batch = checkpoint.feed.next()
    assert batch is not None
    checkpoint.machine.write(batch.blocks[2], 0)
    again = checkpoint.feed.intact(batch)
    assert again == batch
    assert again is not batch
    assert checkpoint.feed.intact(again) is again


def test_a_page_whose_capture_was_given_back_is_steady_no_more(checkpoint: Checkpoint) -> None:
    checkpoint.machine.write(5, 0)
    assert checkpoint.feed.steady(5)
    checkpoint.pipeline.run_out()
    assert not checkpoint.feed.steady(5)
    assert checkpoint.feed.steady(6)
