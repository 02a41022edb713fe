"""The active pages of real live saves, against those that the machine touched: what a vCPU does follows from its seed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.benchmarks.used import foresight, used_pages
from tests.saving.exactness import SOON_S
from vmckpt import api
from vmckpt.checkpoint.file import CheckpointFile
from vmckpt.checkpoint.format import SectionType
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.client import ask
from vmckpt.machine.image import create_image
from vmckpt.machine.state import MachineState

MEMORY_BYTES = 32 << 20
BLOCK_PAGES = 4
VCPUS = 2
WORKLOAD = "working-set:phase=0"
NEXT_OPS = 200_000

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with threads


class Recorded(NamedTuple):
    """What a checkpoint tells."""

    pages: list[int]
    state: MachineState
    ops_at_end: list[int]
    """Of each vCPU, when the machine ended some time after the save."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = os.fspath(tmp_path_factory.mktemp("active") / "guest.raw")
    create_image(path, MEMORY_BYTES, profile="server", seed=1, common_seed=1)
    return path


def recorded(image: str, **how: str) -> Recorded:
    """Of a machine that runs until it was saved."""
    command = [sys.executable, "-m", "vmckpt", "run", image, "--workload", WORKLOAD, "--vcpus", str(VCPUS)]
    with subprocess.Popen([*command, "--socket", "vm.sock", "--json"], stdout=subprocess.PIPE) as machine:
        try:
            ask("vm.sock", "status", wait_s=SOON_S)
            api.save("vm.sock", "c.vmckpt", memory_block_bytes=BLOCK_PAGES * PAGE_BYTES, **how)  # type: ignore[arg-type]  # words only
            ask("vm.sock", "stop", until_closed=True)
            ended = json.loads(machine.communicate(timeout=SOON_S)[0])
        finally:
            machine.kill()
    with CheckpointFile.open("c.vmckpt") as checkpoint:
        section, state = (
            checkpoint.section(each) for each in (SectionType.ACTIVE_PAGES, SectionType.VCPU_STATE)
        )
        assert section is not None
        assert state is not None
        pages = memoryview(section).cast("Q").tolist()
        machine_state = MachineState.from_json(state, page_count=MEMORY_BYTES // PAGE_BYTES)
    return Recorded(pages, machine_state, ended["ops_per_vcpu"])


def blocks_of(pages: set[int]) -> set[int]:
    """All pages of the memory blocks that these are in."""
    return {
        block * BLOCK_PAGES + page
        for block in {each // BLOCK_PAGES for each in pages}
        for page in range(BLOCK_PAGES)
    }


@pytest.mark.parametrize("tracer", ["auto", "software"])
@pytest.mark.parametrize(
    ("trace", "estimator"),
    [("access", "tracing"), ("working-set", "tracing"), ("access", "scanning"), ("working-set", "scanning")],
)
def test_recorded_are_pages_that_the_machine_touched_and_goes_on_using(
    trace: str, estimator: str, tracer: str, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pages, state, ops_at_end = recorded(image, trace=trace, estimator=estimator, tracer=tracer)
    longest = max(end - vcpu.ops for end, vcpu in zip(ops_at_end, state.vcpus, strict=True))
    touched = used_pages(state, longest)
    assert pages
    assert len(set(pages)) == len(pages)
    assert set(pages) <= (touched if trace == "working-set" else blocks_of(touched))
    if estimator == "tracing":
        assert foresight(pages, used_pages(state, NEXT_OPS // VCPUS)).recall >= 0.99
