"""`vmckpt run`: memory in, a machine that works in it until it is told to stop, and what came of it out."""

import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from vmckpt.cli.options import json_option, quiet_option, seed_option, vcpus_option
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import Line, Table, answer
from vmckpt.machine.workload import DEFAULT_WORKLOAD, WORKLOADS
from vmckpt.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from vmckpt.machine.machine import MachineStatus
    from vmckpt.machine.session import RunReport

__all__ = ["command"]

_REDRAW_S = 0.5

_WORKLOADS = "\n".join(
    textwrap.fill(kind.meaning, 78, initial_indent=f"  {name:<14} ", subsequent_indent=" " * 17)
    for name, kind in WORKLOADS.items()
)


@click.command("run", epilog=f"\b\nWorkloads:\n{_WORKLOADS}")
@click.argument("memory", metavar="IMAGE|CHECKPOINT")
@click.option(
    "--workload",
    metavar="NAME[:OPTION=N,...]",
    help=f"What the machine does: see below, and docs/machine.md for the options.  [default: {DEFAULT_WORKLOAD}]",
)
@vcpus_option
@seed_option
@click.option(
    "--until-ops",
    type=click.IntRange(min=0),
    metavar="N",
    help="End when each vCPU has done N operations since boot.",
)
@click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    help="Listen there, so that `vmckpt vm` can control the machine.",
)
@quiet_option
@json_option
def command(
    memory: str,
    *,
    workload: str | None,
    vcpus: int | None,
    seed: int | None,
    until_ops: int | None,
    socket_path: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Boot an emulated machine.

    It runs in the foreground, in a copy of the memory: IMAGE (raw, or an ELF core) stays as it is. It ends when each
    vCPU has done --until-ops operations, when `vmckpt vm stop` tells it to, or by Ctrl-C or SIGTERM (the exit code is
    then 130 or 143, and the report is printed all the same).

    What it does follows from workload, seed and number of vCPUs alone: after N operations of each vCPU its memory has
    one digest, whatever happened on the way. A CHECKPOINT with vCPU state goes on where it was saved; --workload,
    --vcpus and --seed are for memory without.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt run guest.raw --workload zipf --vcpus 2 --until-ops 100000

    \b
    JSON: ops (of all vCPUs since boot), ops_per_vcpu [], digest, elapsed_s, ops_per_s,
      memory_bytes, resident_pages, vcpus, workload, seed,
      ended_by (until-ops, socket or signal)
    """
    from vmckpt.machine.session import Session, Wishes  # noqa: PLC0415 - start-up: help needs no engine

    wishes = Wishes(workload, vcpus, seed)
    with progress_bar("loading", quiet=quiet or as_json) as progress:
        session = Session.open(memory, wishes, socket_path=socket_path, progress=progress)
    with session:
        stopped: BaseException | None = None
        try:
            with _live_line(quiet=quiet or as_json) as live:
                session.run(until_ops=until_ops, on_tick=live)
        except (SystemExit, KeyboardInterrupt) as request:  # Ctrl-C, SIGTERM: an end like any other
            stopped = request
        report = session.finish()
    if as_json or not quiet:
        answer(_table(memory, report), report._asdict(), as_json=as_json)
    if stopped is not None:
        raise stopped


def _table(memory: str, report: "RunReport") -> Table:
    return Table(
        f"Ran {memory}",
        [
            Line(
                "memory",
                f"{format_size(report.memory_bytes)}, {format_count(report.resident_pages)} pages in use",
            ),
            Line("workload", f"{report.workload}, seed {report.seed}"),
            Line("vCPUs", format_count(report.vcpus)),
            Line("operations", format_count(report.ops), "bold"),
            Line("time", f"{format_duration(report.elapsed_s)}, {format_count(round(report.ops_per_s))}/s"),
            Line("digest", report.digest),
        ],
    )


class _LiveLine:
    """What the machine does now, in one line that is written over and over."""

    def __init__(self) -> None:
        self._drawn_s = time.monotonic()
        self._drawn_ops: int | None = None

    def __call__(self, status: "MachineStatus") -> None:
        now_s = time.monotonic()
        elapsed_s = now_s - self._drawn_s
        if self._drawn_ops is not None and elapsed_s < _REDRAW_S:
            return
        rate = 0.0 if self._drawn_ops is None else (status.ops - self._drawn_ops) / elapsed_s
        self._drawn_s, self._drawn_ops = now_s, status.ops
        used = format_size(status.resident_pages * 4096)
        text = f"{status.state}: {format_count(status.ops)} operations, {format_count(round(rate))}/s, {used} in use"
        click.echo(f"\r{text}\x1b[K", err=True, nl=False)

    def erase(self) -> None:
        if self._drawn_ops is not None:
            click.echo("\r\x1b[K", err=True, nl=False)


@contextmanager
def _live_line(*, quiet: bool) -> Iterator[_LiveLine | None]:
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    line = _LiveLine()
    try:
        yield line
    finally:
        line.erase()
