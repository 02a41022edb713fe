"""An open checkpoint file: header, footer and section table at once, everything else when it is asked for.

    open    header + footer + section table: a few KiB, whatever the size of the memory
    then    sections, map pieces, heads and storage blocks, each in one read and proved before it is used

It keeps the descriptor it was opened with, and stays valid when the file is renamed or unlinked. `reader` makes pages of
it, `check` proves all of it.
"""

import os
import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from vmckpt.checkpoint.block import MemoryBlock, StorageBlock, check_payload, unpack_head
from vmckpt.checkpoint.format import (
    ABSENT,
    FOOTER,
    FORMAT_VERSION,
    MAGIC,
    MAP_ENTRY,
    REQUIRED,
    SECTION,
    SECTION_ENTRY,
    SECTION_MAGIC,
    STORAGE_ENTRY,
    STORAGE_HEADER,
    STORED,
    SUMMARY,
    Limits,
    Section,
    SectionEntry,
    SectionType,
    Summary,
    unpack_footer,
    unpack_header,
)
from vmckpt.checkpoint.index import PieceReader
from vmckpt.errors import CorruptionError, FormatError, IoError
from vmckpt.hashing import checksum, checksum_of
from vmckpt.layout import Layout
from vmckpt.reports import PageCounts

__all__ = ["BadReferenceError", "CheckpointFile", "Place", "StorageEntry"]

_CACHED_HEAD_BYTES = 8 << 20
_MEMORY_BLOCK_BYTES = 500  # what a directory's entry for a memory block takes in memory, without its hashes
_KNOWN_SECTIONS = SectionType.NAMES.keys() - {SectionType.PARENT, SectionType.CIPHER}
_FIRST_READ_BYTES = 1 << 16  # the header of all but a memory of thousands of regions
_HEAD_READ_BYTES = 1 << 14  # header and directory of most storage blocks


class BadReferenceError(CorruptionError):
    """A duplicate page that does not lead to the page it equals."""


class Place(NamedTuple):
    """Where a memory block lies."""

    storage_block: int
    slot: int


class StorageEntry(NamedTuple):
    """Where a storage block lies."""

    offset: int
    size_bytes: int
    memory_blocks: int
    stream: int


class CheckpointFile:
    """The parts of an open checkpoint.

    Attributes:
        name: the path, for messages.
        header: as written.
        sections: section type -> its line of the section table.
        file_bytes: the file's length.
    """

    _unpack_head = staticmethod(unpack_head)

    def __init__(self, fd: int, name: str) -> None:
        """Open the checkpoint on `fd`, which it closes in the end; `name` is for messages.

        Raises:
            FormatError: it is no checkpoint, or one that this version cannot read.
            CorruptionError: it was cut short or damaged where opening looks.
            IoError: it could not be read.
        """
        self._fd = fd
        self.name = name
        self.file_bytes = os.fstat(fd).st_size
        try:
            self._open()
        except (CorruptionError, FormatError) as error:
            raise self._placed(error) from error
        self._heads: OrderedDict[int, StorageBlock] = OrderedDict()
        self._head_bytes_kept = 0

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the file at `path`; raises what the constructor does."""
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise IoError.of(error, "cannot open the checkpoint", path=path) from error
        return cls.from_descriptor(fd, path)

    @classmethod
    def from_descriptor(cls, fd: int, name: str) -> Self:
        """Open the checkpoint on `fd`, which is closed also when this fails."""
        try:
            return cls(fd, name)
        except BaseException:
            os.close(fd)
            raise

    def _open(self) -> None:
        tail = self._read_at(max(self.file_bytes - FOOTER.size, 0), min(FOOTER.size, self.file_bytes))
        head = self._head_bytes()
        try:
            self.header, self._layout = unpack_header(head, self.name)
        except FormatError:
            if head.startswith(MAGIC + FORMAT_VERSION.to_bytes(2, "little")):
                raise  # a sound header that asks for what this vmckpt does not know
            # A file that ends as a checkpoint does but does not start as one was damaged.
            try:
                version = unpack_footer(tail, self.file_bytes, self.name).version
            except CorruptionError:
                version = -1
            if version != FORMAT_VERSION:
                raise
            raise CorruptionError(
                "the header is damaged: the file ends as a checkpoint of version 1 but does not start as one",
                path=self.name,
                offset=0,
            ) from None
        footer = unpack_footer(tail, self.file_bytes, self.name)
        if footer.checkpoint_id != self.header.checkpoint_id or footer.version != self.header.version:
            raise CorruptionError(
                "header and footer are of two different checkpoints", path=self.name, offset=0
            )
        self.footer = footer
        self.sections = self._section_table()
        self._open_required()

    def _head_bytes(self) -> bytes:
        first = self._read_at(0, min(self.file_bytes, _FIRST_READ_BYTES))
        if len(first) < 16 or self.file_bytes <= len(first):
            return first
        wanted = min(int.from_bytes(first[12:16], "little"), self.file_bytes, Limits.HEADER_BYTES)
        return first if wanted <= len(first) else self._read_at(0, wanted)

    def _section_table(self) -> dict[int, SectionEntry]:
        footer = self.footer
        size = footer.section_count * SECTION_ENTRY.size
        end = self.file_bytes - FOOTER.size
        if footer.section_count > Limits.SECTIONS or footer.section_table_offset + size != end:
            raise CorruptionError(
                f"the footer puts {footer.section_count} sections at offset {footer.section_table_offset}: "
                f"they would not end at {end}",
                offset=end,
            )
        data = self._read_at(footer.section_table_offset, size)
        if checksum(data) != footer.table_checksum:
            raise CorruptionError(
                f"the section table's checksum is {checksum(data):016x}, expected {footer.table_checksum:016x}",
                offset=footer.section_table_offset,
            )
        sections: dict[int, SectionEntry] = {}
        for entry in map(SectionEntry._make, SECTION_ENTRY.iter_unpack(data)):
            if entry.type in sections or entry.flags & ~REQUIRED or entry.reserved:
                raise CorruptionError("the section table names a section twice or uses unknown fields")
            if entry.flags & REQUIRED and entry.type not in _KNOWN_SECTIONS:
                raise FormatError(
                    f"the checkpoint needs a section of type {entry.type}, unknown to this vmckpt"
                )
            sections[entry.type] = entry
        if sum(entry.length for entry in sections.values()) > self.file_bytes:
            # They overlap, and to prove them would cost many times the file's length.
            raise CorruptionError("the sections are longer than the file")
        return sections

    def _open_required(self) -> None:
        summary = self.section(SectionType.SUMMARY)
        map_root = self.section(SectionType.MEMORY_MAP)
        table_root = self.section(SectionType.STORAGE_TABLE)
        if summary is None or map_root is None or table_root is None or len(summary) != SUMMARY.size:
            raise CorruptionError("the summary, the memory map or the storage table is missing")
        self.summary = Summary._make(SUMMARY.unpack(summary))
        if self.summary.storage_blocks > self.file_bytes // STORAGE_HEADER.size:
            raise CorruptionError(f"the summary claims {self.summary.storage_blocks} storage blocks")
        self.map = PieceReader(
            map_root, MAP_ENTRY, self.header.block_count, self._read_at, "memory map", path=self.name
        )
        self.table = PieceReader(
            table_root,
            STORAGE_ENTRY,
            self.summary.storage_blocks,
            self._read_at,
            "storage table",
            path=self.name,
        )

    def _placed(self, error: CorruptionError | FormatError) -> CorruptionError | FormatError:
        if error.path is None:
            error.path = self.name
        return error

    def _read_at(self, offset: int, size_bytes: int) -> bytes:
        """That part of the file, complete."""
        if offset + size_bytes > self.file_bytes:
            raise CorruptionError(
                f"{size_bytes} bytes at offset {offset} reach past the file's end at {self.file_bytes}",
                path=self.name,
                offset=offset,
            )
        parts: list[bytes] = []
        missing = size_bytes
        try:
            while missing:
                part = os.pread(self._fd, missing, offset + size_bytes - missing)
                if not part:
                    raise CorruptionError(
                        "the file was cut short while it was read", path=self.name, offset=offset
                    )
                parts.append(part)
                missing -= len(part)
        except OSError as error:
            raise IoError.of(error, "cannot read the checkpoint", path=self.name, offset=offset) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, into: memoryview, offset: int) -> None:
        """Fill `into` with that part of the file.

        Raises:
            CorruptionError: the file ends before.
            IoError: the read failed.
        """
        missing = into
        try:
            while missing and (count := os.preadv(self._fd, [missing], offset + len(into) - len(missing))):
                missing = missing[count:]
        except OSError as error:
            raise IoError.of(error, "cannot read the checkpoint", path=self.name, offset=offset) from error
        if missing:
            raise CorruptionError(
                f"{len(into)} bytes at offset {offset} reach past the file's end",
                path=self.name,
                offset=offset,
            )

    def read_cached(self, into: memoryview, offset: int) -> bool:
        """Fill `into` with that part of the file, if the kernel has it in memory; else tell at once that it has not."""
        flag = getattr(os, "RWF_NOWAIT", None)  # Linux's own
        if flag is None:
            return False
        try:
            return os.preadv(self._fd, [into], offset, flag) == len(into)
        except OSError:  # it has not; or this file system cannot tell
            return False

    @property
    def layout(self) -> Layout:
        """The guest-physical regions."""
        return self._layout

    @property
    def digest(self) -> bytes:
        """The digest of the memory, as recorded."""
        return self.summary.digest

    @property
    def counts(self) -> PageCounts:
        """The pages by kind, as recorded."""
        s = self.summary
        return PageCounts(
            self.header.page_count, s.zero_pages, s.pattern_pages, s.duplicate_pages, s.stored_pages
        )

    def section(self, section_type: int) -> bytes | None:
        """The body of a section, proved; None if the file has none of that type.

        Raises:
            CorruptionError: it is not what was written.
        """
        entry = self.sections.get(section_type)
        if entry is None:
            return None
        name = SectionType.NAMES.get(section_type, f"type {section_type}")
        if not SECTION.size <= entry.length <= Limits.SECTION_BYTES:
            raise CorruptionError(
                f"the {name} section claims {entry.length} bytes", path=self.name, offset=entry.offset
            )
        data = self._read_at(entry.offset, entry.length)
        found = Section._make(SECTION.unpack_from(data))
        body = data[SECTION.size :]
        computed = checksum_of(data[: SECTION.size - 8], body)
        expected = Section(
            SECTION_MAGIC,
            section_type,
            entry.flags,
            len(body),
            self.header.checkpoint_id[:8],
            entry.checksum,
        )
        if found != expected or computed != entry.checksum:
            raise CorruptionError(f"the {name} section is damaged", path=self.name, offset=entry.offset)
        return body

    def active_pages(self) -> list[int]:
        """Page numbers in the order in which they were touched."""
        body = self.section(SectionType.ACTIVE_PAGES) or b""
        if len(body) % 8:
            raise CorruptionError(
                f"the active pages section has {len(body)} bytes, expected 8 for each page", path=self.name
            )
        packed = array("Q", body)
        if sys.byteorder == "big":
            packed.byteswap()
        return packed.tolist()

    def place_of(self, memory_block: int) -> Place | None:
        """Where a memory block lies, or None if its pages are all zero."""
        entry = self.map[memory_block]
        if entry is None or entry[0] == ABSENT:
            return None
        return Place(entry[0], entry[1])

    def places(self) -> Iterator[tuple[int, Place]]:
        """Number and place of each memory block that is not all zero, in order."""
        for number, (storage_block, slot, _) in self.map.entries():
            if storage_block != ABSENT:
                yield number, Place(storage_block, slot)

    def memory_block(self, place: Place) -> MemoryBlock:
        """What the directory says of the memory block at `place`."""
        blocks = self.head(place.storage_block).memory_blocks
        if place.slot >= len(blocks):
            raise CorruptionError(
                f"storage block {place.storage_block} has no slot {place.slot}: it has {len(blocks)}",
                path=self.name,
            )
        return blocks[place.slot]

    def storage_entry(self, number: int) -> StorageEntry:
        """Where storage block `number` lies.

        Raises:
            CorruptionError: the tables say nothing sensible of it.
        """
        values = self.table[number] if number < self.table.entry_count else None
        if values is None:
            raise CorruptionError(f"there is no storage block {number}", path=self.name)
        entry = StorageEntry._make(values)
        limit = STORAGE_HEADER.size + Limits.DIRECTORY_BYTES + self.header.storage_block_bytes
        if not STORAGE_HEADER.size <= entry.size_bytes <= limit:
            raise CorruptionError(
                f"storage block {number} claims {entry.size_bytes} bytes", path=self.name, offset=entry.offset
            )
        return entry

    def referenced(self, block: MemoryBlock, index: int) -> tuple[Place, int]:
        """Where the stored page lies that a block's `index`-th duplicate equals: place, and index among the stored.

        Raises:
            BadReferenceError: no stored page is there, or one of another hash.
        """
        reference = block.reference(index)
        place = Place(reference.storage_block, reference.slot)
        target = self.memory_block(place)
        if reference.page >= len(target.kinds) or target.kinds[reference.page] != STORED:
            raise BadReferenceError(
                f"a duplicate page of memory block {block.number} refers to a page that is not stored",
                path=self.name,
            )
        stored = target.kinds.count(STORED, 0, reference.page)
        at = (block.stored + index) * 8
        if target.hashes[stored * 8 : stored * 8 + 8] != block.hashes[at : at + 8]:
            raise BadReferenceError(
                f"a duplicate page of memory block {block.number} refers to a page of other content",
                path=self.name,
            )
        return place, stored

    def _proved(self, number: int, data: memoryview, entry: StorageEntry) -> StorageBlock:
        """The head that `data` starts with, if it is that of storage block `number`."""
        try:
            block = self._unpack_head(data, self.header)
            if block.header.number != number or block.size_bytes != entry.size_bytes:
                raise CorruptionError(
                    f"storage block {block.header.number} of {block.size_bytes} bytes is where storage block "
                    f"{number} of {entry.size_bytes} bytes should be"
                )
            if (len(block.memory_blocks), block.header.stream) != (entry.memory_blocks, entry.stream):
                raise CorruptionError(f"storage block {number} and the storage table disagree")
        except CorruptionError as error:
            error.path, error.offset = self.name, entry.offset
            raise
        return block

    def head(self, number: int) -> StorageBlock:
        """Header and directory of a storage block, without its pages; keeps the last few.

        Raises:
            CorruptionError: they are not what was written.
        """
        block = self._heads.get(number)
        if block is None:
            entry = self.storage_entry(number)
            data = self._read_at(entry.offset, min(entry.size_bytes, _HEAD_READ_BYTES))
            size = STORAGE_HEADER.size + int.from_bytes(data[16:20], "little")
            if size > len(data):
                data = self._read_at(entry.offset, min(entry.size_bytes, size))
            block = self._proved(number, memoryview(data), entry)
            self._keep_head(number, block)
        else:
            self._heads.move_to_end(number)
        return block

    def _keep_head(self, number: int, block: StorageBlock) -> None:
        """Remember a head, and forget those not used for longest: a hostile file makes them large."""
        self._heads[number] = block
        self._head_bytes_kept += _cost_of(block)
        while self._head_bytes_kept > _CACHED_HEAD_BYTES and len(self._heads) > 1:
            _, forgotten = self._heads.popitem(last=False)
            self._head_bytes_kept -= _cost_of(forgotten)

    def storage_block(self, number: int) -> tuple[StorageBlock, memoryview]:
        """A storage block and its payload, in one read, both proved; not kept.

        Raises:
            CorruptionError: they are not what was written.
        """
        entry = self.storage_entry(number)
        return self.proved(number, memoryview(self._read_at(entry.offset, entry.size_bytes)), entry)

    def proved(self, number: int, data: memoryview, entry: StorageEntry) -> tuple[StorageBlock, memoryview]:
        """A storage block and its payload, out of `data`, which was read from where `entry` says.

        Raises:
            CorruptionError: they are not what was written.
        """
        block = self._proved(number, data, entry)
        payload = data[block.head_bytes :]
        try:
            check_payload(block.header, payload)
        except CorruptionError as error:
            error.path, error.offset = self.name, entry.offset
            raise
        return block, payload

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cost_of(block: StorageBlock) -> int:
    """What a head takes in memory, in bytes, about."""
    return block.head_bytes + len(block.memory_blocks) * _MEMORY_BLOCK_BYTES
