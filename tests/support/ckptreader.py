"""An independent reader of checkpoints, from docs/format.md alone: nothing of vmckpt is imported.

In: the bytes of a whole file. Out: a `Dump`, every part of it proved, the memory included; or `MalformedError` where the
specification does not allow the bytes, `UnsupportedError` where it tells a reader to refuse. It holds everything in memory
at once and goes the plain way everywhere: it is what the real reader and writer are compared with.

`parts_of` cuts a file into labelled pieces that cover every byte once; the worked example of docs/format.md is made of
them (tests/checkpoint/example.py).
"""

import struct
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

import lz4.block
import xxhash

__all__ = [
    "Dump",
    "MalformedError",
    "MemoryBlock",
    "Part",
    "StorageBlock",
    "UnsupportedError",
    "parts_of",
    "read",
]

PAGE_BYTES = 4096
ZERO, STORED, PATTERN, DUPLICATE = range(4)
RAW, LZ4, ZSTD = range(3)
ABSENT = 0xFFFF_FFFF
SUMMARY, MEMORY_MAP, STORAGE_TABLE, ACTIVE_PAGES = 1, 2, 3, 4
KNOWN_SECTIONS = range(1, 8)


class MalformedError(Exception):
    """The bytes are not those of a checkpoint of version 1."""


class UnsupportedError(Exception):
    """A checkpoint that a reader of version 1 must refuse."""


class Part(NamedTuple):
    """A stretch of the file."""

    offset: int
    length: int
    label: str


class MemoryBlock(NamedTuple):
    """A directory record, and the content of the pages that it stores."""

    number: int
    generation: int
    codec: int
    kinds: bytes
    hashes: dict[int, bytes]
    """Of the stored and the duplicate pages, by index."""
    patterns: dict[int, bytes]
    references: dict[int, tuple[int, int, int]]
    content: dict[int, bytes]
    """Of the stored pages, by index."""


class StorageBlock(NamedTuple):
    """A storage block."""

    number: int
    stream: int
    flags: int
    offset: int
    blocks: tuple[MemoryBlock, ...]


class Dump(NamedTuple):
    """A whole checkpoint."""

    checkpoint_id: bytes
    codec: int
    created_ns: int
    compatible: int
    memory_block_bytes: int
    storage_block_bytes: int
    regions: tuple[tuple[int, int], ...]
    """(guest-physical address, pages)."""
    sections: dict[int, bytes]
    storage: tuple[StorageBlock, ...]
    """In the order of their numbers."""
    places: dict[int, tuple[int, int]]
    """Memory block -> storage block and slot, absent ones left out."""
    digest: bytes
    memory: bytes
    parts: tuple[Part, ...]
    """Ascending; they cover the file."""


def need(condition: bool, what: str) -> None:
    """Raise MalformedError unless `condition`."""
    if not condition:
        raise MalformedError(what)


def xxh(*parts: bytes) -> int:
    """XXH3-64 of the parts side by side."""
    return xxhash.xxh3_64_intdigest(b"".join(parts))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.parts: list[Part] = []

    def take(self, offset: int, length: int, label: str) -> bytes:
        """A part of the file, noted as used."""
        need(offset >= 0 and offset + length <= len(self.data), f"{label} reaches past the end")
        self.parts.append(Part(offset, length, label))
        return self.data[offset : offset + length]

    def header(self) -> None:
        need(self.data[:8] == b"VMCKPT\x1a\n" and len(self.data) >= 96 + 16 + 8, "no magic")
        fields = struct.unpack_from("<8sHHIIIIIII16sQQ24s", self.data)
        if fields[1] != 1:
            raise UnsupportedError(f"version {fields[1]}")
        _, _, self.codec, size, incompatible, self.compatible, page, self.mb, self.sb, count = fields[:10]
        self.id, self.page_count, self.created_ns, _ = fields[10:]
        need(size == 96 + 16 * count + 8 <= 1 << 20, "header size")
        raw = self.data[:size]
        need(len(raw) == size and xxh(raw[:-8]) == struct.unpack("<Q", raw[-8:])[0], "header checksum")
        if incompatible or page != PAGE_BYTES:
            raise UnsupportedError(f"incompatible {incompatible:#x}, pages of {page}")
        need(self.mb & (self.mb - 1) == 0 and PAGE_BYTES <= self.mb <= 4 << 20, "memory block size")
        need(self.sb & (self.sb - 1) == 0 and 2 * self.mb <= self.sb <= 64 << 20, "storage block size")
        self.regions = tuple(struct.unpack_from("<QQ", raw, 96 + 16 * index) for index in range(count))
        need(sum(pages for _, pages in self.regions) == self.page_count > 0, "page count")
        end = 0
        for gpa, pages in self.regions:
            need(gpa % PAGE_BYTES == 0 and gpa >= end and pages > 0, "regions ascend")
            end = gpa + pages * PAGE_BYTES
        need(end <= 1 << 52, "the last region ends too high")
        self.take(0, 96, "header")
        for index, (gpa, pages) in enumerate(self.regions):
            self.take(96 + 16 * index, 16, f"region {index}: {pages} pages from {gpa:#x}")
        self.take(size - 8, 8, "checksum of the header")
        self.block_pages = self.mb // PAGE_BYTES
        self.block_count = -(-self.page_count // self.block_pages)

    def footer(self) -> None:
        start = len(self.data) - 64
        raw = self.data[max(start, 0) :]
        need(len(raw) == 64 and raw[:8] == b"VMCKEND\n", "no footer")
        _, version, _, count, table, size, file_id, table_sum, own = struct.unpack("<8sHHIQQ16sQQ", raw)
        need(xxh(raw[:-8]) == own, "footer checksum")
        need(size == len(self.data) and file_id == self.id and version == 1, "footer of another file")
        need(count <= 1024 and table + 32 * count == start, "section table place")
        entries = self.data[table:start]
        need(xxh(entries) == table_sum, "section table checksum")
        self.sections: dict[int, bytes] = {}
        self.table_entries = list(struct.iter_unpack("<HHIQQQ", entries))
        for index, (kind, flags, reserved, offset, length, own) in enumerate(self.table_entries):
            self.take(table + 32 * index, 32, f"section table: type {kind}")
            need(kind not in self.sections and not flags & ~1 and not reserved, "section table entry")
            if flags & 1 and kind not in KNOWN_SECTIONS:
                raise UnsupportedError(f"section {kind}")
            need(32 <= length <= 1 << 30, "section length")
            head = self.take(offset, 32, f"section of type {kind}: header")
            self.sections[kind] = self.take(offset + 32, length - 32, f"section of type {kind}: body")
            expected = struct.pack("<4sHHQ8sQ", b"VMSX", kind, flags, length - 32, self.id[:8], own)
            need(head == expected and xxh(head[:-8], self.sections[kind]) == own, f"section {kind}")
        self.take(start, 64, "footer")
        need({SUMMARY, MEMORY_MAP, STORAGE_TABLE} <= set(self.sections), "required sections")

    def table(self, kind: int, entry_bytes: int, count: int, label: str) -> list[bytes | None]:
        """The entries of a table that opens in pieces; None for those of an absent piece."""
        root = self.sections[kind]
        each = 65536 // entry_bytes
        pieces = -(-count // each)
        need(len(root) == 16 + 16 * pieces, f"{label} root size")
        need(struct.unpack_from("<IIQ", root) == (entry_bytes, each, count), f"{label} root")
        entries: list[bytes | None] = []
        end = 0
        for piece in range(pieces):
            offset, own = struct.unpack_from("<QQ", root, 16 + 16 * piece)
            here = min(each, count - piece * each)
            if not offset:
                entries += [None] * here
                continue
            need(offset >= end, f"{label}: the pieces ascend")
            end = offset + here * entry_bytes
            data = self.take(offset, here * entry_bytes, f"{label}: piece {piece}")
            need(xxh(data) == own, f"{label} piece {piece}")
            entries += [data[at : at + entry_bytes] for at in range(0, len(data), entry_bytes)]
        return entries

    def storage_block(self, number: int, entry: bytes | None) -> StorageBlock:
        need(entry is not None, "a storage block without an entry")
        assert entry is not None
        offset, size, memory_blocks, stream = struct.unpack("<QIHH", entry)
        name = f"storage block {number}"
        head = self.take(offset, 48, f"{name}: header")
        (
            magic,
            own,
            file_id,
            directory_bytes,
            payload_bytes,
            count,
            stream_too,
            flags,
            payload_sum,
            head_sum,
        ) = struct.unpack("<4sI8sIIHHIQQ", head)
        need((magic, own, file_id) == (b"VMSB", number, self.id[:8]), f"{name} is elsewhere")
        need((memory_blocks, stream) == (count, stream_too), f"{name} and its entry")
        need(size == 48 + directory_bytes + payload_bytes, f"{name} size")
        need(payload_bytes <= self.sb and directory_bytes <= 64 << 20, f"{name} limits")
        directory = self.data[offset + 48 : offset + 48 + directory_bytes]
        need(xxh(head[:-8], directory) == head_sum, f"{name} head checksum")
        payload = self.data[offset + 48 + directory_bytes : offset + size]
        need(xxh(payload) == payload_sum, f"{name} payload checksum")
        at, filled, blocks = 0, 0, []
        for slot in range(count):
            base = offset + 48 + at
            block, length, place = self.record(directory, at, payload)
            self.take(base, length, f"{name}, slot {slot}: record of memory block {block.number}")
            if place[1]:
                need(place[0] == filled, f"{name}: payloads lie side by side")
                start = offset + 48 + directory_bytes + filled
                self.take(start, place[1], f"{name}, slot {slot}: payload")
            at, filled = at + length, filled + place[1]
            blocks.append(block)
        need((at, filled) == (directory_bytes, payload_bytes), f"{name} has bytes of nothing")
        return StorageBlock(number, stream, flags, offset, tuple(blocks))

    def record(self, directory: bytes, at: int, payload: bytes) -> tuple[MemoryBlock, int, tuple[int, int]]:
        """A memory block, the length of its record, and offset and length of its payload."""
        need(at + 32 <= len(directory), "a record is cut short")
        number, generation, start, size, codec, zero_1, pages, stored, pattern, duplicate, zero_2 = (
            struct.unpack_from("<QIIIBBHHHHH", directory, at)
        )
        need(number < self.block_count and not zero_1 and not zero_2, "record")
        need(pages == min(self.block_pages, self.page_count - number * self.block_pages), "pages of a record")
        length = 32 + pages + 8 * (stored + duplicate + pattern + duplicate)
        need(at + length <= len(directory), "a record is cut short")
        rest = directory[at + 32 : at + length]
        kinds = rest[:pages]
        found = {kind: [index for index in range(pages) if kinds[index] == kind] for kind in range(4)}
        need(
            [len(found[kind]) for kind in (STORED, PATTERN, DUPLICATE)] == [stored, pattern, duplicate],
            "counts",
        )
        need(sum(map(len, found.values())) == pages, "page kinds")
        words = [rest[word : word + 8] for word in range(pages, len(rest), 8)]
        hashed = found[STORED] + found[DUPLICATE]
        hashes = dict(zip(hashed, words[: stored + duplicate], strict=True))
        patterns = dict(zip(found[PATTERN], words[stored + duplicate :][:pattern], strict=True))
        packed = words[stored + duplicate + pattern :]
        references = {
            page: struct.unpack("<IHH", word) for page, word in zip(found[DUPLICATE], packed, strict=True)
        }
        need(start + size <= len(payload) and size <= stored * PAGE_BYTES, "payload of a record")
        need(bool(size) == bool(stored), "a payload for nothing, or none")
        plain = expand(codec, payload[start : start + size], stored * PAGE_BYTES) if stored else b""
        content = {page: plain[i * PAGE_BYTES :][:PAGE_BYTES] for i, page in enumerate(found[STORED])}
        for page, data in content.items():
            need(xxh(data).to_bytes(8, "little") == hashes[page], "hash of a stored page")
        block = MemoryBlock(number, generation, codec, kinds, hashes, patterns, references, content)
        return block, length, (start, size)

    def dump(self) -> Dump:
        self.header()
        self.footer()
        summary = self.sections[SUMMARY]
        need(len(summary) == 72, "summary")
        digest, *counts, _ = struct.unpack("<16sQQQQQQII", summary)
        storage_count = counts.pop()
        entries = self.table(STORAGE_TABLE, 16, storage_count, "storage table")
        storage = tuple(self.storage_block(number, entry) for number, entry in enumerate(entries))
        need(bool(storage), "no storage block")
        by_offset = sorted(storage, key=lambda block: block.offset)
        need([block.flags & 1 for block in by_offset] == [0] * (storage_count - 1) + [1], "flag LAST")
        places = self.places()
        memory, kinds = self.memory(storage, places)
        hashes = [xxh(memory[at : at + PAGE_BYTES]) for at in range(0, len(memory), PAGE_BYTES)]
        computed = xxhash.xxh3_128_digest(struct.pack(f"<{len(hashes)}Q", *hashes))
        need(computed == digest, "digest")
        active = len(self.sections.get(ACTIVE_PAGES, b""))
        told = [kinds.count(kind) for kind in (PATTERN, DUPLICATE, STORED)]
        told = [self.page_count - sum(told), *told, active // 8, sum(len(block.blocks) for block in storage)]
        need(counts == told and active % 8 == 0, "summary counts")
        end = 0
        parts = sorted(part for part in self.parts if part.length)
        for part in parts:
            need(part.offset == end, f"{part.label} leaves a gap or overlaps")
            end += part.length
        need(end == len(self.data), "bytes of nothing")
        return Dump(
            self.id,
            self.codec,
            self.created_ns,
            self.compatible,
            self.mb,
            self.sb,
            self.regions,
            self.sections,
            storage,
            places,
            digest,
            memory,
            tuple(parts),
        )

    def places(self) -> dict[int, tuple[int, int]]:
        places = {}
        for number, entry in enumerate(self.table(MEMORY_MAP, 8, self.block_count, "memory map")):
            if entry is not None and entry[:4] != b"\xff" * 4:
                block, slot, _ = struct.unpack("<IHH", entry)
                places[number] = (block, slot)
        return places

    def memory(
        self, storage: tuple[StorageBlock, ...], places: dict[int, tuple[int, int]]
    ) -> tuple[bytes, bytes]:
        """The memory, and the kind of each page that is not in an absent block."""
        memory = bytearray(self.page_count * PAGE_BYTES)
        kinds = b""
        for number, (storage_block, slot) in places.items():
            need(storage_block < len(storage) and slot < len(storage[storage_block].blocks), "memory map")
            block = storage[storage_block].blocks[slot]
            need(block.number == number, "both maps agree")
            kinds += block.kinds
            for index, content in pages_of(block, storage):
                start = (number * self.block_pages + index) * PAGE_BYTES
                memory[start : start + PAGE_BYTES] = content
        return bytes(memory), kinds


def pages_of(block: MemoryBlock, storage: tuple[StorageBlock, ...]) -> Iterator[tuple[int, bytes]]:
    """Index and content of the pages of a block that are not zero."""
    yield from block.content.items()
    for index, word in block.patterns.items():
        yield index, word * (PAGE_BYTES // 8)
    for index, (number, slot, page) in block.references.items():
        need(number < len(storage) and slot < len(storage[number].blocks), "a reference leads nowhere")
        target = storage[number].blocks[slot]
        need(page in target.content, "a reference to a page that is not stored")
        need(target.hashes[page] == block.hashes[index], "a reference to other content")
        yield index, target.content[page]


def _zstd_frame(data: bytes) -> bytes:
    zstd: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    try:
        plain: bytes = zstd.decompress(data)
    except zstd.ZstdError as error:
        raise MalformedError(str(error)) from error
    return plain


def expand(codec: int, data: bytes, size: int) -> bytes:
    """Decompress the stored pages of a block."""
    plain = b""
    need(codec in {RAW, LZ4, ZSTD}, "codec")
    try:
        if codec == RAW:
            plain = data
        elif codec == LZ4:
            plain = lz4.block.decompress(data, uncompressed_size=size)
        else:
            plain = _zstd_frame(data)
    except (lz4.block.LZ4BlockError, ValueError, RuntimeError) as error:
        raise MalformedError(f"codec {codec}: {error}") from error
    need(len(plain) == size, "decompressed size")
    return plain


def read(data: bytes) -> Dump:
    """Prove the file whose bytes are `data`, and take it apart.

    Raises:
        MalformedError: it is no checkpoint of version 1, or damaged.
        UnsupportedError: it needs something that version 1 does not have.
    """
    return _Reader(data).dump()


def parts_of(data: bytes) -> tuple[Part, ...]:
    """The labelled parts of a file, ascending; they cover every byte once."""
    return read(data).parts
