"""The feed of a checkpoint: whatever the machine does in between, what is saved is memory of the instant."""

from hypothesis import given
from hypothesis import strategies as st

from tests.saving.simulation import FakePipeline, Memory, Step, Tracer, play
from vmckpt.layout import PAGE_BYTES
from vmckpt.saving.instant import InstantFeed, InstantMemory
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
    max_size=120,
)


def feed_of(journal: Journal, tracer: Tracer, blocks: range, batch_blocks: int, kept: int = 0) -> InstantFeed:
    return InstantFeed(
        journal,
        tracer.hear,
        blocks,
        block_pages=1,
        batch_blocks=batch_blocks,
        on_done=lambda _: None,
        kept_bytes=kept * PAGE_BYTES,
    )


@given(steps=STEPS, batch_blocks=st.integers(1, 4), kept=st.integers(0, 3))
def test_what_is_saved_is_memory_of_the_instant(steps: list[Step], batch_blocks: int, kept: int) -> None:
    memory = Memory(list(range(1, PAGES + 1)))
    instant = list(memory.pages)
    with Journal(PAGES, 1, 2) as journal:
        tracer = Tracer(memory, journal, copies=True)
        pipeline = FakePipeline(
            feed_of(journal, tracer, range(PAGES), batch_blocks, kept), InstantMemory(memory, journal, 1)
        )
        play(steps, pipeline, tracer, lambda: False)
        pipeline.run_out()
        tracer.hear()
    assert {block: page for block, (_, page) in pipeline.saved.items()} == dict(enumerate(instant))
    assert all(number == instant[page] for page, number in pipeline.trusted)


@given(steps=STEPS)
def test_captures_are_given_back_but_for_those_kept(steps: list[Step]) -> None:
    memory = Memory(list(range(1, PAGES + 1)))
    with Journal(PAGES, 1, 2) as journal:
        tracer = Tracer(memory, journal, copies=True)
        feed = feed_of(journal, tracer, range(PAGES), 3, kept=2)
        pipeline = FakePipeline(feed, InstantMemory(memory, journal, 1))
        play(steps, pipeline, tracer, lambda: False)
        pipeline.run_out()
        feed.next()  # hears of those captured at the very end
        held = [block for block, slot in enumerate(journal.captures) if slot not in {0, 0xFFFFFFFF}]
    assert len(held) <= 2


def test_captured_blocks_go_to_their_vcpus_stream_in_the_order_of_access() -> None:
    memory = Memory(list(range(1, PAGES + 1)))
    with Journal(PAGES, 1, 2) as journal:
        tracer = Tracer(memory, journal, copies=True)
        pipeline = FakePipeline(feed_of(journal, tracer, range(PAGES), 4), InstantMemory(memory, journal, 1))
        for block, vcpu in ((7, 0), (3, 1), (5, 0), (6, 1), (1, 0)):
            tracer.write(block, vcpu)
        pipeline.run_out()
    assert pipeline.streams[1] == [7, 5, 1]
    assert pipeline.streams[2] == [3, 6]
    assert pipeline.streams[0] == [0, 2, 4]


def test_a_batch_that_was_captured_while_it_was_read_is_read_again() -> None:
    memory = Memory(list(range(1, PAGES + 1)))
    with Journal(PAGES, 1, 1) as journal:
        tracer = Tracer(memory, journal, copies=True)
        feed = feed_of(journal, tracer, range(PAGES), 4)
        batch = feed.next()
        assert batch is not None
        tracer.write(batch.blocks[2], 0)
        again = feed.intact(batch)
        assert again == batch
        assert again is not batch
        assert feed.intact(again) is again


def test_a_page_whose_capture_was_given_back_is_steady_no_more() -> None:
    memory = Memory(list(range(1, PAGES + 1)))
    with Journal(PAGES, 1, 1) as journal:
        tracer = Tracer(memory, journal, copies=True)
        pipeline = FakePipeline(feed_of(journal, tracer, range(PAGES), 4), InstantMemory(memory, journal, 1))
        tracer.write(5, 0)
        assert pipeline.feed.steady(5)
        pipeline.run_out()
        assert not pipeline.feed.steady(5)
        assert pipeline.feed.steady(6)
