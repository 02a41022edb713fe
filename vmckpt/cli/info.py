"""`vmckpt info`: a checkpoint in, what it says about itself out."""

from typing import TYPE_CHECKING

import click

from vmckpt.cli.options import checkpoint_argument, input_name, json_option
from vmckpt.cli.pages import count_rows, count_values
from vmckpt.cli.render import Line, Share, Table, answer, times_smaller
from vmckpt.cli.save import codec_text
from vmckpt.units import format_count, format_size

if TYPE_CHECKING:
    from vmckpt.api import CheckpointInfo

__all__ = ["command"]

_REGIONS_SHOWN = 8
_METADATA_SHOWN = 20
_KEY_CHARS, _VALUE_CHARS = 24, 240  # metadata is free-form, and may be anybody's


@click.command("info")
@checkpoint_argument
@json_option
def command(checkpoint: str, *, as_json: bool) -> None:
    """Show what a checkpoint holds.

    This reads the header and the index, not the memory: it takes no longer for a big checkpoint, and it does not check
    the blocks. `vmckpt verify` does. CHECKPOINT `-` is standard input.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt save guest.raw guest.vmckpt
      vmckpt info guest.vmckpt

    \b
    JSON: format_version, memory_bytes, page_bytes,
      regions [{gpa, pages, first_page}],
      pages {total, zero, pattern, duplicate, stored}, active_pages, codec,
      memory_block_bytes, storage_block_bytes, storage_blocks, file_bytes,
      digest, created, vcpu_state, checkpoint_id, metadata {}
    """
    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine

    info = api.info(checkpoint)
    answer(_table(input_name(checkpoint), info), _values(info), as_json=as_json)


def _values(info: "CheckpointInfo") -> dict[str, object]:
    return {
        "format_version": info.format_version,
        "memory_bytes": info.memory_bytes,
        "page_bytes": info.page_bytes,
        "regions": [
            {"gpa": region.gpa, "pages": region.pages, "first_page": region.first_page}
            for region in info.regions
        ],
        "pages": count_values(info.pages),
        "active_pages": info.active_pages,
        "codec": info.codec,
        "memory_block_bytes": info.memory_block_bytes,
        "storage_block_bytes": info.storage_block_bytes,
        "storage_blocks": info.storage_blocks,
        "file_bytes": info.file_bytes,
        "digest": info.digest,
        "created": info.created,
        "vcpu_state": info.vcpu_state,
        "checkpoint_id": info.checkpoint_id,
        "metadata": dict(info.metadata),
    }


def _table(checkpoint: str, info: "CheckpointInfo") -> Table:
    blocks = f"{format_count(info.storage_blocks)} of up to {format_size(info.storage_block_bytes)}"
    rows: list[Line | Share] = [
        Line("created", info.created),
        Line("memory", format_size(info.memory_bytes)),
        *_region_rows(info),
        Line("file", times_smaller(info.file_bytes, info.memory_bytes), "bold"),
        *count_rows(info.pages),
        Line("active", f"{format_count(info.active_pages)} pages, in the order of access")
        if info.active_pages
        else Line("active", "not recorded"),
        Line("vCPU state", "yes" if info.vcpu_state else "none: memory only"),
        Line("codec", codec_text(info.codec, info.memory_block_bytes)),
        Line("blocks", blocks),
        Line("digest", info.digest),
        Line("id", info.checkpoint_id),
        *_metadata_rows(info),
    ]
    return Table(f"{checkpoint}: checkpoint, format version {info.format_version}", rows)


def _region_rows(info: "CheckpointInfo") -> list[Line]:
    if len(info.regions) == 1:
        return []
    rows = [
        Line("  region", f"{region.gpa:#x} .. {region.gpa + size_bytes:#x}, {format_size(size_bytes)}")
        for region in info.regions[:_REGIONS_SHOWN]
        for size_bytes in [region.pages * info.page_bytes]
    ]
    if len(info.regions) > _REGIONS_SHOWN:
        rows.append(
            Line("  ...", f"{format_count(len(info.regions) - _REGIONS_SHOWN)} more; --json lists all")
        )
    return rows


def _metadata_rows(info: "CheckpointInfo") -> list[Line]:
    entries = list(info.metadata.items())
    rows = [
        Line(_clip(key, _KEY_CHARS), _clip(str(value), _VALUE_CHARS))
        for key, value in entries[:_METADATA_SHOWN]
    ]
    if len(entries) > _METADATA_SHOWN:
        rows.append(Line("...", f"{format_count(len(entries) - _METADATA_SHOWN)} more; --json lists all"))
    return rows


def _clip(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 3]}..."
