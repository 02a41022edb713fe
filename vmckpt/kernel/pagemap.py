"""Which pages of a process are present, written or zero, read from /proc/PID/pagemap.

    PAGEMAP_SCAN (Linux 6.7)     the kernel answers with ranges: 10 bytes for each run of equal pages
    8 bytes for each page        where it cannot: the same, page by page and with fewer categories

Addresses are those of the process that is looked at; reading another one's takes the permission to trace it (ptrace).
"""

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from enum import IntFlag
from types import TracebackType
from typing import ClassVar, NamedTuple, Self

from vmckpt.errors import FeatureError, IoError
from vmckpt.kernel import ioctl, libc
from vmckpt.layout import PAGE_BYTES

__all__ = ["SCAN", "Category", "PageRun", "Pagemap", "RunRecord", "ScanRequest"]


class Category(IntFlag):
    """What the kernel says of a page in one mapping."""

    WPALLOWED = 1
    """Its range is registered with WP_ASYNC."""
    WRITTEN = 2
    """Without userfaultfd's write protection: written since that was set, or never protected, touched or not."""
    FILE = 4
    """Of a file or of shared memory."""
    PRESENT = 8
    """Mapped. A page of a memfd that only another process has mapped is not."""
    SWAPPED = 16
    """Swapped out; also a page that is write-protected without being there (a marker)."""
    PFNZERO = 32
    """The kernel's page of zeros: read, and never written."""
    HUGE = 64
    """Part of a large mapping."""
    SOFT_DIRTY = 128
    GUARD = 256


class PageRun(NamedTuple):
    """Pages side by side with the same categories, `[start, end)` in bytes of the process's address space."""

    start: int
    end: int
    categories: Category


class RunRecord(ctypes.Structure):
    """`struct page_region`."""

    _fields_: ClassVar = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("categories", ctypes.c_uint64),
    )
    start: int
    end: int
    categories: int


class ScanRequest(ctypes.Structure):
    """`struct pm_scan_arg`."""

    _fields_: ClassVar = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "records",
            "record_limit",
            "page_limit",
            "inverted",
            "all_of",
            "any_of",
            "reported",
        )
    )
    walk_end: int


_ANY = Category(0)

SCAN = ioctl.read_write(ord("f"), 16, ScanRequest)
_PROTECT_WHAT_MATCHES = 1
_CHECK_WP_ASYNC = 2
_RECORDS = 512

_ENTRY = struct.Struct("=Q")
_ENTRIES = 4096  # read at once by the fallback: 16 MiB of memory
_ENTRY_CATEGORIES = (
    (1 << 63, Category.PRESENT),
    (1 << 62, Category.SWAPPED),
    (1 << 61, Category.FILE),
    (1 << 55, Category.SOFT_DIRTY),
)
_ENTRY_PROTECTED = 1 << 57
_ENTRY_KNOWN = Category.PRESENT | Category.SWAPPED | Category.FILE | Category.SOFT_DIRTY | Category.WRITTEN


class Pagemap:
    """The pagemap of one process.

    Attributes:
        scans: the kernel answers with ranges; otherwise only PRESENT, SWAPPED, FILE, SOFT_DIRTY and WRITTEN are known.
    """

    def __init__(self, pid: int | None = None) -> None:
        """Open the pagemap of `pid`, or this process's own.

        Raises:
            FeatureError: this kernel's pages are not vmckpt's.
            IoError: there is no such process, or this one may not look at it.
        """
        if mmap.PAGESIZE != PAGE_BYTES:
            raise FeatureError(f"this kernel's pages have {mmap.PAGESIZE} bytes: expected {PAGE_BYTES}")
        self._path = f"/proc/{'self' if pid is None else pid}/pagemap"
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise IoError.of(error, "cannot look at a process's pages", path=self._path) from error
        self.scans = self._probe()

    def _probe(self) -> bool:
        try:
            self._scan(0, PAGE_BYTES, Category.PRESENT, _ANY, 0)
        except OSError:
            return False  # ENOTTY before 6.7; a seccomp filter may say anything
        return True

    def runs(self, start: int, end: int, any_of: Category, all_of: Category = _ANY) -> Iterator[PageRun]:
        """The pages in `[start, end)` that have some of `any_of` and all of `all_of`, in ascending order.

        Raises:
            FeatureError: a category that this kernel does not tell.
            IoError: the kernel refused, or the process has gone.
        """
        unknown = Category(0) if self.scans else (any_of | all_of) & ~_ENTRY_KNOWN
        if unknown:
            raise FeatureError(f"this kernel's pagemap does not tell {unknown!r}: it has no PAGEMAP_SCAN")
        try:
            if self.scans:
                yield from self._walk(start, end, any_of, all_of, 0)
            else:
                yield from self._read(start, end, any_of, all_of)
        except OSError as error:
            raise IoError.of(error, "cannot look at a process's pages", path=self._path) from error

    def present(self, start: int, end: int) -> list[tuple[int, int]]:
        """Ranges that are mapped or swapped out: every private page that was ever touched.

        Raises:
            IoError: as `runs`.
        """
        return _joined(self.runs(start, end, Category.PRESENT | Category.SWAPPED))

    def written(self, start: int, end: int) -> list[tuple[int, int]]:
        """Ranges written since they were write-protected by userfaultfd, and those never protected.

        Raises:
            IoError: as `runs`.
        """
        return _joined(self.runs(start, end, Category.WRITTEN))

    def zero(self, start: int, end: int) -> list[tuple[int, int]]:
        """Ranges of private memory that were read and never written.

        Raises:
            FeatureError: this kernel does not tell.
            IoError: as `runs`.
        """
        return _joined(self.runs(start, end, Category.PFNZERO))

    def take_written(self, start: int, end: int) -> list[tuple[int, int]]:
        """What `written` says, and in the same step protect those pages again; the range is registered WP_ASYNC.

        Raises:
            FeatureError: this kernel cannot.
            IoError: the range is not registered so, or as `runs`.
        """
        if not self.scans:
            raise FeatureError("this kernel's pagemap cannot protect pages: it has no PAGEMAP_SCAN")
        flags = _PROTECT_WHAT_MATCHES | _CHECK_WP_ASYNC
        try:
            return _joined(self._walk(start, end, Category.WRITTEN, _ANY, flags))
        except OSError as error:
            raise IoError.of(error, "cannot take the written pages of a process", path=self._path) from error

    def _walk(
        self, start: int, end: int, any_of: Category, all_of: Category, flags: int
    ) -> Iterator[PageRun]:
        while start < end:
            found, walk_end = self._scan(start, end, any_of, all_of, flags)
            yield from found
            if walk_end <= start:
                raise OSError(errno.EIO, f"the scan stands still at {start:#x}")
            start = walk_end

    def _scan(
        self, start: int, end: int, any_of: Category, all_of: Category, flags: int
    ) -> tuple[list[PageRun], int]:
        records = (RunRecord * _RECORDS)()
        size_bytes = ctypes.sizeof(ScanRequest)
        everything = sum(Category)
        request = ScanRequest(
            size_bytes,
            flags,
            start,
            end,
            0,
            ctypes.addressof(records),
            _RECORDS,
            0,
            0,
            all_of,
            any_of,
            everything,
        )
        count = libc.ioctl(self._fd, SCAN, request)
        found = [
            PageRun(records[i].start, records[i].end, Category(records[i].categories)) for i in range(count)
        ]
        return found, request.walk_end

    def _read(self, start: int, end: int, any_of: Category, all_of: Category) -> Iterator[PageRun]:
        run: PageRun | None = None
        for address, categories in self._entries(start, end):
            if not categories & any_of or categories & all_of != all_of:
                continue
            if run is not None and run.end == address and run.categories == categories:
                run = run._replace(end=address + PAGE_BYTES)
                continue
            if run is not None:
                yield run
            run = PageRun(address, address + PAGE_BYTES, categories)
        if run is not None:
            yield run

    def _entries(self, start: int, end: int) -> Iterator[tuple[int, Category]]:
        while start < end:
            count = min(_ENTRIES, (end - start) // PAGE_BYTES)
            raw = os.pread(self._fd, count * _ENTRY.size, start // PAGE_BYTES * _ENTRY.size)
            if len(raw) != count * _ENTRY.size:
                raise OSError(errno.ESRCH, "the process has ended")
            for (entry,) in _ENTRY.iter_unpack(raw):
                yield start, _categories_of(entry)
                start += PAGE_BYTES

    def close(self) -> None:
        """Close the pagemap."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _categories_of(entry: int) -> Category:
    categories = Category(0)
    for bit, category in _ENTRY_CATEGORIES:
        if entry & bit:
            categories |= category
    if not entry & _ENTRY_PROTECTED:
        categories |= Category.WRITTEN
    return categories


def _joined(runs: Iterator[PageRun]) -> list[tuple[int, int]]:
    # Runs that touch differ in other categories only.
    ranges: list[tuple[int, int]] = []
    for run in runs:
        if ranges and ranges[-1][1] == run.start:
            ranges[-1] = ranges[-1][0], run.end
        else:
            ranges.append((run.start, run.end))
    return ranges
