"""Lazy restores of small machines, and the runs that they are compared with. Also of use to the campaign."""

import os
import random
import signal
from pathlib import Path
from typing import NamedTuple

from tests.checkpoint.files import KIB
from tests.restoring.samples import checkpoint, mixed_memory, state_json
from vmckpt.machine.machine import Machine
from vmckpt.machine.ram import Ram
from vmckpt.machine.session import Wishes, state_of
from vmckpt.restoring.handler import Wanted
from vmckpt.restoring.lazy import LazyRestore
from vmckpt.restoring.log import Counter
from vmckpt.restoring.outcome import LazyReport
from vmckpt.restoring.prefetch import Amount
from vmckpt.sources import open_source

_MOST_KILLS = 100
_MOST_FRUITLESS = 5  # in a row; many more, and the keeper gives up, as it should


class Case(NamedTuple):
    """A restore."""

    workload: str = "zipf"
    vcpus: int = 1
    pages: int = 1024
    ops: int = 20_000
    codec: str = "lz4"
    memory_block_bytes: int = 16 * KIB
    storage_block_bytes: int = 64 * KIB
    active: str = "none"
    """Of the pages: `none`, `right` (what it will touch, about), `wrong`, `all`."""
    first: float = 1.0
    halo_pages: int = 0
    mechanism: str = "userfaultfd"
    helpers: bool = True
    background: bool = True
    kills: float = 0.0
    """How likely each tick a process of the restore is killed."""
    seed: int = 0


def active_of(case: Case) -> list[int] | None:
    """The active pages to put into the checkpoint."""
    rng = random.Random(case.seed)
    if case.active == "none":
        return None
    pages = list(range(case.pages))
    rng.shuffle(pages)
    return pages if case.active == "all" else pages[: case.pages // 4]


def make(case: Case, folder: Path) -> str:
    """The checkpoint of a case."""
    return checkpoint(
        folder / f"{abs(hash(case))}.vmckpt",
        mixed_memory(case.pages, case.seed),
        codec=case.codec,
        memory_block_bytes=case.memory_block_bytes,
        storage_block_bytes=case.storage_block_bytes,
        active=active_of(case),
        state=state_json(case.pages, case.workload, vcpus=case.vcpus, seed=case.seed),
    )


def uninterrupted(path: str, ops: int) -> str:
    """The digest of a machine that has all of its memory from the start."""
    with open_source(path) as source:
        state, recording = state_of(source, Wishes())
        ram = Ram.load(source, jobs=1)
    with Machine(ram, state, recording=recording) as machine:
        machine.start(until_ops=ops)
        machine.wait()
        machine.stop()
        return machine.digest(jobs=1)


def restored(path: str, case: Case) -> LazyReport:
    """Restore it, with what the case does to it meanwhile."""
    wanted = Wanted(None, Amount(fraction=case.first), case.halo_pages, case.background, case.helpers)
    with LazyRestore.open(path, wanted=wanted, mechanism=case.mechanism) as restore:
        restore.run(until_ops=case.ops, on_tick=Killer(restore, case.kills, case.seed))
        return restore.finish()


class Killer:
    """Called at each tick of a restore; kills one of its processes now and then, at whatever that is at.

    Ticks come by the clock, whatever else the cores have to do; a handler needs a core to start. So on a busy machine it
    waits, after a few kills that hit handlers which had done nothing yet, until one has.
    """

    def __init__(self, restore: LazyRestore, likely: float, seed: int) -> None:
        self._restore = restore
        self._likely = likely
        self._rng = random.Random(seed)
        self._steps = self._fruitless = 0
        self.kills = 0

    def __call__(self, _: object) -> None:
        if self._rng.random() >= self._likely:
            return
        steps = self._restore.shared.total(Counter.STEPS)
        self._fruitless = 0 if steps != self._steps else self._fruitless + 1
        self._steps = steps
        if self.kills < _MOST_KILLS and self._fruitless < _MOST_FRUITLESS:
            self.kills += kill_one(self._rng)


def kill_one(rng: random.Random) -> bool:
    """Kill a handler, a helper or, now and then, the keeper; whether there was one."""
    keepers = named(os.getpid(), "vmckpt-keeper")
    handlers = [pid for keeper in keepers for pid in named(keeper, "vmckpt-handler")]
    workers = [pid for handler in handlers for pid in named(handler, "vmckpt-worker")]
    candidates = handlers * 6 + workers * 2 + keepers
    if not candidates:
        return False
    try:
        os.kill(rng.choice(candidates), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def named(parent: int, name: str) -> list[int]:
    """The children of a process that have this name."""
    found = []
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    for pid in map(int, children):
        try:
            if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == name:
                found.append(pid)
        except OSError:
            continue
    return found
