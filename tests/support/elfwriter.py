"""An ELF core writer for tests, from the ELF specification (gABI chapters 4 and 5) and from nothing of vmckpt.

A field is put at its own offset, so that a test can give every one of them a wrong value. Numbers are those of the
specification's Elf64 tables.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["EHDR", "EHDR_BYTES", "PHDR", "PHDR_BYTES", "SHDR_BYTES", "ElfCore", "Load", "encode"]

EHDR_BYTES = 64
PHDR_BYTES = 56
SHDR_BYTES = 64

# field -> (offset in its table, width in bytes)
EHDR = {
    "ei_class": (4, 1),
    "ei_data": (5, 1),
    "ei_version": (6, 1),
    "e_type": (16, 2),
    "e_machine": (18, 2),
    "e_version": (20, 4),
    "e_entry": (24, 8),
    "e_phoff": (32, 8),
    "e_shoff": (40, 8),
    "e_flags": (48, 4),
    "e_ehsize": (52, 2),
    "e_phentsize": (54, 2),
    "e_phnum": (56, 2),
    "e_shentsize": (58, 2),
    "e_shnum": (60, 2),
    "e_shstrndx": (62, 2),
}
PHDR = {
    "p_type": (0, 4),
    "p_flags": (4, 4),
    "p_offset": (8, 8),
    "p_vaddr": (16, 8),
    "p_paddr": (24, 8),
    "p_filesz": (32, 8),
    "p_memsz": (40, 8),
    "p_align": (48, 8),
}
_SH_INFO = (44, 4)


def encode(table: Mapping[str, tuple[int, int]], size_bytes: int, values: Mapping[str, int]) -> bytes:
    """One table entry with `values` in their places, zeros elsewhere."""
    entry = bytearray(size_bytes)
    for name, value in values.items():
        offset, width = table[name]
        entry[offset : offset + width] = value.to_bytes(width, "little")
    return bytes(entry)


@dataclass
class Load:
    """One segment: where in memory, what of it is in the file, and fields to be wrong on purpose."""

    gpa: int
    content: bytes
    memory_bytes: int | None = None  # p_memsz; None: as long as the content
    fields: dict[str, int] = field(default_factory=dict)


@dataclass
class ElfCore:
    """A whole file. Content follows the tables at once, unaligned as QEMU's does, unless `data_offset` says where."""

    loads: Sequence[Load]
    fields: dict[str, int] = field(default_factory=dict)  # of the ELF header
    note: bytes | None = None  # a PT_NOTE before the segments
    data_offset: int | None = None
    gap_bytes: int = 0  # between the contents of two segments
    extended: bool = False  # the number of program headers is in section header 0

    def headers(self) -> list[dict[str, int]]:
        """The program headers, field by field."""
        offset = self._data_offset()
        headers = []
        if self.note is not None:
            size = len(self.note)
            headers.append({"p_type": 4, "p_offset": offset - size, "p_filesz": size, "p_memsz": size})
        for load in self.loads:
            size = len(load.content)
            headers.append(
                {
                    "p_type": 1,
                    "p_offset": offset,
                    "p_vaddr": load.gpa,
                    "p_paddr": load.gpa,
                    "p_filesz": size,
                    "p_memsz": size if load.memory_bytes is None else load.memory_bytes,
                    **load.fields,
                }
            )
            offset += size + self.gap_bytes
        return headers

    def write(self, path: str | os.PathLike[str]) -> str:
        """Write the file, all-zero pages of content as holes; returns its path."""
        headers = self.headers()
        with open(path, "wb") as file:
            file.write(self._tables(headers))
            offset = self._data_offset()
            if self.note is not None:
                file.seek(offset - len(self.note))
                file.write(self.note)
            for load in self.loads:
                for start in range(0, len(load.content), 4096):
                    if any(page := load.content[start : start + 4096]):
                        file.seek(offset + start)
                        file.write(page)
                offset += len(load.content) + self.gap_bytes
            file.truncate(max(offset - (self.gap_bytes if self.loads else 0), file.tell()))
        return os.fspath(path)

    def _count(self) -> int:
        return len(self.loads) + (self.note is not None)

    def _section_bytes(self) -> int:
        return SHDR_BYTES if self.extended else 0

    def _data_offset(self) -> int:
        if self.data_offset is not None:
            return self.data_offset
        return EHDR_BYTES + self._section_bytes() + self._count() * PHDR_BYTES + len(self.note or b"")

    def _tables(self, headers: Sequence[Mapping[str, int]]) -> bytes:
        header = {
            "ei_class": 2,
            "ei_data": 1,
            "ei_version": 1,
            "e_type": 4,
            "e_machine": 62,
            "e_version": 1,
            "e_phoff": EHDR_BYTES + self._section_bytes(),
            "e_ehsize": EHDR_BYTES,
            "e_phentsize": PHDR_BYTES,
            "e_phnum": 0xFFFF if self.extended else self._count(),
        }
        section = b""
        if self.extended:
            header |= {"e_shoff": EHDR_BYTES, "e_shentsize": SHDR_BYTES, "e_shnum": 1}
            section = encode({"sh_info": _SH_INFO}, SHDR_BYTES, {"sh_info": self._count()})
        start = b"\x7fELF" + encode(EHDR, EHDR_BYTES, header | self.fields)[4:]
        return start + section + b"".join(encode(PHDR, PHDR_BYTES, entry) for entry in headers)
