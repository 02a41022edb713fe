"""The memory of a running machine: one memfd, mapped shared by each vCPU's process.

    page    0 ............................ page_count          page p lies at p * 4096 of the memfd, the guest's
    memfd   [ hole | pages | hole | ...... )[ other frames )   hole below 4 GiB (`layout`) takes no room in it

A page that is zero and was never touched is a hole of the memfd and takes no memory. The supervisor reads through the
descriptor, which no trace ever stops and which fills no hole; once the machine has started nobody writes pages through it
that vCPUs have traced, for such writes would slip past. The frames beyond the pages stay empty until pages share
(`mappings`); from then on a table says where each page is. Made by `session`, and by tests.
"""

import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from vmckpt.errors import IoError
from vmckpt.kernel.memory import Mapping, create_memfd
from vmckpt.layout import Layout
from vmckpt.machine.frames import SPARE_FRAMES
from vmckpt.machine.mapped import MappedMemory
from vmckpt.machine.pagetable import PageTable
from vmckpt.pages import PAGE_BYTES, PageRange, Source
from vmckpt.sources.hashes import digest_of
from vmckpt.sources.memory import memory_source
from vmckpt.sources.segments import SegmentSource
from vmckpt.workers import Channel, Crew, worker_count

__all__ = ["Ram", "machine_layout"]

_HOLE_GPA = 3 << 30
_ABOVE_GPA = 4 << 30
_BATCH_PAGES = 512
_UNIT_PAGES = 16  # zero test of many pages first
_ALONE_PAGES = 8192  # less than this is loaded before workers would have started
_UNDER_WAY = 2  # batches that a worker has at a time
_BLOCK_BYTES = 512  # the unit of st_blocks


def machine_layout(layout: Layout) -> Layout:
    """Where a machine puts its memory: as it was, or for one long piece with the hole that x86 has below 4 GiB."""
    if len(layout.regions) > 1 or layout.regions[0].gpa or layout.memory_bytes <= _HOLE_GPA:
        return layout
    return Layout([(0, _HOLE_GPA), (_ABOVE_GPA, layout.memory_bytes - _HOLE_GPA)])


class Ram:
    """Guest memory. The supervisor's: vCPU processes inherit the descriptor and map it themselves (`map`).

    Attributes:
        layout: the guest-physical regions.
        fd: the memfd; of fixed length, so that no mapping of it ever ends in SIGBUS.
        frame_count: how many pages it has room for: more than the machine has.
        table: where pages are, if not each in its own place; whoever sets it closes it.
    """

    def __init__(self, layout: Layout) -> None:
        """Make memory that is all zero.

        Raises:
            FeatureError: this system has no memfd.
            IoError: the kernel refused.
        """
        self.layout = layout
        self.frame_count = layout.page_count + 1 + SPARE_FRAMES
        self.table: PageTable | None = None
        self.fd = create_memfd("vmckpt-ram", self.frame_count * PAGE_BYTES, sealed=True)

    @classmethod
    def load(
        cls, source: Source, *, jobs: int | None = None, progress: Callable[[int, int], None] | None = None
    ) -> Self:
        """Memory with the content of `source`; its zero pages stay holes.

        Args:
            source: an image, an ELF core or a checkpoint.
            jobs: worker processes; None: one for each core.
            progress: told (done bytes, total bytes) as it goes.

        Raises:
            IoError: reading failed, or there is no memory.
            ChangedError: the source changed meanwhile.
            CorruptionError: the source is damaged.
        """
        ram = cls(machine_layout(source.layout))
        try:
            ram._fill(source, worker_count(jobs), progress)
            source.check_unchanged()
        except BaseException:
            ram.close()
            raise
        return ram

    @property
    def memory_bytes(self) -> int:
        """How much memory the guest has."""
        return self.layout.memory_bytes

    @property
    def resident_pages(self) -> int:
        """Pages that take memory of the host: all but those that are zero and were never touched."""
        return os.fstat(self.fd).st_blocks * _BLOCK_BYTES // PAGE_BYTES

    def populate(self) -> None:
        """Have every page take memory now, as behind a host's large pages.

        Raises:
            IoError: there is not so much.
        """
        try:
            os.posix_fallocate(self.fd, 0, self.memory_bytes)
        except OSError as error:
            raise IoError.of(error, f"cannot get {self.memory_bytes} bytes of memory") from error

    def map(self) -> Mapping:
        """A new mapping of all of it, in this process.

        Raises:
            IoError: there is no room in the address space.
        """
        return Mapping.of_file(self.fd, self.memory_bytes)

    def reader(self) -> SegmentSource:
        """Memory as a source of pages, read through a descriptor of its own; close it in the end.

        What is read while a vCPU runs is whatever is there at that moment.
        """
        if self.table is not None:
            return MappedMemory(os.dup(self.fd), self.layout, self.table)
        return memory_source(os.dup(self.fd), self.layout)

    def digest(self, *, jobs: int | None = None) -> bytes:
        """The digest of memory, 16 bytes. No vCPU may run meanwhile.

        Raises:
            WorkerError: a worker was killed.
        """
        with self.reader() as reader:
            return digest_of(reader, jobs=worker_count(jobs))

    def close(self) -> None:
        """Let go of it; it is gone when the last process that maps it has ended. Closing twice is fine."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill(self, source: Source, jobs: int, progress: Callable[[int, int], None] | None) -> None:
        loader = _Loader(source, self.fd)
        batches = _batches(source)
        if self.layout.page_count <= _ALONE_PAGES:
            for batch in batches:
                loader.load(batch)
            return
        # Loading holds the interpreter lock (zero tests, decompression), so it is shared among processes.
        with Crew(jobs, loader.serve) as crew:
            free = [worker for worker in range(jobs) for _ in range(_UNDER_WAY)]
            loaded = 0
            batch_or_none = next(batches, None)
            while batch_or_none is not None or len(free) < jobs * _UNDER_WAY:
                while free and batch_or_none is not None:
                    crew.send(free.pop(), b"".join(page.to_bytes(8, "little") for page in batch_or_none))
                    batch_or_none = next(batches, None)
                for worker, answer in crew.receive():
                    free.append(worker)
                    loaded = max(loaded, int.from_bytes(answer, "little"))
                if progress is not None:
                    progress(loaded * PAGE_BYTES, self.memory_bytes)


def _batches(source: Source) -> Iterator[PageRange]:
    for start, end in source.data_ranges():
        for first in range(start, end, _BATCH_PAGES):
            yield PageRange(first, min(first + _BATCH_PAGES, end))


class _Loader:
    """Copies pages that are not zero."""

    def __init__(self, source: Source, fd: int) -> None:
        self._source = source
        self._fd = fd
        self._buffer = memoryview(bytearray(_BATCH_PAGES * PAGE_BYTES))
        # Compared as a bytearray: that is a memcmp, whereas a memoryview compares element by element.
        self._zeros = bytearray(_UNIT_PAGES * PAGE_BYTES)

    def serve(self, channel: Channel) -> None:
        """A worker: load the ranges that the coordinator names, and answer with each one's end."""
        for message in channel.messages():
            start, end = (int.from_bytes(message[at : at + 8], "little") for at in (0, 8))
            self.load(PageRange(start, end))
            channel.send(message[8:])

    def load(self, pages: PageRange) -> None:
        """Copy a batch."""
        content = self._buffer[: pages.pages * PAGE_BYTES]
        self._source.read(pages, content)
        for start, end in self._runs(content):
            self._write(content[start:end], pages.start * PAGE_BYTES + start)

    def _runs(self, content: memoryview) -> Iterator[tuple[int, int]]:
        """Stretches of pages that are not zero, in bytes."""
        start = end = 0
        for low, high in self._used(content):
            if low > end:
                if end > start:
                    yield start, end
                start = low
            end = high
        if end > start:
            yield start, end

    def _used(self, content: memoryview) -> Iterator[tuple[int, int]]:
        unit_bytes = len(self._zeros)
        zero_page = self._zeros[:PAGE_BYTES]
        for unit in range(0, len(content), unit_bytes):
            if self._zeros == content[unit : unit + unit_bytes]:
                continue
            for low in range(unit, min(unit + unit_bytes, len(content)), PAGE_BYTES):
                if zero_page != content[low : low + PAGE_BYTES]:
                    yield low, low + PAGE_BYTES

    def _write(self, content: memoryview, offset: int) -> None:
        try:
            while content:
                written = os.pwrite(self._fd, content, offset)
                content, offset = content[written:], offset + written
        except OSError as error:
            raise IoError.of(error, "cannot get memory for the machine", offset=offset) from error
