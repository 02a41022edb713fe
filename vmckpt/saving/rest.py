"""Saving memory at rest: the coordinator of a pipeline of worker processes.

    coordinator: plan ─▶ hand out ──▶ judge (duplicates) ──▶ append (staging buffer) ─▶ file
                           │   ▲           │   ▲
                           ▼   │           ▼   │
    workers:              scan ┘          pack ┘            reading, classifying, compressing on all cores

Batches are judged and appended in the order of the plan, whichever worker is done first, so the file is the same, bit
for bit, for any number of workers. The workers do what costs time for each byte; the coordinator what costs time for
each page or block only.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.codec import Choice
from vmckpt.checkpoint.format import DUPLICATE, PATTERN, REFERENCE, STORED
from vmckpt.checkpoint.writer import CheckpointWriter
from vmckpt.hashing import Digest
from vmckpt.pages import PAGE_BYTES, Source
from vmckpt.reports import PageCounts, Progress
from vmckpt.saving.dedup import DedupTable
from vmckpt.saving.order import batches
from vmckpt.saving.slots import ENTRY, Slot, open_slots
from vmckpt.saving.worker import ALL_ZERO, MESSAGE, PACK, PACKED, SCAN, SCANNED, Work
from vmckpt.workers import Crew, affordable_workers

__all__ = ["Saved", "save_at_rest"]


_BATCH_BYTES = 1 << 20
_SLOTS_EACH = 3  # one being scanned, one being packed, one on the way


class Saved(NamedTuple):
    """What a save put into the file."""

    counts: PageCounts
    digest: bytes | None
    """Of the memory; None where blocks were not written in page order."""


class _Ticket:
    """A batch on its way."""

    __slots__ = ("all_zero", "blocks", "packed", "scanned", "slot", "worker")

    def __init__(self, blocks: tuple[int, ...], worker: int, slot: int) -> None:
        self.blocks = blocks
        self.worker = worker
        self.slot = slot
        self.scanned = False
        self.packed = False
        self.all_zero = False


def save_at_rest(
    source: Source,
    writer: CheckpointWriter,
    blocks: Iterable[int],
    *,
    choice: Choice,
    jobs: int,
    dedup: bool = True,
    in_page_order: bool = True,
    data_pages: int = 0,
    progress: Progress | None = None,
) -> Saved:
    """Write memory blocks of `source`; every page outside of them is taken for zero.

    Args:
        source: read by the workers, so it must stand being used after a fork.
        writer: a checkpoint with its header written.
        blocks: memory block numbers in the order of the file.
        choice: codec, level and memory block size, as in the writer's header.
        jobs: worker processes.
        dedup: whether equal pages are stored once.
        in_page_order: `blocks` ascends, so that the digest can be told on the way.
        data_pages: how many pages `blocks` stands for, for the size of the dedup table and for progress.
        progress: told after each batch.

    Raises:
        IoError: reading or writing failed.
        ChangedError: the source shrank meanwhile.
        WorkerError: a worker was killed.
    """
    coordinator = _Coordinator(
        source, writer, choice, jobs, data_pages if dedup else 0, in_page_order, progress
    )
    return coordinator.run(blocks, data_pages)


class _Coordinator:
    def __init__(
        self,
        source: Source,
        writer: CheckpointWriter,
        choice: Choice,
        jobs: int,
        dedup_pages: int,
        in_page_order: bool,
        progress: Progress | None,
    ) -> None:
        self._writer = writer
        self._progress = progress
        self._block_pages = choice.memory_block_bytes // PAGE_BYTES
        self._page_count = source.layout.page_count
        self._batch_blocks = max(1, _BATCH_BYTES // choice.memory_block_bytes)
        self._dedup = DedupTable(dedup_pages) if dedup_pages else None
        self._digest = Digest() if in_page_order else None
        self._counts = [0] * 5
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

    def run(self, blocks: Iterable[int], data_pages: int) -> Saved:
        plan = batches(blocks, self._batch_blocks)
        done = 0
        with Crew(len(self._free), self._work.serve) as crew:
            self._hand_out(crew, plan)
            while self._scanning or self._packing:
                self._take(crew.receive())
                while self._scanning and self._scanning[0].scanned:
                    self._judge(crew, self._scanning.popleft())
                while self._packing and self._packing[0].packed:
                    ticket = self._packing.popleft()
                    done += self._append(ticket)
                    self._free[ticket.worker].append(ticket.slot)
                self._hand_out(crew, plan)
                if self._progress is not None:
                    self._progress(done * PAGE_BYTES, data_pages * PAGE_BYTES)
        return self._saved()

    def _saved(self) -> Saved:
        _, stored, pattern, duplicate, _ = self._counts
        zero = self._page_count - stored - pattern - duplicate
        counts = PageCounts(self._page_count, zero, pattern, duplicate, stored)
        if self._digest is None:
            return Saved(counts, None)
        self._digest.add_zeros(self._page_count - self._digest.pages)
        return Saved(counts, self._digest.bytes())

    def _hand_out(self, crew: Crew, plan: Iterator[tuple[int, ...]]) -> None:
        """Give free slots work, one to each worker in turn."""
        while any(self._free):
            for worker, free in enumerate(self._free):
                if not free:
                    continue
                batch = next(plan, None)
                if batch is None:
                    return
                ticket = _Ticket(batch, worker, free.popleft())
                self._scanning.append(ticket)
                numbers = b"".join([number.to_bytes(8, "little") for number in batch])
                crew.send(worker, MESSAGE.pack(SCAN, ticket.slot) + numbers)

    def _take(self, answers: Sequence[tuple[int, bytes]]) -> None:
        for _, answer in answers:
            what, slot = MESSAGE.unpack(answer)
            if what == PACKED:
                next(ticket for ticket in self._packing if ticket.slot == slot).packed = True
                continue
            ticket = next(ticket for ticket in self._scanning if ticket.slot == slot)
            ticket.scanned = what in {SCANNED, ALL_ZERO}
            ticket.all_zero = what == ALL_ZERO

    def _judge(self, crew: Crew, ticket: _Ticket) -> None:
        """Find the batch's duplicates and let it be packed."""
        self._packing.append(ticket)
        if ticket.all_zero:
            ticket.packed = True
            return
        slot = self._slots[ticket.slot]
        if self._dedup is not None:
            for index, number in enumerate(ticket.blocks):
                start = index * self._block_pages
                pages = self._pages_of(number)
                end = start + len(pages)
                kinds = bytes(slot.kinds[start:end])
                for at, first in self._dedup.resolve(pages.start, kinds, slot.hashes[start:end]):
                    slot.kinds[start + at] = DUPLICATE
                    slot.firsts[start + at] = first
        crew.send(ticket.worker, MESSAGE.pack(PACK, ticket.slot))

    def _pages_of(self, number: int) -> range:
        start = number * self._block_pages
        return range(start, min(start + self._block_pages, self._page_count))

    def _append(self, ticket: _Ticket) -> int:
        """Write a batch's blocks, and return how many pages that were."""
        slot = self._slots[ticket.slot]
        payload_at = body_at = pages = 0
        for index, number in enumerate(ticket.blocks):
            start = index * self._block_pages
            length = len(self._pages_of(number))
            pages += length
            if ticket.all_zero:
                continue  # the digest counts what lies between the pages it is given as zeros
            if self._digest is not None:
                self._digest.add_zeros(number * self._block_pages - self._digest.pages)
                self._digest.add(slot.hashes[start : start + length].cast("B"))
            stored_bytes, codec, body_bytes = ENTRY.unpack_from(slot.entries, index * ENTRY.size)
            kinds = bytes(slot.kinds[start : start + length])
            if any(kinds):
                payload = slot.payload[payload_at : payload_at + stored_bytes]
                body = bytes(slot.bodies[body_at : body_at + body_bytes])
                self._append_block(number, kinds, slot.firsts[start : start + length], codec, body, payload)
            payload_at += stored_bytes
            body_at += body_bytes
        return pages

    def _append_block(
        self, number: int, kinds: bytes, firsts: memoryview, codec: int, body: bytes, payload: memoryview
    ) -> None:
        for kind in (STORED, PATTERN, DUPLICATE):
            self._counts[kind] += kinds.count(kind)
        self._writer.reserve(number, len(payload))
        hashes_bytes = len(body) - 8 * kinds.count(PATTERN)
        block = MemoryBlock(
            number=number,
            generation=0,
            codec=codec,
            kinds=kinds,
            hashes=body[:hashes_bytes],
            patterns=body[hashes_bytes:],
            references=self._references(kinds, firsts),
            payload_offset=0,
            stored_bytes=len(payload),
        )
        self._writer.append(block, payload)

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
