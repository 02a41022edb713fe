"""A new index from the storage blocks alone, for a file that lost its own.

    old file ─▶ header ─▶ storage blocks, one behind the other, each proved ─▶ of several versions of a memory block
    the latest ─▶ new file: the same blocks, byte for byte, a new index, and the sections that survived

Storage blocks are numbered and the last one is marked, so it is known when one is missing: then memory would have holes
that look like zero pages, and nothing is made. The footer, the tables and the summary of the old file are not needed.
"""

import os
from collections import OrderedDict
from collections.abc import Container, Iterator
from itertools import islice
from typing import NamedTuple

from vmckpt.checkpoint.block import (
    StorageBlock,
    check_payload,
    unpack_head,
    unpack_storage_header,
)
from vmckpt.checkpoint.check import prove_metadata
from vmckpt.checkpoint.file import CheckpointFile
from vmckpt.checkpoint.format import (
    DUPLICATE,
    LAST,
    PATTERN,
    SECTION,
    SECTION_MAGIC,
    STORAGE_HEADER,
    STORAGE_MAGIC,
    STORED,
    Header,
    Limits,
    Section,
    SectionType,
    unpack_header,
)
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.checkpoint.writer import CheckpointWriter
from vmckpt.errors import ChangedError, CorruptionError, IoError, VmckptError
from vmckpt.hashing import Digest, checksum_of
from vmckpt.reports import PageCounts, Progress

__all__ = ["Rebuilt", "rebuild"]


_KEPT = (SectionType.ACTIVE_PAGES, SectionType.VCPU_STATE, SectionType.DEVICE_STATE, SectionType.METADATA)
_FIRST_SEARCH_BYTES = 1 << 12
_SEARCH_BYTES = 1 << 20
_CACHED_HEADS = 16
_WASTE_BYTES = 256 << 20  # a second of reading


class Rebuilt(NamedTuple):
    """What was found and written."""

    memory_bytes: int
    file_bytes: int
    storage_blocks: int
    pages: PageCounts
    digest: str
    lost_sections: tuple[str, ...]
    """Sections that were not found. Where the old section table is lost as well, the file may not have had them."""


class _Found(NamedTuple):
    """Where a storage block of the old file lies; what its directory says is read again when it is needed."""

    offset: int
    size_bytes: int
    number: int


class _Old:
    """The old file, read with suspicion."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._wasted_bytes = 0
        try:
            self._fd = os.open(path, os.O_RDONLY)
            self.file_bytes = os.fstat(self._fd).st_size
        except OSError as error:
            raise IoError.of(error, "cannot open the checkpoint", path=path) from error

    def read(self, offset: int, size_bytes: int) -> bytes:
        """What there is of that part of the file."""
        parts: list[bytes] = []
        end = min(offset + size_bytes, self.file_bytes)
        try:
            while offset < end and (part := os.pread(self._fd, end - offset, offset)):
                parts.append(part)
                offset += len(part)
        except OSError as error:
            raise IoError.of(error, "cannot read the checkpoint", path=self.path, offset=offset) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        os.close(self._fd)

    def find(self, wanted: bytes, start: int) -> Iterator[int]:
        """The offsets from `start` on at which `wanted` stands."""
        step = _FIRST_SEARCH_BYTES  # grows: a search that ends soon must not cost much
        while start < self.file_bytes:
            data = self.read(start, step + len(wanted) - 1)
            at = data.find(wanted)
            while at >= 0:
                yield start + at
                at = data.find(wanted, at + 1)
            start += step
            step = min(2 * step, _SEARCH_BYTES)

    def waste(self, size_bytes: int) -> None:
        """Note that so many bytes were read for what turned out to be nothing.

        Raises:
            CorruptionError: that happens too often. A damaged file has few such places, a hostile one as many as it
                likes, each of which can claim all the rest of the file.
        """
        self._wasted_bytes += size_bytes
        if self._wasted_bytes > _WASTE_BYTES + 4 * self.file_bytes:
            raise CorruptionError(
                "too much of it looks like a part of a checkpoint and is none: the search is given up",
                path=self.path,
            )


def rebuild(path: str, fd: int, new: str, *, progress: Progress | None = None) -> Rebuilt:
    """Write the checkpoint at `path` to `fd`, an empty file, with a new index.

    Args:
        path: the old file.
        fd: the new one.
        new: its name, for messages.
        progress: told after each storage block.

    Raises:
        FormatError: the old file has no header of a checkpoint.
        CorruptionError: a storage block is damaged or missing.
        IoError: reading or writing failed.
    """
    old = _Old(path)
    try:
        header, layout = unpack_header(old.read(0, Limits.HEADER_BYTES), path)
        found = _find_storage_blocks(old, header)
        blocks = _Blocks(old, header, found)
        writer = CheckpointWriter(fd, header, layout, path=new)
        _copy(old, found, blocks, writer, progress)
        sections = _surviving_sections(old, header, max(each.offset + each.size_bytes for each in found))
        counts, digest = blocks.counts_and_digest()
        active = len(sections.get(SectionType.ACTIVE_PAGES, b"")) // 8
        writer.finish(digest, counts, active_pages=active, sections=sorted(sections.items()))
    finally:
        old.close()
    with Checkpoint.from_descriptor(os.dup(fd), new) as rebuilt:
        prove_metadata(rebuilt)
    expected = _named_sections(path)
    lost = tuple(SectionType.NAMES[kind] for kind in _KEPT if kind in expected and kind not in sections)
    return Rebuilt(layout.memory_bytes, writer.file_bytes, writer.storage_blocks, counts, digest.hex(), lost)


def _named_sections(path: str) -> Container[int]:
    """The sections that the old file says it has; where it cannot say, it may have had any."""
    try:
        with CheckpointFile.open(path) as old:
            return frozenset(old.sections)
    except VmckptError:
        return _KEPT


def _find_storage_blocks(old: _Old, header: Header) -> list[_Found]:
    """Every storage block, in the order of the file.

    Raises:
        CorruptionError: not all that there must be are there and whole.
    """
    found: dict[int, _Found] = {}
    last = -1
    offset = header.header_bytes
    search: Iterator[int] | None = None
    while offset < old.file_bytes and not (last >= 0 and len(found) == last + 1):
        storage = _head_at(old, header, offset)
        if storage is None:
            search = search or old.find(STORAGE_MAGIC, offset + 1)
            offset = next(search, old.file_bytes)
            continue
        search = None
        if _is_whole(old, storage, offset):
            found[storage.header.number] = _Found(offset, storage.size_bytes, storage.header.number)
            if storage.header.flags & LAST:
                # Buffers of several streams may be flushed in any order; the highest number is the count.
                last = max(found)
        offset += storage.size_bytes
    expected = max(found, default=-1) + 1
    # No set of all numbers: a block may claim to be the four billionth.
    missing = list(islice((number for number in range(expected) if number not in found), 8))
    if missing or last < 0:
        what = (
            f"storage blocks {missing} are damaged or missing"
            if missing
            else "the last storage block is missing"
        )
        raise CorruptionError(
            f"{what}; found {len(found)} whole ones: an index over these would show zero pages for what is lost",
            path=old.path,
            offset=offset if not missing else None,
        )
    return sorted(found.values())


def _head_at(old: _Old, header: Header, offset: int) -> StorageBlock | None:
    """The storage block that starts at `offset`, its header and directory proved; None if there is none."""
    try:
        fixed = unpack_storage_header(old.read(offset, STORAGE_HEADER.size), header)
    except CorruptionError:
        return None
    size = STORAGE_HEADER.size + fixed.directory_bytes
    if offset + size + fixed.payload_bytes > old.file_bytes:
        return None
    try:
        return unpack_head(old.read(offset, size), header)
    except CorruptionError:
        old.waste(size)
        return None


def _is_whole(old: _Old, storage: StorageBlock, offset: int) -> bool:
    """Whether the pages of the storage block at `offset` are what was written."""
    payload = old.read(offset + storage.head_bytes, storage.header.payload_bytes)
    try:
        check_payload(storage.header, memoryview(payload))
    except CorruptionError:
        return False
    return True


class _Blocks:
    """The memory blocks of the storage blocks found: which version of each counts, and what it says."""

    def __init__(self, old: _Old, header: Header, found: list[_Found]) -> None:
        self._old = old
        self._header = header
        self._offsets = {each.number: each.offset for each in found}
        self._heads: OrderedDict[int, StorageBlock] = OrderedDict()
        self._latest: dict[int, tuple[int, int, int]] = {}
        for number in self._offsets:
            for slot, block in enumerate(self.head(number).memory_blocks):
                candidate = (block.generation, number, slot)
                if candidate > self._latest.get(block.number, (-1,)):
                    self._latest[block.number] = candidate

    def head(self, number: int) -> StorageBlock:
        """A storage block's directory; keeps the last few."""
        storage = self._heads.get(number)
        if storage is None:
            storage = _head_at(self._old, self._header, self._offsets[number])
            if storage is None:
                raise ChangedError("a storage block changed while it was read", path=self._old.path)
            self._heads[number] = storage
            if len(self._heads) > _CACHED_HEADS:
                self._heads.popitem(last=False)
        else:
            self._heads.move_to_end(number)
        return storage

    def live_slots(self, number: int) -> list[int]:
        """The slots of a storage block that hold the latest version of their memory block."""
        blocks = self.head(number).memory_blocks
        return [slot for slot, block in enumerate(blocks) if self._latest[block.number][1:] == (number, slot)]

    def counts_and_digest(self) -> tuple[PageCounts, bytes]:
        """What the summary says of the whole memory."""
        header = self._header
        counts = dict.fromkeys((PATTERN, DUPLICATE, STORED), 0)
        digest = Digest()
        for memory_block, (_, number, slot) in sorted(self._latest.items()):
            block = self.head(number).memory_blocks[slot]
            for kind in counts:
                counts[kind] += block.kinds.count(kind)
            digest.add_zeros(memory_block * header.block_pages - digest.pages)
            digest.add(block.page_hashes())
        digest.add_zeros(header.page_count - digest.pages)
        zero = header.page_count - sum(counts.values())
        return PageCounts(header.page_count, zero, *counts.values()), digest.bytes()


def _copy(
    old: _Old, found: list[_Found], blocks: _Blocks, writer: CheckpointWriter, progress: Progress | None
) -> None:
    for offset, size_bytes, number in found:
        writer.adopt(blocks.head(number), old.read(offset, size_bytes), blocks.live_slots(number))
        if progress is not None:
            progress(offset + size_bytes, old.file_bytes)


def _surviving_sections(old: _Old, header: Header, start: int) -> dict[int, bytes]:
    """The sections worth keeping that are whole, found by their magic."""
    sections: dict[int, bytes] = {}
    end = start
    for offset in old.find(SECTION_MAGIC, start):
        data = old.read(offset, SECTION.size)
        if offset < end or len(data) < SECTION.size:
            continue
        section = Section._make(SECTION.unpack(data))
        if section.type not in _KEPT or section.checkpoint_id != header.checkpoint_id[:8]:
            continue
        if section.length > min(Limits.SECTION_BYTES, old.file_bytes - offset - SECTION.size):
            continue
        body = old.read(offset + SECTION.size, section.length)
        if checksum_of(data[:-8], body) == section.checksum:
            sections[section.type] = body
            end = offset + SECTION.size + section.length
        else:
            old.waste(section.length)
    return sections
