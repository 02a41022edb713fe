"""What there was before: memory from an uncompressed image in page order, one page for each fault, on our own engine.

    fault ─▶ page p ─▶ one read of 4 KiB at p * 4096 ─▶ the page

That is how a hypervisor restores lazily that takes the checkpoint for a swap file (Halite, ATC'13, 2). The machine's
state comes from a checkpoint of the same memory. The peer is spared what we pay for: it has no index, proves no checksum,
and knows for free which pages are zero. Used by `restored`.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import Self

from vmckpt.bench.pace import Clock, PacedStore, wait_until
from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.codec import RAW
from vmckpt.checkpoint.file import Place
from vmckpt.checkpoint.format import STORED
from vmckpt.errors import IoError
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.restoring.expanded import Expanded, Piece
from vmckpt.sources import open_source

__all__ = ["PageStore"]


class PageStore(PacedStore):
    """An engine's storage whose memory blocks, and storage blocks, are the pages of an image."""

    def __init__(self, fd: int, name: str, clock: Clock) -> None:
        """As `PacedStore.on`; see `beside`."""
        super().__init__(fd, name, clock)
        self.peeks = False  # into the checkpoint, which only lends the machine's state
        self._image = ""
        self._starts: Sequence[int] = ()
        self._ends: Sequence[int] = ()
        self._pid = self._image_fd = -1

    @classmethod
    def beside(cls, path: str, image: str, clock: Clock) -> Self:
        """Take the machine's state from the checkpoint at `path`, its memory from the raw image at `image`."""
        store = cls.on(path, clock)
        store.take(image)
        return store

    def take(self, image: str) -> None:
        """Find the holes of the image."""
        self._image = image
        with open_source(image) as source:
            runs = list(source.data_ranges())
        self._starts, self._ends = [run.start for run in runs], [run.end for run in runs]

    @property
    def block_pages(self) -> int:
        """A page."""
        return 1

    @property
    def storage_blocks(self) -> int:
        """One for each page."""
        return self.page_count

    def place_of(self, memory_block: int) -> Place | None:
        """Where it would lie in a file of pages; None: in a hole."""
        at = bisect_right(self._starts, memory_block) - 1
        return Place(memory_block, 0) if at >= 0 and memory_block < self._ends[at] else None

    def holds(self, number: int) -> bool:
        """Nothing is kept."""
        del number
        return False

    def is_near(self, number: int) -> bool:
        """As `holds`."""
        del number
        return False

    def load(self, number: int) -> bool:
        """There is nothing to read before the page itself."""
        del number
        return True

    def memory_blocks(self, number: int, *, load: bool = True) -> list[int]:
        """Itself, if it is not in a hole."""
        del load
        return [] if self.place_of(number) is None else [number]

    def data_runs(self, number: int, place: Place) -> list[PageRange]:
        """Itself."""
        del place
        return [PageRange(number, number + 1)]

    def duplicates(self, number: int, place: Place) -> tuple[MemoryBlock, list[tuple[int, int]]]:
        """None: an image has each page where it belongs."""
        del place
        return _block(number), []

    def expanded(self, number: int, place: Place) -> Expanded:
        """Read the page."""
        del place
        offset = number * PAGE_BYTES
        self.reads += 1
        self.read_bytes += PAGE_BYTES
        done_s = self._clock.begin(offset, PAGE_BYTES)
        try:
            content = os.pread(self._image_descriptor(), PAGE_BYTES, offset)
        except OSError as error:
            raise IoError.of(error, "cannot read the image", path=self._image, offset=offset) from error
        wait_until(done_s)
        pages = PageRange(number, number + 1)
        return Expanded(_block(number), pages, [Piece(pages, memoryview(content))], [])

    def _image_descriptor(self) -> int:
        if self._pid != os.getpid():  # a fork keeps only the checkpoint's descriptor
            self._image_fd = os.open(self._image, os.O_RDONLY | os.O_CLOEXEC)
            self._pid = os.getpid()
        return self._image_fd


def _block(number: int) -> MemoryBlock:
    return MemoryBlock(number, 0, RAW, bytes([STORED]), b"", b"", b"", 0, PAGE_BYTES)
