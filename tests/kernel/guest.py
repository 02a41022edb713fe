"""A guest: a process that touches its memory on command, so that the test can be the handler.

    test  ── ("read", page) ─▶ guest          calls a method of `Body` and answers with what it returned; while a touch
          ◀── answer ──────────               waits for the handler, the answer does

The guest holds the mapping that traps and, unless told, no copy of the userfaultfd. The test's own mapping of the
same memfd traps nothing.
"""

import faulthandler
import os
import pickle
import select
import signal
import socket
from ctypes import c_ubyte, memmove
from types import TracebackType
from typing import Self

from vmckpt.errors import VmckptError
from vmckpt.kernel.faults import Event
from vmckpt.kernel.features import WAYS
from vmckpt.kernel.memory import Advice, Mapping, create_memfd
from vmckpt.kernel.process import die_with_parent, receive_descriptors, send_descriptors
from vmckpt.kernel.uffdio import Feature, Mode
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.layout import PAGE_BYTES

ANSWER_BYTES = 1 << 16
NOTHING = Feature(0)


def page_of(byte: int) -> bytes:
    return bytes([byte]) * PAGE_BYTES


def waiters(fd: int) -> int:
    """How many threads wait for an answer, as /proc tells: no need to sleep and see."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("total:"))


class Body:
    """The commands, carried out in the guest's process."""

    def __init__(self, fd: int, pages: int) -> None:
        size_bytes = pages * PAGE_BYTES
        self.mapping = Mapping.of_file(fd, size_bytes) if fd >= 0 else Mapping.anonymous(size_bytes)
        self.view = self.mapping.view
        self.uffd: Userfaultfd | None = None

    def where(self) -> int:
        return self.mapping.address

    def pid(self) -> int:
        return os.getpid()

    def read(self, page: int) -> int:
        """The first byte, after which the page is mapped."""
        return self.view[page * PAGE_BYTES]

    def write(self, page: int, byte: int) -> None:
        self.view[page * PAGE_BYTES] = byte

    def file_into(self, page: int) -> int:
        """Have the kernel write to the page; the errno it answers, or 0."""
        address = self.mapping.address + page * PAGE_BYTES
        reading, writing = os.pipe()
        os.write(writing, b"k")
        try:
            os.readv(reading, [(c_ubyte * 1).from_address(address)])
        except OSError as error:
            return error.errno or -1
        finally:
            os.close(reading)
            os.close(writing)
        return 0

    def move(self, page: int, byte: int) -> None:
        """Write the page as C code does."""
        memmove(self.mapping.address + page * PAGE_BYTES, page_of(byte), PAGE_BYTES)

    def advise(self, advice: Advice, page: int, pages: int) -> None:
        self.mapping.advise(advice, page * PAGE_BYTES, pages * PAGE_BYTES)

    def register(self, features: Feature, mode: Mode, way: int) -> int:
        self.uffd = Userfaultfd.open(features, ways=WAYS[way:])
        return self.uffd.register(self.mapping.address, self.mapping.size_bytes, mode)

    def fork_and_write(self, page: int, byte: int) -> int:
        """Write from a child; its exit code."""
        pid = os.fork()
        if pid == 0:
            self.write(page, byte)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve(connection: socket.socket, fd: int, pages: int) -> None:
    body = Body(fd, pages)
    while request := connection.recv(ANSWER_BYTES):
        name, *arguments = pickle.loads(request)
        if name == "hand over":
            assert body.uffd is not None
            send_descriptors(connection, b"uffd", [body.uffd.fileno()])
            body.uffd.close()
            continue
        try:
            answer: object = getattr(body, name)(*arguments)
        except VmckptError as error:
            answer = error
        connection.send(pickle.dumps(answer))


class Guest:
    """The guest as the test sees it; leaving the context kills and reaps it."""

    def __init__(self, pages: int = 8, *, memfd: bool = True) -> None:
        self.pages = pages
        self.own: Mapping | None = None
        fd = create_memfd("guest", pages * PAGE_BYTES) if memfd else -1
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            try:
                die_with_parent(parent)
                self.connection.close()
                faulthandler.disable()  # a guest that is to die of SIGBUS does so without a traceback
                serve(theirs, fd, pages)
            finally:
                os._exit(0)
        theirs.close()
        if memfd:
            self.own = Mapping.of_file(fd, pages * PAGE_BYTES)
            os.close(fd)
        self.uffd: Userfaultfd | None = None
        self.address = self.whole("where")

    def trap(self, mode: Mode, features: Feature = NOTHING, *, way: int = 0) -> Userfaultfd:
        """Register all of the guest's mapping; the test gets the only copy of the descriptor."""
        self.do("register", features, mode, way)
        self.start("hand over")
        _, [fd] = receive_descriptors(self.connection, 16, 1)
        self.uffd = Userfaultfd(fd)
        return self.uffd

    def start(self, *command: object) -> None:
        self.connection.send(pickle.dumps(command))

    def answer(self) -> object:
        received = self.connection.recv(ANSWER_BYTES)
        assert received, "the guest has ended"
        answer: object = pickle.loads(received)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def do(self, *command: object) -> object:
        self.start(*command)
        return self.answer()

    def whole(self, *command: object) -> int:
        """As `do`, for answers that are numbers."""
        answer = self.do(*command)
        assert isinstance(answer, int)
        return answer

    def at(self, page: int) -> int:
        """The guest's address of a page."""
        return self.address + page * PAGE_BYTES

    def content(self, page: int) -> bytes:
        """A page of the memfd, read around all traps."""
        assert self.own is not None
        with self.own.view as view:
            return bytes(view[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])

    def fill(self, page: int, byte: int) -> None:
        """Give a page of the memfd a content, around all traps."""
        assert self.own is not None
        with self.own.view as view:
            view[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = page_of(byte)

    def event(self) -> Event:
        """The next event; waits for it."""
        self.wait_for_event()
        assert self.uffd is not None
        [event] = self.uffd.read_events()
        return event

    def wait_for_event(self) -> None:
        assert self.uffd is not None
        poll = select.poll()
        poll.register(self.uffd.fileno(), select.POLLIN)
        poll.register(self.connection.fileno(), select.POLLIN)
        assert [fd for fd, _ in poll.poll()] == [self.uffd.fileno()], "the guest went on without a trap"

    def ended(self) -> int:
        """Wait until the guest has ended by itself; its exit code, or minus the signal."""
        _, status = os.waitpid(self.child, 0)
        self.child = 0
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        self.child = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.child:
            self.kill()
        self.connection.close()
        if self.uffd is not None:
            self.uffd.close()
        if self.own is not None:
            self.own.close()
