"""What is measured of lazy restores: the frozen table.

`lazy` measures, by whole commands and by the experiments of `vmckpt bench`; `lazy_targets` has what they are held to.
"""

from collections.abc import Mapping

from tests.benchmarks.cases import LiveExperiment, machine_name
from tests.benchmarks.results import Unit

__all__ = [
    "BLOCK_NAMES",
    "DISKS",
    "FAULT_SUBJECTS",
    "KILLS",
    "LAZY",
    "LAZY_QUANTITIES",
    "PAGE_BY_PAGE",
    "START",
    "START_SIZES_BYTES",
    "place",
    "start_name",
]

START_SIZES_BYTES = (256 << 20, 4 << 30, 64 << 30)
"""Machines whose start is timed; nearly all of their memory is zero."""
KILLS = 100
"""Handlers killed in a full run."""
START, PAGE_BY_PAGE = "vmckpt restore --lazy", "page by page"
DISKS = ("hdd", "ssd", "real")
BLOCK_NAMES = {"paper": "8 KiB in 64 KiB", "ours": "own sizes"}
"""Groups of `vmckpt bench halite`, as tables call them."""
FAULT_SUBJECTS = ("vmckpt restore --lazy", "fault_cost.c")
"""Contenders of `lazy-fault`: ours, and the least that is right."""

LAZY: tuple[LiveExperiment, ...] = (
    LiveExperiment("lazy-start", "From the start of the command to the machine's first operation", ()),
    LiveExperiment("lazy-layout", "Layouts, and page by page (vmckpt bench halite)", ()),
    LiveExperiment("lazy-ttr", "Back to normal speed, and coverage (vmckpt bench working-set)", ()),
    LiveExperiment("lazy-divergence", "A prefetch for nothing (vmckpt bench divergence)", ()),
    LiveExperiment("lazy-background", "Memory brought while the guest is idle", ()),
    LiveExperiment("lazy-fault", "A fault, against a minimal C handler", ()),
    LiveExperiment("lazy-kills", "Restores whose handler is killed", ()),
)
"""All experiments on lazy restores; `--only lazy` is all of them."""

LAZY_QUANTITIES: Mapping[str, Unit] = {
    "time to run": "s",
    "overhead": "s",
    "storage reads": "count",
    "other pages used": "part",
    "TTR(1 s, 90 %)": "s",
    "coverage": "part",
    "time": "s",
    "time lost": "part",
    "memory brought": "GB/s",
    "a fault": "s",
    "right digests": "part",
}


def place(disk: str, blocks: str) -> str:
    """Where a reading of `lazy-layout` was taken: the disk, and a key of `BLOCK_NAMES`."""
    return f"{disk}, {BLOCK_NAMES[blocks]}"


def start_name(size_bytes: int) -> str:
    """What a machine of `lazy-start` is called."""
    return machine_name(size_bytes)
