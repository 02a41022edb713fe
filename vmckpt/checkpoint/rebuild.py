"""A new index from the storage blocks alone, for a file that lost its own.

    old file ─▶ header ─▶ storage blocks, one behind the other, each proved ─▶ of several versions of a memory block
    the latest ─▶ new file: the same blocks, byte for byte, a new index, and the sections that survived

Storage blocks are numbered and the last one is marked, so it is known when one is missing: then memory would have holes
that look like zero pages, and nothing is made. The footer, the tables and the summary of the old file are not needed.
"""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from vmckpt.checkpoint.block import (
    MemoryBlock,
    StorageBlock,
    check_payload,
    unpack_head,
    unpack_storage_header,
)
from vmckpt.checkpoint.check import prove_metadata
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
from vmckpt.digest import Digest, checksum_of
from vmckpt.errors import CorruptionError, IoError
from vmckpt.layout import Layout
from vmckpt.reports import PageCounts

__all__ = ["Rebuilt", "rebuild"]

Progress = Callable[[int, int], None]

_KEPT = (SectionType.ACTIVE_PAGES, SectionType.VCPU_STATE, SectionType.DEVICE_STATE, SectionType.METADATA)
_SEARCH_BYTES = 1 << 20


class Rebuilt(NamedTuple):
    """What was found and written."""

    memory_bytes: int
    file_bytes: int
    storage_blocks: int
    pages: PageCounts
    digest: str
    lost_sections: tuple[str, ...]
    """Sections that were not found; the old file need not have had all of them."""


class _Found(NamedTuple):
    """A storage block of the old file."""

    offset: int
    storage: StorageBlock


class _Old:
    """The old file, read with suspicion."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY)
            self.file_bytes = os.fstat(self._fd).st_size
        except OSError as error:
            raise IoError.of(error, "cannot open the checkpoint", path=path) from error

    def read(self, offset: int, size_bytes: int) -> bytes:
        """What there is of that part of the file."""
        try:
            return os.pread(self._fd, size_bytes, offset)
        except OSError as error:
            raise IoError.of(error, "cannot read the checkpoint", path=self.path, offset=offset) from error

    def close(self) -> None:
        os.close(self._fd)

    def find(self, wanted: bytes, start: int) -> Iterator[int]:
        """The offsets from `start` on at which `wanted` stands."""
        while start < self.file_bytes:
            data = self.read(start, _SEARCH_BYTES + len(wanted) - 1)
            at = data.find(wanted)
            while at >= 0:
                yield start + at
                at = data.find(wanted, at + 1)
            start += _SEARCH_BYTES


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
        latest = _latest(found)
        writer = CheckpointWriter(fd, header, layout, path=new)
        _copy(old, found, latest, writer, progress)
        sections = _surviving_sections(old, header, max((f.offset + f.storage.size_bytes) for f in found))
        counts = _counts(found, latest, layout)
        digest = _digest(header, found, latest)
        active = len(sections.get(SectionType.ACTIVE_PAGES, b"")) // 8
        writer.finish(digest, counts, active_pages=active, sections=sorted(sections.items()))
    finally:
        old.close()
    with Checkpoint.from_descriptor(os.dup(fd), new) as rebuilt:
        prove_metadata(rebuilt)
    lost = tuple(SectionType.NAMES[kind] for kind in _KEPT if kind not in sections)
    return Rebuilt(layout.memory_bytes, writer.file_bytes, writer.storage_blocks, counts, digest.hex(), lost)


def _find_storage_blocks(old: _Old, header: Header) -> list[_Found]:
    """Every storage block, in the order of the file.

    Raises:
        CorruptionError: not all that there must be are there and whole.
    """
    found: dict[int, _Found] = {}
    last = -1
    offset = header.header_bytes
    while offset < old.file_bytes and not (last >= 0 and len(found) == last + 1):
        try:
            storage = _storage_block_at(old, header, offset)
        except CorruptionError:
            offset = next(old.find(STORAGE_MAGIC, offset + 1), old.file_bytes)
            continue
        found[storage.header.number] = _Found(offset, storage)
        if storage.header.flags & LAST:
            # Buffers of several streams may be flushed in any order; the highest number is the count.
            last = max(found)
        offset += storage.size_bytes
    expected = max(found, default=-1) + 1
    missing = sorted(set(range(expected)) - set(found))
    if missing or last < 0:
        what = (
            f"storage blocks {missing[:8]} are damaged or missing"
            if missing
            else "the last storage block is missing"
        )
        raise CorruptionError(
            f"{what}; found {len(found)} whole ones: an index over these would show zero pages for what is lost",
            path=old.path,
            offset=offset if not missing else None,
        )
    return sorted(found.values())


def _storage_block_at(old: _Old, header: Header, offset: int) -> StorageBlock:
    fixed = unpack_storage_header(old.read(offset, STORAGE_HEADER.size), header)
    size = STORAGE_HEADER.size + fixed.directory_bytes + fixed.payload_bytes
    if offset + size > old.file_bytes:
        raise CorruptionError("a storage block reaches past the file's end", path=old.path, offset=offset)
    data = memoryview(old.read(offset, size))
    storage = unpack_head(data, header)
    check_payload(storage.header, data[storage.head_bytes :])
    return storage


def _latest(found: list[_Found]) -> dict[int, tuple[int, int, int]]:
    """Memory block -> generation, storage block and slot of its latest version."""
    latest: dict[int, tuple[int, int, int]] = {}
    for _, storage in found:
        for slot, block in enumerate(storage.memory_blocks):
            candidate = (block.generation, storage.header.number, slot)
            if block.number not in latest or candidate > latest[block.number]:
                latest[block.number] = candidate
    return latest


def _copy(
    old: _Old,
    found: list[_Found],
    latest: dict[int, tuple[int, int, int]],
    writer: CheckpointWriter,
    progress: Progress | None,
) -> None:
    for offset, storage in found:
        number = storage.header.number
        live = [
            slot
            for slot, block in enumerate(storage.memory_blocks)
            if latest[block.number][1:] == (number, slot)
        ]
        writer.adopt(storage, old.read(offset, storage.size_bytes), live)
        if progress is not None:
            progress(offset + storage.size_bytes, old.file_bytes)


def _live_blocks(found: list[_Found], latest: dict[int, tuple[int, int, int]]) -> Iterator[MemoryBlock]:
    for _, storage in found:
        for slot, block in enumerate(storage.memory_blocks):
            if latest[block.number][1:] == (storage.header.number, slot):
                yield block


def _counts(found: list[_Found], latest: dict[int, tuple[int, int, int]], layout: Layout) -> PageCounts:
    counts = dict.fromkeys((PATTERN, DUPLICATE, STORED), 0)
    for block in _live_blocks(found, latest):
        for kind in counts:
            counts[kind] += block.kinds.count(kind)
    return PageCounts(layout.page_count, layout.page_count - sum(counts.values()), *counts.values())


def _digest(header: Header, found: list[_Found], latest: dict[int, tuple[int, int, int]]) -> bytes:
    by_number = {storage.header.number: storage for _, storage in found}
    digest = Digest()
    for number, (_, storage_block, slot) in sorted(latest.items()):
        block = by_number[storage_block].memory_blocks[slot]
        digest.add_zeros(number * header.block_pages - digest.pages)
        digest.add(block.page_hashes())
    digest.add_zeros(header.page_count - digest.pages)
    return digest.bytes()


def _surviving_sections(old: _Old, header: Header, start: int) -> dict[int, bytes]:
    """The sections worth keeping that are whole, found by their magic."""
    sections: dict[int, bytes] = {}
    for offset in old.find(SECTION_MAGIC, start):
        data = old.read(offset, SECTION.size)
        if len(data) < SECTION.size:
            continue
        section = Section._make(SECTION.unpack(data))
        if section.type not in _KEPT or section.length > min(Limits.SECTION_BYTES, old.file_bytes):
            continue
        body = old.read(offset + SECTION.size, section.length)
        if (
            checksum_of(data[:-8], body) == section.checksum
            and section.checkpoint_id == header.checkpoint_id[:8]
        ):
            sections[section.type] = body
    return sections
