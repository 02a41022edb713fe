"""The coordinator of a save: batches of memory blocks through worker processes and into the file.

    feed: which blocks next ─▶ hand out ──▶ intact? ─▶ judge (duplicates) ──▶ append (staging buffer) ─▶ file
                                 │   ▲                     │   ▲
                                 ▼   │                     ▼   │
    workers:                    scan ┘                    pack ┘        reading, classifying, compressing on all cores

Batches are judged and appended in the order in which they were handed out, whichever worker is done first. The workers
do what costs time for each byte; the coordinator what costs time for each page or block only.

What is saved may change meanwhile: a machine at work. Only its `Feed` knows what of that still counts, so the pipeline
asks it twice: after a batch was read, and after pages were found equal to pages that had been saved before.

Longer than most modules: every step shares the tickets, and their order is the point.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.codec import RAW, Choice
from vmckpt.checkpoint.format import DUPLICATE, PATTERN, REFERENCE, STORED
from vmckpt.checkpoint.writer import CheckpointWriter
from vmckpt.pages import PAGE_BYTES, PageReader
from vmckpt.saving.dedup import DedupTable
from vmckpt.saving.slots import ENTRY, Slot, open_slots
from vmckpt.saving.worker import ALL_ZERO, MESSAGE, PACK, PACKED, SCAN, SCANNED, Work
from vmckpt.workers import Crew, affordable_workers

__all__ = ["Batch", "Feed", "Pipeline", "Tally", "batch_blocks"]

_BATCH_BYTES = 1 << 20
_SLOTS_EACH = 3  # one being scanned, one being packed, one on the way


class Batch(NamedTuple):
    """Memory blocks that travel together."""

    blocks: tuple[int, ...]
    """Memory block numbers."""
    stream: int = 0
    """Which open storage block takes them."""
    generation: int = 0
    """How often they were saved before."""


class Feed(Protocol):
    """Where batches come from, and who vouches for what was read."""

    def next(self) -> Batch | None:
        """The next batch; None when there is no more."""

    def intact(self, batch: Batch) -> Batch | None:
        """Asked when a batch was read: the batch, if that is what to save; else what of it to read once more.

        None: it has no block left to save now.
        """

    def steady(self, page: int) -> bool:
        """Whether a page that was judged before reads as it was saved, up to this moment."""

    def done(self, batch: Batch) -> None:
        """Told when a batch is in the file, and nothing of it will be read again."""


class Tally(Protocol):
    """Told what every memory block holds that goes into the file: for digest and counts."""

    def add(self, number: int, kinds: bytes, hashes: memoryview) -> None:
        """A block's page kinds and hashes (uint64)."""


class _Ticket:
    """A batch on its way."""

    __slots__ = ("all_zero", "batch", "packed", "scanned", "slot", "worker")

    def __init__(self, batch: Batch, worker: int, slot: int) -> None:
        self.batch = batch
        self.worker = worker
        self.slot = slot
        self.scanned = False
        self.packed = False
        self.all_zero = False


class Pipeline:
    """One save's way from memory to the file. Use `run` once."""

    def __init__(
        self,
        source: PageReader,
        writer: CheckpointWriter,
        feed: Feed,
        tally: Tally,
        *,
        choice: Choice,
        jobs: int,
        dedup_pages: int,
    ) -> None:
        """Set it up; no process yet.

        Args:
            source: read by the workers, so it must stand being used after a fork.
            writer: a checkpoint with its header written.
            feed: what to save.
            tally: who keeps account.
            choice: codec, level and memory block size, as in the writer's header.
            jobs: worker processes.
            dedup_pages: how many pages there may be; 0: equal pages are not looked for.
        """
        self._writer = writer
        self._feed = feed
        self._tally = tally
        self._block_pages = choice.memory_block_bytes // PAGE_BYTES
        self._page_count = source.layout.page_count
        self._batch_blocks = batch_blocks(choice)
        self._dedup = DedupTable(dedup_pages) if dedup_pages else None
        slots = self._slot_plan(jobs)
        self._slots: list[Slot] = open_slots(sum(map(len, slots)), self._batch_blocks, self._block_pages)
        self._free = [deque(mine) for mine in slots]
        self._scanning: deque[_Ticket] = deque()
        self._packing: deque[_Ticket] = deque()
        self._work = Work(
            source, self._slots, self._batch_blocks, self._block_pages, choice.codec, choice.level
        )

    def _slot_plan(self, jobs: int) -> list[range]:
        """The slots of each worker: three, two where memory would not do, and fewer workers where that does not."""
        slot_bytes = (
            2 * self._batch_blocks * self._block_pages * PAGE_BYTES
        )  # the worker has as much of its own
        workers = affordable_workers(jobs, 2 * slot_bytes)
        each = _SLOTS_EACH if affordable_workers(jobs, _SLOTS_EACH * slot_bytes) == workers else 2
        return [range(worker * each, (worker + 1) * each) for worker in range(workers)]

    def run(self) -> None:
        """Save all that the feed has.

        Raises:
            IoError: reading or writing failed.
            ChangedError: the source shrank meanwhile.
            WorkerError: a worker was killed.
        """
        with Crew(len(self._free), self._work.serve) as crew:
            self._hand_out(crew)
            while self._scanning or self._packing:
                self._take(crew)
                while self._scanning and self._scanning[0].scanned:
                    self._scanned(crew, self._scanning[0])
                while self._packing and self._packing[0].packed:
                    self._packed(crew, self._packing[0])
                self._hand_out(crew)

    def _hand_out(self, crew: Crew) -> None:
        """Give free slots work, one to each worker in turn."""
        while any(self._free):
            for worker, free in enumerate(self._free):
                if not free:
                    continue
                batch = self._feed.next()
                if batch is None:
                    return
                ticket = _Ticket(batch, worker, free.popleft())
                self._scanning.append(ticket)
                _ask_scan(crew, ticket)

    def _take(self, crew: Crew) -> None:
        for _, answer in crew.receive():
            what, slot = MESSAGE.unpack(answer)
            if what == PACKED:
                next(ticket for ticket in self._packing if ticket.slot == slot).packed = True
                continue
            ticket = next(ticket for ticket in self._scanning if ticket.slot == slot)
            ticket.scanned = what in {SCANNED, ALL_ZERO}
            ticket.all_zero = what == ALL_ZERO

    def _scanned(self, crew: Crew, ticket: _Ticket) -> None:
        """Pass on the first of the batches being scanned, unless what was read of it does not count."""
        intact = self._feed.intact(ticket.batch)
        if intact is None:
            self._scanning.popleft()
            self._free[ticket.worker].append(ticket.slot)
        elif intact is not ticket.batch:
            ticket.batch, ticket.scanned = intact, False
            _ask_scan(crew, ticket)
        else:
            self._judge(crew, self._scanning.popleft())

    def _judge(self, crew: Crew, ticket: _Ticket) -> None:
        self._packing.append(ticket)
        if ticket.all_zero:
            ticket.packed = True
            return
        # A block that is saved again refers to nothing: what it would equal first is its own earlier self.
        if self._dedup is not None and not ticket.batch.generation:
            self._find_duplicates(self._dedup, ticket)
        crew.send(ticket.worker, MESSAGE.pack(PACK, ticket.slot))

    def _find_duplicates(self, dedup: DedupTable, ticket: _Ticket) -> None:
        slot, steady = self._slots[ticket.slot], self._feed.steady
        for index, number in enumerate(ticket.batch.blocks):
            start = index * self._block_pages
            pages = self._pages_of(number)
            end = start + len(pages)
            kinds = bytes(slot.kinds[start:end])
            for at, first in dedup.resolve(pages.start, kinds, slot.hashes[start:end]):
                if steady(first):
                    slot.kinds[start + at] = DUPLICATE
                    slot.firsts[start + at] = first

    def _packed(self, crew: Crew, ticket: _Ticket) -> None:
        """Append the first of the packed batches, unless a page that it refers to has changed since it was judged."""
        slot = self._slots[ticket.slot]
        if not ticket.all_zero and self._drop_unsteady(slot, len(ticket.batch.blocks)):
            ticket.packed = False
            crew.send(ticket.worker, MESSAGE.pack(PACK, ticket.slot))
            return
        self._packing.popleft()
        self._append(ticket)
        self._feed.done(ticket.batch)
        self._free[ticket.worker].append(ticket.slot)

    def _drop_unsteady(self, slot: Slot, blocks: int) -> bool:
        """Put duplicates of pages that changed meanwhile back to STORED: with what they were compared nobody knows."""
        kinds = bytes(slot.kinds[: blocks * self._block_pages])
        dropped = False
        at = kinds.find(DUPLICATE)
        while at >= 0:
            if not self._feed.steady(slot.firsts[at]):
                slot.kinds[at] = STORED
                dropped = True
            at = kinds.find(DUPLICATE, at + 1)
        return dropped

    def _pages_of(self, number: int) -> range:
        start = number * self._block_pages
        return range(start, min(start + self._block_pages, self._page_count))

    def _append(self, ticket: _Ticket) -> None:
        """Write a batch's blocks."""
        slot, batch = self._slots[ticket.slot], ticket.batch
        payload_at = body_at = 0
        for index, number in enumerate(batch.blocks):
            start = index * self._block_pages
            end = start + len(self._pages_of(number))
            if ticket.all_zero:
                self._append_zeros(number, end - start, batch)
                continue
            kinds = bytes(slot.kinds[start:end])
            self._tally.add(number, kinds, slot.hashes[start:end])
            stored_bytes, codec, body_bytes = ENTRY.unpack_from(slot.entries, index * ENTRY.size)
            if batch.generation or any(kinds):
                payload = slot.payload[payload_at : payload_at + stored_bytes]
                body = bytes(slot.bodies[body_at : body_at + body_bytes])
                self._append_block(number, batch, kinds, slot.firsts[start:end], codec, body, payload)
            payload_at += stored_bytes
            body_at += body_bytes

    def _append_zeros(self, number: int, pages: int, batch: Batch) -> None:
        """A block of zeros needs no record, but for one that takes the place of an earlier version."""
        if batch.generation:
            self._tally.add(number, bytes(pages), memoryview(b""))
            self._append_block(number, batch, bytes(pages), memoryview(b""), RAW, b"", memoryview(b""))

    def _append_block(
        self,
        number: int,
        batch: Batch,
        kinds: bytes,
        firsts: memoryview,
        codec: int,
        body: bytes,
        payload: memoryview,
    ) -> None:
        self._writer.reserve(number, len(payload), stream=batch.stream)
        hashes_bytes = len(body) - 8 * kinds.count(PATTERN)
        block = MemoryBlock(
            number=number,
            generation=batch.generation,
            codec=codec,
            kinds=kinds,
            hashes=body[:hashes_bytes],
            patterns=body[hashes_bytes:],
            references=self._references(kinds, firsts),
            payload_offset=0,
            stored_bytes=len(payload),
        )
        self._writer.append(block, payload, stream=batch.stream)

    def _references(self, kinds: bytes, firsts: memoryview) -> bytes:
        """Where the stored pages lie that the duplicates equal."""
        references = []
        known, place = -1, (0, 0)
        at = kinds.find(DUPLICATE)
        while at >= 0:
            block, page = divmod(firsts[at], self._block_pages)
            if block != known:  # duplicates come in runs, and so do the pages that they equal
                known, place = block, self._writer.place_of(block)
            references.append(REFERENCE.pack(*place, page))
            at = kinds.find(DUPLICATE, at + 1)
        return b"".join(references)


def batch_blocks(choice: Choice) -> int:
    """How many memory blocks travel together at most."""
    return max(1, _BATCH_BYTES // choice.memory_block_bytes)


def _ask_scan(crew: Crew, ticket: _Ticket) -> None:
    numbers: Sequence[bytes] = [number.to_bytes(8, "little") for number in ticket.batch.blocks]
    crew.send(ticket.worker, MESSAGE.pack(SCAN, ticket.slot) + b"".join(numbers))
