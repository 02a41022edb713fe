"""Small guest memories, and the plain way to read a source: what the real readers are compared with."""

import os

from hypothesis import strategies as st

from vmckpt.pages import PAGE_BYTES, PageRange, PageReader, Source

__all__ = ["brute_ranges_hold", "page_bytes", "page_maps", "pages_of", "read_all", "write_sparse"]


def page_bytes(number: int) -> bytes:
    """A page that no other number has; page 0 is zeros."""
    return number.to_bytes(8, "little") * (PAGE_BYTES // 8)


def pages_of(numbers: list[int]) -> bytes:
    """The pages of `numbers`, one behind the other."""
    return b"".join(map(page_bytes, numbers))


def page_maps(max_pages: int = 40) -> st.SearchStrategy[list[int]]:
    """Lists of page numbers, about half of them 0, in runs."""
    run = st.tuples(st.sampled_from([0, 0, 1, 2, 77]), st.integers(1, 8))
    runs = st.lists(run, min_size=1, max_size=12)
    return runs.map(lambda runs: [value for value, count in runs for _ in range(count)][:max_pages])


def read_all(reader: PageReader) -> bytes:
    """The whole memory in one read."""
    count = reader.layout.page_count
    buffer = bytearray(count * PAGE_BYTES)
    reader.read(PageRange(0, count), memoryview(buffer))
    return bytes(buffer)


def write_sparse(path: str | os.PathLike[str], content: bytes, *, grain_bytes: int = PAGE_BYTES) -> str:
    """Write a file with holes where a whole grain is zero; returns its path."""
    with open(path, "wb") as file:
        for start in range(0, len(content), grain_bytes):
            if any(grain := content[start : start + grain_bytes]):
                file.seek(start)
                file.write(grain)
        file.truncate(len(content))
    return os.fspath(path)


def brute_ranges_hold(source: Source, content: bytes) -> bool:
    """Whether the data ranges are ascending, disjoint, within memory, and leave out zero pages only."""
    rest = set(range(len(content) // PAGE_BYTES))
    end = 0
    for start, stop in source.data_ranges():
        if not end <= start < stop <= source.layout.page_count:
            return False
        end = stop
        rest -= set(range(start, stop))
    return not any(any(content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]) for page in rest)
