"""What a trap costs: vmckpt's tracer process against `handler.c`, the least that any handler has to do to be right.

    for each size of block, by turns:
        a handler ─▶ the guest's fresh mapping ─▶ touches in scattered order ─▶ median of this round ─▶ its end

Both copy the memory block into a slot and map it; ours also applies the rules, notes the capture, logs, and tells the
saver. Both are warm: the first touches of a round are not counted, and the slots are in memory. In a save longer than
the slots that are kept ready, those are made on the way: that is measured as well, for both.

What a wake-up costs depends on where the woken runs, and can be most of a trap: where the other core has gone to sleep, a
virtual machine's host has to be asked for it. So guest and handler are kept on one core, or on one each, and the two
arrangements are told apart.
"""

import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from statistics import median

from tests.benchmarks.cases import MINIMAL, TRACER
from tests.benchmarks.measure import CommandError, last_line, spawn, stop
from tests.benchmarks.results import Reading
from tests.benchmarks.touch import FIRST_TOUCHES, Toucher, Touches, word_at
from tests.benchmarks.trial import Bench
from vmckpt.kernel.features import probe
from vmckpt.kernel.memory import create_memfd
from vmckpt.kernel.process import send_descriptors
from vmckpt.layout import PAGE_BYTES
from vmckpt.trace.handler import Handler
from vmckpt.trace.journal import Journal
from vmckpt.trace.rules import Mode, Rule
from vmckpt.trace.userfault import UserfaultTracer
from vmckpt.units import format_size

__all__ = [
    "BLOCK_SIZES_BYTES",
    "MINIMAL",
    "TRACER",
    "Cores",
    "Round",
    "compiled",
    "measure_traps",
    "minimal",
    "ours",
    "rounds_for",
]

BLOCK_SIZES_BYTES = (4 << 10, 64 << 10, 128 << 10)
"""Sizes of a memory block that are measured; the last is `save`'s own choice."""
ROUNDS = 15
_READY_BYTES = 8 << 20  # of slots: what the journal keeps in memory ahead of the copies
_MOST_TOUCHES = 512
_SOURCE = os.path.join(os.path.dirname(__file__), "handler.c")
_TASK = struct.Struct("=4Q")
_END_S = 30.0


class Cores(Enum):
    """Where guest and handler run."""

    ONE = "on one core"
    TWO = "on a core each"

    def choose(self, available: Sequence[int]) -> tuple[int, int]:
        """The guest's core and the handler's."""
        return (available[0], available[0]) if self is Cores.ONE else (available[0], available[1])


@dataclass(frozen=True, slots=True)
class Round:
    """What is touched in one round."""

    block_bytes: int
    """Of a memory block."""
    memory_bytes: int
    """All blocks of it are touched, each once."""
    warm_up: int
    """So many touches come first and are not counted."""
    ready: bool
    """All slots are in memory before the first trap."""
    cores: Cores
    """Where the two processes run."""

    @property
    def blocks(self) -> int:
        """How many there are."""
        return self.memory_bytes // self.block_bytes

    @property
    def quantity(self) -> str:
        """What its readings are called."""
        return f"a trap, {self.cores.value}" + ("" if self.ready else ", slots made on the way")

    def words(self, seed: int) -> list[int]:
        """The words to touch, by number: the first of some page of each block, blocks and pages in scattered order."""
        scatter = random.Random(seed)
        pages = self.block_bytes // PAGE_BYTES
        order = scatter.sample(range(self.blocks), self.blocks)
        return [(block * pages + scatter.randrange(pages)) * (PAGE_BYTES // 8) for block in order]


def rounds_for(block_bytes: int) -> tuple[Round, ...]:
    """With all slots in memory, in both arrangements; and beyond those that are kept ready."""
    touched_bytes = min(_READY_BYTES, _MOST_TOUCHES * block_bytes)
    warm_up = touched_bytes // block_bytes // 4
    return (
        *(Round(block_bytes, touched_bytes, warm_up, ready=True, cores=cores) for cores in Cores),
        Round(
            block_bytes,
            _READY_BYTES + touched_bytes,
            _READY_BYTES // block_bytes,
            ready=False,
            cores=Cores.TWO,
        ),
    )


Answer = Callable[[Toucher, Round, int, list[int]], Touches]
"""One handler, from its start to its end, on a core: the guest touches words under it."""


def measure_traps(bench: Bench) -> Iterator[Reading]:
    """A reading for each size of block, way to run, and handler; with a note where there is nothing to measure."""
    reason, available = probe().lacks(FIRST_TOUCHES), sorted(os.sched_getaffinity(0))
    handlers: dict[str, Answer] = {TRACER: ours}
    missing = dict.fromkeys((TRACER, MINIMAL), reason) if reason else {}
    if not reason:
        try:
            handlers[MINIMAL] = partial(minimal, compiled(bench.work_dir), bench.work_dir)
        except CommandError as error:
            missing = {MINIMAL: str(error)}
    for block_bytes in BLOCK_SIZES_BYTES:
        for round_ in rounds_for(block_bytes):
            short = "there is only one core" if round_.cores is Cores.TWO and len(available) < 2 else ""
            if reason or short:
                yield from (_reading(round_, name, note=reason or short) for name in (TRACER, MINIMAL))
                continue
            yield from _by_turns(bench.scaled(ROUNDS), round_, handlers, round_.cores.choose(available))
            yield from (_reading(round_, name, note=note) for name, note in missing.items())


def _by_turns(
    count: int, round_: Round, handlers: Mapping[str, Answer], cores: tuple[int, int]
) -> list[Reading]:
    medians_s: dict[str, list[float]] = {name: [] for name in handlers}
    guest_core, handler_core = cores
    with Toucher(round_.memory_bytes, guest_core) as toucher:
        for number in range(count + 1):
            words = round_.words(number)
            for name in list(handlers)[:: 1 if number % 2 else -1]:
                touches = handlers[name](toucher, round_, handler_core, words)
                if touches.words != [word_at(word) for word in words]:
                    raise CommandError(f"{name}: the guest did not read what is in its memory")
                if number:  # the first round warms up
                    medians_s[name].append(median(touches.duration_ns[round_.warm_up :]) / 1e9)
    sys.stderr.write(".")
    sys.stderr.flush()
    return [_reading(round_, name, tuple(values)) for name, values in medians_s.items()]


def _reading(round_: Round, name: str, values: tuple[float, ...] = (), note: str = "") -> Reading:
    image = f"blocks of {format_size(round_.block_bytes)}"
    return Reading("live-traps", image, name, round_.quantity, "s", values, ours=name == TRACER, note=note)


def compiled(work_dir: str) -> str:
    """The path of `handler.c`'s program, made in `work_dir`.

    Raises:
        CommandError: there is no C compiler, or it refuses.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise CommandError("not installed: cc, a C compiler")
    program = os.path.join(work_dir, "handler")
    argv = [compiler, "-O2", "-o", program, _SOURCE]
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CommandError(f"cannot be compiled: {complaint}")
    return program


def ours(toucher: Toucher, round_: Round, core: int, words: list[int]) -> Touches:
    """The touches under vmckpt's tracer process.

    Raises:
        WorkerError: it ended before the guest was done.
    """
    page_count = toucher.size_bytes // PAGE_BYTES
    with Journal(page_count, round_.block_bytes // PAGE_BYTES, 1) as journal:
        base, faults = toucher.trap()
        tracer = UserfaultTracer([faults], [base], page_count, memory_fd=toucher.memory_fd)
        with Handler(tracer, journal, Rule.ACCESS, Mode.CHECKPOINT, toucher.memory_fd) as handler:
            os.sched_setaffinity(handler.pid, {core})
            touches = toucher.touch(words)
            handler.check()
        if journal.traps_read != len(words):
            raise CommandError(f"{journal.traps_read} traps were answered, expected {len(words)}")
    return touches


def minimal(
    program: str, work_dir: str, toucher: Toucher, round_: Round, core: int, words: list[int]
) -> Touches:
    """The touches under `handler.c`.

    Raises:
        CommandError: it ended before the guest was done.
    """
    slots_fd = create_memfd("slots", round_.blocks * round_.block_bytes)
    try:
        with _handler(program, work_dir, toucher, round_, core, slots_fd):
            touches = toucher.touch(words)
        _check_copies(slots_fd, round_, words)
    finally:
        os.close(slots_fd)
    return touches


@contextmanager
def _handler(
    program: str, work_dir: str, toucher: Toucher, round_: Round, core: int, slots_fd: int
) -> Iterator[None]:
    # Raises at the end if the handler did not have to be killed: then nothing trapped any more, and touches cost nothing.
    errors_path = os.path.join(work_dir, "handler.err")
    connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(connection), closing(theirs):
        connection.settimeout(_END_S)
        pid = spawn(program, [program, str(round_.block_bytes)], errors_path, theirs.fileno())
        theirs.close()
        try:
            os.sched_setaffinity(pid, {core})
            base, faults = toucher.trap()
            with faults:
                task = _TASK.pack(base, toucher.size_bytes, round_.blocks, round_.ready)
                send_descriptors(connection, task, [toucher.memory_fd, faults.fileno(), slots_fd])
            if connection.recv(1) != b"r":
                raise _ended(errors_path)
            yield
            # Its descriptors close before its end can be seen, so that it lives now would prove nothing: how it ends does.
            os.kill(pid, signal.SIGKILL)
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGKILL:
                raise _ended(errors_path)
        finally:
            stop(pid)


def _check_copies(slots_fd: int, round_: Round, words: list[int]) -> None:
    # The copies lie in the order of the touches.
    block_words = round_.block_bytes // 8
    for slot, word in enumerate(words):
        first = word_at(word - word % block_words).to_bytes(8, sys.byteorder)
        if os.pread(slots_fd, 8, slot * round_.block_bytes) != first:
            raise CommandError(f"the C handler's copy {slot} is not of the block that was touched")


def _ended(errors_path: str) -> CommandError:
    return CommandError(f"the C handler ended too early: {last_line(errors_path)}")
