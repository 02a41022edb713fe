"""Takes a good checkpoint apart, and puts it together again with right checksums around whatever a test changed.

    good file ─▶ take_apart ─▶ Parts ─▶ (a test's lies) ─▶ seal ─▶ a file that only its content gives away

Structs come from the format's declarations; offsets, counts and checksums are worked out anew unless a test overrides
them. Flat, small files only: one piece for each table.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.format import (
    ABSENT,
    CHECKSUM,
    DUPLICATE,
    FOOTER,
    FOOTER_MAGIC,
    FORMAT_VERSION,
    HEADER,
    MAP_ENTRY,
    PATTERN,
    RECORD,
    REFERENCE,
    REGION,
    ROOT,
    ROOT_ENTRY,
    SECTION,
    SECTION_ENTRY,
    SECTION_MAGIC,
    STORAGE_ENTRY,
    STORAGE_HEADER,
    STORAGE_MAGIC,
    STORED,
    SUMMARY,
    BlockRecord,
    Footer,
    Header,
    Section,
    SectionEntry,
    SectionType,
    StorageHeader,
    Summary,
)
from vmckpt.hashing import Digest, checksum, checksum_of

__all__ = ["Parts", "Record", "Storage", "reseal", "seal", "take_apart"]

TABLES = (SectionType.SUMMARY, SectionType.MEMORY_MAP, SectionType.STORAGE_TABLE)
PIECE_BYTES = 1 << 16


@dataclass
class Record:
    """A directory record; `fixed` is written as it is, whatever the rest says."""

    fixed: BlockRecord
    kinds: bytes
    hashes: bytes
    patterns: bytes
    references: bytes

    def pack(self) -> bytes:
        return RECORD.pack(*self.fixed) + self.kinds + self.hashes + self.patterns + self.references

    def set(self, **fields: int) -> None:
        """Change fields of the fixed part."""
        self.fixed = self.fixed._replace(**fields)

    def refer(self, index: int, storage_block: int, slot: int, page: int) -> None:
        """Point the `index`-th duplicate elsewhere."""
        packed = bytearray(self.references)
        REFERENCE.pack_into(packed, index * REFERENCE.size, storage_block, slot, page)
        self.references = bytes(packed)


@dataclass
class Storage:
    """A storage block."""

    records: list[Record]
    payload: bytes
    flags: int
    stream: int = 0
    directory: bytes | None = None  # instead of the records
    fields: dict[str, Any] = field(default_factory=dict)  # of the header, as they are to be

    def pack(self, number: int, checkpoint_id: bytes) -> bytes:
        directory = self.directory
        if directory is None:
            directory = b"".join(record.pack() for record in self.records)
        head = StorageHeader(
            STORAGE_MAGIC,
            number,
            checkpoint_id[:8],
            len(directory),
            len(self.payload),
            len(self.records),
            self.stream,
            self.flags,
            checksum(self.payload),
            0,
        )._replace(**self.fields)
        fixed = STORAGE_HEADER.pack(*head)[:-8]
        return fixed + checksum_of(fixed, directory).to_bytes(8, "little") + directory + self.payload


@dataclass
class Parts:
    """All of a checkpoint. What is None or empty is worked out."""

    header: Header
    regions: list[tuple[int, int]]
    storages: list[Storage]
    map_entries: list[tuple[int, int, int]]
    summary: Summary
    sections: list[tuple[int, int, bytes]]  # type, flags, body; without the three of the index
    table_entries: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    edit_root: Callable[[int, bytes], bytes] = lambda _type, root: root
    edit_sections: Callable[[list[SectionEntry]], list[SectionEntry]] = lambda entries: entries
    footer: dict[str, Any] = field(default_factory=dict)

    def recount(self) -> None:
        """Make the summary say what the records hold, the digest included."""
        kinds = b"".join(record.kinds for storage in self.storages for record in storage.records)
        found = {kind: kinds.count(kind) for kind in (STORED, PATTERN, DUPLICATE)}
        self.summary = self.summary._replace(
            zero_pages=self.header.page_count - sum(found.values()),
            pattern_pages=found[PATTERN],
            duplicate_pages=found[DUPLICATE],
            stored_pages=found[STORED],
            memory_blocks=sum(len(storage.records) for storage in self.storages),
            storage_blocks=len(self.storages),
            digest=self._digest(),
        )

    def _digest(self) -> bytes:
        """The digest that follows from the hashes in the records."""
        digest = Digest()
        for number, (storage_block, slot, _) in enumerate(self.map_entries):
            digest.add_zeros(number * self.header.block_pages - digest.pages)
            if storage_block == ABSENT:
                continue
            record = self.storages[storage_block].records[slot]
            digest.add(
                MemoryBlock(
                    number, 0, 0, record.kinds, record.hashes, record.patterns, record.references, 0, 0
                ).page_hashes()
            )
        digest.add_zeros(self.header.page_count - digest.pages)
        return digest.bytes()


def _record(directory: bytes, at: int) -> tuple[Record, int]:
    fixed = BlockRecord._make(RECORD.unpack_from(directory, at))
    ends = [at + RECORD.size]
    for size in (
        fixed.pages,
        8 * (fixed.stored + fixed.duplicate),
        8 * fixed.pattern,
        REFERENCE.size * fixed.duplicate,
    ):
        ends.append(ends[-1] + size)
    kinds, hashes, patterns, references = (directory[ends[i] : ends[i + 1]] for i in range(4))
    return Record(fixed, kinds, hashes, patterns, references), ends[-1]


def _storage(data: bytes, offset: int) -> Storage:
    head = StorageHeader._make(STORAGE_HEADER.unpack_from(data, offset))
    start = offset + STORAGE_HEADER.size
    directory = data[start : start + head.directory_bytes]
    records = []
    at = 0
    for _ in range(head.memory_blocks):
        record, at = _record(directory, at)
        records.append(record)
    payload_at = start + head.directory_bytes
    payload = data[payload_at : payload_at + head.payload_bytes]
    return Storage(records, payload, head.flags, head.stream)


def _pieces(data: bytes, root: bytes, entry_bytes: int) -> bytes:
    _, _, count = ROOT.unpack_from(root)
    offset, _ = ROOT_ENTRY.unpack_from(root, ROOT.size)
    assert count * entry_bytes <= PIECE_BYTES
    return data[offset : offset + count * entry_bytes] if offset else b"\xff" * (count * entry_bytes)


def take_apart(data: bytes) -> Parts:
    """The parts of a checkpoint that is known to be good."""
    header = Header._make(HEADER.unpack_from(data))
    regions = [REGION.unpack_from(data, HEADER.size + i * REGION.size) for i in range(header.region_count)]
    footer = Footer._make(FOOTER.unpack(data[-FOOTER.size :]))
    table = data[footer.section_table_offset : -FOOTER.size]
    bodies = {}
    flags = {}
    for entry in map(SectionEntry._make, SECTION_ENTRY.iter_unpack(table)):
        bodies[entry.type] = data[entry.offset + SECTION.size : entry.offset + entry.length]
        flags[entry.type] = entry.flags
    storage_table = _pieces(data, bodies[SectionType.STORAGE_TABLE], STORAGE_ENTRY.size)
    memory_map = _pieces(data, bodies[SectionType.MEMORY_MAP], MAP_ENTRY.size)
    return Parts(
        header,
        regions,
        [_storage(data, offset) for offset, *_ in STORAGE_ENTRY.iter_unpack(storage_table)],
        list(MAP_ENTRY.iter_unpack(memory_map)),
        Summary._make(SUMMARY.unpack(bodies[SectionType.SUMMARY])),
        [(kind, flags[kind], body) for kind, body in bodies.items() if kind not in TABLES],
    )


def _root(out: bytearray, entry_bytes: int, packed: bytes, count: int) -> bytes:
    """Append the one piece of a table, and return its root."""
    root = ROOT.pack(entry_bytes, PIECE_BYTES // entry_bytes, count)
    if not packed:
        return root
    offset = len(out) if any(entry != 0xFF for entry in packed) else 0
    if offset:
        out += packed
    return root + ROOT_ENTRY.pack(offset, checksum(packed) if offset else 0)


def seal(parts: Parts) -> bytes:
    """The file of these parts."""
    head = HEADER.pack(*parts.header) + b"".join(REGION.pack(*region) for region in parts.regions)
    out = bytearray(head + CHECKSUM.pack(checksum(head)))
    table = []
    for number, storage in enumerate(parts.storages):
        packed = storage.pack(number, parts.header.checkpoint_id)
        entry = (len(out), len(packed), len(storage.records), storage.stream)
        table.append(parts.table_entries.get(number, entry))
        out += packed
    packed_map = b"".join(MAP_ENTRY.pack(*entry) for entry in parts.map_entries)
    roots = {
        SectionType.MEMORY_MAP: _root(out, MAP_ENTRY.size, packed_map, len(parts.map_entries)),
        SectionType.STORAGE_TABLE: _root(
            out,
            STORAGE_ENTRY.size,
            b"".join(STORAGE_ENTRY.pack(*entry) for entry in table),
            parts.summary.storage_blocks,
        ),
    }
    sections = [(SectionType.SUMMARY, 1, SUMMARY.pack(*parts.summary))]
    sections += [(kind, 1, parts.edit_root(kind, root)) for kind, root in roots.items()]
    entries = [_section(out, parts.header, *section) for section in sections + parts.sections]
    return _end(parts, out, parts.edit_sections(entries))


def _section(out: bytearray, header: Header, kind: int, flags: int, body: bytes) -> SectionEntry:
    fixed = SECTION.pack(*Section(SECTION_MAGIC, kind, flags, len(body), header.checkpoint_id[:8], 0))[:-8]
    computed = checksum_of(fixed, body)
    entry = SectionEntry(kind, flags, 0, len(out), SECTION.size + len(body), computed)
    out += fixed + CHECKSUM.pack(computed) + body
    return entry


def _end(parts: Parts, out: bytearray, entries: list[SectionEntry]) -> bytes:
    packed = b"".join(SECTION_ENTRY.pack(*entry) for entry in entries)
    footer = Footer(
        FOOTER_MAGIC,
        FORMAT_VERSION,
        0,
        len(entries),
        len(out),
        len(out) + len(packed) + FOOTER.size,
        parts.header.checkpoint_id,
        checksum(packed),
        0,
    )._replace(**parts.footer)
    body = FOOTER.pack(*footer)[: -CHECKSUM.size]
    return bytes(out + packed + body + CHECKSUM.pack(checksum(body)))


def reseal(data: bytes) -> bytes:
    """The same bytes with every checksum that can be found made right, for a fuzzer to get past them."""
    out = bytearray(data)
    if len(out) < HEADER.size + CHECKSUM.size + FOOTER.size:
        return data
    header = Header._make(HEADER.unpack_from(out))
    end = header.header_bytes - CHECKSUM.size
    if HEADER.size <= end <= len(out) - CHECKSUM.size:
        CHECKSUM.pack_into(out, end, checksum(bytes(out[:end])))
    _reseal_storages(out)
    _reseal_index(out)
    return bytes(out)


def _reseal_storages(out: bytearray) -> None:
    at = out.find(STORAGE_MAGIC)
    while 0 <= at <= len(out) - STORAGE_HEADER.size:
        head = StorageHeader._make(STORAGE_HEADER.unpack_from(out, at))
        directory_at = at + STORAGE_HEADER.size
        payload_at = directory_at + head.directory_bytes
        end = payload_at + head.payload_bytes
        if end <= len(out):
            CHECKSUM.pack_into(out, directory_at - 16, checksum(bytes(out[payload_at:end])))
            fixed, directory = bytes(out[at : directory_at - 8]), bytes(out[directory_at:payload_at])
            CHECKSUM.pack_into(out, directory_at - 8, checksum_of(fixed, directory))
        at = out.find(STORAGE_MAGIC, at + 1)


def _reseal_index(out: bytearray) -> None:
    footer_at = len(out) - FOOTER.size
    footer = Footer._make(FOOTER.unpack_from(out, footer_at))
    table_at = footer.section_table_offset
    if table_at + footer.section_count * SECTION_ENTRY.size == footer_at:
        for at in range(table_at, footer_at, SECTION_ENTRY.size):
            _reseal_section(out, at)
        table = checksum(bytes(out[table_at:footer_at]))
        footer = footer._replace(table_checksum=table)
    body = FOOTER.pack(*footer._replace(file_bytes=len(out)))[: -CHECKSUM.size]
    out[footer_at:] = body + CHECKSUM.pack(checksum(body))


def _reseal_section(out: bytearray, at: int) -> None:
    entry = SectionEntry._make(SECTION_ENTRY.unpack_from(out, at))
    end = entry.offset + entry.length
    if entry.length < SECTION.size or end > len(out):
        return
    entry_bytes = {
        SectionType.MEMORY_MAP: MAP_ENTRY.size,
        SectionType.STORAGE_TABLE: STORAGE_ENTRY.size,
    }.get(entry.type)
    root_at = entry.offset + SECTION.size
    if entry_bytes is not None and end - root_at >= ROOT.size + ROOT_ENTRY.size:
        _, piece_entries, count = ROOT.unpack_from(out, root_at)
        offset, _ = ROOT_ENTRY.unpack_from(out, root_at + ROOT.size)
        length = min(count, piece_entries) * entry_bytes
        if offset and offset + length <= len(out):
            piece = checksum(bytes(out[offset : offset + length]))
            ROOT_ENTRY.pack_into(out, root_at + ROOT.size, offset, piece)
    fixed = bytes(out[entry.offset : root_at - 8])
    computed = checksum_of(fixed, bytes(out[root_at:end]))
    CHECKSUM.pack_into(out, root_at - 8, computed)
    SECTION_ENTRY.pack_into(out, at, *entry._replace(checksum=computed))
