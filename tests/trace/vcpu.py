"""A machine of a few pages: its memfd, and vCPUs, each a process with a fresh mapping of its own, doing as told.

Machine.content(page), fill(page, byte)      around all traps
vcpu.start("write", page, byte), answer()    as tests/kernel/guest.py's guest, whose commands these are
"""

import faulthandler
import os
import signal
import socket
from types import TracebackType
from typing import Self

from tests.kernel.guest import Guest, page_of, serve
from vmckpt.kernel.memory import Mapping, create_memfd
from vmckpt.kernel.process import die_with_parent
from vmckpt.kernel.uffdio import Feature
from vmckpt.kernel.uffdio import Mode as Traps
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.layout import PAGE_BYTES
from vmckpt.trace.rules import Needs
from vmckpt.trace.userfault import UserfaultTracer

FIRST_TOUCH = Feature.MISSING_SHMEM | Feature.MINOR_SHMEM
WRITES = Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM | Feature.WP_UNPOPULATED
ALL = FIRST_TOUCH | WRITES


class Vcpu(Guest):
    """A guest that maps a memfd that others map as well."""

    def __init__(self, fd: int, pages: int) -> None:  # Guest's own would make a memfd
        self.pages = pages
        self.own = None
        self.uffd = None
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            try:
                die_with_parent(parent)
                self.connection.close()
                faulthandler.disable()
                signal.alarm(0)
                serve(theirs, fd, pages)
            finally:
                os._exit(0)
        theirs.close()
        self.address = self.whole("where")

    def hand_over(self, needs: Needs) -> Userfaultfd:
        """Have the mapping trap what is needed; the caller owns the only copy of the descriptor."""
        traps, features = Traps(0), Feature(0)
        if needs.first_touch:
            traps, features = traps | Traps.MISSING | Traps.MINOR, features | FIRST_TOUCH
        if needs.writes:
            traps, features = traps | Traps.WP, features | WRITES
        uffd = self.trap(traps, features)
        self.uffd = None
        return uffd


class Machine:
    """The memory and its vCPUs. All of them are forked before any descriptor could be inherited."""

    def __init__(self, pages: int, vcpus: int = 1) -> None:
        self.pages = pages
        self.fd = create_memfd("machine", pages * PAGE_BYTES)
        self.own = Mapping.of_file(self.fd, pages * PAGE_BYTES)
        self.vcpus = [Vcpu(self.fd, pages) for _ in range(vcpus)]

    def tracer(self, needs: Needs) -> UserfaultTracer:
        faults = [vcpu.hand_over(needs) for vcpu in self.vcpus]
        bases = [vcpu.address for vcpu in self.vcpus]
        return UserfaultTracer(faults, bases, self.pages, memory_fd=self.fd)

    def fill(self, page: int, byte: int) -> None:
        os.pwrite(self.fd, page_of(byte), page * PAGE_BYTES)

    def content(self, start: int, pages: int = 1) -> bytes:
        return os.pread(self.fd, pages * PAGE_BYTES, start * PAGE_BYTES)

    def is_hole(self, page: int) -> bool:
        try:
            return os.lseek(self.fd, page * PAGE_BYTES, os.SEEK_DATA) != page * PAGE_BYTES
        except OSError:
            return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for vcpu in self.vcpus:
            vcpu.__exit__(kind, error, trace)
        self.own.close()
        os.close(self.fd)
