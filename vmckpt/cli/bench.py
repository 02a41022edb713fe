"""`vmckpt bench`: the name of an experiment in, its tables and whether they show what was asked for out."""

import os
import platform
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from vmckpt.cli.options import json_option, quiet_option, size
from vmckpt.cli.render import Line, Table, answer
from vmckpt.units import format_size

if TYPE_CHECKING:
    from vmckpt.bench.outcome import Grid, Outcome

__all__ = ["command"]

_EXPERIMENTS = {
    "halite": "one checkpoint in random, physical and access order, restored on demand, beside page by page (ATC'13)",
    "working-set": "lazy, working-set and eager restores: time to responsiveness, and the estimators (VEE'11)",
    "divergence": "a prefetch for a machine that then does something else, beside none",
    "overcommit": "guests with more memory than their host: never break large pages, break all, KSM's order, ours (VEE'15)",
}
_DISKS = ("hdd", "ssd", "fast", "real")
_DEFAULT_DISKS = ("hdd", "ssd", "real")

_NAMES = "\n".join(
    textwrap.fill(meaning, 78, initial_indent=f"  {name:<12} ", subsequent_indent=" " * 15)
    for name, meaning in _EXPERIMENTS.items()
)


@click.command("bench", epilog=f"\b\nExperiments:\n{_NAMES}")
@click.argument("name", metavar="NAME", type=click.Choice(tuple(_EXPERIMENTS)))
@click.option(
    "--runs", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Runs of each."
)
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 64) - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Chooses the guest's memory, and what it does.",
)
@click.option(
    "--size",
    "size_bytes",
    type=size,
    metavar="SIZE",
    help="Of a guest's memory.  [default: 256M for halite, 2G for working-set, 1G for divergence, 128M for overcommit, "
    "which has four]",
)
@click.option(
    "--disk",
    "disks",
    type=click.Choice(_DISKS),
    multiple=True,
    help="What checkpoints are read from; may be given again. hdd, ssd and fast (NVMe) are simulated; real is the "
    "file in the page cache. Not for overcommit.  [default: hdd, ssd, real]",
)
@quiet_option
@json_option
def command(
    name: str,
    *,
    runs: int,
    seed: int,
    size_bytes: int | None,
    disks: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Repeat an experiment: restores on simulated disks, and on this one.

    Or, with overcommit, large pages of machines on a simulated host. Everything is made for it from --seed in a
    temporary directory (TMPDIR says where), which is gone in the end. Each restored machine must come to the digest of
    the one that was never saved. Figures are medians of --runs runs that take turns; the last table says what was asked
    for and whether it holds, and the exit code is 0 either way. docs/experiments.md has the papers' figures beside
    ours.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt bench halite --size 16M --runs 1 --disk fast

    \b
    JSON: experiment, size_bytes, seed, runs, machine {}, values {},
      targets [{what, asked, found, holds}]; a measured value is {median, low, high}
    """
    if name == "overcommit" and disks:
        raise click.UsageError("--disk is for restores: overcommit reads no disk")
    from vmckpt.bench import divergence, halite, overcommit, working_set  # noqa: PLC0415 - start-up: help needs no engine
    from vmckpt.bench.disk import disk_named  # noqa: PLC0415
    from vmckpt.bench.guest import Request  # noqa: PLC0415

    experiment, default_bytes = {
        "halite": (halite.run, halite.SIZE_BYTES),
        "working-set": (working_set.run, working_set.SIZE_BYTES),
        "divergence": (divergence.run, divergence.SIZE_BYTES),
        "overcommit": (lambda request, _: overcommit.run(request), overcommit.SIZE_BYTES),
    }[name]
    memory_bytes = default_bytes if size_bytes is None else size_bytes
    chosen = [disk_named(disk) for disk in dict.fromkeys(disks or _DEFAULT_DISKS)]
    machine = _machine()
    with (
        tempfile.TemporaryDirectory(prefix="vmckpt-bench-") as work_dir,
        _telling(quiet=quiet or as_json) as tell,
    ):
        outcome = experiment(Request(work_dir, memory_bytes, seed, runs, tell), chosen)
    values = {
        "experiment": name,
        "size_bytes": memory_bytes,
        "seed": seed,
        "runs": runs,
        "machine": machine,
        "values": outcome.values,
        "targets": [target._asdict() for target in outcome.targets],
    }
    if as_json or not quiet:
        of = "one run" if runs == 1 else f"medians of {runs} runs"
        title = f"{name}: a guest of {format_size(memory_bytes)}, seed {seed}, {of}"
        answer(_table(title, machine, outcome), values, as_json=as_json)


def _machine() -> dict[str, object]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _table(title: str, machine: dict[str, object], outcome: "Outcome") -> Table:
    text = (
        f"{machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}, "
        f"load average {machine['load_average']} at the start"
    )
    rows = [Line("machine", text)]
    for grid in outcome.grids:
        rows += [Line("", ""), Line(grid.title, ""), *_lines(grid)]
    rows += [Line("", ""), Line("asked for", "")]
    for target in outcome.targets:
        verdict = "holds" if target.holds else "missed"
        text = f"{verdict}: {target.found} (asked: {target.asked})"
        rows.append(Line(f"  {target.what}", text, "green" if target.holds else "bold red"))
    return Table(title, rows)


def _lines(grid: "Grid") -> Iterator[Line]:
    widths = [max(len(row[at]) for row in (grid.header, *grid.rows)) for at in range(len(grid.header))]

    def line(row: Sequence[str], style: str = "") -> Line:
        cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        return Line(f"  {row[0]}", "  ".join(cells), style)

    yield line(grid.header, "dim")
    yield from map(line, grid.rows)


def _nobody(text: str) -> None:
    del text


@contextmanager
def _telling(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """What is being done, in one line of a terminal that is written over; nothing anywhere else."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield _nobody
        return
    try:
        yield lambda text: click.echo(f"\r{text}\x1b[K", err=True, nl=False)
    finally:
        click.echo("\r\x1b[K", err=True, nl=False)
