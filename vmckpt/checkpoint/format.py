"""The bytes of format version 1: fixed structs, limits, and the numbers that stand for kinds.

    +--------+-----------------+-----+-----------------+--------------------+---------------+--------+
    | header | storage block 0 | ... | last one        | pieces of tables,  | section table | footer |
    |        |                 |     | (flag LAST)     | sections           |               |        |
    +--------+-----------------+-----+-----------------+--------------------+---------------+--------+

Everything is little-endian; every byte of the file is covered by one checksum (XXH3-64). Pure declarations and the
checks that need nothing but the bytes in hand; `docs/format.md` has the same tables, and a test holds the two together.
"""

import struct
from typing import NamedTuple

from vmckpt.errors import CorruptionError, FormatError, SourceError
from vmckpt.hashing import checksum
from vmckpt.layout import PAGE_BYTES, Layout

__all__ = [
    "ABSENT",
    "DUPLICATE",
    "FOOTER",
    "FORMAT_VERSION",
    "HEADER",
    "LAST",
    "MAGIC",
    "MAP_ENTRY",
    "PATTERN",
    "REFERENCE",
    "REGION",
    "REQUIRED",
    "ROOT",
    "ROOT_ENTRY",
    "SECTION",
    "SECTION_ENTRY",
    "STORAGE_ENTRY",
    "STORAGE_HEADER",
    "STORED",
    "STRUCTS",
    "SUMMARY",
    "ZERO",
    "BlockRecord",
    "Footer",
    "Header",
    "Limits",
    "Section",
    "SectionEntry",
    "SectionType",
    "StorageHeader",
    "Summary",
    "pack_header",
    "unpack_footer",
    "unpack_header",
]

MAGIC = b"VMCKPT\x1a\n"
STORAGE_MAGIC = b"VMSB"
SECTION_MAGIC = b"VMSX"
FOOTER_MAGIC = b"VMCKEND\n"
FORMAT_VERSION = 1

# What a page of a memory block is.
ZERO, STORED, PATTERN, DUPLICATE, PARENT = range(5)

LAST = 1  # flag of a storage block: the checkpoint has no further one
REQUIRED = 1  # flag of a section: a reader that does not know its type must refuse the file
ABSENT = 0xFFFF_FFFF  # storage block number of a memory block whose pages are all zero

# Bits of Header.incompatible that are spoken for but not written by this version; a reader refuses each one it does
# not know. PARENT_FEATURE: pages of kind PARENT are in another checkpoint. CIPHER_FEATURE: payloads are encrypted.
PARENT_FEATURE = 1
CIPHER_FEATURE = 2
KNOWN_INCOMPATIBLE = 0


class Limits:
    """The most a reader accepts; more is refused before anything is allocated for it."""

    HEADER_BYTES = 1 << 20
    PAGES = 1 << 34  # 64 TiB
    MEMORY_BLOCK_BYTES = 4 << 20
    STORAGE_BLOCK_BYTES = 64 << 20
    DIRECTORY_BYTES = 24 << 20  # a thousand of the largest memory blocks
    SECTIONS = 1024
    SECTION_BYTES = 1 << 30


class Header(NamedTuple):
    """The fixed part of a file's first bytes."""

    magic: bytes
    version: int
    codec: int
    header_bytes: int
    incompatible: int
    compatible: int
    page_bytes: int
    memory_block_bytes: int
    storage_block_bytes: int
    region_count: int
    checkpoint_id: bytes
    page_count: int
    created_ns: int
    reserved: bytes

    @property
    def block_pages(self) -> int:
        """Pages of a memory block."""
        return self.memory_block_bytes // self.page_bytes

    @property
    def block_count(self) -> int:
        """Memory blocks that memory divides into, the last one perhaps shorter."""
        return -(-self.page_count // self.block_pages)


class StorageHeader(NamedTuple):
    """What a storage block starts with."""

    magic: bytes
    number: int
    checkpoint_id: bytes
    directory_bytes: int
    payload_bytes: int
    memory_blocks: int
    stream: int
    flags: int
    payload_checksum: int
    head_checksum: int


class BlockRecord(NamedTuple):
    """The fixed part of a memory block's entry in a storage block's directory."""

    memory_block: int
    generation: int
    payload_offset: int
    stored_bytes: int
    codec: int
    reserved: int
    pages: int
    stored: int
    pattern: int
    duplicate: int
    reserved_2: int


class Section(NamedTuple):
    """What a section starts with."""

    magic: bytes
    type: int
    flags: int
    length: int
    checkpoint_id: bytes
    checksum: int


class SectionEntry(NamedTuple):
    """One line of the section table."""

    type: int
    flags: int
    reserved: int
    offset: int
    length: int
    checksum: int


class Summary(NamedTuple):
    """The body of the summary section."""

    digest: bytes
    zero_pages: int
    pattern_pages: int
    duplicate_pages: int
    stored_pages: int
    active_pages: int
    memory_blocks: int
    storage_blocks: int
    reserved: int


class Footer(NamedTuple):
    """A file's last bytes: their presence means that it is complete."""

    magic: bytes
    version: int
    reserved: int
    section_count: int
    section_table_offset: int
    file_bytes: int
    checkpoint_id: bytes
    table_checksum: int
    checksum: int


class SectionType:
    """What a section holds."""

    SUMMARY = 1
    MEMORY_MAP = 2
    STORAGE_TABLE = 3
    ACTIVE_PAGES = 4
    VCPU_STATE = 5
    DEVICE_STATE = 6
    METADATA = 7
    PARENT = 8  # reserved: id and digest of the checkpoint that this one builds on
    CIPHER = 9  # reserved: how payloads are encrypted

    NAMES = {  # noqa: RUF012 a constant
        1: "summary",
        2: "memory map",
        3: "storage table",
        4: "active pages",
        5: "vCPU state",
        6: "device state",
        7: "metadata",
        8: "parent",
        9: "cipher",
    }


HEADER = struct.Struct("<8sHHIIIIIII16sQQ24s")
REGION = struct.Struct("<QQ")
STORAGE_HEADER = struct.Struct("<4sI8sIIHHIQQ")
RECORD = struct.Struct("<QIIIBBHHHHH")
REFERENCE = struct.Struct("<IHH")
SECTION = struct.Struct("<4sHHQ8sQ")
SECTION_ENTRY = struct.Struct("<HHIQQQ")
SUMMARY = struct.Struct("<16sQQQQQQII")
ROOT = struct.Struct("<IIQ")
ROOT_ENTRY = struct.Struct("<QQ")
MAP_ENTRY = struct.Struct("<IHH")
STORAGE_ENTRY = struct.Struct("<QIHH")
FOOTER = struct.Struct("<8sHHIQQ16sQQ")
CHECKSUM = struct.Struct("<Q")

STRUCTS: dict[str, tuple[struct.Struct, tuple[str, ...]]] = {
    "header": (HEADER, Header._fields),
    "region": (REGION, ("gpa", "pages")),
    "storage block header": (STORAGE_HEADER, StorageHeader._fields),
    "directory record": (RECORD, BlockRecord._fields),
    "reference": (REFERENCE, ("storage_block", "slot", "page")),
    "section header": (SECTION, Section._fields),
    "section table entry": (SECTION_ENTRY, SectionEntry._fields),
    "summary": (SUMMARY, Summary._fields),
    "table root": (ROOT, ("entry_bytes", "piece_entries", "entry_count")),
    "table root entry": (ROOT_ENTRY, ("offset", "checksum")),
    "memory map entry": (MAP_ENTRY, ("storage_block", "slot", "reserved")),
    "storage table entry": (STORAGE_ENTRY, ("offset", "bytes", "memory_blocks", "stream")),
    "footer": (FOOTER, Footer._fields),
}
"""Name in docs/format.md -> the struct and the names of its fields."""


def pack_header(header: Header, layout: Layout) -> bytes:
    """The header with its region table and checksum, `header.header_bytes` long."""
    regions = b"".join(REGION.pack(region.gpa, region.pages) for region in layout.regions)
    body = HEADER.pack(*header) + regions
    return body + CHECKSUM.pack(checksum(body))


def header_bytes_for(layout: Layout) -> int:
    """How long the header of a checkpoint of this layout is."""
    return HEADER.size + REGION.size * len(layout.regions) + CHECKSUM.size


def unpack_header(data: bytes, path: str) -> tuple[Header, Layout]:
    """The header that `data` starts with, checked in this order: magic, version, bounds, checksum, content.

    Args:
        data: the file's first bytes, at least `header_bytes` of them.
        path: for messages.

    Raises:
        FormatError: no checkpoint, or of a version or with features not known.
        CorruptionError: a checkpoint's header that was damaged.
    """
    if len(data) < HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise FormatError("this is not a checkpoint: it does not start with a checkpoint's magic", path=path)
    header = Header._make(HEADER.unpack_from(data))
    if header.version != FORMAT_VERSION:
        raise FormatError(
            f"the checkpoint is of format version {header.version}; this vmckpt reads version {FORMAT_VERSION}",
            path=path,
        )
    expected = HEADER.size + REGION.size * header.region_count + CHECKSUM.size
    if header.header_bytes != expected or expected > min(len(data), Limits.HEADER_BYTES):
        raise CorruptionError(
            f"the header claims {header.header_bytes} bytes and {header.region_count} regions: "
            f"expected {expected} bytes, at most {min(len(data), Limits.HEADER_BYTES)}",
            path=path,
            offset=12,
        )
    body = data[: expected - CHECKSUM.size]
    (written,) = CHECKSUM.unpack_from(data, len(body))
    if checksum(body) != written:
        raise CorruptionError(
            f"the header's checksum is {checksum(body):016x}, expected {written:016x}", path=path, offset=0
        )
    _check_header(header, path)
    pieces = [
        REGION.unpack_from(body, HEADER.size + index * REGION.size) for index in range(header.region_count)
    ]
    if sum(pages for _, pages in pieces) != header.page_count:
        raise CorruptionError("the header's regions do not add up to its page count", path=path, offset=56)
    return header, _layout_of(pieces, path)


def _layout_of(pieces: list[tuple[int, int]], path: str) -> Layout:
    """The layout of a region table, which ascends: page numbers count in its order."""
    try:
        if pieces != sorted(pieces):
            raise SourceError("the header's regions do not ascend")
        return Layout([(gpa, pages * PAGE_BYTES) for gpa, pages in pieces])
    except SourceError as error:
        raise CorruptionError(error.message, path=path, offset=HEADER.size) from error


def _check_header(header: Header, path: str) -> None:
    unknown = header.incompatible & ~KNOWN_INCOMPATIBLE
    if unknown:
        names = {PARENT_FEATURE: "a parent checkpoint", CIPHER_FEATURE: "encrypted blocks"}
        said = (
            " and ".join(name for bit, name in names.items() if unknown & bit) or f"feature bits {unknown:#x}"
        )
        raise FormatError(f"the checkpoint uses {said}, which this vmckpt does not know", path=path)
    if header.page_bytes != PAGE_BYTES:
        raise FormatError(
            f"the checkpoint's pages are {header.page_bytes} bytes long; this vmckpt reads {PAGE_BYTES}",
            path=path,
        )
    check_block_sizes(header.memory_block_bytes, header.storage_block_bytes, path)
    if not 0 < header.page_count <= Limits.PAGES:
        raise FormatError(
            f"the checkpoint claims {header.page_count} pages, expected 1 to {Limits.PAGES}", path=path
        )


def check_block_sizes(memory_block_bytes: int, storage_block_bytes: int, path: str | None = None) -> None:
    """Raise FormatError unless the sizes are powers of two in bounds and a storage block holds two memory blocks."""
    for name, size, least, most in (
        ("memory block", memory_block_bytes, PAGE_BYTES, Limits.MEMORY_BLOCK_BYTES),
        ("storage block", storage_block_bytes, 2 * memory_block_bytes, Limits.STORAGE_BLOCK_BYTES),
    ):
        if not least <= size <= most or size & (size - 1):
            raise FormatError(
                f"a {name} of {size} bytes is not possible: expected a power of two from {least} to {most}",
                path=path,
            )


def unpack_footer(data: bytes, file_bytes: int, path: str) -> Footer:
    """The footer in a file's last `FOOTER.size` bytes.

    Raises:
        CorruptionError: there is none, or it was damaged: the file was cut short, or never finished.
    """
    offset = file_bytes - FOOTER.size
    if len(data) != FOOTER.size or data[: len(FOOTER_MAGIC)] != FOOTER_MAGIC:
        raise CorruptionError(
            "the footer is missing: the file was cut short or never finished (if its blocks are whole, "
            "`vmckpt verify --rebuild-index NEW` makes a new index)",
            path=path,
            offset=max(offset, 0),
        )
    footer = Footer._make(FOOTER.unpack(data))
    computed = checksum(data[: -CHECKSUM.size])
    if computed != footer.checksum:
        raise CorruptionError(
            f"the footer's checksum is {computed:016x}, expected {footer.checksum:016x}",
            path=path,
            offset=offset,
        )
    if footer.file_bytes != file_bytes:
        raise CorruptionError(
            f"the file is {file_bytes} bytes long, expected {footer.file_bytes}", path=path, offset=offset
        )
    return footer
