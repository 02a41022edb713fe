"""ELF cores: good ones as pyelftools reads them, and each way to be malformed."""

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.elfwriter import EHDR_BYTES, PHDR_BYTES, SHDR_BYTES, ElfCore, Load
from tests.support.memory import brute_ranges_hold, page_bytes, page_maps, pages_of, read_all
from vmckpt.errors import ChangedError, SourceError
from vmckpt.layout import Layout
from vmckpt.pages import PAGE_BYTES, PageRange, Source
from vmckpt.sources import elf, open_source

LOW = Load(0, pages_of([1, 2, 0, 4]))
HIGH = Load(4 << 30, pages_of([0, 6, 7]))
NOTE = b"\x05\0\0\0\x04\0\0\0\x01\0\0\0CORE\0\0\0\0abcd"


def opened(core: ElfCore, tmp_path: Path) -> Source:
    return open_source(core.write(tmp_path / "core"))


def test_the_structs_have_the_sizes_of_the_specification() -> None:
    sizes = (elf._HEADER.size, elf._PROGRAM_HEADER.size, elf._SECTION_HEADER.size)
    assert sizes == (EHDR_BYTES, PHDR_BYTES, SHDR_BYTES) == (64, 56, 64)


def test_segments_become_regions_in_the_order_of_their_addresses(tmp_path: Path) -> None:
    source = opened(ElfCore([HIGH, LOW], note=NOTE), tmp_path)
    assert source.kind == "elf"
    assert source.layout == Layout([(0, 4 * PAGE_BYTES), (4 << 30, 3 * PAGE_BYTES)])
    assert read_all(source) == LOW.content + HIGH.content
    source.check_unchanged()
    source.close()


def test_every_range_reads_its_own_pages_across_segments(tmp_path: Path) -> None:
    cores = ElfCore([Load(0, pages_of([1, 2]), 4 * PAGE_BYTES), Load(1 << 20, pages_of([5])), HIGH])
    source = opened(cores, tmp_path)
    content = pages_of([1, 2, 0, 0, 5, 0, 6, 7])
    for start in range(9):
        for end in range(start, 9):
            into = bytearray(b"x" * (end - start) * PAGE_BYTES)
            source.read(PageRange(start, end), memoryview(into))
            assert into == content[start * PAGE_BYTES : end * PAGE_BYTES]
    source.close()


def test_what_is_in_memory_but_not_in_the_file_is_zero_and_no_data(tmp_path: Path) -> None:
    source = opened(ElfCore([Load(0, page_bytes(1), 1000 * PAGE_BYTES)]), tmp_path)
    assert read_all(source) == page_bytes(1) + bytes(999 * PAGE_BYTES)
    assert list(source.data_ranges()) == [(0, 1)]
    source.close()


def test_a_segment_with_nothing_in_the_file_may_have_any_offset(tmp_path: Path) -> None:
    # QEMU writes 2^64 - 1 for memory that its filter leaves out.
    outside = Load(1 << 20, b"", 2 * PAGE_BYTES, {"p_offset": 2**64 - 1})
    source = opened(ElfCore([LOW, outside]), tmp_path)
    assert read_all(source) == LOW.content + bytes(2 * PAGE_BYTES)
    source.close()


def test_a_segment_of_no_size_is_skipped(tmp_path: Path) -> None:
    source = opened(ElfCore([Load(12345, b""), LOW]), tmp_path)
    assert source.layout == Layout.flat(4 * PAGE_BYTES)
    source.close()


def test_adjacent_segments_are_two_regions(tmp_path: Path) -> None:
    source = opened(ElfCore([LOW, Load(4 * PAGE_BYTES, page_bytes(9))]), tmp_path)
    assert [region.pages for region in source.layout.regions] == [4, 1]
    source.close()


@pytest.mark.parametrize("machine", [62, 183, 243], ids=["x86-64", "aarch64", "riscv"])
def test_any_little_endian_machine_will_do(tmp_path: Path, machine: int) -> None:
    source = opened(ElfCore([LOW], {"e_machine": machine}), tmp_path)
    assert read_all(source) == LOW.content
    source.close()


def test_the_header_size_field_is_not_looked_at(tmp_path: Path) -> None:
    # Dumps of QEMU have 8 there.
    source = opened(ElfCore([LOW], {"e_ehsize": 8}), tmp_path)
    assert read_all(source) == LOW.content
    source.close()


def test_the_number_of_program_headers_may_be_in_section_header_0(tmp_path: Path) -> None:
    source = opened(ElfCore([LOW, HIGH], note=NOTE, extended=True), tmp_path)
    assert read_all(source) == LOW.content + HIGH.content
    source.close()


def test_more_program_headers_than_fit_the_elf_header_are_read(tmp_path: Path) -> None:
    loads = [Load(index * 2 * PAGE_BYTES, b"", PAGE_BYTES) for index in range(0x10000)]
    source = opened(ElfCore([*loads, Load(1 << 40, page_bytes(3))], extended=True), tmp_path)
    assert source.layout.page_count == 0x10001
    assert list(source.data_ranges()) == [(0x10000, 0x10001)]
    source.close()


@st.composite
def cores(draw: st.DrawFn) -> tuple[ElfCore, bytes]:
    """A good core, and the memory it holds."""
    gpa, loads, memory = 0, [], []
    for numbers in draw(st.lists(page_maps(12), min_size=1, max_size=4)):
        gpa += draw(st.integers(0, 3)) * PAGE_BYTES
        content, tail = pages_of(numbers), draw(st.sampled_from([0, 0, 3])) * PAGE_BYTES
        loads.append(Load(gpa, content, len(content) + tail))
        memory.append(content + bytes(tail))
        gpa += len(content) + tail
    order = draw(st.permutations(loads))
    offset = draw(st.sampled_from([None, 0x498, 4096, 12345]))
    note = draw(st.sampled_from([None, NOTE]))
    gap = draw(st.sampled_from([0, 1, 5000]))
    return ElfCore(order, note=note, data_offset=offset, gap_bytes=gap), b"".join(memory)


@settings(max_examples=40, deadline=None)
@given(case=cores())
def test_every_page_outside_the_data_ranges_is_zero(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[ElfCore, bytes]
) -> None:
    core, memory = case
    source = opened(core, tmp_path_factory.mktemp("elf"))
    assert read_all(source) == memory
    assert brute_ranges_hold(source, memory)
    source.close()


@settings(max_examples=40, deadline=None)
@given(case=cores())
def test_pyelftools_finds_the_same_segments(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[ElfCore, bytes]
) -> None:
    path = case[0].write(tmp_path_factory.mktemp("elf") / "core")
    source = open_source(path)
    with open(path, "rb") as file:
        segments: list[Any] = list(ELFFile(file).iter_segments("PT_LOAD"))
        segments.sort(key=lambda segment: segment["p_paddr"])
        found = [(segment["p_paddr"], segment["p_memsz"]) for segment in segments]
        memory = b"".join(segment.data().ljust(segment["p_memsz"], b"\0") for segment in segments)
    assert source.layout == Layout(found)
    assert read_all(source) == memory
    source.close()


def test_a_page_that_straddles_two_extents_is_read_once(tmp_path: Path) -> None:
    # Offset 100: page 15 of the segment begins in the file's block 15 and ends in block 16.
    content = pages_of([0] * 15 + [1, 2] + [0] * 15)
    source = opened(ElfCore([Load(0, content)], data_offset=100), tmp_path)
    ranges = list(source.data_ranges())
    assert brute_ranges_hold(source, content)
    assert len([page for start, end in ranges for page in range(start, end) if page in (15, 16)]) == 2
    source.close()


def test_reading_a_core_that_was_cut_short_says_expected_and_found(tmp_path: Path) -> None:
    source = opened(ElfCore([LOW], data_offset=4096), tmp_path)
    os.truncate(tmp_path / "core", 4097)
    with pytest.raises(ChangedError, match="expected 20480 bytes, found 4097"):
        read_all(source)
    source.close()


LOAD_BYTES = len(LOW.content)
MALFORMED = {
    "32 bits": (ElfCore([LOW], {"ei_class": 1}), r"64-bit ELF file \(class 2\), found 1"),
    "big-endian": (ElfCore([LOW], {"ei_data": 2}), r"little-endian ELF file .*, found 2"),
    "version": (ElfCore([LOW], {"ei_version": 0}), "ELF version 1, found 0"),
    "executable": (ElfCore([LOW], {"e_type": 2}), r"an ELF core \(type 4, ET_CORE\), found 2"),
    "no program headers": (ElfCore([]), "expected a PT_LOAD segment, found none"),
    "no memory": (ElfCore([Load(0, b"")], note=NOTE), "expected a PT_LOAD segment, found none"),
    "entry size": (ElfCore([LOW], {"e_phentsize": 32}), "expected 56 bytes, found 32"),
    "table past the end": (
        ElfCore([LOW], {"e_phoff": 1 << 40}),
        rf"program header table reaches past the end .* expected at least {(1 << 40) + 56} bytes, found 16504",
    ),
    "table larger than the file": (
        ElfCore([LOW], {"e_phnum": 0xFFFE}),
        "program header table reaches past the end",
    ),
    "no section header for the count": (ElfCore([LOW], {"e_phnum": 0xFFFF}), "section header 0"),
    "section header size": (
        ElfCore([LOW], {"e_shentsize": 40}, extended=True),
        "expected one of 64 bytes, found 40 bytes at offset 64",
    ),
    "section header past the end": (
        ElfCore([LOW], {"e_shoff": 1 << 62}, extended=True),
        "section header 0 reaches past the end",
    ),
    "more in the file than in memory": (
        ElfCore([Load(0, LOW.content, LOAD_BYTES - PAGE_BYTES)]),
        "segment 0 .* expected at most 12288, found 16384",
    ),
    "address no page": (ElfCore([Load(512, LOW.content)]), "multiple of 4096 as its address, found 0x200"),
    "memory no pages": (
        ElfCore([Load(0, b"", 5000)]),
        "multiple of 4096 as its size in memory, found 0x1388",
    ),
    "file no pages": (
        ElfCore([Load(0, b"abc", PAGE_BYTES)]),
        "multiple of 4096 as its size in the file, found 0x3",
    ),
    "offset past the end": (
        ElfCore([LOW, Load(1 << 20, page_bytes(1), fields={"p_offset": 1 << 63})], note=NOTE),
        rf"segment 2 \(.*0x100000, 4096 bytes\) reaches past .* at least {(1 << 63) + 4096} bytes, found \d+",
    ),
    "overlap": (
        ElfCore([LOW, Load(3 * PAGE_BYTES, page_bytes(1))]),
        "segment 1 .* overlaps segment 0 .* start at 0x4000 or later",
    ),
    "core of a process": (
        ElfCore([Load(0, page_bytes(1), fields={"p_vaddr": place}) for place in (4096, 8192)]),
        "Is it the core of a process",
    ),
    "past every address": (
        ElfCore([Load(1 << 52, page_bytes(1))]),
        "ends past the highest address",
    ),
}


@pytest.mark.parametrize(("core", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_core_is_refused_with_expected_and_found(
    tmp_path: Path, core: ElfCore, message: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path = core.write(tmp_path / "core")
    with pytest.raises(SourceError, match=message) as caught:
        open_source(path)
    assert (caught.value.path, caught.value.exit_code) == (path, 3)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_absurd_number_of_program_headers_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = ElfCore([LOW], extended=True).write(tmp_path / "core")
    with open(path, "r+b") as file:
        file.seek(EHDR_BYTES + 44)  # sh_info
        file.write(b"\xff" * 4)
        file.truncate(1 << 40)
    with pytest.raises(SourceError, match="expected at most 262144, found 4294967295"):
        open_source(path)


GOOD = ElfCore([LOW, HIGH], note=NOTE)
TABLES_BYTES = EHDR_BYTES + 3 * PHDR_BYTES


@pytest.mark.parametrize(
    "size_bytes",
    [
        4,
        EHDR_BYTES - 1,
        EHDR_BYTES,
        EHDR_BYTES + PHDR_BYTES,
        TABLES_BYTES - 1,
        TABLES_BYTES,
        TABLES_BYTES + 5000,
    ],
)
def test_a_core_cut_short_anywhere_is_refused(tmp_path: Path, size_bytes: int) -> None:
    path = GOOD.write(tmp_path / "core")
    os.truncate(path, size_bytes)
    with pytest.raises(
        SourceError, match=rf"reaches past the end .*expected at least \d+ bytes, found {size_bytes}"
    ):
        open_source(path)


def test_a_core_one_byte_short_says_which_segment(tmp_path: Path) -> None:
    path = GOOD.write(tmp_path / "core")
    size_bytes = os.path.getsize(path)
    os.truncate(path, size_bytes - 1)
    expected = (
        rf"segment 2 \(.*0x100000000, 12288 bytes\).*at least {size_bytes} bytes, found {size_bytes - 1}"
    )
    with pytest.raises(SourceError, match=expected):
        open_source(path)


@settings(max_examples=200, deadline=None)
@given(offset=st.integers(4, TABLES_BYTES - 1), value=st.integers(0, 255))
def test_any_byte_of_the_tables_may_be_wrong_without_a_crash(
    tmp_path_factory: pytest.TempPathFactory, offset: int, value: int
) -> None:
    path = GOOD.write(tmp_path_factory.mktemp("elf") / "core")
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes([value]))
    with contextlib.suppress(SourceError), contextlib.closing(open_source(path)) as source:
        assert all(0 <= start < end <= source.layout.page_count for start, end in source.data_ranges())
