"""The file of a sketch, and the key that sketches are made with.

    +--------+---------+-------------+-------------+----------+
    | header | sources | values: u64 | counts: u32 | checksum |      docs/fleets.md has the table
    +--------+---------+-------------+-------------+----------+

In: bytes of whoever sent them, checked for length, magic, version, bounds and checksum before they are used. Out: a
`Sketch`. A sketch says something of a machine's memory, so its file is for its owner alone.
"""

import os
import stat
import struct
from typing import NamedTuple

import numpy as np

from vmckpt.errors import CorruptionError, FormatError, IoError, UsageError
from vmckpt.hashing import checksum, checksum_of
from vmckpt.output import AtomicFile
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.sketch import Sketch

__all__ = [
    "HEADER",
    "MAGIC",
    "VERSION",
    "Header",
    "check_large_pages",
    "is_sketch",
    "pack_sketch",
    "read_key",
    "read_sketch",
    "unpack_sketch",
    "write_sketch",
]

MAGIC = b"VMSKCH\x1a\n"
VERSION = 1
HEADER = struct.Struct("<8sHHIII8sQQQQQ")

_HASH = 1  # XXH3-64 (seed 0) of the page, of that SipHash-2-4
_CHECKSUM = struct.Struct("<Q")
_VALUE_BYTES = 8
_COUNT_BYTES = 4
_MOST_PAGES = 1 << 52
_MOST_LARGE_PAGE_BYTES = 1 << 31  # the power of two that four bytes hold
_MOST_COPIES = (1 << 32) - 1
_ALL = 1 << 64  # a threshold that keeps all; written as 0
_KEY_BYTES = 1 << 20


class Header(NamedTuple):
    """The fixed part at the start of the file."""

    magic: bytes
    version: int
    hash: int
    page_bytes: int
    large_page_bytes: int
    sources_bytes: int
    key_id: bytes
    threshold: int
    page_count: int
    zero_pages: int
    large_pages: int
    values: int


def check_large_pages(large_page_bytes: int) -> None:
    """See that a sketch's file can tell the size of its large pages.

    Raises:
        UsageError: it cannot.
    """
    if large_page_bytes > _MOST_LARGE_PAGE_BYTES:
        raise UsageError(
            f"a sketch's file knows large pages of up to {_MOST_LARGE_PAGE_BYTES} bytes, and these have {large_page_bytes}: "
            "ask without --sketch-out, or with a smaller --large-page"
        )


def pack_sketch(sketch: Sketch) -> bytes:
    """The whole file.

    Raises:
        UsageError: a content has more copies than the file can count, or a large page more bytes.
    """
    if int(sketch.counts.max(initial=0)) > _MOST_COPIES:
        raise UsageError(
            f"a content has {int(sketch.counts.max())} copies, and a sketch's file counts to {_MOST_COPIES}: "
            "merge fewer sketches into one"
        )
    check_large_pages(sketch.large_page_bytes)
    sources = b"".join(os.fsencode(source) + b"\0" for source in sketch.sources)
    header = Header(
        MAGIC,
        VERSION,
        _HASH,
        PAGE_BYTES,
        sketch.large_page_bytes,
        len(sources),
        sketch.key_id,
        sketch.threshold % _ALL,
        sketch.page_count,
        sketch.zero_pages,
        sketch.large_pages,
        len(sketch.values),
    )
    parts = (
        HEADER.pack(*header),
        sources,
        sketch.values.astype("<u8").tobytes(),
        sketch.counts.astype("<u4").tobytes(),
    )
    return b"".join([*parts, _CHECKSUM.pack(checksum_of(*parts))])


def unpack_sketch(data: bytes, path: str) -> Sketch:
    """The sketch that `data` is, checked in this order: length, magic, version, bounds, checksum, content.

    Args:
        data: the whole file.
        path: for messages.

    Raises:
        FormatError: no sketch, or one of a version, hash or page size that is not known.
        CorruptionError: a sketch that was cut short or damaged.
    """
    header = _header_of(data, path)
    _check_bounds(header, len(data), path)
    (written,) = _CHECKSUM.unpack_from(data, len(data) - _CHECKSUM.size)
    computed = checksum(memoryview(data)[: -_CHECKSUM.size])
    if computed != written:
        raise CorruptionError(
            f"the sketch's checksum is {computed:016x}, expected {written:016x}: it was damaged", path=path
        )
    names = HEADER.size + header.sources_bytes
    counts = names + header.values * _VALUE_BYTES
    sketch = Sketch(
        tuple(os.fsdecode(name) for name in data[HEADER.size : names].split(b"\0")[:-1]),
        header.key_id,
        header.threshold or _ALL,
        header.large_page_bytes,
        header.large_pages,
        header.page_count,
        header.zero_pages,
        np.frombuffer(data, "<u8", header.values, names).astype(np.uint64),
        np.frombuffer(data, "<u4", header.values, counts).astype(np.int64),
    )
    _check_content(sketch, data[HEADER.size : names], path)
    return sketch


def _header_of(data: bytes, path: str) -> Header:
    if len(data) < HEADER.size:
        if len(data) >= len(MAGIC) and data.startswith(MAGIC):
            raise CorruptionError(
                f"the sketch was cut short: its header is {HEADER.size} bytes long, found {len(data)}",
                path=path,
            )
        raise FormatError("this is no sketch: it does not start with a sketch's magic", path=path)
    header = Header._make(HEADER.unpack_from(data))
    if header.magic != MAGIC:
        raise FormatError("this is no sketch: it does not start with a sketch's magic", path=path)
    for what, found, expected in (
        ("format version", header.version, VERSION),
        ("hash", header.hash, _HASH),
        ("page size", header.page_bytes, PAGE_BYTES),
    ):
        if found != expected:
            raise FormatError(
                f"the sketch's {what} is {found}, so it cannot be compared with others: this vmckpt reads {expected}",
                path=path,
            )
    return header


def _check_bounds(header: Header, file_bytes: int, path: str) -> None:
    expected = (
        HEADER.size + header.sources_bytes + header.values * (_VALUE_BYTES + _COUNT_BYTES) + _CHECKSUM.size
    )
    if file_bytes != expected:
        raise CorruptionError(
            f"the sketch is {file_bytes} bytes long, expected {expected} for {header.values} values: "
            "it was cut short or damaged",
            path=path,
        )
    if not header.values <= header.page_count - header.zero_pages <= header.page_count <= _MOST_PAGES:
        raise CorruptionError(
            f"the sketch claims {header.values} values, {header.page_count} pages and {header.zero_pages} zero pages: "
            f"expected at most {_MOST_PAGES} pages, and no more values than pages that are not zero",
            path=path,
        )


def _check_content(sketch: Sketch, sources: bytes, path: str) -> None:
    data_pages = sketch.page_count - sketch.zero_pages
    kept = int(sketch.counts.sum())
    size = sketch.large_page_bytes
    problems = {
        "its sources are no list of names": not sources.endswith(b"\0") or b"" in sources[:-1].split(b"\0"),
        "its sources do not ascend": list(sketch.sources) != sorted(sketch.sources),
        "its values do not ascend": bool((sketch.values[1:] <= sketch.values[:-1]).any()),
        "a value is not below its threshold": bool(
            len(sketch.values) and int(sketch.values[-1]) >= sketch.threshold
        ),
        "a value has no pages": not sketch.counts.all(),
        "it counts more pages than there are": kept > data_pages,
        "it keeps all and lacks some": sketch.threshold == _ALL and kept != data_pages,
        "its large pages are no power of two of pages": size != 0
        and (size < PAGE_BYTES or size & (size - 1)),
        "it counts more large pages than pages": sketch.large_pages > (sketch.page_count if size else 0),
    }
    for problem, found in problems.items():
        if found:
            raise CorruptionError(f"the sketch contradicts itself: {problem}", path=path)


def is_sketch(path: str) -> bool:
    """Whether the file at `path` starts as a sketch; False of what cannot be opened or is no file, and of a stream (`-`)."""
    if path == "-":
        return False
    try:
        with open(path, "rb") as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def read_sketch(path: str) -> Sketch:
    """Read a sketch.

    Raises:
        IoError: it cannot be read.
        FormatError, CorruptionError: as `unpack_sketch` says.
    """
    try:
        with open(path, "rb") as file:
            # The header first: what is no sketch is not read whole.
            data = file.read(HEADER.size)
            header = _header_of(data, path)
            _check_bounds(header, os.fstat(file.fileno()).st_size, path)
            data += file.read()
    except OSError as error:
        raise IoError.of(error, "cannot read the sketch", path=path) from error
    return unpack_sketch(data, path)


def write_sketch(sketch: Sketch, path: str, *, force: bool = False) -> int:
    """Write a sketch, whole or not at all, for its owner alone (mode 0600).

    Returns:
        the size of the file in bytes.

    Raises:
        IoError: it cannot be written, or is there already and `force` is not given.
        UsageError: as `pack_sketch` says.
    """
    data = pack_sketch(sketch)
    with AtomicFile(path, force=force) as file:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(file.fd, rest) :]
        except OSError as error:
            raise IoError.of(error, "cannot write the sketch", path=path) from error
        file.commit()
    return len(data)


def read_key(path: str) -> bytes:
    """The key in a file: all its bytes, whatever they are.

    Raises:
        IoError: it cannot be read.
        UsageError: it is empty or far too long, or others than its owner may read it.
    """
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(_KEY_BYTES + 1)
    except OSError as error:
        raise IoError.of(error, "cannot read the key", path=path) from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise UsageError(
            f"others than its owner may use this key: expected mode 600 or less, found {mode & 0o777:o}; "
            "`chmod 600` it",
            path=path,
        )
    if not 0 < len(secret) <= _KEY_BYTES:
        found = "none" if not secret else "more"
        raise UsageError(f"a key has 1 to {_KEY_BYTES} bytes, and this file has {found}", path=path)
    return secret
