"""A pipeline, a tracer and a machine, step by step in whatever order a test says: for the feeds of live saves.

    Machine ── touch ─▶ Traces: does it trap? ─▶ trace.respond, the real one ─▶ Journal ─▶ feed ◀── FakePipeline
                             ▲───────── let ──────────┘        └─ halts in the midst of its answer, if it is to

Memory is a memfd whose pages are numbers. Pages are read one by one, so that a machine can write in the midst of a block,
and comparisons with pages saved before are made as the workers make them. A touch may be *begun* and left so: at any point
of the tracer's answer, or let go and not done yet. The answer then waits in a thread of its own; still one thing happens at
a time.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from vmckpt.kernel.memory import create_memfd
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.pages import PageRange
from vmckpt.saving.pipeline import Batch, Feed
from vmckpt.trace.journal import Entry, Journal
from vmckpt.trace.respond import responder
from vmckpt.trace.rules import Mode, Rule, needs
from vmckpt.trace.software import READ, WRITE, traces_of
from vmckpt.trace.tracer import Trap

VCPUS = 2
ANSWERING = ("take_slot", "log", "let")
"""Where the tracer may halt: before it takes a slot (it has found that the block is not saved), logs, lets the vCPU go."""
HALTS = (*ANSWERING, "go on")
"""And where a touch may: let go, and not done."""


class Memory:
    """Memory as the machine has it; `pages` are the numbers in it."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.pages = list(numbers)
        self.layout = Layout.flat(len(numbers) * PAGE_BYTES)
        self.fd = create_memfd("memory", len(numbers) * PAGE_BYTES)
        for page, number in enumerate(numbers):
            self.write(page, number)

    def write(self, page: int, number: int) -> None:
        self.pages[page] = number
        os.pwrite(self.fd, number.to_bytes(8, "little") * (PAGE_BYTES // 8), page * PAGE_BYTES)

    def read(self, pages: PageRange, into: memoryview) -> None:
        assert os.preadv(self.fd, [into], pages.start * PAGE_BYTES) == len(into)


class Halting(Journal):
    """A journal that tells `reach` where the tracer is."""

    def __init__(self, page_count: int, block_pages: int, vcpus: int, reach: Callable[[str], None]) -> None:
        super().__init__(page_count, block_pages, vcpus)
        self._reach = reach

    def take_slot(self) -> int:
        self._reach("take_slot")
        return super().take_slot()

    def log(self, word: int) -> None:
        self._reach("log")
        super().log(word)


class Traces:
    """The tracer's traces, bits of each vCPU's pages as in `trace.software`; notes what it was asked for."""

    def __init__(self, page_count: int, bits: int, reach: Callable[[str], None]) -> None:
        self.rows = [bytearray([bits]) * page_count for _ in range(VCPUS)]
        self._reach = reach
        self.lets: list[tuple[Trap, PageRange, bool]] = []
        self.armed: list[tuple[PageRange, bool]] = []

    def let(self, trap: Trap, pages: PageRange, *, writes: bool) -> None:
        self._reach("let")
        assert pages.start <= trap.page < pages.end
        self.lets.append((trap, pages, writes))
        for page in range(*pages):
            self.rows[trap.vcpu][page] &= 0 if writes else ~READ

    def arm(self, pages: PageRange, *, reads: bool = False) -> None:
        self.armed.append((pages, reads))
        for row in self.rows:
            for page in range(*pages):
                row[page] |= WRITE | (READ if reads else 0)

    def descriptors(self) -> list[int]:
        return []

    def traps(self, _: int) -> list[Trap]:
        return []

    def close(self) -> None: ...


class _Answer:
    """The tracer's answer to one trap: halts at `halt`, or the next point after that."""

    def __init__(self, halt: str, answer: Callable[[], None]) -> None:
        self._points = ANSWERING[ANSWERING.index(halt) :]
        self._answer = answer
        self._error: BaseException | None = None
        self._news, self._go_on = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Return when it halts, or is over."""
        self._thread.start()
        self._news.acquire()

    def _run(self) -> None:
        try:
            self._answer()
        except BaseException as error:  # noqa: BLE001 it is raised where the end is waited for
            self._error = error
        self._news.release()

    def reach(self, point: str) -> None:
        """Told by the answer itself."""
        if point in self._points:
            self._points = ()
            self._news.release()
            self._go_on.acquire()

    def end(self) -> None:
        self._go_on.release()
        self._thread.join()
        if self._error is not None:
            raise self._error


class _Touch(NamedTuple):
    page: int
    vcpu: int
    write: bool


class Machine:
    """vCPUs that touch memory under a rule, and the tracer that answers them. Use it as a context manager."""

    def __init__(self, numbers: Sequence[int], rule: Rule, mode: Mode, block_pages: int = 1) -> None:
        self.memory = Memory(numbers)
        self.journal = Halting(len(numbers), block_pages, VCPUS, self._reach)
        self.traces = Traces(len(numbers), traces_of(needs(rule, mode)), self._reach)
        self.looks_first = False  # as without userfaultfd: a vCPU looks for a trace, and touches after that
        self.held = False
        self._respond = responder(self.traces, self.journal, rule, mode, self.memory.fd)
        self._fresh = 1000
        self._begun: _Touch | None = None
        self._answer: _Answer | None = None

    def write(self, page: int, vcpu: int) -> None:
        """The page gets a number that no page had before."""
        self._touch(_Touch(page, vcpu, write=True))

    def read(self, page: int, vcpu: int) -> None:
        self._touch(_Touch(page, vcpu, write=False))

    def begin_touch(self, page: int, vcpu: int, *, write: bool, halt: str) -> None:
        """As far as to `halt`, or what comes next of HALTS; what was begun before is ended."""
        self.end_touch()
        if self.held:
            return
        self._begun = touch = _Touch(page, vcpu, write)
        if halt not in ANSWERING:
            self._pass(touch)
        elif self._is_trapped(touch):
            self._answer = _Answer(halt, lambda: self._respond(Trap(vcpu, page, write, 0)))
            self._answer.start()

    def end_touch(self) -> None:
        touch = self._begun
        if touch is None:
            return
        self._end_answer()
        self._begun = None
        if not self.looks_first:
            self._pass(touch)
        self._do(touch)

    def _end_answer(self) -> None:
        if self._answer is not None:
            self._answer.end()
            self._answer = None

    def _reach(self, point: str) -> None:
        if self._answer is not None:
            self._answer.reach(point)

    def _touch(self, touch: _Touch) -> None:
        if self.held or (self._begun is not None and touch.vcpu == self._begun.vcpu):
            return
        if self._answer is None or not self._is_trapped(
            touch
        ):  # else it waits: the tracer answers one at a time
            self._pass(touch)
            self._do(touch)

    def _is_trapped(self, touch: _Touch) -> bool:
        return bool(self.traces.rows[touch.vcpu][touch.page] & (WRITE if touch.write else READ))

    def _pass(self, touch: _Touch) -> None:
        while self._is_trapped(touch):
            self._respond(Trap(touch.vcpu, touch.page, touch.write, 0))

    def _do(self, touch: _Touch) -> None:
        if touch.write:
            self._fresh += 1
            self.memory.write(touch.page, self._fresh)

    def arm(self, ranges: Iterable[PageRange], *, reads: bool = False) -> None:
        """Set traces again; returns when they hold."""
        self._end_answer()
        for pages in ranges:
            self.traces.arm(pages, reads=reads)
        if self.looks_first:
            self.end_touch()  # the fence

    def hold(self) -> None:
        """No touch is begun from now on."""
        self.end_touch()
        self.held = True

    def hear(self) -> list[Entry]:
        return self.journal.entries()

    def close(self) -> None:
        self.end_touch()
        self.journal.close()
        os.close(self.memory.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Reads(Protocol):
    """What the workers read from."""

    def read(self, pages: PageRange, into: memoryview) -> None: ...


class Ticket:
    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.read: dict[int, int] = {}  # pages
        self.judged = False
        self.compared: dict[int, int] = {}  # an earlier page, and what it read as


class FakePipeline:
    """Steps of a pipeline; `saved` is what the file would say of each page: that of its block's highest generation."""

    def __init__(
        self, feed: Feed, source: Reads, page_count: int, block_pages: int = 1, most_tickets: int = 3
    ) -> None:
        self.feed = feed
        self.source = source
        self.page_count = page_count
        self.block_pages = block_pages
        self.most_tickets = most_tickets
        self.tickets: list[Ticket] = []
        self.saved: dict[int, int] = {}
        self.generations: dict[int, int] = {}  # of each block
        self.streams: dict[int, list[int]] = {}
        self.judged: list[int] = []  # pages
        self.trusted: list[tuple[int, int]] = []  # pages whose comparison counted, and what they read as
        self.ended = False

    def pages_of(self, block: int) -> range:
        return range(block * self.block_pages, min((block + 1) * self.block_pages, self.page_count))

    def hand_out(self) -> None:
        if self.ended or len(self.tickets) >= self.most_tickets:
            return
        batch = self.feed.next()
        if batch is None:
            self.ended = not self.tickets
            return
        self.tickets.append(Ticket(batch))

    def scan(self, index: int) -> None:
        """One page of a ticket is read."""
        if index >= len(self.tickets):
            return
        page = next(iter(self._unread(self.tickets[index])), None)
        if page is not None:
            self.tickets[index].read[page] = self._read(page)

    def _unread(self, ticket: Ticket) -> list[int]:
        pages = (page for block in ticket.batch.blocks for page in self.pages_of(block))
        return [page for page in pages if page not in ticket.read]

    def _read(self, page: int) -> int:
        content = memoryview(bytearray(PAGE_BYTES))
        self.source.read(PageRange(page, page + 1), content)
        return int.from_bytes(content[:8], "little")

    def judge(self) -> None:
        """The first ticket that is not judged, if it was read."""
        for index, ticket in enumerate(self.tickets):
            if ticket.judged:
                continue
            if self._unread(ticket):
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
                self.judged += ticket.read
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
            generation = ticket.batch.generation
            assert generation > self.generations.get(block, -1), f"block {block} twice in one generation"
            self.generations[block] = generation
            self.streams.setdefault(ticket.batch.stream, []).append(block)
        self.saved.update(ticket.read)
        self.feed.done(ticket.batch)

    def advance(self) -> None:
        """A step of everything."""
        self.hand_out()
        for index, ticket in enumerate(self.tickets):
            for _ in self._unread(ticket):
                self.scan(index)
        self.judge()
        for index in range(len(self.tickets)):
            self.compare(index)
        self.finish()

    def run_out(self) -> None:
        """Everything else, undisturbed."""
        while not self.ended:
            self.advance()


class Step(NamedTuple):
    """Something that happens; only touches care about vCPU and `halt`."""

    what: str
    number: int
    vcpu: int
    halt: str


_TOUCHES = ("write", "write", "read", "begin_write", "begin_write", "begin_read", "end_touch")
_PIPELINE = (
    "hand_out",
    "scan",
    "scan",
    "scan",
    "judge",
    "compare",
    "finish",
    "advance",
    "advance",
    "advance",
)


PLAYED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Some hundred steps take as long as they take."""


def step_lists(pages: int, max_size: int, *more: str) -> st.SearchStrategy[list[Step]]:
    """Any steps in any order; `more` are other ones that are possible."""
    every = itertools.product(_TOUCHES + _PIPELINE + more, range(pages), range(VCPUS), HALTS)
    step = st.sampled_from([Step(*each) for each in every])  # one draw for a step: they are many
    # Left to itself, a list would have some eight steps: hardly a page would come into the file among them.
    return st.integers(0, max_size).flatmap(lambda size: st.lists(step, min_size=size, max_size=size))


def play(steps: Iterable[Step], pipeline: FakePipeline, machine: Machine) -> None:
    """Do the steps; what was begun last stays so."""
    for what, number, vcpu, halt in steps:
        match what:
            case "write" | "read":
                getattr(machine, what)(number, vcpu)
            case "begin_write" | "begin_read":
                machine.begin_touch(number, vcpu, write=what == "begin_write", halt=halt)
            case "end_touch":
                machine.end_touch()
            case "trace_again":
                machine.arm([PageRange(number, number + 1)], reads=True)
            case "scan" | "compare":
                getattr(pipeline, what)(number % pipeline.most_tickets)
            case _:
                getattr(pipeline, what)()
