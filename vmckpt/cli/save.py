"""`vmckpt save`: a source of guest memory in, a checkpoint out."""

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from vmckpt.cli.options import (
    block_options,
    check_stream,
    codec_option,
    force_option,
    input_name,
    jobs_option,
    json_option,
    quiet_option,
    report_option,
    seed_option,
    vcpus_option,
)
from vmckpt.cli.pages import count_rows, count_values
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import Line, Table, answer, rate, times_smaller
from vmckpt.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from vmckpt.api import LiveReport, SaveReport

__all__ = ["command", "save_table", "save_values"]

_MODES = ("checkpoint", "suspend")
_TRACES = ("access", "write", "working-set", "off")
_ESTIMATORS = ("tracing", "scanning")
_TRACERS = ("auto", "userfaultfd", "software")


@click.command("save")
@click.argument("source", metavar="SOURCE")
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option(
    "--mode",
    type=click.Choice(_MODES),
    help="A running machine goes on after a checkpoint, and ends with a suspend.  [default: checkpoint]",
)
@click.option(
    "--trace",
    type=click.Choice(_TRACES),
    help="Which touches of a running machine trap, and are recorded as active; off: it stands still.  "
    "[default: access]",
)
@click.option(
    "--tracer",
    type=click.Choice(_TRACERS),
    help="How touches are trapped: by the kernel, or without its help.  [default: auto]",
)
@click.option(
    "--estimator",
    type=click.Choice(_ESTIMATORS),
    help="Active is what trapped, or what a hand that goes through memory with the saver finds touched.  "
    "[default: tracing]",
)
@click.option(
    "--workload",
    metavar="NAME[:OPTION=N,...]",
    help="Boot a machine in SOURCE that does this, and save it while it runs: see `vmckpt run --help`.",
)
@vcpus_option
@seed_option
@click.option(
    "--warmup-ops",
    type=click.IntRange(min=0),
    metavar="N",
    help="Save the booted machine once each vCPU has done N operations.  [default: 0]",
)
@codec_option
@block_options
@click.option("--no-dedup", is_flag=True, help="Store every page, even where another one is equal.")
@jobs_option
@report_option
@force_option
@quiet_option
@json_option
def command(
    source: str,
    checkpoint: str,
    *,
    mode: str | None,
    trace: str | None,
    tracer: str | None,
    estimator: str | None,
    workload: str | None,
    vcpus: int | None,
    seed: int | None,
    warmup_ops: int | None,
    codec: str | None,
    memory_block_bytes: int | None,
    storage_block_bytes: int | None,
    no_dedup: bool,
    jobs: int | None,
    report: str | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Save a machine's memory as a checkpoint.

    SOURCE is anything that holds guest memory: a raw image, an ELF core (QEMU's dump-guest-memory, or `virsh dump
    --memory-only`), another checkpoint, or `-` for any of these on standard input; or the control socket of a machine
    that runs (`vmckpt run --socket`). What it is follows from its content.

    CHECKPOINT appears whole or not at all; `-` is standard output (the table then goes to standard error, and --json
    is refused). Zero pages, pages that repeat one byte, and pages equal to an earlier one cost a few bytes each; the
    rest is compressed: by --codec, or by a fast zstd where this Python has one, else lz4. Of memory at rest, the file
    is the same for any --jobs.

    A running machine works on while its memory is saved. --mode checkpoint keeps memory as it was at one instant, for
    which the machine pauses some milliseconds. --mode suspend keeps it as it is at the end: memory goes out while the
    machine works, what it writes meanwhile goes out again, and when little is left (or no less from round to round)
    it stops, and ends. What it touched is recorded as active, in the order of access. With --workload, SOURCE is
    memory in which a machine is booted for this.

    --report writes a page for a browser, once the checkpoint is whole: what was stored, how well it compressed, and
    where the active pages lie.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt save guest.raw guest.vmckpt
      vmckpt save guest.raw live.vmckpt --workload zipf --warmup-ops 1000000

    \b
    JSON: memory_bytes, file_bytes, ratio (memory to file), elapsed_s,
      pages {total, zero, pattern, duplicate, stored}, active_pages, digest,
      codec, memory_block_bytes, storage_block_bytes, storage_blocks;
      of a running machine also mode, trace, tracer, pause_s, ops_at_checkpoint [],
      ops_per_s_before, ops_per_s_during, traps {read, write}, resaved_pages,
      and of a suspend rounds, stopped_for, left_pages
    """
    is_stream = check_stream(checkpoint, as_json=as_json)
    if as_json and sys.stdout is None:  # said before a machine is paused, or ended, for nothing
        raise click.UsageError("standard output is closed, and that is where --json prints")
    if is_stream and report is not None:
        raise click.UsageError("--report reads the checkpoint back: give that a name, not standard output")

    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine

    with ExitStack() as stack:
        page = None
        if report is not None:
            from vmckpt.cli.report import report_file  # noqa: PLC0415 - only here

            page = stack.enter_context(
                report_file(report, force=force, inputs=[source], outputs=[checkpoint])
            )
        with progress_bar("saving", quiet=quiet or as_json) as progress:
            done = api.save(
                source,
                checkpoint,
                codec=codec,
                memory_block_bytes=memory_block_bytes,
                storage_block_bytes=storage_block_bytes,
                jobs=jobs,
                dedup=not no_dedup,
                force=force,
                mode=mode,
                trace=trace,
                tracer=tracer,
                estimator=estimator,
                workload=workload,
                vcpus=vcpus,
                seed=seed,
                warmup_ops=warmup_ops,
                progress=progress,
            )
        if page is not None:
            page.write_text([api.save_page(checkpoint, done)])
    if as_json or not quiet:
        table = save_table(
            f"Saved {input_name(source)} as {'standard output' if is_stream else checkpoint}", done
        )
        answer(table, save_values(done), as_json=as_json, to_stderr=is_stream)


def save_values(report: "SaveReport") -> dict[str, object]:
    """The JSON of a save."""
    live = {} if report.live is None else _live_values(report.live)
    return {
        "memory_bytes": report.memory_bytes,
        "file_bytes": report.file_bytes,
        "ratio": report.ratio,
        "elapsed_s": report.elapsed_s,
        "pages": count_values(report.pages),
        "active_pages": report.active_pages,
        "digest": report.digest,
        "codec": report.codec,
        "memory_block_bytes": report.memory_block_bytes,
        "storage_block_bytes": report.storage_block_bytes,
        "storage_blocks": report.storage_blocks,
        **live,
    }


def _live_values(live: "LiveReport") -> dict[str, object]:
    values: dict[str, object] = {
        "mode": live.mode,
        "trace": live.trace,
        "tracer": live.mechanism,
        "pause_s": live.pause_s,
        "ops_at_checkpoint": list(live.ops_at_checkpoint),
        "ops_per_s_before": live.ops_per_s_before,
        "ops_per_s_during": live.ops_per_s_during,
        "traps": {"read": live.read_traps, "write": live.write_traps},
        "resaved_pages": live.resaved_pages,
    }
    if live.mode == "suspend":
        values |= {"rounds": live.rounds, "stopped_for": live.stopped_for, "left_pages": live.left_pages}
    return values


def save_table(title: str, report: "SaveReport") -> Table:
    """What a person sees of a save."""
    rows = [
        Line("memory", format_size(report.memory_bytes)),
        Line("file", times_smaller(report.file_bytes, report.memory_bytes), "bold"),
        *count_rows(report.pages),
        Line("codec", codec_text(report.codec, report.memory_block_bytes)),
        Line("digest", report.digest),
        Line("time", rate(report.memory_bytes, report.elapsed_s)),
    ]
    if report.active_pages:
        rows.insert(-3, Line("active", f"{format_count(report.active_pages)} pages, in the order of access"))
    if report.live is not None:
        rows += _live_rows(report.live)
    return Table(title, rows)


def _live_rows(live: "LiveReport") -> list[Line]:
    before, during = round(live.ops_per_s_before), round(live.ops_per_s_during)
    rows = [
        Line("pause", format_duration(live.pause_s), "bold"),
        Line("operations", f"{format_count(sum(live.ops_at_checkpoint))} at the checkpoint"),
    ]
    if live.trace != "off":
        rows += [
            Line("speed", f"{format_count(during)} operations/s while saving, {format_count(before)} before"),
            Line(
                "traps",
                f"{format_count(live.read_traps)} reads, {format_count(live.write_traps)} writes, by {live.mechanism}",
            ),
        ]
    if live.stopped_for:
        rows.append(
            Line(
                "rounds",
                f"{live.rounds}, {format_count(live.resaved_pages)} pages saved again; stopped for: {live.stopped_for}",
            )
        )
    return rows


def codec_text(codec: str, memory_block_bytes: int) -> str:
    """How memory blocks are compressed."""
    return f"{codec}, in blocks of {format_size(memory_block_bytes)}"
