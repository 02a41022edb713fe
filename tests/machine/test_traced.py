import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.machine.machines import content
from vmckpt.machine.access import PlainAccess
from vmckpt.machine.operations import BATCH_OPS, Share, operations_of
from vmckpt.machine.traced import TracedAccess
from vmckpt.machine.workload import parse_workload
from vmckpt.pages import PageRange
from vmckpt.trace.software import READ, TOUCH, WRITE, SoftwareTracer, TraceTable, create_table

PAGES = 32
WORKLOADS = ("zipf", "pointer-chase:list=100")


def memory() -> memoryview:
    return memoryview(bytearray(content(range(PAGES)))).cast("Q")


def work(access: PlainAccess | TracedAccess, workload: str, share: Share) -> int:
    """Four batches; the register."""
    operations = operations_of(parse_workload(workload), share, seed=3, recording=None)
    register = 0
    for number in range(4):
        draws, threshold, words = operations.batch(number)
        for start in range(0, BATCH_OPS, 256):
            part = slice(start, start + 256)
            if words:
                register = access.straight(words[part], draws[part], threshold, register)
            else:
                register = access.chase(draws[part], threshold, register)
    return register


@contextmanager
def table_of(traces: int) -> Iterator[TraceTable]:
    fd = create_table(PAGES, 1)
    with TraceTable(fd, PAGES, 1) as table:
        os.close(fd)
        table.fill(traces)
        yield table


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("traces", [0, READ, WRITE, READ | WRITE])
def test_traced_accesses_do_what_plain_ones_do(workload: str, traces: int) -> None:
    share = Share(0, 1, PAGES)
    plain, traced = memory(), memory()
    expected = work(PlainAccess(plain, share), workload, share)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told: list[tuple[int, int]] = []

    def answer() -> None:
        while message := theirs.recv(TOUCH.size):
            page, write = TOUCH.unpack(message)
            told.append((page, write))
            table.rows[0][page] &= ~(WRITE if write else READ)
            theirs.send(b"\0")

    with table_of(traces) as table, theirs:
        thread = threading.Thread(target=answer)
        thread.start()
        access = TracedAccess(traced, share, table.rows[0], ours)
        assert work(access, workload, share) == expected
        access.close()
        thread.join()
        del access
    assert traced == plain
    assert len(told) == len(set(told))
    assert {write for _, write in told} == {write for write, bit in enumerate((READ, WRITE)) if traces & bit}


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("moment", ["before", "waiting"])
def test_a_tracer_that_has_gone_traces_nothing(workload: str, moment: str) -> None:
    share = Share(0, 1, PAGES)
    plain, traced = memory(), memory()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def leave() -> None:
        theirs.recv(TOUCH.size)
        theirs.close()

    with table_of(READ | WRITE) as table:
        thread = threading.Thread(target=leave if moment == "waiting" else theirs.close)
        thread.start()
        if moment == "before":
            thread.join()
        access = TracedAccess(traced, share, table.rows[0], ours)
        assert work(access, workload, share) == work(PlainAccess(plain, share), workload, share)
        access.close()
        thread.join()
        del access
    assert traced == plain


def test_the_tracer_of_the_other_side_understands_it() -> None:
    share = Share(0, 1, PAGES)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with table_of(READ | WRITE) as table:
        tracer = SoftwareTracer(table, [theirs])
        access = TracedAccess(memory(), share, table.rows[0], ours)
        thread = threading.Thread(target=access.straight, args=([5 * 512 + 3], [0], 1, 7))
        thread.start()
        theirs.setblocking(True)
        traps = tracer.traps(theirs.fileno())
        assert [(trap.page, trap.write) for trap in traps] == [(5, True)]
        tracer.let(traps[0], PageRange(5, 6), writes=True)
        thread.join()
        access.close()
        tracer.close()
        del access
