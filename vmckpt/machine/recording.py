"""What a real program did to its memory, as valgrind's lackey wrote it down.

    valgrind --tool=lackey --trace-mem=yes --log-file=sort.trace sort FILE        (gzip it if you like)

        I  04015c10,3     an instruction fetched     ─▶ a read; fetches from one page in a row count once
         L 1ffeffe8,8     a load                     ─▶ a read
         S 1ffeffe0,8     a store                    ─▶ a write
         M 0421bcb8,4     a load and a store         ─▶ a read and a write

Pages get new numbers: 0 for the lowest that occurs, then on, without gaps. Called by `session`; `operations` replays it.
The file may be anybody's: its length and its lines are checked.
"""

# array[int] cannot be evaluated before Python 3.12.
from __future__ import annotations

import gzip
import zlib
from array import array
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import BinaryIO, NamedTuple

from vmckpt.errors import IoError, SourceError

__all__ = ["OFFSET_BITS", "Recording", "read_recording"]

OFFSET_BITS = 12
"""Bits of a place within a page."""

_MOST_ACCESSES = 1 << 24
_MOST_LINE_BYTES = 4096
_GZIP = b"\x1f\x8b"
_WRITES = {b"I": (0,), b" L": (0,), b" S": (1,), b" M": (0, 1)}


class Recording(NamedTuple):
    """The accesses of a program, in order."""

    pages: int
    """How many pages it touched."""
    accesses: array[int]
    """Each `(page << OFFSET_BITS | offset in the page) << 1 | 1 if it writes`."""
    fingerprint: str
    """32 hex digits that follow from the accesses: a machine resumes only with the recording that it had."""


def read_recording(path: str) -> Recording:
    """Read a recording, gzipped or not.

    Raises:
        IoError: it cannot be read.
        SourceError: it is no such recording, or too long.
    """
    try:
        with open(path, "rb") as file:
            is_gzip = file.peek(2)[:2] == _GZIP
            with gzip.open(file) if is_gzip else file as lines:
                accesses = array("Q", _accesses(_lines(lines, path), path))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"the recording is no whole gzip file: {error}", path=path) from error
    except OSError as error:
        raise IoError.of(error, "cannot read the recording", path=path) from error
    if not accesses:
        raise SourceError(
            "no memory access is recorded there: expected what `valgrind --tool=lackey --trace-mem=yes` writes",
            path=path,
        )
    return _renumbered(accesses)


def _lines(file: BinaryIO | gzip.GzipFile, path: str) -> Iterator[bytes]:
    number = 0
    while line := file.readline(_MOST_LINE_BYTES):
        number += 1
        if len(line) == _MOST_LINE_BYTES:
            raise SourceError(f"line {number} of the recording has no end: it is no text", path=path)
        yield line


def _accesses(lines: Iterable[bytes], path: str) -> Iterator[int]:
    """Addresses as recorded, doubled, plus 1 for a write; lines that record no access are skipped."""
    fetched = -1
    count = 0
    for number, line in enumerate(lines, 1):
        writes = _WRITES.get(line[:2].rstrip())
        if writes is None or line[2:3] != b" ":
            continue
        try:
            address = int(line[3:].partition(b",")[0], 16)
        except ValueError:
            address = -1
        if not 0 <= address < 1 << 62:
            raise SourceError(f"line {number} of the recording has no address: {line[:40]!r}", path=path)
        if line[:1] == b"I":
            if address >> OFFSET_BITS == fetched:
                continue
            fetched = address >> OFFSET_BITS
        count += len(writes)
        if count > _MOST_ACCESSES:
            raise SourceError(
                f"the recording is too long: expected {_MOST_ACCESSES} accesses at most", path=path
            )
        for write in writes:
            yield address << 1 | write


def _renumbered(accesses: array[int]) -> Recording:
    pages = sorted({access >> OFFSET_BITS + 1 for access in accesses})
    number_of = {page: number for number, page in enumerate(pages)}
    low_bits = (1 << OFFSET_BITS + 1) - 1
    renumbered = array(
        "Q",
        (number_of[access >> OFFSET_BITS + 1] << OFFSET_BITS + 1 | access & low_bits for access in accesses),
    )
    return Recording(len(pages), renumbered, sha256(repr(renumbered.tolist()).encode()).hexdigest()[:32])
