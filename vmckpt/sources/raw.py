"""A raw image: guest memory byte for byte, one region from guest-physical address 0.

In: an open file or block device, sparse or not. Out: a source of kind `raw`. `open_source` calls it for whatever is
nothing else.
"""

from vmckpt.errors import SourceError
from vmckpt.layout import Layout
from vmckpt.pages import PAGE_BYTES
from vmckpt.sources.file import SourceFile
from vmckpt.sources.segments import Segment, SegmentSource

__all__ = ["raw_source"]


def raw_source(file: SourceFile) -> SegmentSource:
    """The source over a raw image; it takes `file` over.

    Raises:
        SourceError: the image is empty, or no whole number of pages.
    """
    if not file.size_bytes:
        raise SourceError(f"it is empty: expected {PAGE_BYTES} bytes or a multiple, found 0", path=file.name)
    pages, rest = divmod(file.size_bytes, PAGE_BYTES)
    if rest:
        raise SourceError(
            f"its size is no whole number of pages: expected a multiple of {PAGE_BYTES} bytes, "
            f"found {file.size_bytes}, {rest} too many (a memory image that was cut short?)",
            path=file.name,
        )
    try:
        layout = Layout.flat(file.size_bytes)
    except SourceError as error:
        error.path = file.name
        raise
    return SegmentSource(file, "raw", layout, [Segment(pages, 0)])
