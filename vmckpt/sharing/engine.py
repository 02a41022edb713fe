"""The exact table of equal pages where memory is short: page hashes are spilled to files, by their first bits.

    sources, one after the other ─▶ scan ─▶ buffer ─ full ─▶ ordered by the first byte of the hash ─▶ 256 files
    file after file (in pieces, where one does not fit) ─▶ equal pages of it ─▶ SharingTable

Equal hashes meet in one file, so what the files give is put side by side, and is the table that `table_of` makes of all
hashes at once. On disk a page takes 16 bytes; in memory stay the buffer, one piece, and the rows of pages that have an
equal, which are the answer. The files have no name: a killed run leaves none.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np

from vmckpt.errors import IoError, UsageError
from vmckpt.pages import Source
from vmckpt.reports import Progress
from vmckpt.sharing.hashes import Hashes, PageNumbers
from vmckpt.sharing.scan import Scanned, scan
from vmckpt.sharing.table import Equals, Numbers, SharingTable, equals_of, table_of_parts

__all__ = ["LEAST_MEMORY_BYTES", "Counted", "Spill", "spilled_table"]

LEAST_MEMORY_BYTES = 16 << 20

_FILES = 256  # one for each first byte of a hash
_ROW = np.dtype([("hash", "<u8"), ("place", "<u8")])
_BUFFER_BYTES = 48  # of memory for each row in the buffer, while it is put in order
_PIECE_BYTES = 64  # the same for a piece that is sorted


Rows = np.ndarray[tuple[int], np.dtype[np.void]]
"""Of (hash, place)."""


class Counted(NamedTuple):
    """What an engine answers with: all that the estimate, the ranking and the plan are computed from."""

    images: tuple[Scanned, ...]
    """What is known of each image beside its hashes."""
    table: SharingTable
    """Of all images."""


def spilled_table(
    sources: Iterable[Source],
    *,
    memory_limit_bytes: int,
    jobs: int,
    large_page_bytes: int = 0,
    directory: str | None = None,
    progress: Progress | None = None,
) -> Counted:
    """Find equal pages among all sources, within a limit of memory.

    Args:
        sources: taken one after the other, so that they may be opened as they are taken.
        memory_limit_bytes: what buffer and pieces may take; interpreter, workers and the answer come on top.
        jobs: processes that hash.
        large_page_bytes: as for `scan`.
        directory: where to put the files; None: the temporary directory. 16 bytes for each page that is not zero.
        progress: told how far it has come in each source.

    Raises:
        UsageError: the limit is less than `LEAST_MEMORY_BYTES`.
        IoError: a file cannot be written; else what `scan` raises.
    """
    images: list[Scanned] = []
    with Spill(memory_limit_bytes, directory) as spill:
        for source in sources:
            images.append(
                scan(source, spill.add, jobs=jobs, large_page_bytes=large_page_bytes, progress=progress)
            )
            spill.end_image(images[-1].page_count)
        equals = list(spill.equals())
    page_counts = np.array([image.page_count for image in images], np.int64)
    zero_pages = np.array([image.zero_pages for image in images], np.int64)
    return Counted(tuple(images), table_of_parts(page_counts, zero_pages, equals))


class Spill:
    """Rows of (hash, place) on their way through files. One process and thread fills it, then empties it once."""

    __slots__ = ("_buffer", "_directory", "_files", "_filled", "_first_place", "_piece_rows", "_stack")

    def __init__(self, memory_limit_bytes: int, directory: str | None = None) -> None:
        """Open the files.

        Raises:
            UsageError: the limit is less than `LEAST_MEMORY_BYTES`.
            IoError: they cannot be made.
        """
        if memory_limit_bytes < LEAST_MEMORY_BYTES:
            raise UsageError(
                f"a memory limit of {memory_limit_bytes} bytes is too little to sort in: expected {LEAST_MEMORY_BYTES} or more"
            )
        self._directory = directory or tempfile.gettempdir()
        self._buffer = np.empty(memory_limit_bytes // _BUFFER_BYTES, _ROW)
        self._filled = 0
        self._piece_rows = memory_limit_bytes // _PIECE_BYTES
        self._first_place = 0
        self._stack = ExitStack()
        self._files: list[BinaryIO] = []
        try:
            for _ in range(_FILES):
                file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 - the stack's
                self._files.append(self._stack.enter_context(file))
        except OSError as error:
            self._stack.close()
            raise IoError.of(error, "cannot make files to spill to", path=self._directory) from error

    def add(self, pages: PageNumbers, hashes: Hashes) -> None:
        """Take pages of the present image.

        Raises:
            IoError: they cannot be written.
        """
        start = 0
        while start < len(pages):
            rows = self._buffer[self._filled : self._filled + len(pages) - start]
            rows["hash"] = hashes[start : start + len(rows)]
            rows["place"] = pages[start : start + len(rows)]
            rows["place"] += np.uint64(self._first_place)
            self._filled += len(rows)
            start += len(rows)
            if self._filled == len(self._buffer):
                self._write()

    def end_image(self, page_count: int) -> None:
        """Begin with the next image: the present one has so many pages."""
        self._first_place += page_count

    def equals(self) -> Iterator[Equals]:
        """What is equal, part after part of all hashes, ascending.

        Raises:
            IoError: the files cannot be written, or not be read.
        """
        self._write()
        self._buffer = np.empty(0, _ROW)  # what it took is the pieces' from now on
        for file in self._files:
            yield from self._equals_in(file)

    def _equals_in(self, file: BinaryIO) -> Iterator[Equals]:
        rows = file.tell() // _ROW.itemsize
        bits = max(0, (rows - 1) // self._piece_rows).bit_length()
        for piece in range(1 << bits):
            hashes, places = self._piece(file, rows, piece, bits)
            yield equals_of(hashes, places)
            del hashes, places  # before the next piece takes as much

    def _piece(self, file: BinaryIO, rows: int, piece: int, bits: int) -> tuple[Hashes, Numbers]:
        """The rows whose hash goes on, after its first byte, with the `bits` bits of `piece`."""
        hashes, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for chunk in self._chunks(file, rows):
            found = chunk
            if bits:
                found = chunk[chunk["hash"] << np.uint64(8) >> np.uint64(64 - bits) == piece]
            hashes.append(found["hash"].copy())
            places.append(found["place"].astype(np.int64))
        return np.concatenate(hashes), np.concatenate(places)

    def _chunks(self, file: BinaryIO, rows: int) -> Iterator[Rows]:
        chunk = np.empty(min(rows, max(1, self._piece_rows // 4)), _ROW)
        for first in range(0, rows, len(chunk) or 1):
            part = chunk[: rows - first]
            into = part.view(np.uint8).data
            offset = first * _ROW.itemsize
            try:
                while into:
                    read = os.preadv(file.fileno(), [into], offset)
                    if not read:
                        raise IoError("a file that pages were spilled to is short", path=self._directory)
                    into, offset = into[read:], offset + read
            except OSError as error:
                raise IoError.of(error, "cannot read what was spilled", path=self._directory) from error
            yield part

    def _write(self) -> None:
        # Everything in the buffer, each row to the file of its hash's first byte.
        rows = self._buffer[: self._filled]
        self._filled = 0
        first_byte = (rows["hash"] >> np.uint64(56)).astype(np.uint8)
        ordered = rows[np.argsort(first_byte, kind="stable")]
        ends = np.cumsum(np.bincount(first_byte, minlength=_FILES))
        try:
            for file, start, end in zip(self._files, [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
                rest = ordered[start:end].view(np.uint8).data
                while rest:
                    rest = rest[file.write(rest) :]
        except OSError as error:
            raise IoError.of(error, "cannot spill page hashes", path=self._directory) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
