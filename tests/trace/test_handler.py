"""The tracer process against real vCPUs: what is captured, what is told, and what its end leaves."""

import os
import random
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.trace.vcpu import Machine
from vmckpt.errors import IoError, WorkerError
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import PageRange
from vmckpt.trace import handler as handler_module
from vmckpt.trace.handler import Entry, Handler
from vmckpt.trace.journal import RELEASED, Journal
from vmckpt.trace.rules import Mode, Rule, needs
from vmckpt.trace.tracer import Trap

PAGES, BLOCK_PAGES = 16, 4
WAIT_MS = 5000

pytestmark = pytest.mark.usefixtures("kernel_traces")


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(WAIT_MS), "nothing came"


class Saver:
    """A machine that is traced, and who saves it."""

    def __init__(self, stack: ExitStack, rule: Rule, mode: Mode, pages: int, vcpus: int) -> None:
        self.machine = stack.enter_context(Machine(pages, vcpus))
        self.vcpus = self.machine.vcpus
        for page in range(pages):
            if page % 5 != 3:  # some are holes
                self.machine.fill(page, page % 250 + 1)
        self.start = self.machine.content(0, pages)
        self.journal = stack.enter_context(Journal(pages, BLOCK_PAGES, vcpus))
        tracer = self.machine.tracer(needs(rule, mode))
        self.handler = stack.enter_context(Handler(tracer, self.journal, rule, mode, self.machine.fd))
        if needs(rule, mode).protect:
            self.handler.arm([PageRange(0, pages)])

    def captured(self, block: int) -> bytes:
        number = self.journal.captures[block]
        assert 0 < number < RELEASED
        with self.journal.slot(number - 1) as slot:
            return bytes(slot)

    def as_of_start(self, block: int) -> bytes:
        return self.start[block * BLOCK_PAGES * PAGE_BYTES : (block + 1) * BLOCK_PAGES * PAGE_BYTES]

    def news(self) -> list[Entry]:
        wait_for(self.handler.fileno())
        return self.handler.news()


Trace = Callable[..., Saver]


@pytest.fixture
def trace() -> Iterator[Trace]:
    fds = open_fds()
    with ExitStack() as stack:

        def start(rule: Rule, mode: Mode, pages: int = PAGES, vcpus: int = 1) -> Saver:
            return Saver(stack, rule, mode, pages, vcpus)

        yield start
    assert open_fds() == fds


def test_a_block_is_copied_before_its_first_read(trace: Trace) -> None:
    saver = trace(Rule.ACCESS, Mode.CHECKPOINT)
    assert saver.vcpus[0].do("read", 5) == 6
    assert saver.news() == [Entry(0, 5, write=False, copied=True)]
    assert saver.captured(1) == saver.as_of_start(1)
    for page in (4, 6, 7):
        saver.vcpus[0].do("write", page, 99)
    assert saver.handler.news() == []
    assert list(saver.journal.captures) == [0, 1, 0, 0]


def test_a_block_is_copied_before_its_first_write(trace: Trace) -> None:
    saver = trace(Rule.WRITE, Mode.CHECKPOINT)
    assert saver.vcpus[0].do("read", 5) == 6
    saver.vcpus[0].do("write", 5, 99)
    assert saver.news() == [Entry(0, 5, write=True, copied=True)]
    assert saver.captured(1) == saver.as_of_start(1)
    assert saver.machine.content(5)[:2] == b"\x63\x06"
    for page in (4, 6, 7):
        saver.vcpus[0].do("write", page, 99)
    assert saver.handler.news() == []


def test_the_working_set_is_told_page_by_page(trace: Trace) -> None:
    saver = trace(Rule.WORKING_SET, Mode.CHECKPOINT)
    vcpu = saver.vcpus[0]
    for command in (("read", 5), ("read", 5), ("read", 6), ("write", 6, 99), ("write", 5, 98), ("read", 8)):
        vcpu.do(*command)
    assert saver.news() == [
        Entry(0, 5, write=False, copied=False),
        Entry(0, 6, write=False, copied=False),
        Entry(0, 6, write=True, copied=True),
        Entry(0, 5, write=True, copied=False),
        Entry(0, 8, write=False, copied=False),
    ]
    assert saver.captured(1) == saver.as_of_start(1)
    assert (saver.journal.traps_read, saver.journal.traps_write) == (3, 2)


def test_what_was_saved_is_not_copied_but_counts_as_changed(trace: Trace) -> None:
    saver = trace(Rule.ACCESS, Mode.CHECKPOINT)
    saver.journal.saved[1] = 1
    saver.vcpus[0].do("write", 5, 99)
    assert saver.news() == [Entry(0, 5, write=True, copied=False)]
    assert list(saver.journal.captures) == [0, RELEASED, 0, 0]


def test_a_read_that_leaves_writes_traced_changes_nothing_of_what_was_saved(trace: Trace) -> None:
    saver = trace(Rule.WORKING_SET, Mode.CHECKPOINT)
    saver.journal.saved[1] = 1
    saver.vcpus[0].do("read", 5)
    assert saver.news() == [Entry(0, 5, write=False, copied=False)]
    assert list(saver.journal.captures) == [0, 0, 0, 0]


def test_a_slot_is_used_again_once_it_is_given_back(trace: Trace) -> None:
    saver = trace(Rule.ACCESS, Mode.CHECKPOINT)
    saver.vcpus[0].do("read", 0)
    saver.vcpus[0].do("read", 4)
    saver.journal.release(1)
    saver.vcpus[0].do("read", 8)
    assert list(saver.journal.captures) == [1, RELEASED, 2, 0]
    assert saver.captured(2) == saver.as_of_start(2)


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_whatever_is_touched_the_start_can_be_read(trace: Trace, rule: Rule) -> None:
    pages, random_ = 62, random.Random(rule.value)  # the last block is short
    saver = trace(rule, Mode.CHECKPOINT, pages, vcpus=3)
    for _ in range(60):
        touched = random_.sample(range(pages), len(saver.vcpus))
        writes = [random_.random() < 0.5 for _ in touched]
        for vcpu, page, write in zip(saver.vcpus, touched, writes, strict=True):
            vcpu.start(*(("write", page, 255) if write else ("read", page)))
        for vcpu, page, write in zip(saver.vcpus, touched, writes, strict=True):
            answer = vcpu.answer()
            assert write or answer == saver.machine.content(page)[0]
    for block in range(saver.journal.block_count):
        now = saver.machine.content(block * BLOCK_PAGES, BLOCK_PAGES)
        kept = saver.captured(block)[: len(now)] if saver.journal.captures[block] else now
        assert kept == saver.as_of_start(block)
    copied = [entry.page // BLOCK_PAGES for entry in saver.news() if entry.copied]
    assert sorted(copied) == [block for block in range(16) if saver.journal.captures[block]]


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_what_is_written_after_it_was_read_is_dirty(trace: Trace, rule: Rule) -> None:
    pages, random_ = 62, random.Random(rule.value)
    saver = trace(rule, Mode.SUSPEND, pages, vcpus=2)
    saved = [saver.as_of_start(block) for block in range(saver.journal.block_count)]

    def save_again(blocks: list[int]) -> None:
        for block in blocks:
            saver.journal.dirty[block] = 0
        saver.handler.arm(PageRange(4 * block, min(4 * block + 4, pages)) for block in blocks)
        for block in blocks:
            saved[block] = saver.machine.content(block * BLOCK_PAGES, BLOCK_PAGES)

    for turn in range(60):
        for vcpu in saver.vcpus:
            page = random_.randrange(pages)
            vcpu.start(*(("write", page, turn) if random_.random() < 0.5 else ("read", page)))
        if turn % 10 == 9:  # while they touch
            save_again([block for block, dirty in enumerate(saver.journal.dirty) if dirty])
        for vcpu in saver.vcpus:
            vcpu.answer()
    save_again([block for block, dirty in enumerate(saver.journal.dirty) if dirty])
    assert b"".join(saved) == saver.machine.content(0, pages)
    assert not any(saver.journal.captures)
    assert saver.journal.traps_write > 0


def test_arming_again_traps_the_next_write_and_no_read(trace: Trace) -> None:
    saver = trace(Rule.WRITE, Mode.SUSPEND, vcpus=2)
    for vcpu in saver.vcpus:
        vcpu.do("write", 5, 1)
    assert [entry.vcpu for entry in saver.news()] == [0, 1]
    saver.handler.arm([PageRange(4, 6), PageRange(6, 8)])
    saver.handler.arm([])
    for vcpu in saver.vcpus:
        vcpu.do("read", 5)
        vcpu.do("write", 6, 2)
    assert saver.news() == [Entry(vcpu, 6, write=True, copied=False) for vcpu in (0, 1)]


def test_a_process_that_lives_confirms_it(trace: Trace) -> None:
    saver = trace(Rule.ACCESS, Mode.CHECKPOINT)
    pid = saver.handler.pid
    for _ in range(3):
        saver.handler.confirm()
    assert saver.handler.pid == pid  # it was not reaped
    assert saver.handler.news() == []


def test_much_is_armed_piece_by_piece_to_its_end(trace: Trace) -> None:
    saver = trace(Rule.WRITE, Mode.SUSPEND, pages=2500)
    pages = [0, 1023, 1024, 2047, 2048, 2499]
    for page in pages:
        saver.vcpus[0].do("write", page, 1)
    assert [entry.page for entry in saver.news()] == pages


def test_traps_are_answered_while_much_is_armed(trace: Trace) -> None:
    saver = trace(Rule.WRITE, Mode.SUSPEND)
    vcpu = saver.vcpus[0]
    vcpu.start("write", 5, 1)
    saver.handler.arm(PageRange(page, page + 1) for _ in range(700) for page in range(0, PAGES, 2))
    vcpu.answer()
    vcpu.do("read", 4)
    vcpu.do("write", 4, 1)
    assert [entry.page for entry in saver.news()][-1] == 4


def test_holes_stay_holes_until_a_second_one_of_their_block_is_met(trace: Trace) -> None:
    saver = trace(Rule.ACCESS, Mode.CHECKPOINT, pages=64)
    holes = [page for page in range(64) if page % 5 == 3]
    for page in range(64):
        assert saver.machine.is_hole(page) == (page in holes)
    first, second = 3, 8  # each alone in its block
    for page in (first, second):
        assert saver.vcpus[0].do("read", page) == 0
    assert [page for page in range(64) if saver.machine.is_hole(page)] == [
        page for page in holes if page not in {first, second}
    ]


# Ends


def test_the_process_has_its_name_and_the_parents_signals_do_not_end_it(trace: Trace) -> None:
    saver = trace(Rule.ACCESS, Mode.CHECKPOINT)
    with open(f"/proc/{saver.handler.pid}/comm", encoding="ascii") as file:
        assert file.read() == "vmckpt-tracer\n"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
        os.kill(saver.handler.pid, number)
    assert saver.vcpus[0].do("read", 5) == 6
    saver.handler.check()


def test_the_process_keeps_open_only_what_it_needs(trace: Trace) -> None:
    with open("/dev/null", "rb"):
        saver = trace(Rule.ACCESS, Mode.CHECKPOINT, vcpus=2)
        kept = os.listdir(f"/proc/{saver.handler.pid}/fd")
    assert len([fd for fd in kept if int(fd) > 2]) == 2 + 1 + 1 + 1 + 1  # uffds, late, memory, requests, news


def test_closing_lifts_all_traces(trace: Trace) -> None:
    saver = trace(Rule.WORKING_SET, Mode.CHECKPOINT)
    pid = saver.handler.pid
    saver.handler.close()
    assert not is_alive(pid)
    for page in range(PAGES):
        assert saver.vcpus[0].do("read", page) == saver.start[page * PAGE_BYTES]
        saver.vcpus[0].do("write", page, 77)
    assert saver.journal.entries() == []


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_when_the_process_is_killed_who_waits_goes_on_with_the_right_content(
    trace: Trace, rule: Rule
) -> None:
    saver = trace(rule, Mode.CHECKPOINT, vcpus=2)
    reader, writer = saver.vcpus
    os.kill(saver.handler.pid, signal.SIGSTOP)
    reader.start("read", 5)
    writer.start("write", 6, 99)
    saver.handler.check()
    os.kill(saver.handler.pid, signal.SIGKILL)
    assert reader.answer() == 6
    writer.answer()
    assert saver.machine.content(6)[:2] == b"\x63\x07"
    wait_for(saver.handler.fileno())
    with pytest.raises(WorkerError, match="killed by signal 9"):
        saver.handler.news()
    again = saver.handler
    for ask in (again.check, again.confirm, again.news, lambda: again.arm([PageRange(0, 1)])):
        with pytest.raises(WorkerError, match=f"tracer process {saver.handler.pid} .* killed by signal 9"):
            ask()


def test_a_process_that_does_not_answer_is_ended(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_module, "_ANSWER_S", 0.1)
    saver = trace(Rule.ACCESS, Mode.CHECKPOINT)
    os.kill(saver.handler.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match="it did not answer within"):
        saver.handler.confirm()
    with pytest.raises(WorkerError):
        saver.handler.check()


def test_arming_says_so_when_the_process_is_killed_meanwhile(trace: Trace) -> None:
    saver = trace(Rule.WRITE, Mode.SUSPEND)
    os.kill(saver.handler.pid, signal.SIGSTOP)
    pid = os.fork()
    if pid == 0:
        os.kill(saver.handler.pid, signal.SIGKILL)
        os._exit(0)
    with pytest.raises(WorkerError, match="killed by signal 9"):
        saver.handler.arm([PageRange(0, PAGES)])
    os.waitpid(pid, 0)


def test_a_vcpu_that_ends_takes_nobody_with_it(trace: Trace) -> None:
    saver = trace(Rule.WRITE, Mode.SUSPEND, vcpus=2)
    os.kill(saver.handler.pid, signal.SIGSTOP)
    saver.vcpus[0].start("write", 5, 1)
    saver.vcpus[0].kill()
    os.kill(saver.handler.pid, signal.SIGCONT)
    saver.vcpus[1].do("write", 6, 1)
    saver.handler.arm([PageRange(0, PAGES)])
    saver.handler.check()


class Broken:
    """A tracer that cannot arm."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.fd = os.eventfd(0)

    def descriptors(self) -> list[int]:
        return [self.fd]

    def traps(self, _: int) -> list[Trap]:
        return []

    def let(self, trap: Trap, pages: PageRange, *, writes: bool) -> None: ...

    def arm(self, _: PageRange, *, reads: bool = False) -> None:  # noqa: ARG002
        raise self.error

    def close(self) -> None:
        os.close(self.fd)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (IoError("the disk is on fire"), "save did: the disk is on fire"),
        (KeyError("oops"), "KeyError: 'oops'"),
    ],
    ids=["error", "bug"],
)
def test_what_goes_wrong_in_the_process_is_told(
    error: Exception, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Journal(PAGES, BLOCK_PAGES, 1) as journal:
        tracer = Broken(error)
        with Handler(tracer, journal, Rule.ACCESS, Mode.CHECKPOINT, 0) as handler:
            with pytest.raises(WorkerError, match=told):
                handler.arm([PageRange(0, 1)])
            with pytest.raises(WorkerError, match=told):
                handler.check()
    assert ("Traceback" in capfd.readouterr().err) == isinstance(error, KeyError)


def test_a_process_that_does_not_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(parent_pid: int) -> None:
        raise WorkerError("it is too late")

    monkeypatch.setattr("vmckpt.trace.handler.die_with_parent", fail)
    fds = open_fds()
    with Journal(PAGES, BLOCK_PAGES, 1) as journal, pytest.raises(WorkerError, match="it is too late"):
        Handler(Broken(KeyError()), journal, Rule.ACCESS, Mode.CHECKPOINT, 0)
    assert open_fds() == fds


def test_it_ends_with_the_saver(trace: Trace) -> None:
    reading, writing = os.pipe()
    machine = trace(Rule.ACCESS, Mode.CHECKPOINT).machine  # for its memory alone
    saver = os.fork()
    if saver == 0:
        try:
            with Journal(PAGES, BLOCK_PAGES, 1) as journal:
                handler = Handler(Broken(KeyError()), journal, Rule.ACCESS, Mode.CHECKPOINT, machine.fd)
                os.write(writing, handler.pid.to_bytes(4, "little"))
                signal.pause()
        finally:
            os._exit(0)
    tracer = int.from_bytes(os.read(reading, 4), "little")
    pidfd = os.pidfd_open(tracer)
    os.kill(saver, signal.SIGKILL)
    os.waitpid(saver, 0)
    wait_for(pidfd)
    assert select.select([pidfd], [], [], 0)[0] == [pidfd]
    for fd in (reading, writing, pidfd):
        os.close(fd)
