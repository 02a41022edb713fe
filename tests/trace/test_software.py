"""The tracer without the kernel: its table, its messages, and the whole of it behind the tracer process."""

import os
import select
import socket
from collections.abc import Iterator

import pytest

from vmckpt.errors import IoError
from vmckpt.kernel.memory import Mapping, create_memfd
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import PageRange
from vmckpt.trace.handler import Entry, Handler
from vmckpt.trace.journal import Journal
from vmckpt.trace.rules import Mode, Needs, Rule
from vmckpt.trace.software import (
    GO_ON,
    READ,
    TOUCH,
    WRITE,
    SoftwareTracer,
    TraceTable,
    create_table,
    traces_of,
)
from vmckpt.trace.tracer import Trap

PAGES, VCPUS = 12, 2
BOTH = READ | WRITE


class Setting:
    """A table, a tracer, and the vCPUs' ends of the sockets."""

    def __init__(self) -> None:
        fd = create_table(PAGES, VCPUS)
        self.table = TraceTable(fd, PAGES, VCPUS)
        os.close(fd)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(VCPUS)]
        self.vcpus = [ours for ours, _ in pairs]
        self.tracer = SoftwareTracer(self.table, [theirs for _, theirs in pairs])
        for each in self.vcpus:
            each.settimeout(5)

    def row(self, vcpu: int) -> list[int]:
        return list(self.table.rows[vcpu])

    def ask(self, page: int, *, write: bool, vcpu: int = 0) -> list[Trap]:
        self.vcpus[vcpu].send(TOUCH.pack(page, write))
        return self.tracer.traps(self.tracer.descriptors()[vcpu])

    def close(self) -> None:
        self.tracer.close()
        for each in self.vcpus:
            each.close()
        self.table.close()


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    made.close()


def test_a_touch_takes_sixteen_bytes() -> None:
    assert TOUCH.size == 16
    assert TOUCH.pack(0x0102030405060708, 1).hex() == "0807060504030201" + "01" + "00" * 7


@pytest.mark.parametrize(
    ("needs", "traces"),
    [
        (Needs(first_touch=True, writes=False, protect=False), BOTH),
        (Needs(first_touch=True, writes=True, protect=False), BOTH),
        (Needs(first_touch=False, writes=True, protect=True), WRITE),
        (Needs(first_touch=False, writes=False, protect=False), 0),
    ],
    ids=["first touch", "both", "writes", "none"],
)
def test_the_traces_at_first_are_what_is_needed(needs: Needs, traces: int) -> None:
    assert traces_of(needs) == traces


def test_a_new_table_traces_nothing_and_a_filled_one_all(setting: Setting) -> None:
    assert [setting.row(vcpu) for vcpu in range(VCPUS)] == [[0] * PAGES] * VCPUS
    setting.table.fill(WRITE)
    assert [setting.row(vcpu) for vcpu in range(VCPUS)] == [[WRITE] * PAGES] * VCPUS


def test_two_mappings_show_the_same_table() -> None:
    fd = create_table(PAGES, VCPUS)
    with TraceTable(fd, PAGES, VCPUS) as ours, TraceTable(fd, PAGES, VCPUS) as theirs:
        ours.rows[1][3] = WRITE
        assert list(theirs.rows[1]) == [0, 0, 0, WRITE] + [0] * (PAGES - 4)
    os.close(fd)


def test_a_table_that_is_too_short_is_refused() -> None:
    fd = create_table(PAGES, VCPUS)
    with pytest.raises(IoError, match="cannot map"):
        TraceTable(fd, PAGES * 1000, VCPUS)
    os.close(fd)


def test_the_length_of_a_table_is_fixed() -> None:
    fd = create_table(PAGES, VCPUS)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 1)
    os.close(fd)


def test_a_touch_is_told_as_a_trap(setting: Setting) -> None:
    assert setting.ask(5, write=True, vcpu=1) == [Trap(1, 5, write=True, how=0)]
    assert setting.ask(6, write=False) == [Trap(0, 6, write=False, how=0)]
    assert setting.tracer.traps(setting.tracer.descriptors()[0]) == []


def test_letting_lifts_the_traces_of_one_vcpu_and_answers_it(setting: Setting) -> None:
    setting.table.fill(BOTH)
    [trap] = setting.ask(5, write=False)
    setting.tracer.let(trap, PageRange(4, 8), writes=True)
    assert setting.vcpus[0].recv(9) == GO_ON
    assert setting.row(0) == [BOTH] * 4 + [0] * 4 + [BOTH] * 4
    assert setting.row(1) == [BOTH] * PAGES


def test_letting_reads_alone_keeps_the_traces_of_writes(setting: Setting) -> None:
    setting.table.rows[0][4:8] = bytes([BOTH, READ, WRITE, 0])
    [trap] = setting.ask(5, write=False)
    setting.tracer.let(trap, PageRange(4, 8), writes=False)
    assert setting.row(0)[4:8] == [WRITE, 0, WRITE, 0]


def test_arming_sets_the_traces_of_writes_for_every_vcpu(setting: Setting) -> None:
    setting.table.rows[0][4:8] = bytes([BOTH, READ, WRITE, 0])
    setting.tracer.arm(PageRange(4, 8))
    assert setting.row(0)[3:9] == [0, BOTH, BOTH, WRITE, WRITE, 0]
    assert setting.row(1)[3:9] == [0, WRITE, WRITE, WRITE, WRITE, 0]
    setting.tracer.arm(PageRange(5, 7), reads=True)
    assert setting.row(1)[3:9] == [0, WRITE, BOTH, BOTH, WRITE, 0]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b"x", "in 1 bytes, expected 16"),
        (TOUCH.pack(1, 1) + b"x", "in 17 bytes, expected 16"),
        (TOUCH.pack(PAGES, 1), "page 12: vCPU 0 told a touch of kind 1 beyond its 12 pages"),
        (TOUCH.pack(1, 2), "kind 2"),
    ],
    ids=["short", "long", "page", "kind"],
)
def test_what_is_no_touch_is_refused(setting: Setting, message: bytes, complaint: str) -> None:
    setting.vcpus[0].send(message)
    with pytest.raises(IoError, match=complaint):
        setting.tracer.traps(setting.tracer.descriptors()[0])


def test_a_vcpu_that_has_ended_is_no_error(setting: Setting) -> None:
    [trap] = setting.ask(5, write=True)
    setting.vcpus[0].close()
    setting.tracer.let(trap, PageRange(4, 8), writes=True)
    assert setting.tracer.traps(setting.tracer.descriptors()[0]) == []


def test_behind_the_tracer_process_blocks_are_copied_and_traces_armed(setting: Setting) -> None:
    memory_fd = create_memfd("memory", PAGES * PAGE_BYTES)
    setting.table.fill(traces_of(Needs(first_touch=True, writes=False, protect=False)))
    with Mapping.of_file(memory_fd, PAGES * PAGE_BYTES) as memory, Journal(PAGES, 4, VCPUS) as journal:
        with memory.view as view:
            view[5 * PAGE_BYTES] = 5
        with Handler(setting.tracer, journal, Rule.ACCESS, Mode.CHECKPOINT, memory_fd) as handler:
            setting.vcpus[0].send(TOUCH.pack(5, 1))
            assert setting.vcpus[0].recv(9) == GO_ON
            assert setting.row(0)[3:9] == [BOTH, 0, 0, 0, 0, BOTH]
            assert handler.news() == [Entry(0, 5, write=True, copied=True)]
            with journal.slot(0) as slot:
                assert slot[PAGE_BYTES] == 5
            handler.arm([PageRange(6, 7)])
            assert setting.row(0)[3:9] == [BOTH, 0, 0, WRITE, 0, BOTH]
            setting.vcpus[1].close()  # its end keeps the process neither busy nor from working
            setting.vcpus[0].send(TOUCH.pack(6, 1))
            assert setting.vcpus[0].recv(9) == GO_ON
            assert ticks(handler.pid) < 50
        assert setting.vcpus[0].recv(9) == b""  # and the vCPU traces nothing any more
    os.close(memory_fd)


def ticks(pid: int) -> int:
    """Processor time of a process, in hundredths of a second."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


def test_descriptors_poll_readable_when_somebody_waits(setting: Setting) -> None:
    poll = select.poll()
    for fd in setting.tracer.descriptors():
        poll.register(fd, select.POLLIN)
    setting.vcpus[1].send(TOUCH.pack(1, 0))
    assert poll.poll(5000) == [(setting.tracer.descriptors()[1], select.POLLIN)]
