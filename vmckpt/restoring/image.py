"""What an eager restore writes, planned without writing it: a raw image, or an ELF core.

In: a memory layout. Out: an `ImagePlan`, the file's first bytes and where in it the pages start. The eager restore
carries it out; whatever it leaves unwritten is a hole and reads as zeros.

    raw    [ region 0 ][ region 1 ] ...                               page p at p * 4096
    elf    [ header | program headers | 0 ... )[ region 0 ][ region 1 ] ...
           └ offset 0 ─────────────────────────┴ a multiple of 4096, so that holes stay holes

The ELF core is what QEMU's `dump-guest-memory` writes with paging off, but for its notes (a checkpoint of memory has no
registers to put there) and its alignment: one PT_LOAD for each region, p_paddr its guest-physical address. p_vaddr is
the same: QEMU writes it so (where a mapping has no virtual address), and with 0 all segments would lie on each other
for a debugger that goes by virtual addresses.
"""

import struct
from typing import NamedTuple

from vmckpt.layout import PAGE_BYTES, Layout

__all__ = ["ImagePlan", "plan_elf", "plan_raw"]

# e_ident, e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum,
# e_shentsize, e_shnum, e_shstrndx
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
# p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
# sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, sh_addralign, sh_entsize
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")

_IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64-bit, little-endian, version 1
_ET_CORE = 4
_EM_X86_64 = 62
_EV_CURRENT = 1
_PT_LOAD = 1
_PF_READ_WRITE_EXECUTE = 7
_PN_XNUM = 0xFFFF


class ImagePlan(NamedTuple):
    """Where everything goes in a restored image: page p at `data_offset + p * PAGE_BYTES`, whatever its region."""

    head: bytes
    """The file's first bytes."""
    data_offset: int
    """File offset of page 0, a multiple of the page size."""
    file_bytes: int
    """The length of the whole file."""


def plan_raw(layout: Layout) -> ImagePlan:
    """The plan of a raw image: the regions one behind the other, the holes between them left out."""
    return ImagePlan(b"", 0, layout.memory_bytes)


def plan_elf(layout: Layout) -> ImagePlan:
    """The plan of an ELF core (x86-64, 64-bit, little-endian), whatever the number of regions."""
    count = len(layout.regions)
    # As in `sources.elf`: e_phnum holds less than 0xffff; a greater number stands in section header 0.
    sections = b"" if count < _PN_XNUM else _section_header(count)
    table = _HEADER.size + len(sections)
    data = -(-(table + count * _PROGRAM_HEADER.size) // PAGE_BYTES) * PAGE_BYTES
    header = _HEADER.pack(
        _IDENT, _ET_CORE, _EM_X86_64, _EV_CURRENT, 0, table, _HEADER.size if sections else 0, 0, _HEADER.size,
        _PROGRAM_HEADER.size, min(count, _PN_XNUM), _SECTION_HEADER.size, 1 if sections else 0, 0,
    )  # fmt: skip
    head = header + sections + _program_headers(layout, data)
    return ImagePlan(head, data, data + layout.memory_bytes)


def _program_headers(layout: Layout, data: int) -> bytes:
    return b"".join(
        _PROGRAM_HEADER.pack(
            _PT_LOAD, _PF_READ_WRITE_EXECUTE, data + region.first_page * PAGE_BYTES, region.gpa, region.gpa,
            region.size_bytes, region.size_bytes, PAGE_BYTES,
        )
        for region in layout.regions
    )  # fmt: skip


def _section_header(program_headers: int) -> bytes:
    return _SECTION_HEADER.pack(0, 0, 0, 0, 0, 0, 0, program_headers, 0, 0)
