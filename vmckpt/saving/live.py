"""Saving a machine that runs: traces placed, memory saved while it works on, traces lifted again.

    checkpoint   prepare ─▶ tracer process ─▶ begin: the instant ─▶ pipeline ─▶ lift, end ─▶ index, name
    suspend      prepare ─▶ tracer process ─▶ begin ─▶ rounds ─▶ hold ─▶ the rest ─▶ index, name ─▶ end: stop
    no traces    prepare ─▶ hold ─▶ pipeline ─▶ (checkpoint: end) ─▶ index, name ─▶ (suspend: end: stop)

The save runs in this process; the machine hands over its memory and its userfaultfds and has to do nothing but pause for
the instant. Whatever ends here, and however: the supervisor sees the conversation end, lifts the traces and lets a held
machine go on. Called by `api.save`.

Longer than most modules: it is the one place where all that takes part in a live save comes together.
"""

import contextlib
import os
import struct
import time
from collections.abc import Callable, Sequence

from vmckpt.checkpoint.codec import CODEC_NAMES
from vmckpt.checkpoint.format import SectionType
from vmckpt.checkpoint.writer import CheckpointWriter, new_header
from vmckpt.errors import IoError
from vmckpt.kernel.process import undisturbed, unstoppable
from vmckpt.machine.client import Conversation
from vmckpt.pages import PAGE_BYTES, PageRange, PageReader
from vmckpt.reports import LiveReport, PageCounts, Progress, SaveReport
from vmckpt.saving.estimators import ByScanning, ByTracing, Estimator
from vmckpt.saving.guest import NO_TRACES, Guest, Moment
from vmckpt.saving.instant import InstantFeed, InstantMemory
from vmckpt.saving.latest import LatestTally
from vmckpt.saving.live_request import LiveRequest
from vmckpt.saving.order import block_numbers
from vmckpt.saving.pipeline import Batch, Feed, Pipeline, batch_blocks
from vmckpt.saving.request import Request
from vmckpt.saving.rest import save_at_rest
from vmckpt.saving.rounds import RoundsFeed, Tracing
from vmckpt.saving.source import METADATA, Output, open_output
from vmckpt.sources.segments import SegmentSource
from vmckpt.trace.handler import Handler
from vmckpt.trace.journal import Entry, Journal
from vmckpt.trace.rules import Mode, Rule, needs

__all__ = ["save_live"]

_BEAT_S = 1.0  # between two signs of life while the machine is held
_SETTLE_S = 3.0  # at the longest
_WINDOW_S = 0.1
_STILL_NEW = 0.002  # of the pages seen, in a window


def save_live(
    conversation: Conversation,
    path: str,
    request: Request,
    live: LiveRequest,
    *,
    progress: Progress | None = None,
) -> SaveReport:
    """Write a checkpoint of a running machine to `path` (`-`: standard output); `elapsed_s` is left for the caller.

    The machine goes on, whatever happens here; with `Mode.SUSPEND` it is stopped once the file is whole.

    Raises:
        UsageError: the machine is being saved already.
        FeatureError: the mechanism cannot be had.
        IoError: writing failed, or the machine has ended.
        WorkerError: a worker or the tracer was killed.
    """
    wanted = NO_TRACES if live.rule is None else needs(live.rule, live.mode)
    with (
        unstoppable(),  # by Ctrl-Z: a vCPU may wait for an answer
        open_output(path, request.force) as output,
        Guest(conversation, wanted, live.mechanism) as guest,
        guest.memory() as memory,
    ):
        save = _Save(guest, memory, output.fd, path, request, live, progress)
        moment = save.run(live.rule)
        save.finish(moment, output)
        return save.report(moment)


class _Save:
    """One save, step by step."""

    def __init__(
        self,
        guest: Guest,
        memory: SegmentSource,
        fd: int,
        path: str,
        request: Request,
        live: LiveRequest,
        progress: Progress | None,
    ) -> None:
        self._guest = guest
        self._memory = memory
        self._fd = fd
        self._path = path
        self._request = request
        self._live = live
        self._progress = progress
        self._block_pages = request.choice.memory_block_bytes // PAGE_BYTES
        self._estimator: Estimator | None = None
        self._writer: CheckpointWriter
        self._counts: PageCounts
        self._digest = b""
        self._traps = (0, 0)
        self._ops_per_s_during = 0.0
        self._resaved_pages = 0
        self._beaten_s: float | None = None  # when a held machine's supervisor last heard of this save
        self._rounds: RoundsFeed | None = None
        self._data_pages = self._done_blocks = 0

    def run(self, rule: Rule | None) -> Moment:
        """All pages into the file; the moment whose memory it holds."""
        if rule is None:
            return self._run_paused()
        journal = Journal(self._guest.layout.page_count, self._block_pages, self._guest.vcpus)
        tracer = self._guest.tracer()
        with (
            journal,
            Handler(tracer, journal, rule, self._live.mode, self._guest.memory_fd) as handler,
        ):
            self._estimator = self._estimator_of(handler, rule)
            if needs(rule, self._live.mode).protect:
                handler.arm([PageRange(0, self._guest.layout.page_count)])
            run = self._run_instant if self._live.mode is Mode.CHECKPOINT else self._run_rounds
            moment = run(journal, handler)
            self._traps = journal.traps_read, journal.traps_write
        return moment

    def _run_paused(self) -> Moment:
        held_s = time.perf_counter()
        moment = self._guest.hold()
        self._beaten_s = time.monotonic()
        self._open_writer()
        ranges = list(self._memory.data_ranges())
        saved = save_at_rest(
            self._memory,
            self._writer,
            block_numbers(ranges, self._block_pages),
            choice=self._request.choice,
            jobs=self._request.jobs,
            dedup=self._request.dedup,
            data_pages=sum(pages.pages for pages in ranges),
            progress=self._tell_progress,
        )
        assert saved.digest is not None  # blocks were in page order
        self._counts, self._digest = saved.counts, saved.digest
        if self._live.mode is Mode.CHECKPOINT:
            self._guest.end(stop=False)
        return moment._replace(pause_s=time.perf_counter() - held_s)

    def _run_instant(self, journal: Journal, handler: Handler) -> Moment:
        moment = self._guest.begin()
        self._open_writer()
        hear = self._hearing(handler)
        feed = InstantFeed(
            journal,
            hear,
            self._blocks(),
            block_pages=self._block_pages,
            batch_blocks=batch_blocks(self._request.choice),
            on_done=self._tell,
        )
        self._pipe(InstantMemory(self._memory, journal, self._block_pages), feed, self._tally())
        if self._estimator is not None:
            self._estimator.pass_page(self._guest.layout.page_count)
        if self._live.rule is Rule.WORKING_SET:
            self._settle(hear)
        handler.confirm()  # and so the traces were in place to the end
        hear()
        self._ops_per_s_during = self._guest.end(stop=False)  # no traces any more, before the file is on disk
        return moment

    def _settle(self, hear: Callable[[], object]) -> None:
        """Trace on until hardly any new page is seen: the save may be over before the machine has touched what it uses.

        VEE'11's traces stayed for as long as its save took, a minute and a half.
        """
        deadline_s = time.monotonic() + _SETTLE_S
        assert self._estimator is not None
        known = -1
        while time.monotonic() < deadline_s and len(self._estimator) - known > _STILL_NEW * known:
            known = len(self._estimator)
            self._guest.wait(_WINDOW_S)
            hear()

    def _run_rounds(self, journal: Journal, handler: Handler) -> Moment:
        begun = self._guest.begin()
        self._open_writer()
        held: list[tuple[Moment, float]] = []

        def arm(ranges: Sequence[PageRange]) -> None:
            handler.arm(ranges)
            self._guest.fence()

        def hold() -> None:
            held_s = time.perf_counter()
            held.append((self._guest.hold(), held_s))
            self._beaten_s = time.monotonic()
            handler.confirm()

        tally = self._tally()
        self._rounds = RoundsFeed(
            journal,
            Tracing(self._hearing(handler), arm, hold),
            self._blocks(),
            block_pages=self._block_pages,
            batch_blocks=batch_blocks(self._request.choice),
            rule=self._live.stop_rule,
            on_done=self._tell,
            pages_of=tally.pages_of,
        )
        self._pipe(self._memory, self._rounds, tally)
        self._resaved_pages = tally.resaved_pages
        ((moment, held_s),) = held
        self._ops_per_s_during = moment.ops_per_s_during
        pause_s = time.perf_counter() - held_s
        return moment._replace(pause_s=pause_s, ops_per_s_before=begun.ops_per_s_before)

    def _hearing(self, handler: Handler) -> Callable[[], list[Entry]]:
        """What tells the feed of traps, notes the active pages, and raises once the save cannot be exact any more."""
        estimator = self._estimator
        assert estimator is not None

        def hear() -> list[Entry]:
            entries = handler.news()  # which raises should the tracer have ended
            self._guest.check()
            estimator.hear(entries)
            return entries

        return hear

    def _estimator_of(self, handler: Handler, rule: Rule) -> Estimator:
        first_touch = needs(rule, self._live.mode).first_touch

        def trace_again(ranges: Sequence[PageRange]) -> None:
            if first_touch and self._guest.mechanism == "userfaultfd":
                self._guest.forget(ranges)
            else:
                handler.arm(ranges, reads=first_touch)

        page_count, whole_block = self._guest.layout.page_count, rule.by_block
        if self._live.estimator == "scanning":
            return ByScanning(page_count, self._block_pages, whole_block=whole_block, trace_again=trace_again)
        return ByTracing(page_count, self._block_pages, whole_block=whole_block)

    def _blocks(self) -> list[int]:
        # Asked for when the traces are in place: a page that is a hole now and not later was written under them.
        ranges = list(self._memory.data_ranges())
        self._data_pages = sum(pages.pages for pages in ranges)
        return list(block_numbers(ranges, self._block_pages))

    def _tell(self, batch: Batch) -> None:
        """A batch is in the file."""
        if not batch.generation:
            self._done_blocks += len(batch.blocks)
            # Stream 0 is the background, which goes in page order.
            if not batch.stream and self._estimator is not None:
                self._estimator.pass_page((batch.blocks[-1] + 1) * self._block_pages)
        total_bytes = self._data_pages * PAGE_BYTES
        done_bytes = self._done_blocks * self._block_pages * PAGE_BYTES
        self._tell_progress(min(done_bytes, total_bytes), total_bytes)

    def _tell_progress(self, done_bytes: int, total_bytes: int) -> None:
        if self._beaten_s is not None and time.monotonic() - self._beaten_s > _BEAT_S:
            self._guest.confirm()
            self._beaten_s = time.monotonic()
        if self._progress is not None:
            self._progress(done_bytes, total_bytes)

    def _tally(self) -> LatestTally:
        return LatestTally(self._guest.layout.page_count, self._block_pages)

    def _pipe(self, source: PageReader, feed: Feed, tally: LatestTally) -> None:
        Pipeline(
            source,
            self._writer,
            feed,
            tally,
            choice=self._request.choice,
            jobs=self._request.jobs,
            dedup_pages=self._data_pages if self._request.dedup else 0,
        ).run()
        self._counts, self._digest = tally.counts(), tally.digest()

    def _open_writer(self) -> None:
        choice = self._request.choice
        header = new_header(
            self._guest.layout,
            codec=choice.codec,
            memory_block_bytes=choice.memory_block_bytes,
            storage_block_bytes=self._request.storage_block_bytes,
            checkpoint_id=os.urandom(16),
            created_ns=time.time_ns(),
        )
        self._writer = CheckpointWriter(self._fd, header, self._guest.layout, path=self._path)

    def finish(self, moment: Moment, output: Output) -> None:
        """Index, sections, name; and only then the end of a suspended machine."""
        pages = self._active_pages()
        sections = [(SectionType.VCPU_STATE, moment.state.to_json()), (SectionType.METADATA, METADATA)]
        if self._live.rule is not None:
            sections.insert(0, (SectionType.ACTIVE_PAGES, struct.pack(f"<{len(pages)}Q", *pages)))
        self._writer.finish(self._digest, self._counts, active_pages=len(pages), sections=sections)
        if self._live.mode is Mode.CHECKPOINT:
            output.commit()
            return
        output.sync()  # which may take long; then the machine is asked whether it was waited for
        self._guest.confirm()
        with undisturbed():  # or there could be a checkpoint beside a machine that goes on
            output.commit()
            with contextlib.suppress(IoError):  # should it have ended by itself since, that is as well
                self._guest.end(stop=True)

    def _active_pages(self) -> Sequence[int]:
        return () if self._estimator is None else self._estimator.active()

    def report(self, moment: Moment) -> SaveReport:
        """What came of it."""
        choice, rounds = self._request.choice, self._rounds
        live = LiveReport(
            mode=self._live.mode.value,
            trace="off" if self._live.rule is None else self._live.rule.value,
            mechanism=self._guest.mechanism,
            pause_s=moment.pause_s,
            ops_at_checkpoint=tuple(vcpu.ops for vcpu in moment.state.vcpus),
            ops_per_s_before=moment.ops_per_s_before,
            ops_per_s_during=self._ops_per_s_during,
            read_traps=self._traps[0],
            write_traps=self._traps[1],
            resaved_pages=self._resaved_pages,
            rounds=rounds.rounds if rounds else 0,
            stopped_for=rounds.reason if rounds else "",
            left_pages=rounds.left_pages if rounds else 0,
        )
        return SaveReport(
            memory_bytes=self._guest.layout.memory_bytes,
            file_bytes=self._writer.file_bytes,
            elapsed_s=0.0,
            pages=self._counts,
            active_pages=0 if self._estimator is None else len(self._estimator),
            digest=self._digest.hex(),
            codec=CODEC_NAMES[choice.codec],
            memory_block_bytes=choice.memory_block_bytes,
            storage_block_bytes=self._request.storage_block_bytes,
            storage_blocks=self._writer.storage_blocks,
            live=live,
        )
