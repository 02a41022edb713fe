"""Small memories and machines for the tests."""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.support.memory import page_bytes, write_sparse
from vmckpt.machine.image import create_image
from vmckpt.machine.machine import Machine
from vmckpt.machine.processor import Attach, plain
from vmckpt.machine.ram import Ram
from vmckpt.machine.recording import Recording, read_recording
from vmckpt.machine.state import MachineState
from vmckpt.machine.workload import parse_workload
from vmckpt.sources import open_source

RECORDING = str(Path(__file__).parents[2] / "examples" / "run-a-machine" / "sort.trace.gz")

WORKLOADS = ("sequential", "uniform", "zipf", "working-set", "pointer-chase")
"""Those that the reference knows."""


def content(numbers: Sequence[int]) -> bytes:
    """Pages, one for each number; 0 is a zero page."""
    return b"".join(map(page_bytes, numbers))


def load(folder: Path, memory: bytes) -> Ram:
    """Memory with that content."""
    path = write_sparse(folder / "memory.raw", memory)
    with open_source(path) as source:
        return Ram.load(source, jobs=1)


def boot(
    ram: Ram, workload: str = "working-set", *, vcpus: int = 1, seed: int = 0, attach: Attach = plain
) -> Machine:
    """A machine at rest, which owns `ram`."""
    parsed = parse_workload(workload)
    recording = read_recording(parsed.path) if parsed.path else None
    state = MachineState.boot(
        parsed,
        recording=recording.fingerprint if recording else "",
        vcpus=vcpus,
        seed=seed,
        page_count=ram.layout.page_count,
    )
    return Machine(ram, state, recording=recording, attach=attach)


def again(ram: Ram, state: MachineState, recording: Recording | None = None) -> Machine:
    """A machine that goes on from `state`."""
    return Machine(ram, state, recording=recording)


def image(path: Path, size_bytes: int = 4 << 20) -> str:
    """A created image."""
    create_image(os.fspath(path), size_bytes, seed=1, common_seed=2, force=True)
    return os.fspath(path)


def open_fds() -> set[str]:
    """What descriptors this process has, and to what they lead."""
    return {
        f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}"
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    }


def children() -> list[int]:
    """The processes forked by this one that are still there."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8")
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(entry))
    return found
