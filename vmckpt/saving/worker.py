"""A worker of a save: scans batches of memory blocks, and packs them once the duplicates are known.

    scan   read the pages, hash each, find zero and pattern pages                -> SCANNED
    pack   compare duplicates with the pages they should equal, compress the rest -> PACKED

Runs in a process of its own (`workers.Crew`); the coordinator is `pipeline`.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vmckpt.checkpoint.codec import RAW, compressor
from vmckpt.checkpoint.format import DUPLICATE, PATTERN, STORED
from vmckpt.hashing import PATTERN_HASHES, ZERO_PAGE_HASH
from vmckpt.pages import PAGE_BYTES, Buffer, PageRange, PageReader
from vmckpt.saving.classify import classify
from vmckpt.saving.order import page_ranges
from vmckpt.saving.slots import ENTRY, Slot
from vmckpt.workers import Channel

__all__ = ["ALL_ZERO", "MESSAGE", "PACK", "PACKED", "SCAN", "SCANNED", "Work"]

MESSAGE = struct.Struct("<BxxxI")
"""What is said, and of which slot; SCAN is followed by the memory block numbers (uint64)."""

SCAN, PACK, SCANNED, ALL_ZERO, PACKED = range(5)


class Work(NamedTuple):
    """What every worker of a save knows."""

    source: PageReader
    slots: Sequence[Slot]
    batch_blocks: int
    block_pages: int
    codec: int
    level: int

    def serve(self, channel: Channel) -> None:
        """Serve the coordinator until it closes the channel."""
        worker = _Worker(self)
        for message in channel.messages():
            what, slot = MESSAGE.unpack_from(message)
            if what == SCAN:
                channel.send(MESSAGE.pack(worker.scan(slot, message[MESSAGE.size :]), slot))
            else:
                worker.pack(slot)
                channel.send(MESSAGE.pack(PACKED, slot))


class _Batch:
    """The pages of a batch under way, in this worker's own memory."""

    def __init__(self, blocks: int, block_pages: int) -> None:
        self.data = memoryview(bytearray(blocks * block_pages * PAGE_BYTES))
        size = len(self.data)
        self.pages = [self.data[at : at + PAGE_BYTES] for at in range(0, size, PAGE_BYTES)]
        self.numbers: list[int] = []
        """Memory block numbers."""
        self.lengths: list[int] = []
        """Pages of each block; only memory's last block may be shorter than the others."""

    def page_of(self, index: int, block_pages: int) -> int:
        """The page number of the page at `index` of the batch."""
        block, page = divmod(index, block_pages)
        return self.numbers[block] * block_pages + page


class _Worker:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._compress: Callable[[Buffer], bytes] = compressor(work.codec, work.level)
        self._zeros = bytearray(work.block_pages * PAGE_BYTES)
        self._zero_batch = bytearray(work.batch_blocks * work.block_pages * PAGE_BYTES)
        self._zero_hashes = memoryview(ZERO_PAGE_HASH.to_bytes(8, "little") * work.block_pages).cast("Q")
        self._batches: dict[int, _Batch] = {}

    def _batch(self, slot: int) -> _Batch:
        if slot not in self._batches:
            self._batches[slot] = _Batch(self._work.batch_blocks, self._work.block_pages)
        return self._batches[slot]

    def scan(self, slot: int, numbers: bytes) -> int:
        """Read and classify a batch; answer ALL_ZERO if there is nothing to pack."""
        batch = self._batch(slot)
        self._read(batch, memoryview(numbers).cast("Q").tolist())
        if (
            self._zero_batch == batch.data
        ):  # in a dump without holes most are: not a line for any page of them
            return ALL_ZERO
        found = [self._scan_block(batch, slot, index) for index in range(len(batch.lengths))]
        return SCANNED if any(found) else ALL_ZERO

    def _read(self, batch: _Batch, numbers: list[int]) -> None:
        block_pages, page_count = self._work.block_pages, self._work.source.layout.page_count
        for index, pages in page_ranges(numbers, block_pages, page_count):
            at = index * block_pages * PAGE_BYTES
            self._work.source.read(pages, batch.data[at : at + pages.pages * PAGE_BYTES])
        batch.numbers = numbers
        batch.lengths = [min(block_pages, page_count - number * block_pages) for number in numbers]

    def _scan_block(self, batch: _Batch, slot: int, index: int) -> bool:
        """Classify a block; whether it has anything but zeros."""
        views = self._work.slots[slot]
        start = index * self._work.block_pages
        length = batch.lengths[index]
        end = start + length
        data = batch.data[start * PAGE_BYTES : end * PAGE_BYTES]
        whole = length == self._work.block_pages
        if whole and self._zeros == data:
            views.kinds[start:end] = bytes(length)
            views.hashes[start:end] = self._zero_hashes
            return False
        kinds, hashes = classify(batch.pages[start:end])
        views.kinds[start:end] = kinds
        for at, value in enumerate(hashes, start):
            views.hashes[at] = value
        return any(kinds)

    def pack(self, slot: int) -> None:
        """Confirm the duplicates of a batch and compress its blocks into the slot."""
        batch, views = self._batch(slot), self._work.slots[slot]
        payload_at = body_at = 0
        for index, length in enumerate(batch.lengths):
            start = index * self._work.block_pages
            kinds = self._confirm(batch, views, start, start + length)
            codec, payload = self._pack_pages(batch, kinds, start)
            views.payload[payload_at : payload_at + len(payload)] = payload
            payload_at += len(payload)
            body = _body(views, kinds, start)
            views.bodies[body_at : body_at + len(body)] = body
            body_at += len(body)
            ENTRY.pack_into(views.entries, index * ENTRY.size, len(payload), codec, len(body))

    def _confirm(self, batch: _Batch, views: Slot, start: int, end: int) -> bytes:
        """The kinds of a block, with duplicates that are none put back to STORED."""
        kinds = bytes(views.kinds[start:end])
        at = kinds.find(DUPLICATE)
        while at >= 0:
            stop = at + 1  # a run of duplicates of consecutive pages is compared in one go
            while (
                stop < len(kinds)
                and kinds[stop] == DUPLICATE
                and views.firsts[start + stop] == views.firsts[start + stop - 1] + 1
            ):
                stop += 1
            self._compare(batch, views, start + at, start + stop)
            at = kinds.find(DUPLICATE, stop)
        return bytes(views.kinds[start:end])

    def _compare(self, batch: _Batch, views: Slot, start: int, end: int) -> None:
        """Put pages of the batch that differ from those they should equal back to STORED."""
        first = views.firsts[start]
        if self._known_equal(batch.page_of(start, self._work.block_pages), first, end - start):
            return
        found = bytearray((end - start) * PAGE_BYTES)
        self._work.source.read(PageRange(first, first + end - start), memoryview(found))
        if found == batch.data[start * PAGE_BYTES : end * PAGE_BYTES]:
            return
        for index in range(start, end):
            at = (index - start) * PAGE_BYTES
            if found[at : at + PAGE_BYTES] != batch.pages[index]:
                views.kinds[index] = STORED

    def _known_equal(self, page: int, first: int, pages: int) -> bool:
        """Whether a checkpoint as source stores two runs of pages in the same places."""
        # Asked for by name: importing the reader to ask for its class would cost every save of an image 3 ms.
        place_of: Callable[[int], tuple[int, int, int] | None] | None = getattr(
            self._work.source, "stored_place", None
        )
        return place_of is not None and all(
            place_of(page + index) == place_of(first + index) is not None for index in range(pages)
        )

    def _pack_pages(self, batch: _Batch, kinds: bytes, start: int) -> tuple[int, Buffer]:
        """Codec and compressed bytes of a block's stored pages; raw where they do not shrink."""
        stored = kinds.count(STORED)
        if not stored:
            return RAW, b""
        plain: Buffer
        if stored == len(kinds):
            plain = batch.data[start * PAGE_BYTES : (start + stored) * PAGE_BYTES]
        else:
            plain = b"".join([batch.pages[start + at] for at, kind in enumerate(kinds) if kind == STORED])
        compressed = self._compress(plain)
        return (self._work.codec, compressed) if len(compressed) < len(plain) else (RAW, plain)


def _body(views: Slot, kinds: bytes, start: int) -> bytes:
    """A block's hashes and pattern words as its directory record has them."""
    raw = views.hashes[start : start + len(kinds)]
    if kinds.count(STORED) == len(kinds):
        return raw.tobytes()
    hashes = raw.tolist()
    stored = [value for value, kind in zip(hashes, kinds, strict=True) if kind == STORED]
    duplicate = [value for value, kind in zip(hashes, kinds, strict=True) if kind == DUPLICATE]
    words = [
        bytes([PATTERN_HASHES[value]]) * 8
        for value, kind in zip(hashes, kinds, strict=True)
        if kind == PATTERN
    ]
    return struct.pack(f"<{len(stored) + len(duplicate)}Q", *stored, *duplicate) + b"".join(words)
