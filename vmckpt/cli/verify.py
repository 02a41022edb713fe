"""`vmckpt verify`: a checkpoint in, its problems out; or, with a lost index, a new checkpoint made from its blocks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vmckpt.cli.options import (
    checkpoint_argument,
    force_option,
    input_name,
    jobs_option,
    json_option,
    quiet_option,
    refuse_stream,
)
from vmckpt.cli.pages import count_rows, count_values
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import Line, Table, answer, rate
from vmckpt.errors import CorruptionError
from vmckpt.units import format_count, format_size

if TYPE_CHECKING:
    from vmckpt.api import Problem, RebuildReport, VerifyReport
    from vmckpt.pages import PageRange

__all__ = ["command"]

_PROBLEMS_SHOWN = 20
_RANGES_SHOWN = 6


@click.command("verify")
@checkpoint_argument
@click.option(
    "--rebuild-index",
    "new",
    metavar="NEW",
    help="Make a checkpoint NEW from the blocks of one whose index is lost.",
)
@jobs_option
@force_option
@quiet_option
@json_option
def command(
    checkpoint: str, *, new: str | None, jobs: int | None, force: bool, quiet: bool, as_json: bool
) -> None:
    """Check every byte of a checkpoint.

    Exit code 0 says that the file is whole, as it was written; 4 that it is not, and then each problem is listed with
    its kind, its file offset, and the pages that it costs. CHECKPOINT `-` is standard input.

    With --rebuild-index, what the blocks tell about themselves becomes a new checkpoint. CHECKPOINT stays as it is
    (--force applies to NEW), and what only the lost index knew is named.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt save guest.raw guest.vmckpt
      vmckpt verify guest.vmckpt

    \b
    JSON: ok, problems [{kind, offset, pages [[start, end]], message}],
      memory_bytes, storage_blocks, elapsed_s
    JSON with --rebuild-index: memory_bytes, file_bytes, storage_blocks,
      pages {total, zero, pattern, duplicate, stored}, digest, elapsed_s,
      lost_sections []
    """
    if new is None and force:
        raise click.UsageError(
            "--force says that --rebuild-index may overwrite NEW; without it there is no output"
        )
    if new is not None:
        refuse_stream("the NEW of --rebuild-index", new)
        refuse_stream("the CHECKPOINT of --rebuild-index", checkpoint)
        _rebuild(checkpoint, new, force=force, quiet=quiet, as_json=as_json)
        return

    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine

    with progress_bar("verifying", quiet=quiet or as_json) as progress:
        report = api.verify(checkpoint, jobs=jobs, progress=progress)
    if as_json or not quiet:
        answer(_table(input_name(checkpoint), report), _values(report), as_json=as_json)
    if not report.ok:
        raise CorruptionError(_verdict(report.problems), path=checkpoint)


def _rebuild(checkpoint: str, new: str, *, force: bool, quiet: bool, as_json: bool) -> None:
    from vmckpt import api  # noqa: PLC0415 - start-up

    with progress_bar("rebuilding", quiet=quiet or as_json) as progress:
        report = api.rebuild_index(checkpoint, new, force=force, progress=progress)
    if as_json or not quiet:
        answer(_rebuild_table(checkpoint, new, report), _rebuild_values(report), as_json=as_json)


def _verdict(problems: "Sequence[Problem]") -> str:
    count = len(problems)
    found = f"{format_count(count)} problems" if count > 1 else "1 problem"
    return (
        f"{found} found; restore from another copy, or, if only the index is damaged, "
        "save what the blocks hold with --rebuild-index NEW"
    )


def _values(report: "VerifyReport") -> dict[str, object]:
    return {
        "ok": report.ok,
        "problems": [
            {
                "kind": problem.kind,
                "offset": problem.offset,
                "pages": [[pages.start, pages.end] for pages in problem.pages],
                "message": problem.message,
            }
            for problem in report.problems
        ],
        "memory_bytes": report.memory_bytes,
        "storage_blocks": report.storage_blocks,
        "elapsed_s": report.elapsed_s,
    }


def _table(checkpoint: str, report: "VerifyReport") -> Table:
    rows = [
        Line(
            "memory",
            format_size(report.memory_bytes) if report.memory_bytes else "unknown: the header is damaged",
        ),
        Line("blocks", f"{format_count(report.storage_blocks)}, each read and checked"),
        Line("time", rate(report.memory_bytes, report.elapsed_s)),
    ]
    if report.ok:
        return Table(f"{checkpoint} is whole", rows)
    shown = report.problems[:_PROBLEMS_SHOWN]
    rows.extend(Line(problem.kind, _problem_text(problem), "yellow") for problem in shown)
    hidden = len(report.problems) - _PROBLEMS_SHOWN
    if hidden > 0:
        rows.append(Line("...", f"{format_count(hidden)} more; --json lists all"))
    return Table(f"{checkpoint} is damaged", rows, "bold red")


def _problem_text(problem: "Problem") -> str:
    place = [] if problem.offset is None else [f"offset {problem.offset}"]
    if problem.pages:
        place.append(f"pages {_ranges_text(problem.pages)}")
    return f"{', '.join(place)}: {problem.message}" if place else problem.message


def _ranges_text(ranges: "Sequence[PageRange]") -> str:
    shown = [
        f"{start}" if end == start + 1 else f"{start}-{end - 1}" for start, end in ranges[:_RANGES_SHOWN]
    ]
    hidden = len(ranges) - _RANGES_SHOWN
    return " ".join([*shown, f"and {format_count(hidden)} more ranges"] if hidden > 0 else shown)


def _rebuild_values(report: "RebuildReport") -> dict[str, object]:
    return {
        "memory_bytes": report.memory_bytes,
        "file_bytes": report.file_bytes,
        "storage_blocks": report.storage_blocks,
        "pages": count_values(report.pages),
        "digest": report.digest,
        "elapsed_s": report.elapsed_s,
        "lost_sections": list(report.lost_sections),
    }


def _rebuild_table(checkpoint: str, new: str, report: "RebuildReport") -> Table:
    lost = ", ".join(report.lost_sections)
    return Table(
        f"Rebuilt the index of {checkpoint} as {new}",
        [
            Line("memory", format_size(report.memory_bytes)),
            Line("file", format_size(report.file_bytes), "bold"),
            *count_rows(report.pages),
            Line("blocks", format_count(report.storage_blocks)),
            Line("lost", lost or "nothing", "yellow" if lost else ""),
            Line("digest", report.digest),
            Line("time", rate(report.memory_bytes, report.elapsed_s)),
        ],
    )
