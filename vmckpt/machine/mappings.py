"""The mappings of a machine's memory, as its supervisor keeps them: large pages taken apart, and put together again.

    large ── demote ─▶ small, pages in place ── (`merge`: equal pages share) ─▶ pages anywhere ── (`forming`) ─▶ large
      ▲                       │                                                     │ a write
      └────── promote ────────┘                                                     └──▶ fault: a frame of its own

`frames` decides, the page table (`pagetable`) tells the vCPUs, bytes are copied through the memfd. While no large page
is small there is no table, and vCPUs touch memory as they always do.

What is taken from under running vCPUs is taken in this order: the page loses WRITABLE, a *fence* (every vCPU passes
between two operations), and only then are its bytes looked at, copied, or left. Pages in that state are *busy*: a vCPU
that writes to one waits for some milliseconds, until the step is over. Called by `machine`, `merge`, `forming` and
`activity`; in the supervisor's one thread.

Longer than most modules: all of it keeps one invariant, that the table says what `frames` says, and nobody can tell when.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from vmckpt.errors import IoError, UsageError, WorkerError
from vmckpt.kernel.memory import punch
from vmckpt.machine.frames import FrameTable
from vmckpt.machine.large import LargePages
from vmckpt.machine.link import Message
from vmckpt.machine.pagetable import FRAME_SHIFT, SMALL, WRITABLE, PageTable
from vmckpt.machine.ram import Ram
from vmckpt.machine.translated import FAULT, FENCE
from vmckpt.pages import PAGE_BYTES, PageRange

__all__ = ["STEP_PAGES", "MappingStatus", "Mappings", "Vcpus"]

STEP_PAGES = 1024
"""Pages that are busy at a time, at most; the frames that they leave, and those of copies, fit into the spare ones."""

_SETTLE_S = 0.25


class Vcpus(Protocol):
    """What is needed of a machine."""

    @property
    def vcpu_count(self) -> int:
        """How many vCPUs it has."""

    @property
    def has_vcpus(self) -> bool:
        """Whether there are processes to ask."""

    def call(self, name: str, values: Mapping[str, object], descriptors: Sequence[int] = ()) -> list[Message]:
        """Have all vCPUs do something between two operations; their answers."""

    def post(self, name: str) -> Callable[[], bool]:
        """The same without waiting; to be asked later: have all done it?"""

    def answer(self, vcpu: int, name: str) -> None:
        """Let a vCPU go on that has asked `name`."""


class MappingStatus(NamedTuple):
    """Memory's mappings at a moment."""

    large_pages: int
    """Mapped large."""
    small_pages: int
    """Pages (of 4 KiB) that are mapped one by one."""
    shared_pages: int
    """Of these, pages whose frame others have as well, or that use the one zero frame."""
    freed_pages: int
    """Frames that sharing saves."""
    unshared_pages: int
    """Pages that got a frame of their own back, because a vCPU wrote to them; since boot."""
    small_ops: int
    """Operations that met a small mapping, since boot; a moment old while vCPUs run."""


class Mappings:
    """The mappings of one machine.

    Attributes:
        frames: where pages are; None while all are mapped large.
        table: the same for the vCPUs.
        large: the machine's large pages.
        broken: numbers of those that were taken apart to share.
    """

    def __init__(self, ram: Ram, vcpus: Vcpus) -> None:
        """All large, of the usual size."""
        self._ram = ram
        self._vcpus = vcpus
        self.frames: FrameTable | None = None
        self.table: PageTable | None = None
        self.large = LargePages(ram.layout)
        self.broken: set[int] = set()
        self._table_fd = -1
        self._small: set[int] = set()
        self._small_pages = 0
        self._small_ops = 0  # of tables that are gone
        self._unshared = 0
        self._busy: Collection[int] = ()
        self._waiting: list[tuple[int, int]] = []  # vCPU, page: a fault on a busy page
        self._settled_s = 0.0
        self._fencing: tuple[int, Callable[[], bool]] | None = None  # a fence that nobody waits for
        self._buffer = memoryview(bytearray(PAGE_BYTES))

    # ---- what there is

    @property
    def active(self) -> bool:
        """Whether vCPUs look pages up in the table."""
        return self.table is not None

    @property
    def small(self) -> frozenset[int]:
        """Numbers of the large pages that are mapped small."""
        return frozenset(self._small)

    def status(self) -> MappingStatus:
        """Counts."""
        frames = self.frames
        return MappingStatus(
            large_pages=len(self.large) - len(self._small),
            small_pages=self._small_pages,
            shared_pages=frames.shared_pages if frames is not None else 0,
            freed_pages=frames.freed_pages if frames is not None else 0,
            unshared_pages=self._unshared,
            small_ops=self._small_ops + (self.table.small_ops if self.table is not None else 0),
        )

    def give(self) -> list[int]:
        """A descriptor of the table for who reads memory through the memfd, if pages are looked up; the caller owns it.

        Raises:
            OSError: this process has no descriptor left.
        """
        return [os.dup(self._table_fd)] if self.active else []

    def use(self, large_page_bytes: int) -> None:
        """Have large pages of that size.

        Raises:
            UsageError: some large pages are small, and of another size; or there is no such size.
        """
        if large_page_bytes == self.large.large_page_bytes:
            return
        if self._small:
            raise UsageError(
                f"this machine's large pages have {self.large.large_page_bytes} bytes until all of them are formed "
                f"again, and not {large_page_bytes}"
            )
        self.large = LargePages(self._ram.layout, large_page_bytes)

    # ---- large to small

    def demote(self, number: int) -> bool:
        """Map a large page small, its pages where they are; False where it is small already.

        Raises:
            UsageError: there is no such large page.
            WorkerError: a vCPU has ended.
        """
        pages = self.large.pages_of(number)
        if number in self._small:
            return False
        table = self._enter()
        self._flag(table, pages, SMALL | WRITABLE)
        table.clear_touched(pages)
        self._small.add(number)
        self._small_pages += pages.pages
        return True

    def promote(self, number: int) -> None:
        """Map a large page large again, all pages of which are in place: nothing is copied."""
        pages = self.large.pages_of(number)
        if number not in self._small or self.table is None or self.frames is None:
            return
        assert all(map(self.frames.is_at_home, range(*pages)))
        self._flag(self.table, pages, WRITABLE)
        self._small.remove(number)
        self.broken.discard(number)
        self._small_pages -= pages.pages

    @staticmethod
    def _flag(table: PageTable, pages: PageRange, flags: int) -> None:
        """Give pages at home other flags."""
        for page in range(*pages):
            table.entries[page] = page << FRAME_SHIFT | flags

    def _enter(self) -> PageTable:
        """Have vCPUs look up pages from now on."""
        if self.table is not None:
            return self.table
        count = self._ram.layout.page_count
        fd = PageTable.create(count, self._vcpus.vcpu_count)
        try:
            table = PageTable(fd, count, self._vcpus.vcpu_count)
            table.fill()
            values = {"frames": self._ram.frame_count}
            answers = self._vcpus.call("translate-enter", values, [self._ram.fd, fd])
        except BaseException:
            os.close(fd)
            raise
        refusals = [str(answer.values["error"]) for answer in answers if "error" in answer.values]
        if refusals:
            self._vcpus.call("translate-leave", {})
            table.close()
            os.close(fd)
            raise IoError(f"a vCPU cannot map its memory by pages: {refusals[0]}")
        self.frames = FrameTable(count)
        self.table = self._ram.table = table
        self._table_fd = fd
        return table

    def leave(self) -> None:
        """Have vCPUs look up nothing any more, if all is large. Nobody may wait for a fault."""
        if self.table is None or self._small:
            return
        self.settle()
        if self._vcpus.has_vcpus:
            self._vcpus.call("translate-leave", {})
        self.close()

    def close(self) -> None:
        """Let go of the table. Closing twice is fine."""
        if self.table is not None:
            self._small_ops += self.table.small_ops
            self.table.close()
            os.close(self._table_fd)
        self.table = self._ram.table = self.frames = self._fencing = None

    # ---- steps

    def fence(self) -> None:
        """Return when every vCPU has passed between two operations; frames that were left before are free then.

        Raises:
            WorkerError: a vCPU has ended.
        """
        assert self.frames is not None
        stamp = self.frames.stamp()
        if self._vcpus.has_vcpus:
            self._vcpus.call(FENCE, {})
        self._passed(stamp)

    def _passed(self, stamp: int) -> None:
        """All vCPUs have passed since `stamp`: give the memory back that nobody needs since then."""
        assert self.frames is not None
        for start, end in _stretches(self.frames.fenced(stamp)):
            punch(self._ram.fd, start * PAGE_BYTES, (end - start) * PAGE_BYTES)

    def settle(self) -> None:
        """Give back the memory of all frames that were left.

        Raises:
            WorkerError: a vCPU has ended.
        """
        if self.frames is not None and self.frames.wants_fence:
            self.fence()

    def settle_now_and_then(self) -> None:
        """The same, if the last time was a while ago (writes leave frames as well), and without waiting for vCPUs.

        Raises:
            WorkerError: a vCPU has ended.
        """
        if self.frames is None or self._busy:
            return
        if self._fencing is not None:
            stamp, have_all = self._fencing
            if have_all():
                self._fencing = None
                self._passed(stamp)
        elif self.frames.wants_fence and time.monotonic() - self._settled_s >= _SETTLE_S:
            self._settled_s = time.monotonic()
            self._fencing = self.frames.stamp(), self._vcpus.post(FENCE)

    @contextlib.contextmanager
    def busy(self, pages: Collection[int]) -> Iterator[None]:
        """Keep vCPUs from writing to pages until the context is left; in it nothing but the caller moves them.

        Raises:
            WorkerError: a vCPU has ended.
        """
        assert self.table is not None
        assert not self._busy
        entries = self.table.entries
        written = [page for page in pages if entries[page] & WRITABLE]
        for page in written:
            entries[page] &= ~WRITABLE
        self._busy = pages
        try:
            self.fence()
            yield
        finally:
            self._busy = ()
            for page in written:
                self._show(page)
            waiting, self._waiting = self._waiting, []
            for vcpu, page in waiting:
                self._serve(vcpu, page)

    def share(self, page: int, frame: int) -> None:
        """Have a busy page use a frame with the same bytes: that of another busy page, or the zero frame."""
        assert self.frames is not None
        self.frames.move(page, frame)
        self._show(page)

    def _show(self, page: int) -> None:
        """Write a page's entry: writable if it is alone, and not busy."""
        assert self.frames is not None
        assert self.table is not None
        may_write = self.frames.may_write(page) and page not in self._busy
        entry = self.frames.frame_of(page) << FRAME_SHIFT | SMALL
        self.table.entries[page] = entry | WRITABLE if may_write else entry

    def move(self, pages: Iterable[int], source: int, target: int) -> None:
        """Copy a frame to one that was taken, and have pages use that; who has the old one is busy, or cannot write.

        Raises:
            IoError: there is no memory for it; nothing has changed.
        """
        assert self.frames is not None
        try:
            if source != self.frames.zero_frame:  # the target is zero already
                _copy(self._ram.fd, source, target, self._buffer)
        except OSError as error:
            self.frames.put_back(target)
            raise IoError.of(error, "cannot get memory for a page") from error
        for page in pages:
            self.frames.move(page, target)
            self._show(page)

    # ---- a write

    def heard(self, vcpu: int, message: Message) -> None:
        """A vCPU wants to write to a page that is not WRITABLE, and waits.

        Raises:
            WorkerError: there is no memory for it, or a vCPU has ended.
        """
        assert message.name == FAULT
        page = message.values["page"]
        assert isinstance(page, int)
        if page in self._busy:
            self._waiting.append((vcpu, page))
        else:
            self._serve(vcpu, page)

    def _serve(self, vcpu: int, page: int) -> None:
        if self.frames is not None and self.table is not None and not self.table.entries[page] & WRITABLE:
            if self.frames.may_write(page):
                self._show(page)
            else:
                self._unshare(self.frames, page)
        self._vcpus.answer(vcpu, FAULT)

    def _unshare(self, frames: FrameTable, page: int) -> None:
        self._unshared += not frames.is_alone(page)
        try:
            target = frames.take(page)
        except LookupError:
            self.fence()  # the vCPU that waits answers it as well
            target = frames.take(page)
        try:
            self.move((page,), frames.frame_of(page), target)
        except IoError as error:
            raise WorkerError(
                f"a page that shares its memory was written to, and there is no more: {error}"
            ) from error


def _copy(fd: int, source: int, target: int, buffer: memoryview) -> None:
    if os.preadv(fd, [buffer], source * PAGE_BYTES) != len(buffer):
        raise AssertionError("the memory of a machine has a fixed length")
    if os.pwrite(fd, buffer, target * PAGE_BYTES) != len(buffer):
        raise AssertionError("a page of memory is written in whole")


def _stretches(frames: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers, as ranges."""
    first = 0
    for at in range(1, len(frames) + 1):
        if at == len(frames) or frames[at] != frames[at - 1] + 1:
            yield frames[first], frames[at - 1] + 1
            first = at
