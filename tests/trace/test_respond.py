"""What is done about a trap, and in which order, without kernel or process."""

import os
from collections.abc import Callable, Iterator

import pytest

from vmckpt.errors import IoError
from vmckpt.kernel.memory import create_memfd
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import PageRange
from vmckpt.trace.journal import RELEASED, Entry, Journal
from vmckpt.trace.respond import responder
from vmckpt.trace.rules import Mode, Rule
from vmckpt.trace.tracer import Trap

PAGES, BLOCK_PAGES = 10, 4


class Letting:
    """A tracer that notes what it is to let, and how the journal stood at that moment."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.let_: list[tuple[PageRange, bool]] = []
        self.seen: list[tuple[list[int], list[int], list[Entry]]] = []

    def let(self, _: Trap, pages: PageRange, *, writes: bool) -> None:
        self.let_.append((pages, writes))
        journal = self.journal
        self.seen.append((list(journal.captures), list(journal.dirty), journal.entries()))

    def descriptors(self) -> list[int]:
        return []

    def traps(self, _: int) -> list[Trap]:
        return []

    def arm(self, pages: PageRange, *, reads: bool = False) -> None: ...

    def close(self) -> None: ...


class Setting:
    def __init__(self, journal: Journal, memory_fd: int) -> None:
        self.journal = journal
        self.memory_fd = memory_fd
        self.tracer = Letting(journal)

    def rule(self, rule: Rule, mode: Mode) -> Callable[[Trap], None]:
        return responder(self.tracer, self.journal, rule, mode, self.memory_fd)

    def slot(self, number: int) -> bytes:
        with self.journal.slot(number) as slot:
            return bytes(slot)


@pytest.fixture
def setting() -> Iterator[Setting]:
    memory_fd = create_memfd("memory", PAGES * PAGE_BYTES)
    for page in range(PAGES):
        os.pwrite(memory_fd, bytes([page + 1]) * PAGE_BYTES, page * PAGE_BYTES)
    with Journal(PAGES, BLOCK_PAGES, 2) as journal:
        yield Setting(journal, memory_fd)
    os.close(memory_fd)


def read(page: int, vcpu: int = 0) -> Trap:
    return Trap(vcpu, page, write=False, how=0)


def write(page: int, vcpu: int = 0) -> Trap:
    return Trap(vcpu, page, write=True, how=0)


def content(start: int, end: int) -> bytes:
    return b"".join(bytes([page + 1]) * PAGE_BYTES for page in range(start, end))


def test_copy_and_log_come_before_the_vcpu_goes_on(setting: Setting) -> None:
    setting.rule(Rule.ACCESS, Mode.CHECKPOINT)(read(5, vcpu=1))
    assert setting.tracer.let_ == [(PageRange(4, 8), True)]
    assert setting.tracer.seen == [([0, 1, 0], [0, 0, 0], [Entry(1, 5, write=False, copied=True)])]
    assert setting.slot(0) == content(4, 8)


def test_the_mark_comes_before_the_vcpu_goes_on(setting: Setting) -> None:
    setting.rule(Rule.WRITE, Mode.SUSPEND)(write(5))
    assert setting.tracer.seen == [([0, 0, 0], [0, 1, 0], [Entry(0, 5, write=True, copied=False)])]


def test_a_block_is_copied_once(setting: Setting) -> None:
    respond = setting.rule(Rule.ACCESS, Mode.CHECKPOINT)
    respond(read(5))
    os.pwrite(setting.memory_fd, b"changed", 5 * PAGE_BYTES)
    respond(write(5, vcpu=1))
    assert [seen[2][0].copied for seen in setting.tracer.seen] == [True, False]
    assert setting.slot(0) == content(4, 8)
    setting.journal.release(1)
    respond(write(6, vcpu=1))
    assert list(setting.journal.captures) == [0, RELEASED, 0]


def test_the_last_block_ends_with_the_memory(setting: Setting) -> None:
    setting.rule(Rule.ACCESS, Mode.CHECKPOINT)(read(9))
    assert setting.tracer.let_ == [(PageRange(8, 10), True)]
    assert setting.slot(0) == content(8, 10) + bytes(2 * PAGE_BYTES)


def test_the_working_set_is_let_page_by_page(setting: Setting) -> None:
    respond = setting.rule(Rule.WORKING_SET, Mode.CHECKPOINT)
    respond(read(5))
    respond(write(5))
    assert setting.tracer.let_ == [(PageRange(5, 6), False), (PageRange(5, 6), True)]
    assert [seen[0] for seen in setting.tracer.seen] == [[0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("rule", "trap", "capture"),
    [
        (Rule.ACCESS, read(5), RELEASED),
        (Rule.ACCESS, write(5), RELEASED),
        (Rule.WRITE, write(5), RELEASED),
        (Rule.WORKING_SET, write(5), RELEASED),
        (Rule.WORKING_SET, read(5), 0),
    ],
    ids=["access read", "access write", "write", "working-set write", "working-set read"],
)
def test_a_saved_block_counts_as_changed_once_it_may_be_written(
    setting: Setting, rule: Rule, trap: Trap, capture: int
) -> None:
    setting.journal.saved[1] = 1
    setting.rule(rule, Mode.CHECKPOINT)(trap)
    [(captures, _, _)] = setting.tracer.seen
    assert captures == [0, capture, 0]


def test_memory_that_ends_early_is_an_error(setting: Setting) -> None:
    os.ftruncate(setting.memory_fd, 6 * PAGE_BYTES)
    with pytest.raises(IoError, match="ends before its last page"):
        setting.rule(Rule.ACCESS, Mode.CHECKPOINT)(read(5))
    assert setting.journal.captures[1] == 0
    assert setting.tracer.let_ == []
