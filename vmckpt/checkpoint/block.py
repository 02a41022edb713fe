"""One storage block: a header, a directory of memory blocks, and their compressed pages.

    +----------------+---------------------------------+--------------------------------------+
    | header (48 B)  | record 0 | record 1 | ...       | payload of 0 | payload of 1 | ...    |
    +----------------+---------------------------------+--------------------------------------+
                       record: fixed part, a kind for each page, hashes of the stored and then of the duplicate
                       pages, pattern words, references

A storage block says all there is to know about its memory blocks, so an index can be made anew from the blocks, and the
pages it does not store need nothing else: a zero page is its kind, a pattern page a word, a duplicate a reference to
the place of a stored page (storage block, slot, page). References point to stored bytes, never to page numbers or to
other references: there can be no cycle, and writing a page again later does not change what a reference means.

`pack_*` are for the staging buffer, `unpack_*` and `MemoryBlock` for the reader. Pure: bytes in, bytes out.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vmckpt.checkpoint.codec import decompress
from vmckpt.checkpoint.format import (
    DUPLICATE,
    PATTERN,
    RECORD,
    REFERENCE,
    STORAGE_HEADER,
    STORAGE_MAGIC,
    STORED,
    ZERO,
    BlockRecord,
    Header,
    Limits,
    StorageHeader,
)
from vmckpt.errors import CorruptionError
from vmckpt.hashing import PATTERN_HASHES, ZERO_PAGE_HASH, checksum, checksum_of, pack_hashes, page_hashes
from vmckpt.pages import PAGE_BYTES, Buffer, PageRange

__all__ = [
    "MemoryBlock",
    "Reference",
    "StorageBlock",
    "check_payload",
    "pack_head",
    "pack_record",
    "unpack_head",
    "unpack_record",
    "unpack_storage_head",
    "unpack_storage_header",
]

_RUN = re.compile(rb"(.)\1*", re.DOTALL)
_ZERO_HASH = ZERO_PAGE_HASH.to_bytes(8, "little")
_PATTERN_HASH = {byte: value.to_bytes(8, "little") for value, byte in PATTERN_HASHES.items()}


class Reference(NamedTuple):
    """Where the stored page lies that a duplicate equals."""

    storage_block: int
    slot: int
    """Index in that storage block's directory."""
    page: int
    """Index of the page within that memory block."""


class MemoryBlock(NamedTuple):
    """A memory block as a storage block's directory tells it."""

    number: int
    """Memory block number: its pages start at `number * block_pages`."""
    generation: int
    """How often the block was written before; of several, the highest counts."""
    codec: int
    kinds: bytes
    """One kind for each page."""
    hashes: bytes
    """Page hashes, 8 bytes each: of the stored pages, then of the duplicates, each in page order."""
    patterns: bytes
    """The word (8 bytes) that each pattern page repeats, in page order."""
    references: bytes
    """A packed `Reference` for each duplicate page, in page order."""
    payload_offset: int
    """Where its compressed pages start, counted from the payload's start."""
    stored_bytes: int
    """Their compressed length."""

    @property
    def stored(self) -> int:
        """How many pages it stores."""
        return self.kinds.count(STORED)

    def pages(self, block_pages: int) -> PageRange:
        """The page numbers it stands for."""
        start = self.number * block_pages
        return PageRange(start, start + len(self.kinds))

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Runs of pages of one kind: kind, start and end as indexes within the block."""
        kinds = self.kinds
        for run in _RUN.finditer(kinds):
            start, end = run.span()
            yield kinds[start], start, end

    def page_hashes(self) -> bytes:
        """The hash of every page in page order, 8 bytes each."""
        if self.kinds.count(STORED) == len(self.kinds):
            return self.hashes
        position = {STORED: 0, DUPLICATE: self.stored * 8, PATTERN: 0}
        parts = []
        for kind, start, end in self.runs():
            size = (end - start) * 8
            if kind == ZERO:
                parts.append(_ZERO_HASH * (end - start))
                continue
            at = position[kind]
            position[kind] = at + size
            if kind == PATTERN:
                parts += [pattern_hash(self.patterns[i : i + 8]) for i in range(at, at + size, 8)]
            else:
                parts.append(self.hashes[at : at + size])
        return b"".join(parts)

    def stored_pages(self, payload: memoryview, room: memoryview | None = None) -> memoryview:
        """The content of the stored pages, side by side, proved against their hashes.

        Args:
            payload: of the storage block that the memory block is in.
            room: see `codec.decompress`.

        Raises:
            CorruptionError: they do not decompress, or not to what was saved.
        """
        size = self.stored * PAGE_BYTES
        compressed = payload[self.payload_offset : self.payload_offset + self.stored_bytes]
        plain = memoryview(decompress(self.codec, compressed, size, room))
        if pack_hashes(page_hashes(plain)) != self.hashes[: size // PAGE_BYTES * 8]:
            raise CorruptionError(f"pages of memory block {self.number} differ from their hashes")
        return plain

    def reference(self, index: int) -> Reference:
        """The reference of the `index`-th duplicate page."""
        return Reference._make(REFERENCE.unpack_from(self.references, index * REFERENCE.size))


class StorageBlock(NamedTuple):
    """A storage block's header and directory, in the order of slots."""

    header: StorageHeader
    memory_blocks: Sequence[MemoryBlock]

    @property
    def head_bytes(self) -> int:
        """Header and directory: where the payload starts."""
        return STORAGE_HEADER.size + self.header.directory_bytes

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return self.head_bytes + self.header.payload_bytes


def pattern_hash(word: bytes) -> bytes:
    """The hash, 8 bytes little-endian, of a page that repeats the 8-byte `word`."""
    if word.count(word[0]) == 8:
        return _PATTERN_HASH[word[0]]
    return checksum(word * (PAGE_BYTES // 8)).to_bytes(8, "little")


def pack_record(block: MemoryBlock, payload_offset: int, stored_bytes: int) -> bytes:
    """A directory record; where its compressed pages lie is given apart, as only the staging buffer knows."""
    kinds = block.kinds
    fixed = RECORD.pack(
        block.number,
        block.generation,
        payload_offset,
        stored_bytes,
        block.codec,
        0,
        len(kinds),
        kinds.count(STORED),
        kinds.count(PATTERN),
        kinds.count(DUPLICATE),
        0,
    )
    return b"".join((fixed, kinds, block.hashes, block.patterns, block.references))


def pack_head(
    number: int,
    checkpoint_id: bytes,
    records: list[bytes],
    payload: Buffer,
    *,
    stream: int,
    flags: int,
) -> bytes:
    """Header and directory of a storage block whose payload is `payload`."""
    directory = b"".join(records)
    fields = (
        STORAGE_MAGIC,
        number,
        checkpoint_id[:8],
        len(directory),
        len(payload),
        len(records),
        stream,
        flags,
        checksum(payload),
    )
    head = STORAGE_HEADER.pack(*fields, 0)[:-8]
    return head + checksum_of(head, directory).to_bytes(8, "little") + directory


def unpack_storage_header(data: Buffer, header: Header) -> StorageHeader:
    """A storage block's header, bounds checked, its checksum not yet (that needs the directory).

    Raises:
        CorruptionError: there is no storage block of this checkpoint here.
    """
    if len(data) < STORAGE_HEADER.size:
        raise CorruptionError(
            f"a storage block is cut short: {len(data)} bytes, expected {STORAGE_HEADER.size}"
        )
    found = StorageHeader._make(STORAGE_HEADER.unpack_from(data))
    if found.magic != STORAGE_MAGIC or found.checkpoint_id != header.checkpoint_id[:8]:
        raise CorruptionError("no storage block of this checkpoint starts here")
    if found.directory_bytes > Limits.DIRECTORY_BYTES or found.payload_bytes > header.storage_block_bytes:
        raise CorruptionError(
            f"a storage block claims a directory of {found.directory_bytes} bytes and {found.payload_bytes} bytes "
            f"of pages, expected at most {Limits.DIRECTORY_BYTES} and {header.storage_block_bytes}"
        )
    return found


def unpack_storage_head(data: Buffer, header: Header) -> tuple[StorageHeader, bytes]:
    """A storage block's header, and its directory as bytes, proved by their checksum.

    Raises:
        CorruptionError: the bytes contradict their checksum, or the limits.
    """
    found = unpack_storage_header(data, header)
    head = bytes(data[: STORAGE_HEADER.size + found.directory_bytes])
    directory = head[STORAGE_HEADER.size :]
    if len(directory) != found.directory_bytes:
        raise CorruptionError(f"storage block {found.number}'s directory is cut short")
    computed = checksum_of(head[: STORAGE_HEADER.size - 8], directory)
    if computed != found.head_checksum:
        raise CorruptionError(
            f"the checksum of storage block {found.number}'s directory is {computed:016x}, "
            f"expected {found.head_checksum:016x}"
        )
    return found, directory


def unpack_head(data: Buffer, header: Header) -> StorageBlock:
    """A storage block's header and directory, proved.

    Args:
        data: at least header and directory.
        header: of the checkpoint.

    Raises:
        CorruptionError: the bytes contradict their checksum, each other, or the limits.
    """
    found, directory = unpack_storage_head(data, header)
    blocks = []
    at = 0
    for _ in range(found.memory_blocks):
        block, at = unpack_record(directory, at, header, found)
        blocks.append(block)
    if at != len(directory):
        raise CorruptionError(
            f"storage block {found.number}'s directory has {len(directory) - at} bytes too many"
        )
    return StorageBlock(found, tuple(blocks))


def unpack_record(
    directory: bytes, at: int, header: Header, storage: StorageHeader
) -> tuple[MemoryBlock, int]:
    """The record at offset `at` of a directory, and where it ends.

    Raises:
        CorruptionError: it is not one that a writer of this version makes.
    """
    if len(directory) - at < RECORD.size:
        raise CorruptionError(f"storage block {storage.number}'s directory ends within a record")
    fixed = BlockRecord._make(RECORD.unpack_from(directory, at))
    kinds_at = at + RECORD.size
    hashes_at = kinds_at + fixed.pages
    patterns_at = hashes_at + 8 * (fixed.stored + fixed.duplicate)
    references_at = patterns_at + 8 * fixed.pattern
    end = references_at + REFERENCE.size * fixed.duplicate
    kinds = directory[kinds_at:hashes_at]
    _check_record(fixed, kinds, header, storage, end <= len(directory))
    return MemoryBlock(
        fixed.memory_block,
        fixed.generation,
        fixed.codec,
        kinds,
        directory[hashes_at:patterns_at],
        directory[patterns_at:references_at],
        directory[references_at:end],
        fixed.payload_offset,
        fixed.stored_bytes,
    ), end


def _check_record(
    fixed: BlockRecord, kinds: bytes, header: Header, storage: StorageHeader, fits: bool
) -> None:
    """Raise CorruptionError unless the record is one that a writer of this version makes."""
    if fixed.memory_block >= header.block_count:
        raise _wrong(fixed, storage, f"is outside memory, which has {header.block_count} memory blocks")
    pages = min(header.block_pages, header.page_count - fixed.memory_block * header.block_pages)
    counts = (kinds.count(STORED), kinds.count(PATTERN), kinds.count(DUPLICATE))
    if not fits or fixed.pages != pages or counts != (fixed.stored, fixed.pattern, fixed.duplicate):
        raise _wrong(fixed, storage, f"does not add up: {fixed.pages} pages, expected {pages}")
    if sum(counts) + kinds.count(ZERO) != pages:
        raise _wrong(fixed, storage, "has pages of a kind this vmckpt does not know")
    if fixed.payload_offset + fixed.stored_bytes > storage.payload_bytes:
        raise _wrong(fixed, storage, "points past the end of the storage block")
    if fixed.stored_bytes > fixed.stored * PAGE_BYTES or bool(fixed.stored_bytes) != bool(fixed.stored):
        raise _wrong(fixed, storage, f"stores {fixed.stored} pages in {fixed.stored_bytes} bytes")
    if fixed.reserved or fixed.reserved_2:
        raise _wrong(fixed, storage, "uses fields that this version leaves zero")


def _wrong(fixed: BlockRecord, storage: StorageHeader, what: str) -> CorruptionError:
    return CorruptionError(
        f"storage block {storage.number}: the record of memory block {fixed.memory_block} {what}"
    )


def check_payload(storage: StorageHeader, payload: memoryview) -> None:
    """Raise CorruptionError unless `payload` is what the header's checksum was made of."""
    if len(payload) != storage.payload_bytes:
        raise CorruptionError(
            f"storage block {storage.number} is cut short: {len(payload)} bytes of pages, "
            f"expected {storage.payload_bytes}"
        )
    computed = checksum(payload)
    if computed != storage.payload_checksum:
        raise CorruptionError(
            f"the checksum of storage block {storage.number}'s pages is {computed:016x}, "
            f"expected {storage.payload_checksum:016x}"
        )
