"""The kernel's part of a guest's faults, played by a page table: for tests of whoever answers faults.

It keeps which pages are mapped, in the file, and protected, and gives the answers that tests/kernel/test_faults.py
shows the kernel to give. `cut_after_pages` makes it stop half way once, as the kernel does when it is short of memory.
"""

from collections.abc import Callable

from vmckpt.kernel.faults import CopyOutcome, Event, EventKind, Stop
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import Buffer


class FakeFaults:
    """A range of `pages` pages from `address`; `content` is what the guest reads there."""

    def __init__(self, pages: int, address: int = 1 << 32) -> None:
        self.address = address
        self.pages = pages
        self.content: dict[int, bytes] = {}  # of the file, by page
        self.mapped: set[int] = set()
        self.protected: set[int] = set()
        self.woken: list[tuple[int, int]] = []  # address and length, in order
        self.events: list[Event] = []
        self.ended = False
        self.cut_after_pages: int | None = None

    def touch(self, page: int, flags: int = 0, thread_id: int = 0) -> None:
        """The guest touches a page and waits."""
        address = self.address + page * PAGE_BYTES
        self.events.append(Event(EventKind.FAULT, address, address, flags, thread_id))

    def remove(self, page: int, pages: int) -> None:
        """The guest gives up a range; until the event is read nothing can be filled."""
        start = self.address + page * PAGE_BYTES
        self.events.append(Event(EventKind.REMOVE, start, start + pages * PAGE_BYTES, 0, 0))
        self.mapped -= set(range(page, page + pages))

    def copy(
        self, dst: int, src: int | Buffer, length_bytes: int, *, wp: bool = False, wake: bool = True
    ) -> CopyOutcome:
        assert not isinstance(src, int), "the fake copies from buffers"

        def put(page: int, done: int) -> Stop | None:
            if page in self.content:
                return Stop.EXISTS
            self.content[page] = bytes(memoryview(src)[done : done + PAGE_BYTES])
            return None

        return self._fill(dst, length_bytes, put, wp=wp, wake=wake)

    def zero(self, address: int, length_bytes: int, *, wake: bool = True) -> CopyOutcome:
        def put(page: int, done: int) -> Stop | None:
            if page in self.content:
                return Stop.EXISTS
            self.content[page] = bytes(PAGE_BYTES)
            return None

        return self._fill(address, length_bytes, put, wp=False, wake=wake)

    def proceed(self, address: int, length_bytes: int, *, wp: bool = False, wake: bool = True) -> CopyOutcome:
        def put(page: int, done: int) -> Stop | None:
            if page not in self.content:
                return Stop.HOLE
            return Stop.EXISTS if page in self.mapped else None

        return self._fill(address, length_bytes, put, wp=wp, wake=wake)

    def wake(self, address: int, length_bytes: int) -> None:
        self.woken.append((address, length_bytes))

    def read_events(self, limit: int = 16) -> list[Event]:
        events, self.events = self.events[:limit], self.events[limit:]
        return events

    def _fill(
        self,
        address: int,
        length_bytes: int,
        put: Callable[[int, int], Stop | None],
        *,
        wp: bool,
        wake: bool,
    ) -> CopyOutcome:
        done, stop = 0, self._refusal(address, length_bytes)
        while stop is None and done < length_bytes:
            page = (address + done - self.address) // PAGE_BYTES
            if self.cut_after_pages == done // PAGE_BYTES:
                self.cut_after_pages, stop = None, Stop.AGAIN
                break
            stop = put(page, done)
            if stop is None:
                self.mapped.add(page)
                (self.protected.add if wp else self.protected.discard)(page)
                done += PAGE_BYTES
        if done and wake:
            self.woken.append((address, done))
        return CopyOutcome(done, stop or Stop.DONE)

    def _refusal(self, address: int, length_bytes: int) -> Stop | None:
        if self.ended:
            return Stop.GONE
        if any(event.kind is EventKind.REMOVE for event in self.events):
            return Stop.AGAIN
        inside = self.address <= address <= address + length_bytes <= self.address + self.pages * PAGE_BYTES
        return None if inside else Stop.ABSENT
