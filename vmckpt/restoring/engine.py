"""The fault engine: events of vCPUs in, pages of a checkpoint out. It knows no file and no kernel by name.

    event ─▶ state? ── here ──────────────────────────────────────────────▶ wake
               └─ missing ─▶ claim ─▶ storage block (one read) ─▶ its memory block ─▶ the page ─▶ wake
                                                                        └─▶ its other pages (`finish_block`)
                                                                            └─▶ the storage block's others (`background`)

Two kinds of mapping of the guest's memory are filled. The page that a vCPU waits for goes in through that vCPU's own
mapping, which maps it and wakes in one call. All others go in through the `filler`, a mapping of the handler's own: they
get into the file, where every vCPU finds them without a trap, and into no vCPU's page table, so that those tell which
pages the guest really touched. (Filling 64 KiB so takes as long as writing them to the file; but a write may let others
see a page that is half there.) Either way the kernel refuses to fill a page twice (EXISTS), so whatever raced, or was
done by a handler that died since, no page that a vCPU may have written is ever written over.

Used by `handler`, one thread; tests give it kernels and checkpoints that fail. Longer than most modules: a third of it says
what is asked of a checkpoint.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.file import Place
from vmckpt.errors import IoError
from vmckpt.kernel.faults import Event, EventKind, FaultFlag, Faults, Stop
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.restoring.expanded import Expanded
from vmckpt.restoring.log import Counter, Fault, FaultKind, FaultLog
from vmckpt.restoring.residency import Origin, Residency, State

__all__ = ["Engine", "Side", "Storage"]

_PATIENCE_S = 10.0  # how long the kernel may ask to try again
_ZERO_AHEAD_PAGES = 16  # brought together where the guest walks through zero pages
_MOST_FOLLOWED = 8
_MOST_OPENED = 256
_WRITE = int(FaultFlag.WRITE)


class Storage(Protocol):
    """What the engine asks of a checkpoint; `store.Store` answers."""

    @property
    def page_count(self) -> int:
        """Pages of memory."""

    @property
    def block_pages(self) -> int:
        """Pages of a memory block."""

    @property
    def storage_blocks(self) -> int:
        """How many there are."""

    @property
    def reads(self) -> int:
        """Storage blocks read so far."""

    @property
    def read_bytes(self) -> int:
        """What these reads brought."""

    def place_of(self, memory_block: int) -> Place | None:
        """Where a memory block lies; None if all of it is zero."""

    def holds(self, number: int) -> bool:
        """Whether a storage block is at hand without a read."""

    def is_near(self, number: int) -> bool:
        """Whether it is at hand, or can be in a moment, without a disk's help."""

    def load(self, number: int) -> bool:
        """Read a piece of a storage block, of some tens of microseconds where that can be; True: it is at hand."""

    def spend(self, number: int) -> None:
        """Every page of a storage block is in place."""

    def memory_blocks(self, number: int, *, load: bool = True) -> list[int]:
        """The memory blocks of a storage block, by slot; unless `load` is False, it is at hand from now on."""

    def data_runs(self, number: int, place: Place) -> list[PageRange]:
        """Where a memory block is not zero."""

    def peeked_page(self, number: int, place: Place, page: int) -> memoryview | None:
        """One page of a memory block, proved, where it can be had sooner than all of them; else None."""

    def expanded(self, number: int, place: Place) -> Expanded:
        """The pages of a memory block, proved; it tells for how long they can be looked at."""

    def stored(self, place: Place) -> tuple[MemoryBlock, memoryview]:
        """A memory block and its stored pages side by side, proved; for as long as nothing else is asked for."""

    def duplicates(self, number: int, place: Place) -> tuple[MemoryBlock, list[tuple[int, int]]]:
        """The directory entry of a memory block, and its duplicate pages, each with its index for `duplicate`."""

    def duplicate(self, block: MemoryBlock, index: int) -> memoryview:
        """The content of a memory block's `index`-th duplicate page, proved."""


class Side(NamedTuple):
    """A mapping of the guest's memory: a vCPU's, or the handler's own."""

    faults: Faults
    address: int
    """Of page 0 in it."""


class Engine:
    """Answers faults. What it has begun with one call of a method is done when that returns.

    Attributes:
        storage: where pages come from.
        residency: how far each has come.
        follow: storage blocks that were read for a fault, the latest last: their other pages are wanted next.
    """

    def __init__(
        self, storage: Storage, residency: Residency, filler: Side, guests: Sequence[Side], log: FaultLog
    ) -> None:
        """Put the engine together; it answers nothing by itself."""
        self.storage = storage
        self.residency = residency
        self.follow: deque[int] = deque(maxlen=_MOST_FOLLOWED)
        self._block_pages = storage.block_pages
        self._filler = filler
        self._guests: dict[int, Side] = dict(enumerate(guests))
        self._log = log
        self._late: list[tuple[int, Event]] = []  # read while something was filled
        # Memory blocks of which one page was brought, and no other yet; None: nothing else of it was read.
        self._opened: dict[int, Expanded | None] = {}
        self._counted = (0, 0)

    def wake_all(self) -> None:
        """Have whoever waits ask again: a fault is told once, and who heard of it may have died before it answered."""
        for side in self._guests.values():
            side.faults.wake(side.address, self.storage.page_count * PAGE_BYTES)

    def finish_claim(self, page: int) -> None:
        """Bring a page that somebody had claimed who is not there any more; nothing where it is not claimed by now.

        A vCPU may have asked for it since: then it is the guest's, and without userfaultfd no kernel would keep it so.
        """
        if self.residency.state(page) != State.CLAIMED:
            return
        place = self.storage.place_of(page // self._block_pages)
        content = None
        if place is not None:
            content = self._page_of(self.storage.expanded(page // self._block_pages, place), page)
        pages = PageRange(page, page + 1)
        self._fill(None, self._filler, pages, content, wake=False)
        self.residency.settle(pages, State.ZERO if content is None else State.PRESENT, Origin.BACKGROUND)

    def poll(self, vcpu: int) -> bool:
        """Answer what a vCPU's descriptor tells; whether there was anything."""
        side = self._guests.get(vcpu)
        events = [(vcpu, event) for event in side.faults.read_events()] if side is not None else []
        found = bool(events)
        while events:
            for number, event in events:
                self._answer(number, event)
            events, self._late = self._late, []
        return found

    def _answer(self, vcpu: int, event: Event) -> None:
        side = self._guests.get(vcpu)
        if side is None:
            return
        page = (event.address - side.address) // PAGE_BYTES
        if event.kind is EventKind.FAULT:
            if not 0 <= page < self.storage.page_count:
                raise IoError(f"a vCPU waits for page {page}, of {self.storage.page_count}")
            self._answer_fault(vcpu, side, page, event)
        elif event.kind is EventKind.REMOVE:
            self.residency.remove(PageRange(page, (event.end - side.address) // PAGE_BYTES))

    def _answer_fault(self, vcpu: int, side: Side, page: int, event: Event) -> None:
        at_ns = time.monotonic_ns()
        reads, read_bytes = self.storage.reads, self.storage.read_bytes
        place = None
        if self.residency.is_here(page):
            side.faults.wake(side.address + page * PAGE_BYTES, PAGE_BYTES)
            kind, done_ns = FaultKind.LATE, time.monotonic_ns()
        elif self.residency.state(page) == State.REMOVED:
            self._fill(vcpu, side, PageRange(page, page + 1), None, wake=True)
            kind, done_ns = FaultKind.REMOVED, time.monotonic_ns()
        else:
            place = self.storage.place_of(page // self._block_pages)
            if place is None:
                kind, done_ns = self._bring_zero(vcpu, side, page)
            else:
                kind, done_ns = self._bring(vcpu, side, page, place)
        counters = self._log.counters
        counters[Counter.DEMAND_READS] += self.storage.reads - reads
        self.count()
        self._log.add(
            Fault(
                at_ns,
                done_ns - at_ns,
                page,
                vcpu,
                kind,
                None if place is None else place.storage_block,
                self.storage.read_bytes - read_bytes,
                bool(event.flags & _WRITE),
            )
        )

    def _bring(self, vcpu: int, side: Side, page: int, place: Place) -> tuple[FaultKind, int]:
        """Bring a page of a memory block, and wake; the kind, and when the vCPU could go on."""
        reads = self.storage.reads
        number = page // self._block_pages
        is_second = number in self._opened
        expanded = self._opened.pop(number, None)
        content = None if is_second else self.storage.peeked_page(number, place, page)
        if content is None:
            if expanded is None or not expanded.is_good:
                expanded = self.storage.expanded(number, place)
            if is_second:
                # The guest seems to walk on: the others come first, and it need not wait again.
                self.install_pieces(expanded, Origin.NEIGHBOUR, but=page)
            content = self._page_of(expanded, page)
        if not is_second:
            self._opened[number] = expanded
        done_ns = self._answer_with(vcpu, side, page, content)
        if len(self._opened) > _MOST_OPENED:
            del self._opened[next(iter(self._opened))]  # it comes with its storage block
        if place.storage_block not in self.follow:
            self.follow.append(place.storage_block)
        if content is None:
            return FaultKind.ZERO, done_ns
        return FaultKind.READ if self.storage.reads > reads else FaultKind.HELD, done_ns

    def finish_block(self) -> bool:
        """Bring the other pages of the latest memory block of which a fault brought one; False where there is none."""
        if not self._opened:
            return False
        number, expanded = self._opened.popitem()
        if expanded is None or not expanded.is_good:
            place = self.storage.place_of(number)
            assert place is not None  # or it would not have been opened
            expanded = self.storage.expanded(number, place)
        self.install_pieces(expanded, Origin.NEIGHBOUR)
        return True

    def _page_of(self, expanded: Expanded, page: int) -> memoryview | None:
        for pages, content in expanded.pieces:
            if pages.start <= page < pages.end:
                at = (page - pages.start) * PAGE_BYTES
                return None if content is None else content[at : at + PAGE_BYTES]
        return self.storage.duplicate(expanded.block, dict(expanded.duplicates)[page])

    def _bring_zero(self, vcpu: int, side: Side, page: int) -> tuple[FaultKind, int]:
        """Bring a zero page, and the next ones where the guest seems to walk through them."""
        done_ns = self._answer_with(vcpu, side, page, None)
        block_end = (page // self._block_pages + 1) * self._block_pages
        end = min(page + _ZERO_AHEAD_PAGES, block_end, self.storage.page_count)
        if page and self.residency.state(page - 1) == State.ZERO and end > page + 1:
            self.install_zeros(PageRange(page + 1, end), Origin.NEIGHBOUR)
        return FaultKind.ZERO, done_ns

    def install_pieces(self, expanded: Expanded, origin: Origin, but: int = -1) -> None:
        """Bring what is missing of a memory block, but for zero pages (holes read as zeros), duplicates, and page `but`."""
        for pages, content in expanded.pieces:
            if content is None:
                continue
            if pages.start <= but < pages.end:
                at = (but - pages.start) * PAGE_BYTES
                self._install(PageRange(pages.start, but), content[:at], origin)
                self._install(PageRange(but + 1, pages.end), content[at + PAGE_BYTES :], origin)
            else:
                self._install(pages, content, origin)

    def install_zeros(self, pages: PageRange, origin: Origin) -> None:
        """Put zeros in the place of what is missing of a range of zero pages."""
        self._install(pages, None, origin)

    def install(self, pages: PageRange, content: memoryview, origin: Origin) -> None:
        """Bring what is missing of a range, whose content is `content`."""
        self._install(pages, content, origin)

    def _install(self, pages: PageRange, content: memoryview | None, origin: Origin) -> None:
        """Claim, fill, settle, through the filler."""
        if pages.start == pages.end:
            return
        state = State.ZERO if content is None else State.PRESENT
        for run in self.residency.claim(pages):
            part = content
            if content is not None and run != pages:
                start, end = run
                part = content[(start - pages.start) * PAGE_BYTES : (end - pages.start) * PAGE_BYTES]
            self._fill(None, self._filler, run, part, wake=False)
            self.residency.settle(run, state, origin)

    def _answer_with(self, vcpu: int, side: Side, page: int, content: memoryview | None) -> int:
        """Fill a page through the mapping of the vCPU that waits for it, and wake it; when that was, in nanoseconds."""
        pages = PageRange(page, page + 1)
        self.residency.take(page)
        self._fill(vcpu, side, pages, content, wake=True)
        done_ns = time.monotonic_ns()
        self.residency.settle(pages, State.ZERO if content is None else State.PRESENT, Origin.DEMAND)
        return done_ns

    def _fill(
        self, vcpu: int | None, side: Side, pages: PageRange, content: memoryview | None, *, wake: bool
    ) -> None:
        """Fill a run through one mapping. A page that is there already keeps what it has."""
        start, end = pages
        address, length = side.address + start * PAGE_BYTES, (end - start) * PAGE_BYTES
        deadline_s = 0.0
        done = 0
        while done < length:
            if content is None:
                outcome = side.faults.zero(address + done, length - done, wake=wake)
            else:
                rest = content[done:] if done else content
                outcome = side.faults.copy(address + done, rest, length - done, wake=wake)
            done += outcome.bytes_done
            if outcome.stop is Stop.EXISTS:
                if wake:
                    side.faults.wake(address + done, PAGE_BYTES)
                done += PAGE_BYTES
            elif outcome.stop is Stop.AGAIN:
                deadline_s = self._wait(deadline_s, vcpu, side, progress=outcome.bytes_done > 0)
            elif outcome.stop is Stop.GONE and vcpu is not None:
                self._guests.pop(vcpu, None)  # it has ended, and waits for nothing any more; others may
                vcpu, side, wake = None, self._filler, False
                address = side.address + pages.start * PAGE_BYTES
            elif outcome.stop is not Stop.DONE:
                where = "the handler's own mapping" if vcpu is None else f"vCPU {vcpu}'s mapping"
                raise IoError(
                    f"cannot bring pages {pages.start} to {pages.end - 1}: {where} is {outcome.stop.value}"
                )

    def _wait(self, deadline_s: float, vcpu: int | None, side: Side, *, progress: bool) -> float:
        """The kernel says to try again: read what it may wait for; it may not say so for ever."""
        self._late += [(vcpu or 0, event) for event in side.faults.read_events()] if vcpu is not None else []
        now_s = time.monotonic()
        if not deadline_s or progress:
            return now_s + _PATIENCE_S
        if now_s > deadline_s:
            raise IoError(
                f"the kernel has refused to fill a page for {_PATIENCE_S:g} s: it may be out of memory"
            )
        time.sleep(0)
        return deadline_s

    def count(self) -> None:
        """Bring the shared counters up to date."""
        counters = self._log.counters
        counters[Counter.STEPS] += 1
        counters[Counter.READS] += self.storage.reads - self._counted[0]
        counters[Counter.READ_BYTES] += self.storage.read_bytes - self._counted[1]
        self._counted = (self.storage.reads, self.storage.read_bytes)
