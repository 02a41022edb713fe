"""A pipeline, a tracer and a machine in one thread, in whatever order a test says: for the feeds of live saves.

Memory is one page for each block, and a page is a number. Blocks are read one by one, so that a machine can write in the
midst of a batch; comparisons with pages saved before are made as the workers make them.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.pages import PageRange
from vmckpt.saving.pipeline import Batch, Feed
from vmckpt.trace.journal import RELEASED, Entry, Journal, pack_entry


def page_of(number: int) -> bytes:
    return number.to_bytes(8, "little") * (PAGE_BYTES // 8)


def number_of(page: memoryview) -> int:
    return int.from_bytes(page[:8], "little")


class Memory:
    """Memory as the machine has it."""

    def __init__(self, pages: list[int]) -> None:
        self.pages = pages
        self.layout = Layout.flat(len(pages) * PAGE_BYTES)

    def read(self, pages: PageRange, into: memoryview) -> None:
        into[:] = b"".join(page_of(self.pages[page]) for page in range(pages.start, pages.end))


class Tracer:
    """What the tracer process does with a touch, for blocks of one page."""

    def __init__(self, memory: Memory, journal: Journal, *, copies: bool) -> None:
        self.memory = memory
        self.journal = journal
        self.copies = copies
        self.traced = [True] * len(memory.pages)
        self.reads_traced = [True] * len(memory.pages)
        self.fresh = 1000

    def write(self, block: int, vcpu: int) -> None:
        """The machine writes a page, which gets a number that no page had before."""
        if self.traced[block]:
            copied = self.copies and not self.journal.captures[block] and not self.journal.saved[block]
            if copied:
                self._capture(block)
            elif not self.copies:
                self.journal.dirty[block] = 1
            elif not self.journal.captures[block]:
                self.journal.captures[block] = RELEASED
            self.journal.log(pack_entry(vcpu, block, True, copied))
            self.traced[block] = self.reads_traced[block] = False
        self.fresh += 1
        self.memory.pages[block] = self.fresh

    def _capture(self, block: int) -> None:
        slot = self.journal.take_slot()
        self.memory.read(PageRange(block, block + 1), self.journal.slot(slot))
        self.journal.captures[block] = slot + 1

    def read(self, block: int, vcpu: int) -> None:
        """The machine reads a page."""
        if not self.reads_traced[block]:
            return
        copied = self.copies and not self.journal.captures[block] and not self.journal.saved[block]
        if copied:
            self._capture(block)
        elif self.copies and not self.journal.captures[block]:
            self.journal.captures[block] = RELEASED
        self.journal.log(pack_entry(vcpu, block, False, copied))
        self.reads_traced[block] = False
        if self.copies:
            self.traced[block] = False

    def arm(self, ranges: Iterable[PageRange]) -> None:
        for start, end in ranges:
            for block in range(start, end):
                self.traced[block] = True

    def hear(self) -> list[Entry]:
        return self.journal.entries()


class Reads(Protocol):
    """What the workers read from."""

    def read(self, pages: PageRange, into: memoryview) -> None: ...


class Ticket:
    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.read: dict[int, int] = {}
        self.judged = False
        self.compared: dict[int, int] = {}  # an earlier page, and what it read as


class FakePipeline:
    """Steps of a pipeline; `saved` is what the file would say of each block: the highest generation."""

    def __init__(self, feed: Feed, source: Reads, most_tickets: int = 3) -> None:
        self.feed = feed
        self.source = source
        self.most_tickets = most_tickets
        self.tickets: list[Ticket] = []
        self.saved: dict[int, tuple[int, int]] = {}  # generation and page
        self.streams: dict[int, list[int]] = {}
        self.judged: list[int] = []
        self.trusted: list[tuple[int, int]] = []  # pages whose comparison counted, and what they read as
        self.ended = False

    def hand_out(self) -> None:
        if self.ended or len(self.tickets) >= self.most_tickets:
            return
        batch = self.feed.next()
        if batch is None:
            self.ended = not self.tickets
            return
        self.tickets.append(Ticket(batch))

    def scan(self, index: int) -> None:
        """One block of a ticket is read."""
        if index >= len(self.tickets):
            return
        ticket = self.tickets[index]
        for block in ticket.batch.blocks:
            if block not in ticket.read:
                ticket.read[block] = self._read(block)
                return

    def _read(self, block: int) -> int:
        page = memoryview(bytearray(PAGE_BYTES))
        self.source.read(PageRange(block, block + 1), page)
        return number_of(page)

    def judge(self) -> None:
        """The first ticket that is not judged, if it was read."""
        for index, ticket in enumerate(self.tickets):
            if ticket.judged:
                continue
            if len(ticket.read) < len(ticket.batch.blocks):
                return
            intact = self.feed.intact(ticket.batch)
            if intact is None:
                del self.tickets[index]
            elif intact is not ticket.batch:
                ticket.batch, ticket.read = intact, {}
            else:
                ticket.judged = True
                steady = [page for page in self.judged if self.feed.steady(page)]
                ticket.compared = dict.fromkeys(steady, -1)
                self.judged += ticket.batch.blocks
            return

    def compare(self, index: int) -> None:
        """A judged ticket's worker reads the pages that it might be equal to."""
        if index < len(self.tickets):
            ticket = self.tickets[index]
            for page in ticket.compared:
                ticket.compared[page] = self._read(page)

    def finish(self) -> None:
        """The first ticket goes into the file."""
        if not self.tickets or not self.tickets[0].judged:
            return
        ticket = self.tickets.pop(0)
        for page, number in ticket.compared.items():
            if number >= 0 and self.feed.steady(page):
                self.trusted.append((page, number))
        for block in ticket.batch.blocks:
            earlier = self.saved.get(block, (-1, 0))
            assert ticket.batch.generation > earlier[0], f"block {block} twice in one generation"
            self.saved[block] = ticket.batch.generation, ticket.read[block]
            self.streams.setdefault(ticket.batch.stream, []).append(block)
        self.feed.done(ticket.batch)

    def advance(self) -> None:
        """A step of everything."""
        self.hand_out()
        for index, ticket in enumerate(self.tickets):
            for _ in ticket.batch.blocks:
                self.scan(index)
        self.judge()
        for index in range(len(self.tickets)):
            self.compare(index)
        self.finish()

    def run_out(self) -> None:
        """Everything else, undisturbed."""
        while not self.ended:
            self.advance()


Step = tuple[str, int, int]


def play(steps: Iterable[Step], pipeline: FakePipeline, tracer: Tracer, stop: Callable[[], bool]) -> None:
    """Do the steps: `(what, number, vCPU)`; the machine's touches only until `stop` says that it stands still."""
    pages = len(tracer.memory.pages)
    for what, number, vcpu in steps:
        if what in {"write", "read"}:
            if not stop():
                getattr(tracer, what)(number % pages, vcpu)
        elif what in {"scan", "compare"}:
            getattr(pipeline, what)(number % pipeline.most_tickets)
        else:
            getattr(pipeline, what)()
