"""An independent writer of checkpoints, from docs/format.md alone: nothing of vmckpt is imported.

In: a `Plan`, which spells out every storage block, memory block and page, and whatever is odd about the file. Out: the
file's bytes. Payloads are stored raw unless a block says otherwise; nothing is checked, so a plan may also be of a file
that a reader must refuse. `memory_of` tells which memory a plan stands for.
"""

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import lz4.block
import xxhash

__all__ = [
    "LAST",
    "REQUIRED",
    "Block",
    "Page",
    "Plan",
    "Storage",
    "build",
    "duplicate",
    "memory_of",
    "pattern",
    "stored",
    "zero",
]

PAGE_BYTES = 4096
ZERO, STORED, PATTERN, DUPLICATE = range(4)
RAW, LZ4, ZSTD = range(3)
LAST = 1
REQUIRED = 1
ABSENT = 0xFFFF_FFFF
SUMMARY, MEMORY_MAP, STORAGE_TABLE, ACTIVE_PAGES = 1, 2, 3, 4


class Page(NamedTuple):
    """A page and how the file says it."""

    kind: int
    content: bytes
    extra: bytes = b""
    """The word of a pattern, the packed reference of a duplicate."""


def zero() -> Page:
    """A page of zeros."""
    return Page(ZERO, bytes(PAGE_BYTES))


def stored(content: bytes) -> Page:
    """A page in the payload."""
    return Page(STORED, content)


def pattern(word: bytes) -> Page:
    """A page that repeats 8 bytes."""
    return Page(PATTERN, word * (PAGE_BYTES // 8), word)


def duplicate(content: bytes, storage_block: int, slot: int, page: int) -> Page:
    """A page that equals the stored one at that place."""
    return Page(DUPLICATE, content, struct.pack("<IHH", storage_block, slot, page))


class Block(NamedTuple):
    """A memory block as it is written once."""

    number: int
    pages: tuple[Page, ...]
    generation: int = 0
    codec: int = RAW

    @property
    def payload(self) -> bytes:
        """Its stored pages as its codec has them."""
        plain = b"".join(page.content for page in self.pages if page.kind == STORED)
        if self.codec == LZ4 and plain:
            packed: bytes = lz4.block.compress(plain, store_size=False)
            return packed
        if self.codec == ZSTD and plain:
            frame: bytes = _zstd().compress(plain)
            return frame
        return plain


class Storage(NamedTuple):
    """A storage block; its number is its index in the plan."""

    blocks: tuple[Block, ...]
    stream: int = 0
    flags: int = 0
    """LAST comes by itself."""


@dataclass(frozen=True)
class Plan:
    """All there is to a file."""

    storage: tuple[Storage, ...]
    page_count: int
    regions: tuple[tuple[int, int], ...] = ()
    """(guest-physical address, pages); one from 0 if not given."""
    memory_block_bytes: int = 4 * PAGE_BYTES
    storage_block_bytes: int = 16 * PAGE_BYTES
    order: tuple[int, ...] = ()
    """Storage block numbers in the order of the file, if not ascending."""
    last: tuple[int, ...] | None = None
    """Storage blocks with flag LAST, if not just the last one in the file."""
    sections: tuple[tuple[int, int, bytes], ...] = ()
    """(type, flags, body) of further sections."""
    active_pages: int = 0
    version: int = 1
    footer_version: int | None = None
    codec: int = RAW
    incompatible: int = 0
    compatible: int = 0
    checkpoint_id: bytes = bytes(range(16))
    created_ns: int = 1_700_000_000 * 10**9
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    """What the memory map says of a memory block, where that is not the place of its highest generation."""
    reserved_ones: bool = False
    """Fill what version 1 leaves zero and readers ignore with ones."""


def _zstd() -> Any:
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def _digest(*parts: bytes) -> bytes:
    return struct.pack("<Q", xxhash.xxh3_64_intdigest(b"".join(parts)))


def _hash(page: Page) -> bytes:
    return _digest(page.content)


def _header(plan: Plan) -> bytes:
    regions = plan.regions or ((0, plan.page_count),)
    table = b"".join(struct.pack("<QQ", gpa, pages) for gpa, pages in regions)
    body = struct.pack(
        "<8sHHIIIIIII16sQQ24s",
        b"VMCKPT\x1a\n",
        plan.version,
        plan.codec,
        96 + len(table) + 8,
        plan.incompatible,
        plan.compatible,
        PAGE_BYTES,
        plan.memory_block_bytes,
        plan.storage_block_bytes,
        len(regions),
        plan.checkpoint_id,
        plan.page_count,
        plan.created_ns,
        _reserved(plan, 24),
    )
    return body + table + _digest(body, table)


def _reserved(plan: Plan, size: int) -> bytes:
    return (b"\xff" if plan.reserved_ones else b"\0") * size


def _record(block: Block, payload_offset: int) -> bytes:
    of_kind = {kind: [page for page in block.pages if page.kind == kind] for kind in range(5)}
    counts = (len(of_kind[STORED]), len(of_kind[PATTERN]), len(of_kind[DUPLICATE]))
    fixed = struct.pack(
        "<QIIIBBHHHHH",
        block.number,
        block.generation,
        payload_offset,
        len(block.payload),
        block.codec,
        0,
        len(block.pages),
        *counts,
        0,
    )
    return b"".join(
        [
            fixed,
            bytes(page.kind for page in block.pages),
            *(_hash(page) for kind in (STORED, DUPLICATE) for page in of_kind[kind]),
            *(page.extra for page in of_kind[PATTERN]),
            *(page.extra for page in of_kind[DUPLICATE]),
        ]
    )


def _storage_block(plan: Plan, number: int, flags: int) -> bytes:
    storage = plan.storage[number]
    payload = b""
    directory = b""
    for block in storage.blocks:
        directory += _record(block, len(payload))
        payload += block.payload
    head = struct.pack(
        "<4sI8sIIHHI",
        b"VMSB",
        number,
        plan.checkpoint_id[:8],
        len(directory),
        len(payload),
        len(storage.blocks),
        storage.stream,
        storage.flags | flags,
    ) + _digest(payload)
    return head + _digest(head, directory) + directory + payload


def _places(plan: Plan) -> dict[int, tuple[int, int]]:
    best: dict[int, tuple[int, int, int]] = {}
    for number, storage in enumerate(plan.storage):
        for slot, block in enumerate(storage.blocks):
            best[block.number] = max(best.get(block.number, (-1, 0, 0)), (block.generation, number, slot))
    return {number: place[1:] for number, place in best.items()} | plan.places


def _live(plan: Plan) -> Iterator[Block]:
    for number, slot in _places(plan).values():
        if number != ABSENT:
            yield plan.storage[number].blocks[slot]


def memory_of(plan: Plan) -> bytes:
    """The memory that a plan stands for, byte for byte."""
    memory = bytearray(plan.page_count * PAGE_BYTES)
    for block in _live(plan):
        content = b"".join(page.content for page in block.pages)
        start = block.number * plan.memory_block_bytes
        memory[start : start + len(content)] = content
    return bytes(memory)


def _block_count(plan: Plan) -> int:
    return -(-plan.page_count * PAGE_BYTES // plan.memory_block_bytes)


def _summary(plan: Plan) -> bytes:
    memory = memory_of(plan)
    hashes = (_digest(memory[at : at + PAGE_BYTES]) for at in range(0, len(memory), PAGE_BYTES))
    kinds = [page.kind for block in _live(plan) for page in block.pages]
    counts = [kinds.count(kind) for kind in (PATTERN, DUPLICATE, STORED)]
    return (
        xxhash.xxh3_128_digest(b"".join(hashes))
        + struct.pack(
            "<QQQQQQI",
            plan.page_count - sum(counts),
            *counts,
            plan.active_pages,
            sum(len(storage.blocks) for storage in plan.storage),
            len(plan.storage),
        )
        + _reserved(plan, 4)
    )


class _File:
    """The bytes so far."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.data = _header(plan)
        self.table = b""

    def append(self, part: bytes) -> int:
        self.data += part
        return len(self.data) - len(part)

    def add_section(self, section_type: int, flags: int, body: bytes) -> None:
        head = struct.pack("<4sHHQ8s", b"VMSX", section_type, flags, len(body), self.plan.checkpoint_id[:8])
        computed = _digest(head, body)
        offset = self.append(head + computed + body)
        self.table += struct.pack("<HHIQQ", section_type, flags, 0, offset, 32 + len(body)) + computed

    def add_pieces(self, entries: list[bytes], absent: bytes) -> bytes:
        """Write a table's pieces and return its root."""
        each = 65536 // len(absent)
        root = struct.pack("<IIQ", len(absent), each, len(entries))
        for start in range(0, len(entries), each):
            piece = entries[start : start + each]
            if all(entry == absent for entry in piece):
                root += bytes(16)
            else:
                data = b"".join(piece)
                root += struct.pack("<Q", self.append(data)) + _digest(data)
        return root


def build(plan: Plan) -> bytes:
    """The file."""
    file = _File(plan)
    order = plan.order or tuple(range(len(plan.storage)))
    last = order[-1:] if plan.last is None else plan.last
    entries = [b""] * len(plan.storage)
    for number in order:
        block = _storage_block(plan, number, LAST if number in last else 0)
        storage = plan.storage[number]
        entries[number] = struct.pack(
            "<QIHH", file.append(block), len(block), len(storage.blocks), storage.stream
        )
    places = _places(plan)
    present = {number: struct.pack("<IHH", *place, 0) for number, place in places.items()}
    absent = b"\xff" * 8
    map_root = file.add_pieces([present.get(number, absent) for number in range(_block_count(plan))], absent)
    table_root = file.add_pieces(entries, b"\xff" * 16)
    file.add_section(SUMMARY, REQUIRED, _summary(plan))
    file.add_section(MEMORY_MAP, REQUIRED, map_root)
    file.add_section(STORAGE_TABLE, REQUIRED, table_root)
    for section_type, flags, body in plan.sections:
        file.add_section(section_type, flags, body)
    table_offset = file.append(file.table)
    footer = struct.pack(
        "<8sHHIQQ16s",
        b"VMCKEND\n",
        plan.version if plan.footer_version is None else plan.footer_version,
        0xFFFF if plan.reserved_ones else 0,
        len(file.table) // 32,
        table_offset,
        len(file.data) + 64,
        plan.checkpoint_id,
    ) + _digest(file.table)
    file.append(footer + _digest(footer))
    return file.data
