"""A saver that saves nothing: a process that has a machine traced, answers its traps, and dies when it is told to."""

import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from vmckpt.errors import VmckptError
from vmckpt.kernel.process import die_with_parent
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.machine.client import Conversation
from vmckpt.pages import PageRange
from vmckpt.trace.rules import Needs
from vmckpt.trace.software import SoftwareTracer, TraceTable, traces_of
from vmckpt.trace.tracer import Tracer
from vmckpt.trace.userfault import UserfaultTracer

SOON_S = 20.0
MECHANISMS = ("userfaultfd", "software")
FIRST_TOUCH = Needs(first_touch=True, writes=False, protect=False)
EVERYTHING = Needs(first_touch=True, writes=True, protect=False)
WRITES = Needs(first_touch=False, writes=True, protect=True)
NOTHING = Needs(first_touch=False, writes=False, protect=False)


class Prepared(NamedTuple):
    """What a machine has handed over."""

    mechanism: str
    memory_fd: int
    page_count: int
    tracer: Tracer


class Saver:
    """What the script of a saver can do, in the saver's own process."""

    def __init__(self, conversation: Conversation, report: Callable[[object], None]) -> None:
        self.conversation = conversation
        self.report = report
        self.traps = 0
        self.wants_traps = threading.Event()
        self.wants_traps.set()

    def ask(self, do: str, **values: object) -> dict[str, Any]:
        return dict(self.conversation.ask(do, values).values)

    def prepare(self, mechanism: str, needs: Needs) -> Prepared:
        values, fds = self.conversation.ask(
            "trace-prepare",
            {"mechanism": mechanism, "first_touch": needs.first_touch, "writes": needs.writes},
        )
        pages, vcpus = int(str(values["memory_bytes"])) // 4096, int(str(values["vcpus"]))
        bases = values["bases"]
        assert isinstance(bases, list)
        tracer: Tracer
        if mechanism == "userfaultfd":
            tracer = UserfaultTracer([Userfaultfd(fd) for fd in fds[1:]], bases, pages, memory_fd=fds[0])
        else:
            table = TraceTable(fds[1], pages, vcpus)
            table.fill(traces_of(needs))
            tracer = SoftwareTracer(table, [socket.socket(fileno=fd) for fd in fds[2:]])
        if needs.protect:
            tracer.arm(PageRange(0, pages))
        return Prepared(mechanism, fds[0], pages, tracer)

    def wait_for_waiters(self, prepared: Prepared) -> None:
        """Until every vCPU waits for an answer that does not come."""
        deadline_s = time.monotonic() + SOON_S
        poll = select.poll()
        for fd in prepared.tracer.descriptors():
            poll.register(fd, select.POLLIN)
        wanted = sum(1 for _ in prepared.tracer.descriptors()) - (prepared.mechanism == "userfaultfd")
        while len(poll.poll(10)) < wanted:
            assert time.monotonic() < deadline_s

    def answer(self, prepared: Prepared) -> None:
        """Have a thread answer traps from now on, page by page."""
        threading.Thread(target=self._answer, args=(prepared.tracer,), daemon=True).start()

    def _answer(self, tracer: Tracer) -> None:
        poll = select.poll()
        for fd in tracer.descriptors():
            poll.register(fd, select.POLLIN)
        while True:
            for fd, events in poll.poll():
                traps = tracer.traps(fd)
                if not traps and events & ~select.POLLIN:
                    poll.unregister(fd)
                for trap in traps:
                    self.traps += 1
                    tracer.let(trap, PageRange(trap.page, trap.page + 1), writes=True)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class SaverProcess:
    """The process; `connection` is taken over by it."""

    def __init__(self, connection: socket.socket, script: Callable[[Saver], None]) -> None:
        reading, writing = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                os.close(reading)
                die_with_parent(parent)
                _keep_only(connection.fileno(), writing)
                _run(connection, script, writing)
            os._exit(0)
        connection.close()
        os.close(writing)
        self._reading = reading

    def end(self) -> list[Any]:
        """Wait for its end; what it reported."""
        with os.fdopen(self._reading) as stream:
            reported = [json.loads(line) for line in stream]
        os.waitpid(self.pid, 0)
        return reported


def _keep_only(*fds: int) -> None:
    start = 3
    for fd in sorted(fds):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, 1024)


def _run(connection: socket.socket, script: Callable[[Saver], None], writing: int) -> None:
    def report(value: object) -> None:
        os.write(writing, json.dumps(value).encode() + b"\n")

    try:
        script(Saver(Conversation.over(connection), report))
    except (VmckptError, AssertionError) as error:
        report([type(error).__name__, str(error)])
