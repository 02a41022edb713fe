"""`vmckpt restore --lazy`: what was asked for in, a machine that runs at once, and what came of it out.

Options are those of `restore`; this module has what only a lazy restore has of them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from vmckpt.cli.options import refuse_stream, report_option
from vmckpt.cli.render import Line, Table, answer, print_error
from vmckpt.machine.state import MOST_VCPUS
from vmckpt.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from vmckpt.restoring.outcome import LazyReport

__all__ = ["BESIDE", "Given", "lazy_options", "restore_lazily"]

Command = TypeVar("Command", bound=Callable[..., object])
Given = dict[str, object]
"""What was given on the command line, by the API's names for it."""

BESIDE = "\0beside"  # no path has this: `--record` without one
_OPTIONS = (
    click.option(
        "--lazy", "is_lazy", is_flag=True, help="Run the machine at once; memory comes as it is touched."
    ),
    click.option(
        "--prefetch",
        type=click.Choice(("active", "none")),
        help="Bring the pages that were active at the save before the machine runs.  [default: what --record wrote "
        "beside the checkpoint; where there is nothing, active]",
    ),
    click.option(
        "--prefetch-pages",
        metavar="N|FRACTION",
        help="Of these pages, bring so many (5000), or that part (0.5), before it runs, and the rest meanwhile.",
    ),
    click.option(
        "--halo",
        "halo_pages",
        type=click.IntRange(0, 1 << 20),
        metavar="PAGES",
        help="Take that many neighbours on both sides of each such page as well.  [default: 0]",
    ),
    click.option(
        "--until-ops",
        type=click.IntRange(min=0),
        metavar="N",
        help="End when each vCPU has done N operations since boot.",
    ),
    click.option(
        "--workload",
        metavar="NAME[:OPTION=N,...]",
        help="What to run, where the checkpoint does not say.",
    ),
    click.option(
        "--vcpus", type=click.IntRange(1, MOST_VCPUS), metavar="N", help="How many vCPUs: the same."
    ),
    click.option(
        "--seed", type=click.IntRange(0, (1 << 64) - 1), metavar="N", help="Of the workload: the same."
    ),
    click.option(
        "--socket", "socket_path", metavar="PATH", help="Listen there, so that `vmckpt vm` can control it."
    ),
    click.option(
        "--record",
        metavar="[FILE]",
        is_flag=False,
        flag_value=BESIDE,
        help="Write down which pages it touched: as CHECKPOINT.order, which the next restore goes by; or as FILE, "
        "for --order.",
    ),
    click.option("--order", metavar="FILE", help="Prefetch the pages that --record FILE wrote down."),
    click.option(
        "--fault-log", metavar="FILE", help="Write a line for each fault: docs/restore.md has its form."
    ),
    report_option,
    click.option(
        "--mechanism",
        type=click.Choice(("userfaultfd", "software")),
        help="What makes the machine wait for a page.  [default: userfaultfd where it is to be had]",
    ),
)


def lazy_options(command: Command) -> Command:
    """The options of a lazy restore, in the order of the help."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def restore_lazily(checkpoint: str, given: Given, *, force: bool, quiet: bool, as_json: bool) -> None:
    """Run the machine, and print its report."""
    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine
    from vmckpt.restoring.prefetch import parse_amount  # noqa: PLC0415

    options = dict(given)
    if isinstance(pages := options.get("prefetch_pages"), str):
        amount = parse_amount(pages)
        options["prefetch_pages"] = amount.fraction if amount.pages is None else amount.pages
    if (page := options.pop("report", None)) is not None:
        refuse_stream("a report", str(page))
        options["page"] = page
    if options.get("record") == BESIDE:
        options["record"] = True

    def tell(report: "LazyReport") -> None:
        if as_json or not quiet:
            answer(_table(checkpoint, report), _values(report), as_json=as_json)

    api.restore_lazily(
        checkpoint,
        **options,  # type: ignore[arg-type]  # each of the type that its option has made it
        force=force,
        warn=print_error,
        told=tell,
    )


def _values(report: "LazyReport") -> dict[str, object]:
    return {**report._asdict(), "pages": report.pages._asdict()}


def _table(checkpoint: str, report: "LazyReport") -> Table:
    pages = report.pages
    source = "" if report.prefetch_from in {"active", "none"} else " as recorded"
    prefetched = (
        f"{format_count(pages.prefetched)}{source}, {format_count(pages.prefetched_used)} of them used"
    )
    return Table(
        f"Restored {checkpoint} lazily",
        [
            Line("memory", format_size(report.memory_bytes)),
            Line("workload", f"{report.workload}, seed {report.seed}"),
            Line("ran after", format_duration(report.time_to_run_s), "bold"),
            Line("  prefetch", format_duration(report.prefetch_s)),
            Line("at 90 % after", format_duration(report.ttr_s["0.9"])),
            Line("all there after", format_duration(report.resident_s)),
            Line("faults", f"{format_count(report.faults)}, which cost {format_duration(report.stall_s)}"),
            Line("  prefetched", prefetched),
            Line("  on demand", format_count(pages.on_demand)),
            Line("storage reads", f"{format_count(report.storage_reads)}, {format_size(report.bytes_read)}"),
            Line("operations", format_count(report.ops)),
            Line("time", format_duration(report.elapsed_s)),
            Line("digest", report.digest),
        ],
    )
