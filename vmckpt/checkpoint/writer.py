"""Writes a checkpoint: storage blocks as they fill, then the index, then the footer. Only ever appends.

    header ─▶ storage blocks ... ─▶ last one (flag LAST) ─▶ pieces of both tables ─▶ sections ─▶ section table ─▶ footer

What a crash leaves at each step is told in docs/format.md; the short of it: without its footer a file is no checkpoint,
with all its blocks it can get a new index. Savers call `append` for each memory block and `finish` once; giving the file
its name is `output`'s part.
"""

import os
from collections.abc import Sequence

from vmckpt.checkpoint.block import MemoryBlock, StorageBlock
from vmckpt.checkpoint.format import (
    CHECKSUM,
    FOOTER,
    FOOTER_MAGIC,
    FORMAT_VERSION,
    LAST,
    MAGIC,
    MAP_ENTRY,
    REQUIRED,
    SECTION,
    SECTION_ENTRY,
    SECTION_MAGIC,
    STORAGE_ENTRY,
    SUMMARY,
    Header,
    SectionEntry,
    SectionType,
    Summary,
    check_block_sizes,
    header_bytes_for,
    pack_header,
)
from vmckpt.checkpoint.index import PieceWriter
from vmckpt.checkpoint.staging import StagingBuffer
from vmckpt.errors import IoError
from vmckpt.hashing import checksum, checksum_of
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.output import start_writeback
from vmckpt.pages import Buffer
from vmckpt.reports import PageCounts

__all__ = ["CheckpointWriter", "new_header"]

_WRITEBACK_BYTES = 8 << 20


def new_header(
    layout: Layout,
    *,
    codec: int,
    memory_block_bytes: int,
    storage_block_bytes: int,
    checkpoint_id: bytes,
    created_ns: int,
) -> Header:
    """The header of a checkpoint to be written.

    Raises:
        FormatError: the block sizes are not possible.
    """
    check_block_sizes(memory_block_bytes, storage_block_bytes)
    return Header(
        magic=MAGIC,
        version=FORMAT_VERSION,
        codec=codec,
        header_bytes=header_bytes_for(layout),
        incompatible=0,
        compatible=0,
        page_bytes=PAGE_BYTES,
        memory_block_bytes=memory_block_bytes,
        storage_block_bytes=storage_block_bytes,
        region_count=len(layout.regions),
        checkpoint_id=checkpoint_id,
        page_count=layout.page_count,
        created_ns=created_ns,
        reserved=bytes(24),
    )


class CheckpointWriter:
    """Appends a checkpoint to a descriptor; for one thread.

    Attributes:
        file_bytes: what has been written so far.
        storage_blocks: how many storage blocks there are, open ones included.
    """

    def __init__(self, fd: int, header: Header, layout: Layout, *, path: str | None = None) -> None:
        """Write the header.

        Args:
            fd: an empty file, or a pipe.
            header: from `new_header`.
            layout: of the memory to come.
            path: for messages.

        Raises:
            IoError: the write failed, as all methods may say.
        """
        self._fd = fd
        self._path = path
        self._header = header
        self._staging: dict[int, StagingBuffer] = {}
        self._map = PieceWriter(MAP_ENTRY)
        self._table = PieceWriter(STORAGE_ENTRY)
        self._sections: list[SectionEntry] = []
        self._writeback_from = 0
        self._memory_blocks = 0
        self._has_last = False
        self.storage_blocks = 0
        self.file_bytes = 0
        self._write(pack_header(header, layout))

    def _write(self, *parts: Buffer) -> int:
        """Append the parts in one write and return the offset of the first."""
        start = self.file_bytes
        rest: list[Buffer] = [part for part in parts if len(part)]
        try:
            while rest:
                written = os.writev(self._fd, rest)
                self.file_bytes += written
                while rest and written >= len(rest[0]):
                    written -= len(rest.pop(0))
                if written:
                    rest[0] = memoryview(rest[0])[written:]
        except OSError as error:
            raise IoError.of(
                error, "cannot write the checkpoint", path=self._path, offset=self.file_bytes
            ) from error
        return start

    def reserve(self, memory_block: int, stored_bytes: int, *, stream: int = 0) -> tuple[int, int]:
        """The place, storage block and slot, that the next `append` to `stream` will give `memory_block`.

        Known beforehand because duplicates within the block refer to it. A full storage block is written out here.

        Args:
            memory_block: its number.
            stored_bytes: the length of its compressed pages.
            stream: which open storage block it joins.
        """
        staging = self._staging.get(stream)
        if staging is None:
            staging = StagingBuffer(self.storage_blocks, stream, self._header.storage_block_bytes)
            self._staging[stream] = staging
            self.storage_blocks += 1
        elif not staging.fits(stored_bytes):
            self._flush(staging)
            staging.reopen(self.storage_blocks)
            self.storage_blocks += 1
        place = staging.number, staging.memory_blocks
        self._map[memory_block] = (*place, 0)
        return place

    def append(self, block: MemoryBlock, payload: Buffer, *, stream: int = 0) -> None:
        """Add the memory block that a place was reserved for.

        Args:
            block: what the directory will say of it; written again, it needs a higher generation.
            payload: its stored pages, compressed; `payload_offset` and `stored_bytes` of `block` do not count.
            stream: as it was reserved.
        """
        self._staging[stream].append(block, payload)

    def adopt(self, storage: StorageBlock, data: Buffer, live: Sequence[int]) -> None:
        """Copy a storage block of an earlier file of the same header, byte for byte; not to be mixed with `append`.

        Args:
            storage: its header and directory.
            data: all of its bytes.
            live: the slots that hold the latest version of their memory block.
        """
        number = storage.header.number
        offset = self._write(data)
        self._table[number] = (offset, len(data), len(storage.memory_blocks), storage.header.stream)
        self._memory_blocks += len(storage.memory_blocks)
        for slot in live:
            self._map[storage.memory_blocks[slot].number] = (number, slot, 0)
        self.storage_blocks = max(self.storage_blocks, number + 1)
        self._has_last = self._has_last or bool(storage.header.flags & LAST)

    def place_of(self, memory_block: int) -> tuple[int, int]:
        """Storage block and slot of a memory block that was appended."""
        storage_block, slot, _ = self._map[memory_block]
        return storage_block, slot

    def _flush(self, staging: StagingBuffer, flags: int = 0) -> None:
        head, payload = staging.seal(self._header.checkpoint_id, flags)
        offset = self._write(head, payload)
        size = self.file_bytes - offset
        self._table[staging.number] = (offset, size, staging.memory_blocks, staging.stream)
        self._memory_blocks += staging.memory_blocks
        if self.file_bytes - self._writeback_from >= _WRITEBACK_BYTES:
            start_writeback(self._fd, self._writeback_from, self.file_bytes - self._writeback_from)
            self._writeback_from = self.file_bytes

    def _flush_last(self) -> None:
        """The open buffers, the last of which says that no other follows."""
        if self._has_last:
            return
        open_buffers = [staging for staging in self._staging.values() if staging.memory_blocks]
        if not open_buffers:
            open_buffers = [StagingBuffer(self.storage_blocks, 0, 0)]
            self.storage_blocks += 1
        for staging in open_buffers[:-1]:
            self._flush(staging)
        self._flush(open_buffers[-1], LAST)

    def add_section(self, section_type: int, body: bytes, *, required: bool = False) -> None:
        """Write a section; only between the last `append` and `finish`, which `finish` does for you."""
        flags = REQUIRED if required else 0
        head = SECTION.pack(SECTION_MAGIC, section_type, flags, len(body), self._header.checkpoint_id[:8], 0)[
            :-8
        ]
        computed = checksum_of(head, body)
        offset = self._write(head + CHECKSUM.pack(computed), body)
        entry = SectionEntry(section_type, flags, 0, offset, SECTION.size + len(body), computed)
        self._sections.append(entry)

    def finish(
        self,
        digest: bytes,
        counts: PageCounts,
        *,
        active_pages: int = 0,
        sections: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        """Write what is still open, the index, the sections and the footer.

        Args:
            digest: of the whole memory.
            counts: its pages by kind.
            active_pages: how many the active pages section lists.
            sections: pairs of `SectionType` and body: active pages, vCPU state, metadata and the like.
        """
        self._flush_last()
        summary = Summary(
            digest,
            counts.zero,
            counts.pattern,
            counts.duplicate,
            counts.stored,
            active_pages,
            self._memory_blocks,
            self.storage_blocks,
            0,
        )
        map_root = self._map.write(self._header.block_count, self._write)
        table_root = self._table.write(self.storage_blocks, self._write)
        self.add_section(SectionType.SUMMARY, SUMMARY.pack(*summary), required=True)
        self.add_section(SectionType.MEMORY_MAP, map_root, required=True)
        self.add_section(SectionType.STORAGE_TABLE, table_root, required=True)
        for section_type, body in sections:
            self.add_section(section_type, body)
        self._write_end()

    def _write_end(self) -> None:
        table = b"".join(SECTION_ENTRY.pack(*entry) for entry in self._sections)
        offset = self._write(table)
        fields = (
            FOOTER_MAGIC,
            FORMAT_VERSION,
            0,
            len(self._sections),
            offset,
            self.file_bytes + FOOTER.size,
            self._header.checkpoint_id,
            checksum(table),
        )
        body = FOOTER.pack(*fields, 0)[: -CHECKSUM.size]
        self._write(body + CHECKSUM.pack(checksum(body)))
