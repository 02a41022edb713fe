r"""Anything that holds guest memory, opened by what it contains and never by what it is called.

In: a path, or `-` for standard input. Out: a `Source` (`pages`). `api` and the machine call
`open_source`; where nothing but a checkpoint will do, `api` calls `open_checkpoint`.

    path ─▶ descriptor ─┬─ can seek ───────────────▶ file ─▶ its bytes ─┬─ VMCKPT\x1a\n ─────▶ checkpoint.reader
                        └─ cannot: spooled (pipe) ─▶ file               ├─ \x7fELF ───────────▶ elf
                                                                        ├─ a footer at the end ▶ checkpoint.reader, which says what is damaged
                                                                        └─ anything else ──────▶ raw
"""

# Annotations name a class that is imported late.
from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from vmckpt.checkpoint.format import FOOTER, FOOTER_MAGIC, MAGIC
from vmckpt.errors import FormatError, IoError, SourceError, UsageError
from vmckpt.pages import PAGE_BYTES, Source
from vmckpt.sources.file import SourceFile

if TYPE_CHECKING:
    from vmckpt.checkpoint.reader import Checkpoint

__all__ = ["open_checkpoint", "open_source"]

_ELF_MAGIC = b"\x7fELF"
# What people have lying about beside memory images. Taken for raw memory, each would be saved without a word.
_NO_MEMORY_IMAGE = {
    b"KDUMP   ": "a kdump-compressed dump: take it again in ELF format",
    b"makedump": "a flattened kdump dump: take it again in ELF format",
    b"LibvirtQ": "a libvirt save file: take a dump with `virsh dump --memory-only` instead",
    b"QEVM": "a QEMU migration stream: take a dump with `dump-guest-memory` instead",
    b"QFI\xfb": "a qcow2 disk image",
    b"VMSKCH\x1a\n": "a sketch of one, which `vmckpt estimate-sharing` takes by its file's name",
}


def open_source(path: str) -> Source:
    """Open the guest memory at `path` (`-`: standard input), whatever kind it is.

    Streams are copied to a temporary file first. Close the source in the end.

    Raises:
        IoError: it cannot be opened or read, or a stream does not fit into the temporary directory.
        SourceError: it holds no guest memory, or none that vmckpt reads.
        CorruptionError: it is a checkpoint that was damaged.
        UsageError: it is a terminal.
    """
    file = _open_file(path)
    try:
        return _open_content(file)
    except BaseException:
        file.close()
        raise


def open_checkpoint(path: str) -> Checkpoint:
    """Open the checkpoint at `path` (`-`: standard input), and refuse anything else.

    Streams are copied to a temporary file first. Close the checkpoint in the end.

    Raises:
        FormatError: it is no checkpoint, or one that this version cannot read.
        CorruptionError: it was cut short or damaged where opening looks.
        IoError, SourceError, UsageError: as `open_source` says of what cannot be opened.
    """
    file = _open_file(path)
    try:
        head = file.head(len(MAGIC))
        if head != MAGIC and not _ends_as_checkpoint(file):
            raise FormatError(f"this is not a checkpoint: {_what_it_is(file, head)}", path=file.name)
        from vmckpt.checkpoint.reader import Checkpoint  # noqa: PLC0415 - start-up: only what is needed

        return Checkpoint.from_descriptor(file.detach(), file.name)
    except BaseException:
        file.close()
        raise


def _what_it_is(file: SourceFile, head: bytes) -> str:
    if not head:
        return "it is empty"
    for magic, what in _NO_MEMORY_IMAGE.items():
        if head.startswith(magic):
            return f"it is {what}"
    if head.startswith(_ELF_MAGIC):
        return "it is an ELF core; `vmckpt save` makes one of it"
    if not file.size_bytes % PAGE_BYTES:
        return "it is a raw image; `vmckpt save` makes one of it"
    return f"it does not start as one, and with {file.size_bytes} bytes it is no memory image either"


def _open_content(file: SourceFile) -> Source:
    head = file.head(len(MAGIC))
    if head.startswith(_ELF_MAGIC):
        from vmckpt.sources.elf import elf_source  # noqa: PLC0415 - start-up: only what is needed

        return elf_source(file)
    if head == MAGIC or _ends_as_checkpoint(file):
        from vmckpt.checkpoint.reader import Checkpoint  # noqa: PLC0415 - as above

        return Checkpoint.from_descriptor(file.detach(), file.name)
    for magic, what in _NO_MEMORY_IMAGE.items():
        if head.startswith(magic):
            raise SourceError(f"this is no memory image but {what}", path=file.name)
    from vmckpt.sources.raw import raw_source  # noqa: PLC0415 - as above

    return raw_source(file)


def _ends_as_checkpoint(file: SourceFile) -> bool:
    """Whether there is a footer: a checkpoint with a damaged header is corrupt, and no raw image."""
    offset = file.size_bytes - FOOTER.size
    return offset > 0 and file.read_bytes(offset, len(FOOTER_MAGIC)) == FOOTER_MAGIC


def _open_file(path: str) -> SourceFile:
    fd = _open_descriptor(path)
    try:
        if _can_seek(fd, path):
            return SourceFile(fd, path)
    except BaseException:
        os.close(fd)
        raise
    from vmckpt.sources.pipe import spool  # noqa: PLC0415 - streams are the exception

    try:
        return spool(fd, path)
    finally:
        os.close(fd)


def _open_descriptor(path: str) -> int:
    if not path:
        raise IoError("cannot open the input: its name is empty")
    try:
        return os.dup(0) if path == "-" else os.open(path, os.O_RDONLY)
    except OSError as error:
        # open() answers ENXIO for a socket, but for a device without a driver as well.
        if error.errno == errno.ENXIO and _is_socket(path):
            raise SourceError(
                "this is a socket: `vmckpt save`, `vmckpt digest` and `vmckpt estimate-sharing` (not on a cluster) take the "
                "control socket of a running machine, and nothing else does; give its memory image, a dump or a "
                "checkpoint of it",
                path=path,
            ) from error
        raise IoError.of(error, "cannot open", path=path) from error


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _can_seek(fd: int, path: str) -> bool:
    """Whether `fd` can be read in place, from its first byte on; what is no input at all is refused."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise SourceError(
            "this is a directory: expected a memory image, an ELF core or a checkpoint", path=path
        )
    if os.isatty(fd):
        raise UsageError(
            "this is a terminal: expected guest memory from a file or a pipe (such as `cmd | vmckpt ...`)",
            path=path,
        )
    try:
        # Standard input may be a file that somebody has read a part of: then it is a stream of the rest.
        return os.lseek(fd, 0, os.SEEK_CUR) == 0 and os.lseek(fd, 0, os.SEEK_END) >= 0
    except OSError:
        return False
