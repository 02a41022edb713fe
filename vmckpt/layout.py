"""Guest-physical regions, and how page numbers count through them.

A real machine's memory is not one piece: x86 leaves a hole below 4 GiB for devices. A `Layout` lists the pieces that
are memory; page numbers run through them in ascending guest-physical order, so they have no holes.

        gpa  0            3 GiB        4 GiB          6 GiB
             [ region 0 ~~~~~ ]  hole  [ region 1 ~~~~~~ ]
    page     0 .......... 786431       786432 .... 1310719
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from vmckpt.errors import SourceError

__all__ = ["PAGE_BYTES", "Layout", "Region"]

PAGE_BYTES = 4096
_GPA_LIMIT = 1 << 52  # the most address bits of any x86-64 or arm64 processor


class Region(NamedTuple):
    """A stretch of guest-physical memory."""

    gpa: int
    """Guest-physical address of the first byte."""
    pages: int
    """Length in pages."""
    first_page: int
    """Page number of its first page."""

    @property
    def size_bytes(self) -> int:
        """Length in bytes."""
        return self.pages * PAGE_BYTES


class Layout:
    """The regions of a machine's memory, ascending and disjoint."""

    __slots__ = ("_first_pages", "_gpas", "page_count", "regions")

    def __init__(self, pieces: Sequence[tuple[int, int]]) -> None:
        """Build the layout from `pieces`, pairs of guest-physical address and length, both in bytes.

        Raises:
            SourceError: a piece is empty or no multiple of the page size, two overlap, or one ends past 2^52.
        """
        regions: list[Region] = []
        first_page = end = 0
        for gpa, size_bytes in sorted(pieces):
            where = f"memory region at guest-physical address {gpa:#x}, {size_bytes} bytes long,"
            if size_bytes <= 0 or size_bytes % PAGE_BYTES or gpa % PAGE_BYTES:
                raise SourceError(f"{where} is not a whole number of {PAGE_BYTES}-byte pages")
            if gpa < end:
                raise SourceError(f"{where} overlaps the region before it, which ends at {end:#x}")
            end = gpa + size_bytes
            if end > _GPA_LIMIT:
                raise SourceError(f"{where} ends past the highest address a processor has, {_GPA_LIMIT:#x}")
            regions.append(Region(gpa, size_bytes // PAGE_BYTES, first_page))
            first_page += size_bytes // PAGE_BYTES
        if not regions:
            raise SourceError("there is no memory in it")
        self.regions = tuple(regions)
        self.page_count = first_page
        self._first_pages = [region.first_page for region in regions]
        self._gpas = [region.gpa for region in regions]

    @classmethod
    def flat(cls, size_bytes: int) -> "Layout":
        """One region from address 0."""
        return cls([(0, size_bytes)])

    @property
    def memory_bytes(self) -> int:
        """The sum of the regions, in bytes."""
        return self.page_count * PAGE_BYTES

    def region_of(self, page: int) -> Region:
        """The region that `page` lies in.

        Raises:
            ValueError: there is no such page.
        """
        if not 0 <= page < self.page_count:
            raise ValueError(f"page {page} is outside the {self.page_count} pages of memory")
        return self.regions[bisect_right(self._first_pages, page) - 1]

    def gpa_of(self, page: int) -> int:
        """The guest-physical address of `page`.

        Raises:
            ValueError: there is no such page.
        """
        region = self.region_of(page)
        return region.gpa + (page - region.first_page) * PAGE_BYTES

    def page_of(self, gpa: int) -> int | None:
        """The page that holds guest-physical address `gpa`, or None where there is no memory."""
        index = bisect_right(self._gpas, gpa) - 1
        if index < 0:
            return None
        region = self.regions[index]
        page = (gpa - region.gpa) // PAGE_BYTES
        return region.first_page + page if page < region.pages else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.regions == other.regions

    def __hash__(self) -> int:
        return hash(self.regions)

    def __repr__(self) -> str:
        return f"Layout({[(region.gpa, region.size_bytes) for region in self.regions]})"
