"""The experiment behind the default block sizes, codecs and parallelism: `python -m tests.benchmarks.blocks IMAGE...`

A grid of codec, memory block, storage block and jobs, run through the command line as a user would: the time of a
whole save, the size of its file, the time of a whole restore of it. `auto` is the command's own choice of codec (a
fast zstd level where there is a zstd); `zstd` is its slower one, for the smallest file.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

from tests.benchmarks import machine
from tests.benchmarks.__main__ import RESULTS_DIR, default_vmckpt
from tests.benchmarks.images import warm
from tests.benchmarks.measure import CommandError, timed
from tests.benchmarks.report import Table, measure_text, render
from tests.benchmarks.results import spread_of

__all__ = ["Cell", "Setting", "grid_table", "main"]

_CODECS = "auto,lz4,zstd,raw"
_MEMORY_BLOCKS = "8K,16K,32K,64K,128K,256K,512K,1M"


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to save."""

    codec: str
    """As `--codec` takes it; `auto` leaves the option out."""
    memory_block: str
    """As `--memory-block` takes it."""
    storage_block: str
    """As `--storage-block` takes it; empty leaves the option out."""

    def options(self, jobs: int) -> list[str]:
        """The options of `vmckpt save` for it."""
        options = ["--memory-block", self.memory_block, "--jobs", str(jobs)]
        options += [] if self.codec == "auto" else ["--codec", self.codec]
        return options + (["--storage-block", self.storage_block] if self.storage_block else [])


@dataclass(slots=True)
class Cell:
    """What one setting brought on one image."""

    setting: Setting
    """How it was saved."""
    save_s: dict[int, list[float]] = field(default_factory=dict)
    """Number of jobs -> elapsed seconds of each run."""
    restore_s: list[float] = field(default_factory=list)
    """Elapsed seconds of each restore, with all cores."""
    file_bytes: int = 0
    """Size of the checkpoint."""
    failure: str = ""
    """Why the rest is empty."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid on each image and print a table for each."""
    options = _options(argv)
    vmckpt = shlex.split(options.vmckpt)
    os.makedirs(options.work_dir, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=os.path.abspath(options.work_dir)) as work_dir:
        for line in machine.heading(machine.describe(vmckpt, work_dir)):
            print(line)
        print(f"Medians of {options.runs} runs by turns after a warm-up, page cache warm.\n")
        for image_path in options.images:
            cells = _run_grid(options, vmckpt, image_path, work_dir)
            table = grid_table(os.path.basename(image_path), cells, os.path.getsize(image_path))
            print(render(table, markdown=options.markdown), flush=True)
    return 0


def grid_table(image: str, cells: Sequence[Cell], memory_bytes: int) -> Table:
    """A row for each setting, a column for each number of jobs."""
    jobs = sorted({number for cell in cells for number in cell.save_s})
    header = (
        "codec",
        "memory block",
        "storage block",
        "file",
        "of memory",
        *(f"save, {n} jobs" for n in jobs),
        "restore",
    )
    rows = []
    for cell in cells:
        setting = cell.setting
        if cell.failure:
            continue
        saves = (_median_text(cell.save_s.get(number, [])) for number in jobs)
        sizes = (measure_text(cell.file_bytes, "bytes"), f"{cell.file_bytes / memory_bytes:.2%}")
        names = (setting.codec, setting.memory_block, setting.storage_block or "default")
        rows.append((*names, *sizes, *saves, _median_text(cell.restore_s)))
    notes = tuple(f"{' '.join(cell.setting.options(1))}: {cell.failure}." for cell in cells if cell.failure)
    return Table(f"Block sizes and codecs: {image}", header, tuple(rows), notes)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.blocks", description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="raw images or ELF cores")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each setting (default 3)")
    parser.add_argument("--codecs", default=_CODECS, help=f"default {_CODECS}")
    parser.add_argument("--memory-blocks", default=_MEMORY_BLOCKS, help=f"default {_MEMORY_BLOCKS}")
    parser.add_argument("--storage-blocks", default="", help="default: the command's own")
    parser.add_argument("--jobs", default="1,2", help="default 1,2")
    parser.add_argument("--work-dir", default=RESULTS_DIR, metavar="DIR", help="where outputs go")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for docs/performance.md")
    parser.add_argument(
        "--vmckpt", default=default_vmckpt(), metavar="COMMAND", help="the command under test"
    )
    return parser.parse_args(argv)


def _run_grid(
    options: argparse.Namespace, vmckpt: Sequence[str], image_path: str, work_dir: str
) -> list[Cell]:
    lists = (options.codecs, options.memory_blocks, options.storage_blocks)
    cells = [Cell(Setting(*values)) for values in product(*(text.split(",") for text in lists))]
    jobs = [int(number) for number in options.jobs.split(",")]
    warm(image_path)
    for number in range(options.runs + 1):
        for cell in cells:
            if not cell.failure:
                _run_cell(cell, vmckpt, jobs, image_path, work_dir, keep=number > 0)
        sys.stderr.write("." if number else "~")
    sys.stderr.write("\n")
    return cells


def _run_cell(
    cell: Cell, vmckpt: Sequence[str], jobs: Iterable[int], image_path: str, work_dir: str, *, keep: bool
) -> None:
    checkpoint, restored = os.path.join(work_dir, "checkpoint"), os.path.join(work_dir, "restored")
    errors = os.path.join(work_dir, "errors")
    try:
        for number in jobs:
            _remove(checkpoint)
            argv = [*vmckpt, "save", image_path, checkpoint, *cell.setting.options(number)]
            save_s = timed(argv, errors).wall_s
            cell.save_s.setdefault(number, []).extend([save_s] if keep else [])
        cell.file_bytes = os.path.getsize(checkpoint)
        restore_s = timed([*vmckpt, "restore", checkpoint, restored], errors).wall_s
        cell.restore_s += [restore_s] if keep else []
    except CommandError as error:
        cell.failure = str(error)
    finally:
        _remove(checkpoint)
        _remove(restored)


def _remove(path: str) -> None:
    # What was written is flushed, so that one setting's write-back is not the next one's burden.
    if os.path.exists(path):
        os.unlink(path)
    os.sync()


def _median_text(times_s: Sequence[float]) -> str:
    spread = spread_of(times_s)
    return "" if spread is None else measure_text(spread.median, "s")


if __name__ == "__main__":
    sys.exit(main())
