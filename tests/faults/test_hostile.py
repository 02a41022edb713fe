"""Files whose checksums are right and whose content lies: refused at once, in little memory, with exit code 3 or 4.

Each lie is shown to everything that reads a checkpoint, in a child process with limits on memory and processor time.
Verify and restore must refuse it; the others may also come to an answer, and nothing else.
"""

import copy
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lz4.block
import pytest

from tests.faults.child import run_in_child
from tests.faults.samples import make_sample
from tests.support.craft import Parts, Record, Storage, seal, take_apart
from vmckpt import api
from vmckpt.checkpoint.codec import LZ4, ZSTD
from vmckpt.checkpoint.format import (
    ABSENT,
    CHECKSUM,
    DUPLICATE,
    HEADER,
    LAST,
    MAP_ENTRY,
    PATTERN,
    REGION,
    ROOT,
    ROOT_ENTRY,
    SECTION,
    STORED,
    ZERO,
    BlockRecord,
    SectionType,
)
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.errors import CorruptionError, FormatError, VmckptError
from vmckpt.hashing import ZERO_PAGE_HASH, checksum
from vmckpt.pages import PAGE_BYTES, PageRange

Lie = Callable[[Parts], bytes | None]

MEMORY_BYTES = 512 << 20  # beyond what the process has already; a save's own buffers are 160 MiB of it
PROCESSOR_S = 2.0
U16, U32, U64 = 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    sample = make_sample(str(tmp_path_factory.mktemp("hostile")), seed=3, pages=28, storage_blocks=3)
    parts = take_apart(sample.data)
    assert seal(parts) == sample.data
    return parts


# --- finding one's way about in the sample ---


def records(parts: Parts) -> Iterator[tuple[int, int, Record]]:
    for number, storage in enumerate(parts.storages):
        for slot, record in enumerate(storage.records):
            yield number, slot, record


def with_kind(parts: Parts, *kinds: int) -> tuple[int, int, Record]:
    """The first record that has pages of all these kinds: storage block, slot, record."""
    return next(found for found in records(parts) if all(kind in found[2].kinds for kind in kinds))


def place_of_kind(parts: Parts, kind: int) -> tuple[int, int, int]:
    number, slot, record = with_kind(parts, kind)
    return number, slot, record.kinds.index(kind)


def set_dup_hash(record: Record, value: bytes) -> None:
    """Give the first duplicate of a record another hash."""
    at = record.kinds.count(STORED) * 8
    record.hashes = record.hashes[:at] + value + record.hashes[at + 8 :]


# --- the lies; one that returns nothing has changed the parts ---


def header(**fields: Any) -> Lie:
    def lie(parts: Parts) -> None:
        parts.header = parts.header._replace(**fields)

    return lie


def header_bytes(region_count: int) -> int:
    return HEADER.size + region_count * REGION.size + CHECKSUM.size


def regions(*pieces: tuple[int, int]) -> Lie:
    def lie(parts: Parts) -> None:
        pages = sum(pages for _, pages in pieces) & U64
        parts.regions = list(pieces)
        parts.header = parts.header._replace(
            region_count=len(pieces), page_count=pages, header_bytes=header_bytes(len(pieces))
        )

    return lie


def storage(**fields: object) -> Lie:
    def lie(parts: Parts) -> None:
        parts.storages[1].fields = fields

    return lie


def record(**fields: int) -> Lie:
    def lie(parts: Parts) -> None:
        with_kind(parts, STORED)[2].set(**fields)

    return lie


def reference(storage_block: int, slot: int, page: int) -> Lie:
    def lie(parts: Parts) -> None:
        with_kind(parts, DUPLICATE)[2].refer(0, storage_block, slot, page)

    return lie


def refer_to_itself(parts: Parts) -> None:
    number, slot, own = with_kind(parts, DUPLICATE)
    own.refer(0, number, slot, own.kinds.index(DUPLICATE))


def refer_to_itself_as_zeros(parts: Parts) -> None:
    refer_to_itself(parts)
    set_dup_hash(with_kind(parts, DUPLICATE)[2], ZERO_PAGE_HASH.to_bytes(8, "little"))
    parts.recount()


def refer_beyond_the_end_as_nothing(parts: Parts) -> None:
    number, slot, own = with_kind(parts, DUPLICATE)
    own.refer(0, number, slot, U16)
    set_dup_hash(own, checksum(b"").to_bytes(8, "little"))
    parts.recount()


def refer_to_each_other(parts: Parts) -> None:
    found = [entry for entry in records(parts) if DUPLICATE in entry[2].kinds][:2]
    assert len(found) == 2
    for own, other in (found, found[::-1]):
        own[2].refer(0, other[0], other[1], other[2].kinds.index(DUPLICATE))


def refer_to_kind(kind: int, *, same_hash: bool) -> Lie:
    def lie(parts: Parts) -> None:
        target = place_of_kind(parts, kind)
        own = with_kind(parts, DUPLICATE)[2]
        own.refer(0, *target)
        if same_hash:
            from vmckpt.checkpoint.block import MemoryBlock

            other = parts.storages[target[0]].records[target[1]]
            block = MemoryBlock(0, 0, 0, other.kinds, other.hashes, other.patterns, other.references, 0, 0)
            set_dup_hash(own, block.page_hashes()[target[2] * 8 : target[2] * 8 + 8])
            parts.recount()

    return lie


def refer_to_other_content(parts: Parts) -> None:
    own = with_kind(parts, DUPLICATE)[2]
    wanted = own.hashes[own.kinds.count(STORED) * 8 :][:8]
    number, slot, other = next(
        found for found in records(parts) if STORED in found[2].kinds and found[2].hashes[:8] != wanted
    )
    own.refer(0, number, slot, other.kinds.index(STORED))


def refer_to_the_next_block(parts: Parts) -> None:
    """Past the block it names, to a page that has the right content all the same."""
    number, slot, _ = with_kind(parts, STORED)
    own = with_kind(parts, DUPLICATE)[2]
    own.refer(0, number, slot, parts.header.block_pages + 1)


def claimed_twice(parts: Parts) -> None:
    first, last = parts.storages[0].records[0], parts.storages[-1].records[0]
    last.set(memory_block=first.fixed.memory_block, generation=1)


def swapped_map(parts: Parts) -> None:
    full = [i for i, entry in enumerate(parts.map_entries) if entry[0] != ABSENT]
    a, b = full[0], full[-1]
    entries = parts.map_entries
    entries[a], entries[b] = entries[b], entries[a]


def map_entry(*entry: int) -> Lie:
    def lie(parts: Parts) -> None:
        index = next(i for i, found in enumerate(parts.map_entries) if found[0] != ABSENT)
        parts.map_entries[index] = (entry[0], entry[1], entry[2])

    return lie


def table_entry(number: int, *entry: int) -> Lie:
    def lie(parts: Parts) -> None:
        parts.table_entries[number] = (entry[0], entry[1], entry[2], entry[3])

    return lie


def summary(**fields: Any) -> Lie:
    def lie(parts: Parts) -> None:
        parts.summary = parts.summary._replace(**fields)

    return lie


def footer(**fields: object) -> Lie:
    def lie(parts: Parts) -> None:
        parts.footer = fields

    return lie


def root(kind: int, edit: Callable[[bytes], bytes]) -> Lie:
    def lie(parts: Parts) -> None:
        parts.edit_root = lambda found, body: edit(body) if found == kind else body

    return lie


def section_entry(kind: int, **fields: int) -> Lie:
    def lie(parts: Parts) -> None:
        parts.edit_sections = lambda entries: [
            entry._replace(**fields) if entry.type == kind else entry for entry in entries
        ]

    return lie


def section(kind: int, flags: int, body: bytes) -> Lie:
    def lie(parts: Parts) -> None:
        parts.sections = [entry for entry in parts.sections if entry[0] != kind] + [(kind, flags, body)]

    return lie


def missing(kind: int) -> Lie:
    def lie(parts: Parts) -> None:
        parts.edit_sections = lambda entries: [entry for entry in entries if entry.type != kind]

    return lie


def payload(codec: int, compressed: Callable[[], bytes], *, stored: int | None = None) -> Lie:
    """Compressed bytes of the liar's own in the place of a memory block's."""

    def lie(parts: Parts) -> None:
        number, slot, liar = with_kind(parts, STORED)
        block = parts.storages[number]
        data = compressed()
        rest = b""
        for index, other in enumerate(block.records):
            part = block.payload[other.fixed.payload_offset :][: other.fixed.stored_bytes]
            if index == slot:
                part = data
            other.set(payload_offset=len(rest), stored_bytes=len(part))
            rest += part
        liar.set(codec=codec)
        block.payload = rest
        assert stored is None or liar.fixed.stored == stored

    return lie


def zstd_frame(data: bytes, **options: int) -> bytes:
    zstd = pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
    parameters = {getattr(zstd.CompressionParameter, name): value for name, value in options.items()}
    compressed: bytes = zstd.compress(data, options=parameters or None)
    return compressed


def zstd_wide_window() -> bytes:
    """A frame whose header wants a window of 2 GiB, by hand: magic, descriptor, window byte, an empty last block."""
    return bytes.fromhex("28b52ffd") + bytes([0x00, (31 - 10) << 3]) + (1).to_bytes(3, "little")


def zstd_huge_content() -> bytes:
    """A frame whose header claims 2^63 bytes of content."""
    return bytes.fromhex("28b52ffd") + bytes([0xE0]) + (1 << 63).to_bytes(8, "little") + b"\x01\0\0"


def short_payload(parts: Parts) -> None:
    found = with_kind(parts, STORED)[2]
    found.set(stored_bytes=found.fixed.stored_bytes - 1)


def overlapping_payloads(parts: Parts) -> None:
    block = next(s for s in parts.storages if sum(r.fixed.stored_bytes > 0 for r in s.records) > 1)
    for entry in block.records:
        if entry.fixed.stored_bytes:
            entry.set(payload_offset=0)


def extra_record(parts: Parts) -> None:
    """A record of zero pages for a block that another record holds already."""
    pages = parts.header.block_pages
    fixed = BlockRecord(0, 0, 0, 0, 0, 0, pages, 0, 0, 0, 0)
    parts.storages[-1].records.append(Record(fixed, bytes(pages), b"", b"", b""))


def unknown_kind(kind: int) -> Lie:
    def lie(parts: Parts) -> None:
        found = with_kind(parts, ZERO)[2]
        found.kinds = found.kinds.replace(bytes([ZERO]), bytes([kind]), 1)

    return lie


def other_content(parts: Parts) -> None:
    """Another page than the hash says, every checksum right."""
    number, _, found = with_kind(parts, STORED)
    block = parts.storages[number]
    size = found.kinds.count(STORED) * PAGE_BYTES
    payload(LZ4, lambda: lz4.block.compress(b"\x5a" * size, store_size=False))(parts)
    assert block.payload


def flags(*values: int) -> Lie:
    def lie(parts: Parts) -> None:
        for block, value in zip(parts.storages, values, strict=True):
            block.flags = value

    return lie


def no_storage_blocks(parts: Parts) -> None:
    parts.storages = []
    parts.map_entries = [(ABSENT, U16, U16)] * len(parts.map_entries)
    parts.recount()


def one_piece_for_a_terabyte(parts: Parts) -> bytes:
    """A terabyte of memory, all of whose map pieces are one and the same: half a megabyte that takes hours to walk."""
    pages = 1 << 28
    parts.header = parts.header._replace(
        memory_block_bytes=PAGE_BYTES,
        page_count=pages,
        region_count=1,
        header_bytes=header_bytes(1),
    )
    parts.regions = [(0, pages)]
    entries = (1 << 16) // MAP_ENTRY.size
    parts.map_entries = [(ABSENT, 0, 0)] * entries  # but not as a piece left out would have them

    def widen(body: bytes) -> bytes:
        piece = body[ROOT.size : ROOT.size + ROOT_ENTRY.size]
        return ROOT.pack(MAP_ENTRY.size, entries, pages) + piece * (pages // entries)

    root(SectionType.MEMORY_MAP, widen)(parts)
    return seal(parts)


def overlapping_sections(parts: Parts) -> None:
    """One section's bytes inside another's."""
    body = b"registers"
    parts.sections = [entry for entry in parts.sections if entry[0] != SectionType.VCPU_STATE]
    parts.sections.append((SectionType.VCPU_STATE, 0, body))
    parts.edit_sections = lambda entries: [
        *entries,
        next(e for e in entries if e.type == SectionType.VCPU_STATE)._replace(type=1000),
    ]


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


REFUSED: dict[str, Lie] = {
    "header: 2 TiB": regions((0, 1 << 29)),
    "header: 2^64 pages": regions((0, U64)),
    "header: page count wraps": regions((0, 1 << 63), (1 << 63, 1 << 63)),
    "header: no regions": regions(),
    "header: overlapping regions": regions((0, 14), (PAGE_BYTES, 14)),
    "header: unaligned region": regions((5, 28)),
    "header: empty region": regions((0, 0), (PAGE_BYTES, 28)),
    "header: region past all addresses": regions((1 << 52, 28)),
    "header: claims a region more": header(region_count=3),
    "header: claims 2^32 regions": header(region_count=U32),
    "header: claims 4 GiB of header": header(header_bytes=U32),
    "header: one page more": header(page_count=29),
    "header: no page size": header(page_bytes=0),
    "header: other page size": header(page_bytes=65536),
    "header: memory blocks of 0": header(memory_block_bytes=0),
    "header: memory blocks of 3": header(memory_block_bytes=3),
    "header: memory blocks of 2 GiB": header(memory_block_bytes=1 << 31, storage_block_bytes=1 << 31),
    "header: larger memory blocks": header(memory_block_bytes=16384, storage_block_bytes=32768),
    "header: storage blocks of 2 GiB": header(storage_block_bytes=1 << 31),
    "header: a parent": header(incompatible=1),
    "header: encrypted": header(incompatible=2),
    "header: unknown feature": header(incompatible=1 << 31),
    "header: version 2": header(version=2),
    "storage block: 4 GiB of pages": storage(payload_bytes=U32),
    "storage block: 4 GiB of directory": storage(directory_bytes=U32),
    "storage block: more of a directory than there is": storage(directory_bytes=60 << 20),
    "storage block: 65,535 memory blocks": storage(memory_blocks=U16),
    "storage block: no memory blocks": storage(memory_blocks=0),
    "storage block: other number": storage(number=0),
    "storage block: other stream": storage(stream=7),
    "storage block: of another checkpoint": storage(checkpoint_id=bytes(8)),
    "storage block: other magic": storage(magic=b"VMXX"),
    "storage block: none is the last": flags(0, 0, 0),
    "storage block: the first is the last": flags(LAST, 0, 0),
    "storage block: there is none": no_storage_blocks,
    "record: outside memory": record(memory_block=U64),
    "record: another block": record(memory_block=5),
    "record: 65,535 pages": record(pages=U16),
    "record: no pages": record(pages=0),
    "record: 65,535 stored": record(stored=U16),
    "record: 65,535 patterns": record(pattern=U16),
    "record: 65,535 duplicates": record(duplicate=U16),
    "record: payload past the end": record(payload_offset=U32),
    "record: payload of 4 GiB": record(stored_bytes=U32),
    "record: payload of nothing": record(stored_bytes=0),
    "record: payload one byte short": short_payload,
    "record: reserved fields": record(reserved=1),
    "record: payloads overlap": overlapping_payloads,
    "record: a block twice": claimed_twice,
    "record: one more than counted": extra_record,
    "record: pages of a parent": unknown_kind(4),
    "record: pages of kind 255": unknown_kind(255),
    "record: unknown codec": record(codec=99),
    "record: other codec": record(codec=ZSTD),
    "record: raw, but too short": record(codec=0),
    "record: other content": other_content,
    "lz4: a bomb": payload(LZ4, lambda: lz4.block.compress(bytes(1 << 20), store_size=False)[:4000]),
    "lz4: half": payload(LZ4, lambda: lz4.block.compress(random.Random(1).randbytes(4096))[:2000]),
    "zstd: a bomb": payload(ZSTD, lambda: zstd_frame(bytes(64 << 20))[:4000]),
    "zstd: a window of 2 GiB": payload(ZSTD, zstd_wide_window),
    "zstd: content of 2^63 bytes": payload(ZSTD, zstd_huge_content),
    "zstd: nothing": payload(ZSTD, lambda: zstd_frame(b"")),
    "zstd: two frames": payload(ZSTD, lambda: zstd_frame(bytes(PAGE_BYTES)) * 2),
    "zstd: a skippable frame": payload(
        ZSTD, lambda: b"\x50\x2a\x4d\x18" + (16).to_bytes(4, "little") + bytes(16)
    ),
    "zstd: half a frame": payload(ZSTD, lambda: zstd_frame(random.Random(1).randbytes(4096))[:2000]),
    "reference: to no storage block": reference(U32, 0, 0),
    "reference: to no slot": reference(0, U16, 0),
    "reference: to no page": reference(0, 0, U16),
    "reference: to itself": refer_to_itself,
    "reference: to itself, as zeros": refer_to_itself_as_zeros,
    "reference: beyond the end, as nothing": refer_beyond_the_end_as_nothing,
    "reference: to each other": refer_to_each_other,
    "reference: to a zero page": refer_to_kind(ZERO, same_hash=False),
    "reference: to a zero page, hash and all": refer_to_kind(ZERO, same_hash=True),
    "reference: to a pattern page": refer_to_kind(PATTERN, same_hash=False),
    "reference: to a pattern page, hash and all": refer_to_kind(PATTERN, same_hash=True),
    "reference: to a page of other content": refer_to_other_content,
    "reference: past the block": refer_to_the_next_block,
    "map: two swapped": swapped_map,
    "map: to no storage block": map_entry(77, 0, 0),
    "map: to no slot": map_entry(0, 77, 0),
    "map: to another block": map_entry(1, 0, 0),
    "map: a block hidden": map_entry(ABSENT, U16, U16),
    "map: one piece for a terabyte": one_piece_for_a_terabyte,
    "map: 2^32 entries": root(
        SectionType.MEMORY_MAP, lambda body: ROOT.pack(8, 8192, U64) + body[ROOT.size :]
    ),
    "map: entries of nothing": root(
        SectionType.MEMORY_MAP, lambda body: ROOT.pack(0, 0, 0) + body[ROOT.size :]
    ),
    "map: no root": root(SectionType.MEMORY_MAP, lambda _body: b""),
    "map: a root too long": root(SectionType.MEMORY_MAP, lambda body: body + bytes(16)),
    "map: its piece past the end": root(
        SectionType.MEMORY_MAP, lambda body: body[: ROOT.size] + ROOT_ENTRY.pack(U64, 0)
    ),
    "map: its piece in the header": root(
        SectionType.MEMORY_MAP, lambda body: body[: ROOT.size] + ROOT_ENTRY.pack(8, 0)
    ),
    "map: its piece left out": root(
        SectionType.MEMORY_MAP, lambda body: body[: ROOT.size] + ROOT_ENTRY.pack(0, 0)
    ),
    "table: past the end": table_entry(1, U64, 100, 1, 0),
    "table: 4 GiB": table_entry(1, 200, U32, 1, 0),
    "table: nothing": table_entry(1, 0, 0, 0, 0),
    "table: the same block twice": lambda parts: table_entry(
        1, *(parts.header.header_bytes, len(parts.storages[0].pack(0, bytes(16))), 1, 0)
    )(parts),
    "table: its piece left out": root(
        SectionType.STORAGE_TABLE, lambda body: body[: ROOT.size] + ROOT_ENTRY.pack(0, 0)
    ),
    "summary: no storage blocks": summary(storage_blocks=0),
    "summary: one storage block less": summary(storage_blocks=2),
    "summary: 2^32 storage blocks": summary(storage_blocks=U32),
    "summary: other digest": summary(digest=bytes(16)),
    "summary: other counts": summary(zero_pages=U64),
    "summary: more memory blocks": summary(memory_blocks=U32),
    "summary: 2^64 active pages": summary(active_pages=U64),
    "summary: missing": missing(SectionType.SUMMARY),
    "map: missing": missing(SectionType.MEMORY_MAP),
    "table: missing": missing(SectionType.STORAGE_TABLE),
    "section: past the end": section_entry(SectionType.METADATA, offset=U64),
    "section: 2^63 bytes": section_entry(SectionType.METADATA, length=1 << 63),
    "section: no bytes": section_entry(SectionType.METADATA, length=0),
    "section: shorter than its head": section_entry(SectionType.METADATA, length=SECTION.size - 1),
    "section: unknown flags": section_entry(SectionType.METADATA, flags=0x8000),
    "section: reserved field": section_entry(SectionType.METADATA, reserved=1),
    "section: named twice": section_entry(SectionType.METADATA, type=SectionType.VCPU_STATE),
    "section: unknown and required": section(999, 1, b"what is this"),
    "section: one inside another": overlapping_sections,
    "active pages: a third of a number": section(SectionType.ACTIVE_PAGES, 0, b"123"),
    "active pages: more than counted": section(SectionType.ACTIVE_PAGES, 0, bytes(800)),
    "footer: 2^32 sections": footer(section_count=U32),
    "footer: no sections": footer(section_count=0),
    "footer: sections past the end": footer(section_table_offset=U64),
    "footer: longer file": footer(file_bytes=U64),
    "footer: of another checkpoint": footer(checkpoint_id=bytes(16)),
    "footer: version 2": footer(version=2),
}
"""What verify and restore must refuse."""

ODD: dict[str, Lie] = {
    "an unknown section that may be ignored": section(999, 0, b"what is this"),
    "an unknown codec in the header": header(codec=200),
    "taken at the end of time": header(created_ns=U64),
    "unknown compatible features": header(compatible=U32),
    "metadata that is no JSON": section(SectionType.METADATA, 0, b"{"),
    "metadata that is no text": section(SectionType.METADATA, 0, b"\xff\xfe\xfd"),
    "metadata that is a list": section(SectionType.METADATA, 0, b"[1, 2]"),
    "metadata that is nothing": section(SectionType.METADATA, 0, b""),
    "metadata 100,000 levels deep": section(SectionType.METADATA, 0, deep(100_000)),
    "metadata 900 levels deep": section(SectionType.METADATA, 0, b'{"a":' + deep(900) + b"}"),
    "metadata with a number of a megabyte": section(
        SectionType.METADATA, 0, b'{"a": ' + b"9" * (1 << 20) + b"}"
    ),
    "metadata with half a character": section(SectionType.METADATA, 0, b'{"a\\ud800": "\\udfff"}'),
    "metadata with control characters": section(
        SectionType.METADATA, 0, json.dumps({"a\x1b[2J": "\x1b]0;title\x07\r\n"}).encode()
    ),
    "metadata with no number": section(SectionType.METADATA, 0, b'{"a": NaN, "b": 1e999}'),
    "active pages that are not in memory": section(SectionType.ACTIVE_PAGES, 0, b"\xff" * 24),
}
"""What is strange but harms nobody: any answer is good that is one."""


# --- everything that reads a checkpoint ---


def _read(path: str, _out: str) -> None:
    with Checkpoint.open(path) as checkpoint:
        count = min(checkpoint.layout.page_count, 64)
        for start in range(count):
            for end in range(start + 1, min(start + 5, count) + 1):
                checkpoint.read(PageRange(start, end), memoryview(bytearray((end - start) * PAGE_BYTES)))


def _verify(path: str, _out: str) -> None:
    report = api.verify(path, jobs=2)
    if not report.ok:
        raise CorruptionError(report.problems[0].message)


READERS: dict[str, Callable[[str, str], object]] = {
    "verify": _verify,
    "restore": lambda path, out: api.restore(path, out, jobs=2),
    "restore elf": lambda path, out: api.restore(path, out, format="elf", jobs=1),
    "info": lambda path, _out: api.info(path),
    "digest": lambda path, _out: api.digest(path),
    "read": _read,
    "convert": lambda path, out: api.convert(path, out, codec="lz4", jobs=1),
    "convert as it is": lambda path, out: api.convert(path, out, jobs=1),
    "convert access": lambda path, out: api.convert(path, out, layout="access", codec="lz4", jobs=1),
    "rebuild": api.rebuild_index,
}


def answers(path: str, folder: str) -> dict[str, str]:
    """What each reader makes of a file: "" or the class of its refusal."""
    found = {}
    for name, reader in READERS.items():
        out = os.path.join(folder, "out")
        try:
            reader(path, out)
            found[name] = ""
        except VmckptError as error:
            found[name] = type(error).__name__
            if os.path.exists(out) or error.exit_code not in {3, 4}:
                raise AssertionError(
                    f"{name} left an output, or has the wrong exit code: {error!r}"
                ) from error
        except Exception as error:
            raise AssertionError(f"{name}: {error!r}") from error
        if os.path.exists(out):
            os.unlink(out)
    return found


def limit_memory() -> None:
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))


def check_within_limits(path: str, folder: str) -> dict[str, str]:
    """The answers, found in a process of little memory, in little processor time."""
    answered = os.path.join(folder, "answers")

    def ask() -> None:
        used = _processor_s()
        found = answers(path, folder)
        spent = _processor_s() - used
        assert spent < PROCESSOR_S, f"{spent:.1f} s"
        with open(answered, "w") as file:
            json.dump(found, file)

    ended = run_in_child(ask, limit_memory)
    assert (ended.signal, ended.error, ended.message) == (0, "", "")
    assert not ended.outlived
    with open(answered) as file:
        found: dict[str, str] = json.load(file)
    return found


def _processor_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def lie_about(good: Parts, lie: Lie, tmp_path: Path) -> str:
    parts = copy.deepcopy(good)
    made = lie(parts)
    path = tmp_path / "hostile.vmckpt"
    path.write_bytes(seal(parts) if not isinstance(made, bytes) else made)
    return str(path)


def test_the_unharmed_sample_is_accepted_by_all(good: Parts, tmp_path: Path) -> None:
    path = lie_about(good, lambda _parts: None, tmp_path)
    assert set(check_within_limits(path, str(tmp_path)).values()) == {""}


@pytest.mark.parametrize("name", REFUSED)
def test_a_lie_is_refused_in_bounded_time_and_memory(name: str, good: Parts, tmp_path: Path) -> None:
    path = lie_about(good, REFUSED[name], tmp_path)
    found = check_within_limits(path, str(tmp_path))
    refusals = [found[reader] for reader in ("verify", "restore", "restore elf")]
    assert all(refusal in {"CorruptionError", "FormatError"} for refusal in refusals), found


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_gets_an_answer_from_everything(name: str, good: Parts, tmp_path: Path) -> None:
    path = lie_about(good, ODD[name], tmp_path)
    found = check_within_limits(path, str(tmp_path))
    assert found["restore"] == found["verify"] == ""


@pytest.mark.parametrize("name", [name for name in ODD if name.startswith(("metadata", "taken"))])
@pytest.mark.parametrize("option", [[], ["--json"]], ids=["table", "json"])
def test_info_shows_an_odd_file_or_refuses_it(
    name: str, option: list[str], good: Parts, tmp_path: Path
) -> None:
    path = lie_about(good, ODD[name], tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "vmckpt", "info", path, *option], capture_output=True, check=False
    )
    assert done.returncode in {0, 4}, done.stderr.decode()
    assert done.stderr.count(b"\n") == bool(done.returncode)
    assert b"\x1b" not in done.stdout
    if option and done.returncode == 0:
        json.loads(done.stdout, parse_constant=pytest.fail)


@pytest.mark.parametrize("bit", [1, 2, 1 << 31])
def test_features_of_another_version_are_said_to_be_unknown_and_not_damaged(
    bit: int, good: Parts, tmp_path: Path
) -> None:
    path = lie_about(good, header(incompatible=bit), tmp_path)
    with pytest.raises(FormatError, match="does not know"):
        api.info(path)


def test_a_required_section_of_another_version_is_said_to_be_unknown(good: Parts, tmp_path: Path) -> None:
    path = lie_about(good, section(999, 1, b"what is this"), tmp_path)
    with pytest.raises(FormatError, match="unknown"):
        api.info(path)


# --- files for the rebuild alone: no index, and blocks or what looks like them ---


def haystack(good: Parts, needle: bytes) -> bytes:
    """A checkpoint's header, and then nothing but needles."""
    parts = copy.deepcopy(good)
    data = seal(parts)
    return data[: parts.header.header_bytes] + needle * ((1 << 20) // len(needle))


@pytest.mark.parametrize("size", [4, 16], ids=["magics", "magics and ids"])
def test_a_rebuild_gets_past_a_megabyte_of_magics(size: int, good: Parts, tmp_path: Path) -> None:
    needle = Storage([], b"", 0).pack(0, good.header.checkpoint_id)[:size]
    path = tmp_path / "hostile.vmckpt"
    path.write_bytes(haystack(good, needle))
    assert check_within_limits(str(path), str(tmp_path))["rebuild"] == "CorruptionError"


def test_a_rebuild_gets_past_a_megabyte_of_heads_that_claim_the_rest(good: Parts, tmp_path: Path) -> None:
    block = Storage([], b"", 0, fields={"payload_bytes": 16384})
    path = tmp_path / "hostile.vmckpt"
    path.write_bytes(haystack(good, block.pack(0, good.header.checkpoint_id)))
    assert check_within_limits(str(path), str(tmp_path))["rebuild"] == "CorruptionError"


def test_a_rebuild_gets_past_a_megabyte_of_directories_that_claim_the_rest(
    good: Parts, tmp_path: Path
) -> None:
    block = Storage([], b"", 0, fields={"directory_bytes": 1 << 19})
    path = tmp_path / "hostile.vmckpt"
    path.write_bytes(haystack(good, block.pack(0, good.header.checkpoint_id)))
    assert check_within_limits(str(path), str(tmp_path))["rebuild"] == "CorruptionError"


def test_a_rebuild_gets_past_a_megabyte_of_sections_that_claim_the_rest(good: Parts, tmp_path: Path) -> None:
    from vmckpt.checkpoint.format import SECTION_MAGIC

    data = seal(copy.deepcopy(good))
    head = SECTION.pack(SECTION_MAGIC, SectionType.METADATA, 0, 1 << 19, good.header.checkpoint_id[:8], 0)
    path = tmp_path / "hostile.vmckpt"
    path.write_bytes(data + head * ((1 << 20) // len(head)))
    assert check_within_limits(str(path), str(tmp_path))["rebuild"] in {"", "CorruptionError"}
