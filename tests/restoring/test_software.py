"""The handler's side without userfaultfd: nothing but the states of pages keeps it from filling a page twice."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.restoring.samples import checkpoint, mixed_memory, page_of
from vmckpt.kernel.memory import create_memfd
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import PageRange
from vmckpt.restoring.background import Background
from vmckpt.restoring.engine import Engine
from vmckpt.restoring.residency import State
from vmckpt.restoring.shared import Shared
from vmckpt.restoring.software import SoftTrapped, _Asker
from vmckpt.restoring.store import Store

PAGES = 64
MEMORY = mixed_memory(PAGES, 1)
WRITTEN = b"\xa5" * PAGE_BYTES


class Bench:
    """A handler's parts over a real file, and the vCPU's end of its connection."""

    def __init__(self, path: str) -> None:
        self.store = Store.open(path)
        self.shared = Shared(PAGES, self.store.storage_blocks, 1)
        self.memory_fd = create_memfd("vmckpt-test", PAGES * PAGE_BYTES)
        self.vcpu, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        trapped = SoftTrapped(self.memory_fd, PAGES * PAGE_BYTES, [self.theirs.fileno()], self.shared)
        guests = trapped.open()
        self.asker = guests.sides[0].faults
        self.engine = Engine(self.store, self.shared.residency, guests.filler, guests.sides, self.shared.log)
        self.background = Background(self.engine, self.shared.progress)

    def touch(self, page: int) -> None:
        """The vCPU asks for a page, and is answered."""
        self.vcpu.send(page.to_bytes(8, "little") + bytes(8))
        self.engine.poll(0)
        assert self.vcpu.recv(8) == page.to_bytes(8, "little")

    def write(self, page: int) -> None:
        os.pwrite(self.memory_fd, WRITTEN, page * PAGE_BYTES)

    def page(self, page: int) -> bytes:
        return os.pread(self.memory_fd, PAGE_BYTES, page * PAGE_BYTES)

    def close(self) -> None:
        assert isinstance(self.asker, _Asker)
        self.asker._socket.close()  # in a handler it lives as long as the process
        self.store.close()
        self.shared.close()
        self.vcpu.close()
        self.theirs.close()
        os.close(self.memory_fd)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(checkpoint(tmp_path / "guest.vmckpt", MEMORY))
    yield bench
    bench.close()


def test_what_a_dead_handler_had_claimed_is_not_brought_over_what_the_guest_wrote(bench: Bench) -> None:
    bench.shared.residency.claim(PageRange(0, 8))
    steps = bench.background.finish_claims()
    next(steps)
    bench.touch(6)
    bench.write(6)
    bench.background.do(steps)
    assert bench.page(6) == WRITTEN
    assert [bench.page(page) for page in range(6)] == [page_of(MEMORY, page) for page in range(6)]
    assert not bench.shared.residency.claimed()


def test_what_the_guest_gave_up_meanwhile_stays_given_up(bench: Bench) -> None:
    bench.shared.residency.claim(PageRange(0, PAGES))
    steps = bench.background.finish_claims()
    next(steps)
    stored = next(page for page in range(1, PAGES) if any(page_of(MEMORY, page)))
    bench.shared.residency.remove(PageRange(stored, stored + 1))
    bench.background.do(steps)
    assert bench.page(stored) == bytes(PAGE_BYTES)
    assert bench.shared.residency.state(stored) == State.REMOVED


def test_the_background_leaves_alone_what_the_guest_wrote(bench: Bench) -> None:
    for page in range(0, PAGES, 3):
        bench.touch(page)
        assert bench.page(page) == page_of(MEMORY, page)
        bench.write(page)
        bench.background.step()
    while bench.background.step():
        pass
    for page in range(PAGES):
        assert bench.page(page) == (WRITTEN if page % 3 == 0 else page_of(MEMORY, page)), page
