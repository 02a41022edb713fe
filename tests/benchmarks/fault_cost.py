"""What a fault of a lazy restore costs the guest: vmckpt's handler against `fault_cost.c`, the least that is right.

    by turns:  a fresh memory ─▶ a handler ─▶ the guest touches a page of each memory block, in scattered order
               ─▶ how long each touch took, and what was read

Ours reads a checkpoint that lies in the page cache, proves it, and logs each fault; the C handler copies pages that lie in
memory, uncompressed. Guest and handler have a core each. Every touch traps, those that cost a read of a storage block
included: so means are given as well as medians. Between two touches the guest works a while, or not at all: then each
fault also waits for what the handler has begun meanwhile.

    python -m tests.benchmarks.fault_cost --rounds 15
"""

import argparse
import os
import pickle
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple, NoReturn, Self

from tests.benchmarks.measure import CommandError, last_line, spawn, stop
from tests.checkpoint.files import save_memory
from vmckpt.errors import IoError
from vmckpt.kernel.features import probe
from vmckpt.kernel.memory import Mapping, create_memfd
from vmckpt.kernel.process import Pidfd, die_with_parent, receive_descriptors, send_descriptors
from vmckpt.kernel.uffdio import Feature, Mode
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.link import Link
from vmckpt.restoring.handler import KernelTrapped, Service, Wanted, serve
from vmckpt.restoring.log import Counter
from vmckpt.restoring.shared import Shared
from vmckpt.restoring.store import Store
from vmckpt.restoring.trap import MISSING, TELLING

__all__ = ["MINIMAL", "OURS", "Costs", "Setting", "compiled", "measure_faults"]

OURS, MINIMAL = "vmckpt restore --lazy", "fault_cost.c"
_SOURCE = os.path.join(os.path.dirname(__file__), "fault_cost.c")
_TASK = struct.Struct("=2Q")
_ANSWER_S = 30.0
_ANSWER_BYTES = 1 << 17
_WORDS_PER_PAGE = PAGE_BYTES // 8
_WAITED_NS = 4000  # no answer of another process comes sooner, and a touch that does not trap takes 1 µs


@dataclass(frozen=True, slots=True)
class Setting:
    """What is touched, of what checkpoint."""

    codec: str = "raw"
    block_bytes: int = 64 << 10
    """Of a memory block, and of what the C handler copies for a fault."""
    storage_block_bytes: int = 1 << 20
    memory_bytes: int = 64 << 20
    pause_us: int = 0
    """How long the guest works between two touches."""
    background: bool = False
    """The handler brings all the rest meanwhile, too."""

    def words(self, seed: int) -> list[int]:
        """The words to touch, by number: the first of some page of each memory block, in scattered order."""
        scatter = random.Random(seed)
        pages, blocks = self.block_bytes // PAGE_BYTES, self.memory_bytes // self.block_bytes
        order = scatter.sample(range(blocks), blocks)
        return [(block * pages + scatter.randrange(pages)) * _WORDS_PER_PAGE for block in order]

    def content(self) -> bytes:
        """Of the memory: pages that all differ, and that a codec makes half as long."""
        scatter = random.Random(1)
        count = self.memory_bytes // PAGE_BYTES
        return b"".join(scatter.randbytes(PAGE_BYTES // 2) * 2 for _ in range(count))


class Costs(NamedTuple):
    """What faults cost under one handler, each value a round's; in seconds."""

    median_s: tuple[float, ...]
    """Of a touch that waited, from before it to after it, as the guest's clock tells."""
    mean_s: tuple[float, ...]
    """The same, so that those count that cost a read of a storage block."""
    p99_s: tuple[float, ...]
    waited: tuple[float, ...]
    """The part of all touches; others found that their page had been brought with another one."""
    stall_s: tuple[float, ...]
    """Ours: median of what the handler's log tells, from when it has heard of a fault until it has let the vCPU go."""


def measure_faults(setting: Setting, rounds: int, work_dir: str) -> dict[str, Costs]:
    """Costs by handler, by turns; the first round warms up, and does not count.

    Raises:
        CommandError: there is no C compiler or only one core, or a handler did something wrong.
        FeatureError: this system has no userfaultfd for it.
    """
    probe().require(MISSING)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CommandError("there is only one core")
    program = compiled(work_dir)
    path = os.path.join(work_dir, "faults.vmckpt")
    content = setting.content()
    save_memory(
        path,
        content,
        codec=setting.codec,
        memory_block_bytes=setting.block_bytes,
        storage_block_bytes=setting.storage_block_bytes,
    )
    found: dict[str, list[tuple[float, ...]]] = {OURS: [], MINIMAL: []}
    with _memfd_of(content) as content_fd, Store.open(path) as store:
        for number in range(rounds + 1):
            words = setting.words(number)
            for name in (OURS, MINIMAL) if number % 2 else (MINIMAL, OURS):
                with _Guest(setting, cores[0]) as guest:
                    if name == OURS:
                        touches_ns, stall_s = _ours(guest, store, setting, words, cores[1])
                    else:
                        touches_ns, stall_s = _minimal(
                            guest, program, content_fd, setting, words, cores[1], work_dir
                        )
                    _check(guest.memory_fd, content, words)
                if number:
                    found[name].append((*_summary(touches_ns), stall_s))
    os.unlink(path)
    return {name: Costs(*map(tuple, zip(*values, strict=True))) for name, values in found.items()}


def _summary(touches_ns: Sequence[int]) -> tuple[float, float, float, float]:
    ordered = sorted(each for each in touches_ns if each >= _WAITED_NS)
    p99_ns = ordered[len(ordered) * 99 // 100]
    return median(ordered) / 1e9, fmean(ordered) / 1e9, p99_ns / 1e9, len(ordered) / len(touches_ns)


def _check(memory_fd: int, content: bytes, words: Sequence[int]) -> None:
    for word in words:
        start = word * 8
        if os.pread(memory_fd, PAGE_BYTES, start) != content[start : start + PAGE_BYTES]:
            raise CommandError(f"page {word // _WORDS_PER_PAGE} is not what it should be")


@contextmanager
def _memfd_of(content: bytes) -> Iterator[int]:
    fd = create_memfd("content", len(content))
    try:
        with Mapping.of_file(fd, len(content)) as mapping, mapping.view as view:
            view[:] = content
        yield fd
    finally:
        os.close(fd)


def compiled(work_dir: str) -> str:
    """The path of `fault_cost.c`'s program, made in `work_dir`.

    Raises:
        CommandError: there is no C compiler, or it refuses.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise CommandError("not installed: cc, a C compiler")
    program = os.path.join(work_dir, "fault_cost")
    argv = [compiler, "-O2", "-Wall", "-Werror", "-o", program, _SOURCE]
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CommandError(f"cannot be compiled: {complaint}")
    return program


class _Guest:
    """A process that touches an empty memory, trapped as vmckpt traps a vCPU's; leaving the context ends it."""

    def __init__(self, setting: Setting, core: int) -> None:
        self.memory_fd = create_memfd("guest", setting.memory_bytes)
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent_pid = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._connection.close()
            _live(theirs, self.memory_fd, setting, parent_pid)
        theirs.close()
        os.sched_setaffinity(self.pid, {core})
        self._connection.settimeout(_ANSWER_S)
        message, (self.uffd,) = receive_descriptors(self._connection, 64, 1)
        self.address = int(message)

    def touch(self, words: list[int]) -> list[int]:
        """How long each touch took, in nanoseconds."""
        self._connection.send(pickle.dumps(words))
        try:
            answer = self._connection.recv(_ANSWER_BYTES)
        except TimeoutError as error:
            raise CommandError("a touch of the guest's was not answered") from error
        if not answer:
            raise CommandError("the guest that touches memory has ended")
        durations: list[int] = pickle.loads(answer)
        return durations

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._connection.close()
        for fd in (self.memory_fd, self.uffd):
            os.close(fd)


def _live(connection: socket.socket, fd: int, setting: Setting, parent_pid: int) -> NoReturn:
    try:
        die_with_parent(parent_pid)
        tells = not probe().lacks(MISSING | TELLING)
        mapping = Mapping.of_file(fd, setting.memory_bytes)
        faults = Userfaultfd.open(MISSING | (TELLING if tells else Feature(0)))
        mode = Mode.MISSING | Mode.WP if tells else Mode.MISSING
        faults.register(mapping.address, mapping.size_bytes, mode)
        send_descriptors(connection, str(mapping.address).encode(), [faults.fileno()])
        faults.close()
        words = pickle.loads(connection.recv(_ANSWER_BYTES))
        connection.send(pickle.dumps(_touch(mapping, words, setting.pause_us * 1000)))
        connection.recv(1)
    finally:
        os._exit(0)


def _touch(mapping: Mapping, words: list[int], pause_ns: int) -> list[int]:
    clock = time.perf_counter_ns
    durations_ns = [0] * len(words)
    with mapping.view as view, view.cast("Q") as memory:
        for turn, word in enumerate(words):
            start_ns = clock()
            memory[word]
            durations_ns[turn] = clock() - start_ns
            end_ns = start_ns + durations_ns[turn] + pause_ns
            while pause_ns and clock() < end_ns:
                pass
    return durations_ns


def _ours(
    guest: _Guest, store: Store, setting: Setting, words: list[int], core: int
) -> tuple[list[int], float]:
    """The touches under vmckpt's handler, and the median of the stalls that it has logged."""
    shared = Shared(store.page_count, store.storage_blocks, 1)
    trapped = KernelTrapped(guest.memory_fd, setting.memory_bytes, [guest.uffd], [guest.address])
    wanted = Wanted(active=(), background=setting.background, helpers=False)
    link, theirs = Link.pair()
    vcpu = Pidfd(guest.pid)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.sched_setaffinity(0, {core})
            link.close()
            shared.log.counters[Counter.HANDLERS] = 1
            code = serve(Service(store.apart(), shared, wanted, trapped, theirs, [vcpu]))
        finally:
            os._exit(code)
    theirs.close()
    try:
        message = link.receive()
        if message is None or message.name != "prefetched":
            raise CommandError(f"vmckpt's handler did not begin: {message}")
        touches_ns = guest.touch(words)
    finally:
        link.close()  # which ends it
        stop(pid) if sys.exc_info()[0] else os.waitpid(pid, 0)
        vcpu.close()
    stalls = [fault.stall_ns for fault in shared.log.faults()]
    if not stalls:
        raise CommandError("no fault was answered")
    return touches_ns, median(stalls) / 1e9


def _minimal(
    guest: _Guest,
    program: str,
    content_fd: int,
    setting: Setting,
    words: list[int],
    core: int,
    work_dir: str,
) -> tuple[list[int], float]:
    """The touches under `fault_cost.c`."""
    errors_path = os.path.join(work_dir, "fault_cost.err")
    connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(connection), closing(theirs):
        connection.settimeout(_ANSWER_S)
        pid = spawn(program, [program, str(setting.block_bytes)], errors_path, theirs.fileno())
        theirs.close()
        try:
            os.sched_setaffinity(pid, {core})
            task = _TASK.pack(guest.address, setting.memory_bytes)
            send_descriptors(connection, task, [content_fd, guest.uffd])
            if connection.recv(1) != b"r":
                raise CommandError(f"the C handler ended too early: {last_line(errors_path)}")
            return guest.touch(words), 0.0
        finally:
            stop(pid)


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    settings = [
        Setting(codec, pause_us=pause_us, background=background)
        for codec in ("raw", "lz4", "auto")
        for pause_us, background in ((0, False), (200, False), (200, True))
    ]
    with tempfile.TemporaryDirectory(prefix="vmckpt-faults-") as work_dir:
        for setting in settings:
            try:
                found = measure_faults(setting, options.rounds, work_dir)
            except IoError as error:
                sys.stderr.write(f"{error}\n")
                return 1
            ours, theirs = found[OURS], found[MINIMAL]
            sys.stdout.write(f"{setting}\n")
            for name, costs in found.items():
                values = [median(each) * 1e6 for each in costs]
                sys.stdout.write(
                    f"  {name:22} median {values[0]:6.1f} µs  mean {values[1]:6.1f}  p99 {values[2]:6.1f}  "
                    f"waited {values[3] / 1e4:5.1f} %  in the handler {values[4]:6.1f} µs\n"
                )
            for what, mine, their in zip(("median", "mean"), ours, theirs, strict=False):
                sys.stdout.write(f"  {what}: {median(mine) / median(their):.2f} times\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
