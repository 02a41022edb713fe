"""`vmckpt save`: a source of guest memory in, a checkpoint out."""

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
)
from vmckpt.cli.pages import count_rows, count_values
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import Line, Table, answer, rate, times_smaller
from vmckpt.units import format_count, format_size

if TYPE_CHECKING:
    from vmckpt.api import SaveReport

__all__ = ["command", "save_table", "save_values"]


@click.command("save")
@click.argument("source", metavar="SOURCE")
@click.argument("checkpoint", metavar="CHECKPOINT")
@codec_option
@block_options
@click.option("--no-dedup", is_flag=True, help="Store every page, even where another one is equal.")
@jobs_option
@force_option
@quiet_option
@json_option
def command(
    source: str,
    checkpoint: str,
    *,
    codec: str | None,
    memory_block_bytes: int | None,
    storage_block_bytes: int | None,
    no_dedup: bool,
    jobs: int | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Save a machine's memory as a checkpoint.

    SOURCE is anything that holds guest memory: a raw image, an ELF core (QEMU's dump-guest-memory, or `virsh dump
    --memory-only`), another checkpoint, or `-` for any of these on standard input. What it is follows from its
    content.

    CHECKPOINT appears whole or not at all; `-` is standard output (the table then goes to standard error, and --json
    is refused). Zero pages, pages that repeat one byte, and pages equal to an earlier one cost a few bytes each; the
    rest is compressed: by --codec, or by a fast zstd where this Python has one, else lz4. The file is the same for any
    --jobs.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt save guest.raw guest.vmckpt

    \b
    JSON: memory_bytes, file_bytes, ratio (memory to file), elapsed_s,
      pages {total, zero, pattern, duplicate, stored}, active_pages, digest,
      codec, memory_block_bytes, storage_block_bytes, storage_blocks
    """
    is_stream = check_stream(checkpoint, as_json=as_json)

    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine

    with progress_bar("saving", quiet=quiet or as_json) as progress:
        report = api.save(
            source,
            checkpoint,
            codec=codec,
            memory_block_bytes=memory_block_bytes,
            storage_block_bytes=storage_block_bytes,
            jobs=jobs,
            dedup=not no_dedup,
            force=force,
            progress=progress,
        )
    if as_json or not quiet:
        table = save_table(
            f"Saved {input_name(source)} as {'standard output' if is_stream else checkpoint}", report
        )
        answer(table, save_values(report), as_json=as_json, to_stderr=is_stream)


def save_values(report: "SaveReport") -> dict[str, object]:
    """The JSON of a save."""
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
    }


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
    return Table(title, rows)


def codec_text(codec: str, memory_block_bytes: int) -> str:
    """How memory blocks are compressed."""
    return f"{codec}, in blocks of {format_size(memory_block_bytes)}"
