"""The declarations of the format, the page that specifies it, and the header's and footer's own checks."""

import re
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.example import FILE, PAGE, example_in, example_of, structs_in
from tests.checkpoint.files import header_of
from vmckpt.checkpoint import format as fmt
from vmckpt.checkpoint.codec import CODEC_NAMES
from vmckpt.checkpoint.format import (
    STRUCTS,
    Limits,
    SectionType,
    check_block_sizes,
    pack_header,
    unpack_header,
)
from vmckpt.errors import CorruptionError, FormatError, VmckptError
from vmckpt.hashing import checksum
from vmckpt.layout import PAGE_BYTES, Layout

TEXT = PAGE.read_text(encoding="utf-8")
TYPES = {"B": "u8", "H": "u16", "I": "u32", "Q": "u64", "s": "bytes"}
LAYOUT = Layout([(0, 3 * PAGE_BYTES), (4 << 30, 5 * PAGE_BYTES)])
HEADER = pack_header(header_of(LAYOUT), LAYOUT)
SIZES = {
    "header": 96,
    "region": 16,
    "storage block header": 48,
    "directory record": 32,
    "reference": 8,
    "section header": 32,
    "section table entry": 32,
    "summary": 72,
    "table root": 16,
    "table root entry": 16,
    "memory map entry": 8,
    "storage table entry": 16,
    "footer": 64,
}


def fields_of(packed: struct.Struct, names: tuple[str, ...]) -> list[tuple[int, int, str, str]]:
    """Offset, size, type and name of each field of a struct."""
    codes = re.findall(
        r"\d*[a-zA-Z]", "".join(repeat(*m) for m in re.findall(r"(\d*)([a-zA-Z])", packed.format))
    )
    rows, at = [], 0
    for code, name in zip(codes, names, strict=True):
        size = struct.calcsize(f"<{code}")
        rows.append((at, size, TYPES[code[-1]], name))
        at += size
    assert at == packed.size
    return rows


def repeat(count: str, code: str) -> str:
    """`2H` as `HH`; `8s` stays one field."""
    return f"{count}{code}" if code == "s" else code * int(count or 1)


def rows_under(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of the page, without its two first lines."""
    chapter = re.split(r"^#+ ", TEXT.split(f"# {heading}\n")[1], flags=re.MULTILINE)[0]
    return [
        [cell.strip() for cell in row[1:-1].split("|")]
        for row in re.findall(r"^\|.*\|$", chapter, re.MULTILINE)
    ][2:]


@pytest.mark.parametrize("name", STRUCTS)
def test_the_page_says_of_each_struct_what_it_is(name: str) -> None:
    assert structs_in(TEXT)[name] == fields_of(*STRUCTS[name])


def test_the_page_has_no_struct_that_is_not() -> None:
    assert set(structs_in(TEXT)) == set(STRUCTS)


def test_every_struct_is_little_endian_and_has_its_size() -> None:
    assert {name: packed.size for name, (packed, _) in STRUCTS.items()} == SIZES
    assert all(packed.format.startswith("<") for packed, _ in STRUCTS.values())


def test_the_page_has_the_limits() -> None:
    written = {name.strip("`"): int(most) for name, most, _ in rows_under("Limits")}
    assert written == {name: value for name, value in vars(Limits).items() if name.isupper()}


def test_the_page_has_the_section_types() -> None:
    assert {int(row[0]): row[1] for row in rows_under("Section types")} == SectionType.NAMES
    values = {value for name, value in vars(SectionType).items() if name.isupper() and name != "NAMES"}
    assert values == set(SectionType.NAMES)


def test_the_page_has_the_page_kinds() -> None:
    kinds = {row[1]: int(row[0]) for row in rows_under("Page kinds")}
    assert kinds == {
        name: getattr(fmt, name) for name in ("ZERO", "STORED", "PATTERN", "DUPLICATE", "PARENT")
    }


def test_the_page_has_the_codecs() -> None:
    assert tuple(row[1] for row in rows_under("Codecs")) == CODEC_NAMES
    assert [int(row[0]) for row in rows_under("Codecs")] == [0, 1, 2]


def test_the_page_has_the_feature_bits() -> None:
    bits = {row[1]: 1 << int(row[0]) for row in rows_under("Room for later")}
    assert bits == {"PARENT": fmt.PARENT_FEATURE, "CIPHER": fmt.CIPHER_FEATURE}


def test_the_page_spells_the_magics() -> None:
    spelled = re.findall(r"\| `magic` \| (`.*?) \|", TEXT)
    told = [b"".join(_bytes_of(part) for part in text.split(", ")) for text in spelled]
    assert told == [fmt.MAGIC, fmt.STORAGE_MAGIC, fmt.SECTION_MAGIC, fmt.FOOTER_MAGIC]


def _bytes_of(part: str) -> bytes:
    return part.strip("`").encode() if part.startswith("`") else bytes([int(part, 16)])


def test_the_worked_example_is_the_dump_of_its_file() -> None:
    written = example_in(TEXT)
    assert written == example_of(FILE.read_bytes(), TEXT), "run `python -m tests.checkpoint.example`"


def test_a_header_comes_back() -> None:
    header, layout = unpack_header(HEADER + b"what follows", "x")
    assert (header, layout) == (header_of(LAYOUT), LAYOUT)
    assert (header.block_pages, header.block_count, len(HEADER)) == (4, 2, header.header_bytes)


@pytest.mark.parametrize("bit", range(8 * len(HEADER)), ids=lambda bit: f"byte{bit // 8}bit{bit % 8}")
def test_every_bit_flipped_in_a_header_is_found(bit: int) -> None:
    flipped = bytearray(HEADER)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises((CorruptionError, FormatError)):
        unpack_header(bytes(flipped), "x")


def test_a_header_cut_short_at_any_length_is_refused() -> None:
    for length in range(len(HEADER)):
        with pytest.raises((CorruptionError, FormatError)):
            unpack_header(HEADER[:length], "x")


def sealed(header: fmt.Header, regions: list[tuple[int, int]]) -> bytes:
    """A header with a right checksum, whatever it says."""
    body = fmt.HEADER.pack(*header) + b"".join(fmt.REGION.pack(*region) for region in regions)
    return body + fmt.CHECKSUM.pack(checksum(body))


REGIONS = [(0, 3), (4 << 30, 5)]


@pytest.mark.parametrize(
    ("changes", "regions", "message"),
    [
        ({"version": 2}, REGIONS, "format version 2; this vmckpt reads version 1"),
        ({"incompatible": 1}, REGIONS, "a parent checkpoint"),
        ({"incompatible": 2}, REGIONS, "encrypted blocks"),
        ({"incompatible": 3}, REGIONS, "a parent checkpoint and encrypted blocks"),
        ({"incompatible": 1 << 31}, REGIONS, "feature bits 0x80000000"),
        ({"page_bytes": 16384}, REGIONS, "pages are 16384 bytes long"),
        ({"memory_block_bytes": 12288}, REGIONS, "memory block of 12288 bytes"),
        ({"storage_block_bytes": 16384}, REGIONS, "storage block of 16384 bytes"),
        ({"page_count": 0}, [(0, 0), (4 << 30, 0)], "0 pages"),
        ({"page_count": 9}, REGIONS, "do not add up"),
        ({"page_count": (1 << 34) + 1}, [(0, 1 << 34), (1 << 50, 1)], "17179869185 pages"),
        ({"region_count": 1 << 31}, REGIONS, "2147483648 regions"),
        ({"header_bytes": 1 << 31}, REGIONS, "2147483648 bytes"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_header_that_says_what_cannot_be_is_refused(
    changes: dict[str, Any], regions: list[tuple[int, int]], message: str
) -> None:
    data = sealed(header_of(LAYOUT)._replace(**changes), regions)
    with pytest.raises((CorruptionError, FormatError), match=message):
        unpack_header(data, "x")


@pytest.mark.parametrize(
    "regions",
    [
        [(4 << 30, 5), (0, 3)],
        [(0, 3), (4096, 5)],
        [(0, 8), (4 << 30, 0)],
        [(0, 3), (4097, 5)],
        [(0, 3), (1 << 52, 5)],
    ],
    ids=["descending", "overlapping", "empty", "unaligned", "beyond-the-address-space"],
)
def test_regions_that_cannot_be_are_corruption(regions: list[tuple[int, int]]) -> None:
    with pytest.raises(CorruptionError, match="region"):
        unpack_header(sealed(header_of(LAYOUT), regions), "x")


@pytest.mark.parametrize("changes", [{"compatible": 0xFFFF_FFFF}, {"reserved": b"\xff" * 24}], ids=str)
def test_what_a_reader_may_ignore_it_ignores(changes: dict[str, Any]) -> None:
    header, layout = unpack_header(sealed(header_of(LAYOUT)._replace(**changes), REGIONS), "x")
    assert layout == LAYOUT
    assert header._asdict().items() >= changes.items()


@pytest.mark.parametrize(
    ("memory", "storage", "possible"),
    [
        (4096, 8192, True),
        (4 << 20, 64 << 20, True),
        (4 << 20, 8 << 20, True),
        (2048, 8192, False),
        (4096, 4096, False),
        (8 << 20, 64 << 20, False),
        (4096, 128 << 20, False),
        (4096, 12288, False),
        (0, 0, False),
    ],
)
def test_block_sizes_are_powers_of_two_and_a_storage_block_holds_two(
    memory: int, storage: int, possible: bool
) -> None:
    if possible:
        check_block_sizes(memory, storage)
    else:
        with pytest.raises(FormatError, match="is not possible"):
            check_block_sizes(memory, storage)


def footer_of(file_bytes: int) -> bytes:
    body = fmt.FOOTER.pack(fmt.FOOTER_MAGIC, 1, 0, 3, 100, file_bytes, bytes(16), 7, 0)[:-8]
    return body + fmt.CHECKSUM.pack(checksum(body))


def test_a_footer_comes_back() -> None:
    footer = fmt.unpack_footer(footer_of(1000), 1000, "x")
    assert (footer.section_count, footer.section_table_offset, footer.file_bytes) == (3, 100, 1000)


def test_every_bit_flipped_in_a_footer_is_found() -> None:
    footer = footer_of(1000)
    for bit in range(8 * len(footer)):
        flipped = bytearray(footer)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            fmt.unpack_footer(bytes(flipped), 1000, "x")


@pytest.mark.parametrize("file_bytes", [999, 1001, 0])
def test_a_footer_is_only_good_for_a_file_of_its_length(file_bytes: int) -> None:
    with pytest.raises(CorruptionError, match="bytes long"):
        fmt.unpack_footer(footer_of(1000), file_bytes, "x")


@settings(max_examples=50)
@given(data=st.binary(max_size=300))
def test_any_bytes_behind_the_magic_are_refused_with_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(VmckptError):
        unpack_header(fmt.MAGIC + data, "x")
