"""An ELF core of a machine, as QEMU's `dump-guest-memory` and `virsh dump --memory-only` write it.

In: an open file that starts with the ELF magic. Out: a source of kind `elf`. `open_source` calls it.

    offset   0            e_phoff                p_offset (QEMU: 0x498, not aligned)
             [ ELF header ][ program headers ... ][ memory of PT_LOAD 1 ][ memory of PT_LOAD 2 ] ...
                                     │ p_paddr: guest-physical address; p_filesz bytes are in the file,
                                     └ zeros follow up to p_memsz

With 65,535 program headers or more, e_phnum is PN_XNUM (0xffff) and the number is sh_info of section header 0 (ELF
gABI, "ELF Header"). e_ehsize is not looked at: QEMU writes 8.

Parsed with `struct`: importing pyelftools alone costs 45 ms, a quarter of a whole save. It checks this reader in the
tests.
"""

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

from vmckpt.errors import SourceError
from vmckpt.layout import Layout
from vmckpt.pages import PAGE_BYTES
from vmckpt.sources.file import SourceFile
from vmckpt.sources.segments import Segment, SegmentSource

__all__ = ["MAX_PROGRAM_HEADERS", "elf_source"]

MAX_PROGRAM_HEADERS = 1 << 18
"""More than any machine has regions; a file that claims more is not read into memory to find out."""

# e_ident, e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum,
# e_shentsize, e_shnum, e_shstrndx
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
# p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
# sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, sh_addralign, sh_entsize
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")

_ELFCLASS64 = 2
_ELFDATA2LSB = 1
_EV_CURRENT = 1
_ET_CORE = 4
_PT_LOAD = 1
_PN_XNUM = 0xFFFF


# A NamedTuple, as importing dataclasses would cost 6 ms here.
class _Load(NamedTuple):
    """One PT_LOAD program header."""

    number: int  # in the program header table, from 0
    gpa: int
    memory_bytes: int
    file_bytes: int
    offset: int

    @property
    def end(self) -> int:
        return self.gpa + self.memory_bytes

    def __str__(self) -> str:
        return f"segment {self.number} (guest-physical address {self.gpa:#x}, {self.memory_bytes} bytes)"


def elf_source(file: SourceFile) -> SegmentSource:
    """The source over an ELF core; it takes `file` over.

    Raises:
        SourceError: it is no ELF core of a 64-bit little-endian machine, or it is cut short or contradicts itself.
        IoError: the headers cannot be read.
    """
    try:
        loads = sorted(_loads(file), key=lambda load: load.gpa)
        if not loads:
            raise SourceError("this ELF core holds no memory: expected a PT_LOAD segment, found none")
        _check_disjoint(loads)
        layout = Layout([(load.gpa, load.memory_bytes) for load in loads])
    except SourceError as error:
        error.path = file.name
        raise
    segments = [Segment(load.file_bytes // PAGE_BYTES, load.offset) for load in loads]
    return SegmentSource(file, "elf", layout, segments)


def _loads(file: SourceFile) -> Iterator[_Load]:
    """The checked PT_LOAD segments that hold memory, in the order of the table."""
    for index, fields in enumerate(_PROGRAM_HEADER.iter_unpack(_program_headers(file))):
        kind, _, offset, _, gpa, file_bytes, memory_bytes, _ = fields
        if kind == _PT_LOAD and (file_bytes or memory_bytes):
            load = _Load(index, gpa, memory_bytes, file_bytes, offset)
            _check_load(load, file.size_bytes)
            yield load


def _program_headers(file: SourceFile) -> bytes:
    """The bytes of the whole program header table."""
    table, section_table, entry_bytes, count, section_bytes = _header(file)
    if count == _PN_XNUM:
        count = _extended_count(file, section_table, section_bytes)
    if not count:
        return b""
    if entry_bytes != _PROGRAM_HEADER.size:
        raise SourceError(
            f"the program headers have a size vmckpt does not know: expected {_PROGRAM_HEADER.size} bytes, "
            f"found {entry_bytes}"
        )
    if count > MAX_PROGRAM_HEADERS:
        raise SourceError(
            f"there are too many program headers: expected at most {MAX_PROGRAM_HEADERS}, found {count}"
        )
    _check_within(file, "the program header table", table, count * entry_bytes)
    return file.read_bytes(table, count * entry_bytes)


def _header(file: SourceFile) -> tuple[int, int, int, int, int]:
    """Check the ELF header; returns e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize."""
    _check_within(file, "the ELF header", 0, _HEADER.size)
    ident, kind, _, _, _, table, section_table, _, _, entry_bytes, count, section_bytes, _, _ = (
        _HEADER.unpack(file.head(_HEADER.size))
    )
    # The fields of e_ident stand where they stand in every class and byte order, so they come first.
    for field, what, expected, found in (
        (4, "a 64-bit ELF file (class 2)", _ELFCLASS64, ident[4]),
        (5, "a little-endian ELF file (data encoding 1)", _ELFDATA2LSB, ident[5]),
        (6, "ELF version 1", _EV_CURRENT, ident[6]),
        (16, "an ELF core (type 4, ET_CORE)", _ET_CORE, kind),
    ):
        if found != expected:
            raise SourceError(
                f"this ELF file is no memory dump vmckpt reads: expected {what}, found {found}", offset=field
            )
    return table, section_table, entry_bytes, count, section_bytes


def _extended_count(file: SourceFile, section_table: int, section_bytes: int) -> int:
    """The number of program headers where e_phnum has no room for it."""
    if not section_table or section_bytes != _SECTION_HEADER.size:
        raise SourceError(
            "the number of program headers is said to be in section header 0: expected one of "
            f"{_SECTION_HEADER.size} bytes, found {section_bytes} bytes at offset {section_table}"
        )
    _check_within(file, "section header 0", section_table, _SECTION_HEADER.size)
    fields = _SECTION_HEADER.unpack(file.read_bytes(section_table, _SECTION_HEADER.size))
    return int(fields[7])


def _check_load(load: _Load, file_size_bytes: int) -> None:
    """Refuse a segment that contradicts itself or the file."""
    if load.memory_bytes < load.file_bytes:
        raise SourceError(
            f"{load} has more bytes in the file than in memory: "
            f"expected at most {load.memory_bytes}, found {load.file_bytes}"
        )
    for what, value in (
        ("address", load.gpa),
        ("size in memory", load.memory_bytes),
        ("size in the file", load.file_bytes),
    ):
        if value % PAGE_BYTES:
            raise SourceError(
                f"{load} does not consist of whole pages: "
                f"expected a multiple of {PAGE_BYTES} as its {what}, found {value:#x}"
            )
    # QEMU gives a segment without bytes in the file the offset 2^64 - 1.
    if load.file_bytes and load.offset + load.file_bytes > file_size_bytes:
        raise SourceError(
            f"{load} reaches past the end of the file, which was cut short: "
            f"expected at least {load.offset + load.file_bytes} bytes, found {file_size_bytes}"
        )


def _check_within(file: SourceFile, what: str, offset: int, size_bytes: int) -> None:
    if offset + size_bytes > file.size_bytes:
        raise SourceError(
            f"{what} reaches past the end of the file: "
            f"expected at least {offset + size_bytes} bytes, found {file.size_bytes}",
            offset=offset,
        )


def _check_disjoint(loads: list[_Load]) -> None:
    """Refuse segments (ascending) that hold the same guest-physical address."""
    for low, high in itertools.pairwise(loads):
        if high.gpa < low.end:
            raise SourceError(
                f"{high} overlaps {low}: expected it to start at {low.end:#x} or later. "
                "Is it the core of a process, or a dump taken with paging on? Take one of the machine, with paging off"
            )
