"""Live saves of random machines, and what they must have saved: for tests/saving/test_live.py and `make exactness`.

What a machine's memory was at the instant is computed, not observed: a vCPU touches only its own words, and what it does
follows from its seed. So memory at any numbers of operations is an image, run through by one vCPU after the other in a
private copy.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.machine.machines import RECORDING
from vmckpt import api
from vmckpt.hashing import Digest, pack_hashes, page_hashes
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.access import PlainAccess
from vmckpt.machine.client import ask
from vmckpt.machine.image import create_image
from vmckpt.machine.operations import BATCH_OPS, Share, operations_of
from vmckpt.machine.recording import read_recording
from vmckpt.machine.session import Session
from vmckpt.machine.workload import parse_workload
from vmckpt.reports import SaveReport

WORKLOADS = (
    "sequential",
    "sequential:write=100",
    "uniform",
    "uniform:write=90",
    "zipf",
    "working-set:phase=0",
    "working-set:phase=4096,set=30,cluster=4",
    "pointer-chase",
    f"trace:{RECORDING}",
)
SIZES = (1 << 20, 3 << 20, 8 << 20, 32 << 20)
SOON_S = 60.0


class Case(NamedTuple):
    """A machine and how to save it."""

    seed: int
    workload: str
    vcpus: int
    mode: str
    trace: str
    tracer: str
    estimator: str
    memory_bytes: int
    memory_block_bytes: int
    jobs: int
    warmup_ops: int
    dedup: bool

    @property
    def name(self) -> str:
        workload = self.workload.partition(":")[0]
        size = f"{self.memory_bytes >> 20}M/{self.memory_block_bytes >> 10}K"
        return f"{self.seed}-{workload}-{self.vcpus}vcpu-{self.mode}-{self.trace}-{self.tracer}-{size}"


def case_of(seed: int) -> Case:
    """The case with that seed; any 48 that follow each other have every mode with every rule and mechanism twice."""
    draw = random.Random(seed)
    combinations = [
        (mode, trace, tracer)
        for mode in ("checkpoint", "suspend")
        for trace in ("access", "write", "working-set", "access", "write", "working-set", "access", "off")
        for tracer in ("userfaultfd", "software", "auto")
    ]
    mode, trace, tracer = combinations[seed % len(combinations)]
    return Case(
        seed=seed,
        workload=draw.choice(WORKLOADS),
        vcpus=draw.choice((1, 1, 2, 3, 5)),
        mode=mode,
        trace=trace,
        tracer=tracer,
        estimator=draw.choice(("tracing", "tracing", "scanning")),
        memory_bytes=draw.choice(SIZES) + draw.choice((0, 0, PAGE_BYTES, 7 * PAGE_BYTES)),
        memory_block_bytes=draw.choice((4, 8, 16, 64, 128)) << 10,
        jobs=draw.choice((1, 2, 3)),
        warmup_ops=draw.choice((0, 1000, 50_000)),
        dedup=draw.random() < 0.8,
    )


def replay(image: bytes, case: Case, ops: Sequence[int]) -> bytearray:
    """Memory after each vCPU has done so many operations."""
    memory = bytearray(image)
    words = memoryview(memory).cast("Q")
    workload = parse_workload(case.workload)
    recording = read_recording(workload.path) if workload.path else None
    for vcpu, end in enumerate(ops):
        share = Share(vcpu, case.vcpus, len(image) // PAGE_BYTES)
        operations = operations_of(workload, share, seed=case.seed, recording=recording)
        access, register = PlainAccess(words, share), 0
        for number in range(-(-end // BATCH_OPS)):
            draws, threshold, places = operations.batch(number)
            stop = min(BATCH_OPS, end - number * BATCH_OPS)
            if places:
                register = access.straight(places[:stop], draws[:stop], threshold, register)
            else:
                register = access.chase(draws[:stop], threshold, register)
    return memory


def digest_of(memory: bytearray) -> str:
    digest = Digest()
    digest.add(pack_hashes(page_hashes(memoryview(memory))))
    return digest.bytes().hex()


def save(case: Case, folder: Path, source: str, *, boots: bool) -> tuple[SaveReport, str]:
    """Save it; the report, and the checkpoint."""
    checkpoint = os.fspath(folder / f"{case.seed}.vmckpt")
    machine = {
        "workload": case.workload,
        "vcpus": case.vcpus,
        "seed": case.seed,
        "warmup_ops": case.warmup_ops,
    }
    report = api.save(
        source,
        checkpoint,
        mode=case.mode,
        trace=case.trace,
        tracer=case.tracer,
        estimator=case.estimator,
        memory_block_bytes=case.memory_block_bytes,
        jobs=case.jobs,
        dedup=case.dedup,
        **(machine if boots else {}),  # type: ignore[arg-type]  # its values are of many types
    )
    return report, checkpoint


def check_file(case: Case, folder: Path, image: bytes, report: SaveReport, checkpoint: str) -> None:
    """The file holds memory of its moment, and a machine goes on from it as if nothing had been."""
    assert report.live is not None
    ops = report.live.ops_at_checkpoint
    assert len(ops) == case.vcpus
    expected = replay(image, case, ops)
    found = folder / f"{case.seed}.raw"
    restored = api.restore(checkpoint, os.fspath(found))
    assert found.read_bytes() == expected, f"{case.name}: not the memory at {ops} operations"
    assert report.digest == restored.digest == digest_of(expected)
    assert api.verify(checkpoint, jobs=1).problems == ()
    assert report.pages.total == case.memory_bytes // PAGE_BYTES
    later = max(ops) + 5000
    with Session.open(checkpoint) as session:
        session.run(until_ops=later)
        assert session.finish().digest == digest_of(replay(image, case, [later] * case.vcpus)), case.name
    found.unlink()
    os.unlink(checkpoint)


def image_of(case: Case, folder: Path) -> tuple[str, bytes]:
    """The image that the machine is booted from; a quarter of them is mostly holes."""
    path = folder / f"image-{case.seed}.raw"
    profile = "idle" if case.seed % 4 == 0 else "server"
    create_image(
        os.fspath(path), case.memory_bytes, profile=profile, seed=case.seed, common_seed=1, force=True
    )
    return os.fspath(path), path.read_bytes()


def check_booted(case: Case, folder: Path) -> SaveReport:
    """A machine booted to be saved."""
    path, image = image_of(case, folder)
    report, checkpoint = save(case, folder, path, boots=True)
    check_file(case, folder, image, report, checkpoint)
    os.unlink(path)
    return report


def check_running(case: Case, folder: Path) -> SaveReport:
    """A machine that runs by itself, is saved over its socket, and ends as it would have."""
    path, image = image_of(case, folder)
    socket = os.path.relpath(folder / f"{case.seed}.sock")
    arguments = ["--workload", case.workload, "--vcpus", str(case.vcpus), "--seed", str(case.seed)]
    command = [sys.executable, "-m", "vmckpt", "run", path, *arguments, "--socket", socket, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            ask(socket, "status", wait_s=SOON_S)
            report, checkpoint = save(case, folder, socket, boots=False)
            if case.mode == "checkpoint":
                assert ask(socket, "status")["state"] == "running"
                ask(socket, "stop", until_closed=True)
            output, _ = process.communicate(timeout=SOON_S)
        finally:
            process.kill()
    ended = json.loads(output)
    assert process.returncode == 0
    if case.mode == "suspend":
        assert report.live is not None
        assert tuple(ended["ops_per_vcpu"]) == report.live.ops_at_checkpoint
    assert ended["digest"] == digest_of(replay(image, case, ended["ops_per_vcpu"])), (
        f"{case.name}: it was harmed"
    )
    check_file(case, folder, image, report, checkpoint)
    os.unlink(path)
    return report
