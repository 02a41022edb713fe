"""The memory of a machine, read through its memfd: page p lies at p * 4096 of the file, the guest's holes take no room.

Reading through the descriptor fills no hole and meets no trace. Called by the machine and by who saves it.
"""

from vmckpt.layout import Layout
from vmckpt.pages import PAGE_BYTES
from vmckpt.sources.file import SourceFile
from vmckpt.sources.segments import Segment, SegmentSource

__all__ = ["MemoryFile", "memory_source"]


def memory_source(fd: int, layout: Layout, name: str = "memory of the machine") -> SegmentSource:
    """A source over `fd`, which is taken over; what is read while the machine runs is whatever is there at that moment.

    Raises:
        IoError: the descriptor is no file of such a length.
    """
    segments = [Segment(region.pages, region.first_page * PAGE_BYTES) for region in layout.regions]
    return SegmentSource(MemoryFile(fd, name), "machine", layout, segments)


class MemoryFile(SourceFile):
    """A file that changes under its reader, as it should."""

    __slots__ = ()

    def check_unchanged(self) -> None:
        """Whoever reads a machine that runs knows by other means what of it still counts."""
