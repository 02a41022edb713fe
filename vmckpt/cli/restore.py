"""`vmckpt restore`: a checkpoint in, the memory image it was made from out."""

from typing import TYPE_CHECKING

import click

from vmckpt.cli.options import (
    check_stream,
    checkpoint_argument,
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
@checkpoint_argument
@click.argument("output", metavar="OUTPUT")
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
@quiet_option
@json_option
def command(
    checkpoint: str,
    output: str,
    *,
    image_format: str,
    jobs: int | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write a checkpoint's memory out as an image.

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
    """
    is_stream = check_stream(output, as_json=as_json)

    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine

    with progress_bar("restoring", quiet=quiet or as_json) as progress:
        report = api.restore(
            checkpoint, output, format=image_format, jobs=jobs, force=force, progress=progress
        )
    if as_json or not quiet:
        table = _table(input_name(checkpoint), "standard output" if is_stream else output, report)
        answer(table, _values(report), as_json=as_json, to_stderr=is_stream)


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
