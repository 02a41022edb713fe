"""`vmckpt restore`: a checkpoint in, the memory image it was made from out, or (`lazy`) a machine that runs."""

from typing import TYPE_CHECKING, Any

import click

from vmckpt.cli.options import (
    check_stream,
    checkpoint_argument,
    force_option,
    input_name,
    jobs_option,
    json_option,
    quiet_option,
    report_option,
)
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import Line, Table, answer, rate
from vmckpt.machine.state import MOST_VCPUS
from vmckpt.units import format_size

if TYPE_CHECKING:
    from vmckpt.api import RestoreReport

__all__ = ["command"]


@click.command("restore")
@checkpoint_argument
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
@click.option(
    "--lazy", "is_lazy", is_flag=True, help="Run the machine at once; memory comes as it is touched."
)
@click.option(
    "--prefetch",
    type=click.Choice(("active", "none")),
    help="Bring the pages that were active at the save before the machine runs.  [default: active]",
)
@click.option(
    "--prefetch-pages",
    metavar="N|FRACTION",
    help="Of the active pages, bring so many (5000), or that part (0.5), before it runs, and the rest meanwhile.",
)
@click.option(
    "--halo",
    "halo_pages",
    type=click.IntRange(0, 1 << 20),
    metavar="PAGES",
    help="Take that many neighbours on both sides of each active page for active as well.  [default: 0]",
)
@click.option(
    "--until-ops",
    type=click.IntRange(min=0),
    metavar="N",
    help="End when each vCPU has done N operations since boot.",
)
@click.option(
    "--workload", metavar="NAME[:OPTION=N,...]", help="What to run, where the checkpoint does not say."
)
@click.option("--vcpus", type=click.IntRange(1, MOST_VCPUS), metavar="N", help="How many vCPUs: the same.")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), metavar="N", help="Of the workload: the same.")
@click.option(
    "--socket", "socket_path", metavar="PATH", help="Listen there, so that `vmckpt vm` can control it."
)
@click.option(
    "--record", metavar="FILE", help="Write down which pages it touched, for --order of the next time."
)
@click.option(
    "--order",
    metavar="FILE",
    help="Prefetch the pages that --record wrote down, not those active at the save.",
)
@click.option(
    "--fault-log", metavar="FILE", help="Write a line for each fault: docs/restore.md has its form."
)
@report_option
@click.option(
    "--mechanism",
    type=click.Choice(("userfaultfd", "software")),
    help="What makes the machine wait for a page.  [default: userfaultfd where it is to be had]",
)
@quiet_option
@json_option
def command(
    checkpoint: str,
    output: str | None,
    *,
    image_format: str,
    jobs: int | None,
    force: bool,
    is_lazy: bool,
    quiet: bool,
    as_json: bool,
    **lazy: Any,
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
    memory is there. --report writes a page for a browser: utilisation and faults over time, what came why, and how soon
    the machine was back to its speed. docs/restore.md tells more.

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
      mechanism (userfaultfd or software); times count from the start of the process
    """
    given = {name: value for name, value in lazy.items() if value is not None}
    if is_lazy:
        _refuse(output is not None, "with --lazy there is no output: the machine runs instead")
        _refuse(image_format != "raw" or jobs is not None, "--format and --jobs are of no use with --lazy")
        from vmckpt.cli.lazy import LazyOptions, restore_lazily  # noqa: PLC0415 - only here

        restore_lazily(checkpoint, LazyOptions(**given, force=force), quiet=quiet, as_json=as_json)
        return
    _refuse(bool(given), "it runs nothing without --lazy: leave the options of a run out")
    if output is None:
        raise click.UsageError("Missing argument 'OUTPUT'.")
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
