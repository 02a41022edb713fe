"""What a cluster computes, piece by piece: plain functions of plain values, each by itself and in any process.

    path ─▶ describe ─▶ ranges of pages ─▶ hash_range ─▶ `Piece`: its page hashes, a shard for each run of first bits
    shard k of all pieces ─▶ equals_of_shard ─▶ rows of the table                  (the table is all shards side by side)

or, of a sample, `Piece`s with what the selection keeps. A function opens what it needs and keeps nothing, so it may run
again elsewhere; a path means the same file wherever it runs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.errors import ChangedError
from vmckpt.hashing import ZERO_PAGE_HASH, pack_hashes, page_hashes
from vmckpt.layout import Layout
from vmckpt.pages import PAGE_BYTES, PageRange, Source
from vmckpt.sharing.hashes import Hashes, PageNumbers, active_of, number_type
from vmckpt.sharing.scan import Batch, Scanned, data_of, large_pages_in
from vmckpt.sharing.selection import Selection, keep_below, threshold_of
from vmckpt.sharing.table import Equals, Numbers, equals_of
from vmckpt.sources import open_source

__all__ = [
    "RANGE_PAGES",
    "Described",
    "Piece",
    "describe",
    "equals_of_shard",
    "hash_range",
    "ranges_of",
    "scanned_of",
    "shard_of",
]

RANGE_PAGES = 1 << 19
"""Pages of one task: 2 GiB of memory, so that a killed worker costs a few seconds."""

_READ_PAGES = 64
_UNIT_PAGES = 16
_ZEROS = bytearray(_UNIT_PAGES * PAGE_BYTES)
_ZERO_HASHES = ZERO_PAGE_HASH.to_bytes(8, "little") * _UNIT_PAGES


class Described(NamedTuple):
    """An image, before a page of it was read."""

    path: str
    regions: tuple[tuple[int, int], ...]
    """(guest-physical address, bytes) of each region."""
    identity: bytes
    """Of the state of the file."""
    keeps_hashes: bool
    """Whether it brings its page hashes: a checkpoint."""
    active: Numbers | None
    """Pages that were touched while the memory was saved; None: not known."""

    @property
    def layout(self) -> Layout:
        """Its regions, as page numbers count through them."""
        return Layout(self.regions)


class Piece(NamedTuple):
    """What is known of a range of an image's pages."""

    shards: tuple[tuple[Hashes, PageNumbers], ...]
    """Hashes and page numbers of those that are not zero (of a sample: that are kept), by the hash's first bits."""
    data_pages: int
    """Pages that are not zero."""
    large_data_pages: Numbers | None
    """Of these, those in each large page of the image; None: not asked for."""


def describe(path: str) -> Described:
    """Open an image and tell what it is.

    Raises:
        IoError, SourceError, CorruptionError: as `open_source` says.
    """
    with open_source(path) as source:
        regions = tuple((region.gpa, region.size_bytes) for region in source.layout.regions)
        return Described(path, regions, source.identity, isinstance(source, Checkpoint), active_of(source))


def ranges_of(image: Described) -> list[PageRange]:
    """Into which ranges of pages its work is cut."""
    pages = image.layout.page_count
    each = pages if image.keeps_hashes else RANGE_PAGES
    return [PageRange(start, min(start + each, pages)) for start in range(0, pages, each)]


def hash_range(
    image: Described,
    pages: PageRange,
    shard_bits: int,
    selection: Selection | None,
    large_page_bytes: int,
) -> Piece:
    """Hash a range of pages.

    Args:
        image: as `describe` says.
        pages: which of its pages.
        shard_bits: how many first bits of a hash tell its shard.
        selection: what to keep; None: everything.
        large_page_bytes: count the pages of large pages of this size; 0: of none.

    Raises:
        ChangedError: it is not the file that was described.
        IoError, SourceError, CorruptionError: as opening and reading say.
    """
    with open_source(image.path) as source:
        if source.identity != image.identity:
            raise ChangedError(
                "it is not what it was a moment ago: it was written to, or replaced", path=image.path
            )
        found = list(data_of(_batches(source, pages)))
        source.check_unchanged()
    none = np.empty(0, np.uint64)
    hashes = np.concatenate([none, *(part for _, part in found)])
    numbers = np.concatenate([none.astype(np.int64), *(part for part, _ in found)])
    large = large_pages_in(image.path, image.layout, large_page_bytes)
    counts = None if large is None else np.bincount(large.of(numbers), minlength=len(large))
    data_pages = len(numbers)
    if selection is not None:
        hashes = selection.values(hashes)
        kept = keep_below(hashes, threshold_of(selection.fraction))
        hashes, numbers = hashes[kept], numbers[kept]
    small: PageNumbers = numbers.astype(number_type(image.layout))
    return Piece(_sharded(hashes, small, shard_bits), data_pages, counts)


def _sharded(hashes: Hashes, numbers: PageNumbers, bits: int) -> tuple[tuple[Hashes, PageNumbers], ...]:
    if not bits:
        return ((hashes, numbers),)
    shard = (hashes >> np.uint64(64 - bits)).astype(np.int64)
    order = np.argsort(shard, kind="stable")
    ends = np.cumsum(np.bincount(shard, minlength=1 << bits))[:-1]
    return tuple(zip(np.split(hashes[order], ends), np.split(numbers[order], ends), strict=True))


def _batches(source: Source, pages: PageRange) -> Iterator[Batch]:
    if isinstance(source, Checkpoint):
        yield from source.kept_hashes()
        return
    buffer = memoryview(bytearray(_READ_PAGES * PAGE_BYTES))
    for start, end in source.data_ranges():
        for first in range(max(start, pages.start), min(end, pages.end), _READ_PAGES):
            part = PageRange(first, min(first + _READ_PAGES, end, pages.end))
            content = buffer[: part.pages * PAGE_BYTES]
            source.read(part, content)
            yield part, _hashes_of(content)


def _hashes_of(content: memoryview) -> bytes:
    unit_bytes = len(_ZEROS)
    units = (content[first : first + unit_bytes] for first in range(0, len(content), unit_bytes))
    return b"".join(_ZERO_HASHES if unit == _ZEROS else pack_hashes(page_hashes(unit)) for unit in units)


def shard_of(piece: Piece, shard: int) -> tuple[Hashes, PageNumbers]:
    """One shard of a piece: what travels between workers."""
    return piece.shards[shard]


def equals_of_shard(shards: Sequence[tuple[Hashes, PageNumbers]], first_places: Sequence[int]) -> Equals:
    """The rows of the table that one shard of all pieces gives.

    Args:
        shards: the same one of each piece.
        first_places: where the places of each piece's image begin.
    """
    places = [
        numbers.astype(np.int64) + first for (_, numbers), first in zip(shards, first_places, strict=True)
    ]
    return equals_of(np.concatenate([hashes for hashes, _ in shards]), np.concatenate(places))


def scanned_of(image: Described, data_pages: int, large_data_pages: Numbers | None) -> Scanned:
    """What is known of an image once all its pieces are there."""
    layout = image.layout
    return Scanned(image.path, layout, layout.page_count - data_pages, large_data_pages, image.active)
