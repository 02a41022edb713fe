"""`vmckpt restore`: a checkpoint in, the memory image it was made from out, or (`lazy`) a machine that runs."""

from typing import TYPE_CHECKING, Any

import click

from vmckpt.cli.lazy import BESIDE, Given, lazy_options, restore_lazily
from vmckpt.cli.options import (
    check_stream,
    force_option,
    input_name,
    jobs_option,
    json_option,
    quiet_option,
)
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import Line, Table, answer, rate
from vmckpt.units import format_size

if TYPE_CHECKING:
    from vmckpt.api import RestoreReport

__all__ = ["command"]


@click.command("restore")
@click.argument("checkpoint", metavar="CHECKPOINT", required=False)
@click.argument("output", metavar="[OUTPUT]", required=False)
@click.option(
    "--format",
    "image_format",
    type=click.Choice(("raw", "elf")),
    default="raw",
    show_default=True,
    help="raw: the memory and nothing else. elf: a core file that keeps guest-physical addresses.",
)
@jobs_option
@force_option
@lazy_options
@quiet_option
@json_option
def command(
    checkpoint: str | None,
    output: str | None,
    *,
    image_format: str,
    jobs: int | None,
    is_lazy: bool,
    **options: Any,
) -> None:
    """Write a checkpoint's memory out as an image, or run its machine at once.

    OUTPUT appears whole or not at all, and zero pages become holes in it. Every checksum is checked on the way: a
    damaged checkpoint ends with exit code 4 and no output. CHECKPOINT `-` is standard input.

    OUTPUT `-` streams the image to standard output; the table then goes to standard error, and --json is refused. A
    stream cannot be taken back: check the exit code before you trust it.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt save guest.raw guest.vmckpt
      vmckpt restore guest.vmckpt back.raw
      cmp guest.raw back.raw

    \b
    JSON: memory_bytes, elapsed_s, digest, file_bytes, format

    With --lazy there is no OUTPUT: the emulated machine goes on where it was saved, within a moment, and its memory
    comes as it touches it, what was active at the save first and the rest in the background. It ends when each vCPU has
    done --until-ops operations, when `vmckpt vm stop` tells it to or, with neither --until-ops nor --socket, when all
    memory is there. --record keeps which pages it touched in CHECKPOINT.order, and the next restore of the checkpoint
    brings these first. --report writes a page for a browser: utilisation and faults over time, what came why, and how
    soon the machine was back to its speed. docs/restore.md tells more.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt save guest.raw guest.vmckpt
      vmckpt restore --lazy guest.vmckpt --workload zipf --until-ops 100000

    \b
    JSON of --lazy: time_to_run_s, prefetch_s, elapsed_s, ops, ops_per_vcpu [], digest, faults,
      storage_reads, demand_reads, bytes_read, stall_s,
      pages {prefetched, prefetched_used, on_demand, neighbours, neighbours_used,
      background, background_used, zero, total}, coverage, precision,
      ttr_s {0.5, 0.7, 0.9}, resident_s, memory_bytes, handlers, vcpus, workload, seed,
      ended_by (until-ops, resident, socket or signal),
      mechanism (userfaultfd or software), prefetch_from (active, recorded, order or none);
      times count from the start of the process
    """
    told = {name: options.pop(name) for name in ("force", "quiet", "as_json")}
    given = {name: value for name, value in options.items() if value is not None}
    if is_lazy:
        _refuse(output is not None, "with --lazy there is no output: the machine runs instead")
        _refuse(image_format != "raw" or jobs is not None, "--format and --jobs are of no use with --lazy")
        restore_lazily(_named(checkpoint, given), given, **told)
        return
    _refuse(bool(given), "it runs nothing without --lazy: leave the options of a run out")
    if output is None:
        raise click.UsageError(f"Missing argument '{'OUTPUT' if checkpoint else 'CHECKPOINT'}'.")
    assert checkpoint is not None
    _restore(checkpoint, output, image_format, jobs, **told)


def _named(checkpoint: str | None, given: Given) -> str:
    """The checkpoint; in `--lazy --record CHECKPOINT` it has been taken for the value of the option, which has none."""
    if checkpoint is None and given.get("record", BESIDE) != BESIDE:
        checkpoint, given["record"] = str(given["record"]), BESIDE
    if checkpoint is None:
        raise click.UsageError("Missing argument 'CHECKPOINT'.")
    return checkpoint


def _restore(
    checkpoint: str,
    output: str,
    image_format: str,
    jobs: int | None,
    *,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the image, and print the report."""
    is_stream = check_stream(output, as_json=as_json)

    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine

    with progress_bar("restoring", quiet=quiet or as_json) as progress:
        report = api.restore(
            checkpoint, output, format=image_format, jobs=jobs, force=force, progress=progress
        )
    if as_json or not quiet:
        table = _table(input_name(checkpoint), "standard output" if is_stream else output, report)
        answer(table, _values(report), as_json=as_json, to_stderr=is_stream)


def _refuse(wrong: bool, why: str) -> None:
    if wrong:
        raise click.UsageError(why)


def _values(report: "RestoreReport") -> dict[str, object]:
    return {
        "memory_bytes": report.memory_bytes,
        "elapsed_s": report.elapsed_s,
        "digest": report.digest,
        "file_bytes": report.file_bytes,
        "format": report.format,
    }


def _table(checkpoint: str, output: str, report: "RestoreReport") -> Table:
    return Table(
        f"Restored {checkpoint} to {output}",
        [
            Line("memory", format_size(report.memory_bytes), "bold"),
            Line("format", report.format),
            Line("digest", report.digest),
            Line("time", rate(report.memory_bytes, report.elapsed_s)),
        ],
    )
