"""The options that several commands share, and the types of their values."""

import sys
from collections.abc import Callable
from typing import TypeVar

import click

from vmckpt.errors import UsageError
from vmckpt.units import parse_size

__all__ = [
    "CODECS",
    "block_options",
    "check_stream",
    "checkpoint_argument",
    "codec_option",
    "force_option",
    "input_name",
    "jobs_option",
    "json_option",
    "new_argument",
    "quiet_option",
    "refuse_stream",
    "report_option",
    "seed_option",
    "size",
    "vcpus_option",
]

Command = TypeVar("Command", bound=Callable[..., object])

CODECS = ("lz4", "zstd", "raw")

_MOST_VCPUS = 16  # machine.state.MOST_VCPUS, whose import would cost every save some milliseconds


def size(text: str) -> int:
    """The type of an option that takes a size: `4096`, `64K`, `512M`, `2G`.

    Raises:
        click.BadParameter: it is no size.
    """
    try:
        return parse_size(text)
    except UsageError as error:
        raise click.BadParameter(str(error)) from error


checkpoint_argument = click.argument("checkpoint", metavar="CHECKPOINT")
new_argument = click.argument("new", metavar="NEW")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object in place of the table."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print no progress and no closing table.")
force_option = click.option("-f", "--force", is_flag=True, help="Overwrite the output if it exists.")
jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="Work on N cores at once.  [default: all]"
)
report_option = click.option(
    "--report", metavar="FILE.html", help="Write one self-contained page that shows the run, for a browser."
)
vcpus_option = click.option(
    "--vcpus",
    type=click.IntRange(1, _MOST_VCPUS),
    metavar="N",
    help="How many vCPUs it has, each a process.  [default: 1]",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, (1 << 64) - 1),
    metavar="N",
    help="Chooses what it does: the same seed does the same.  [default: 0]",
)
codec_option = click.option(
    "--codec",
    type=click.Choice(CODECS),
    help="How to compress: lz4, zstd for the smallest file, raw for none.",
)
_memory_block_option = click.option(
    "--memory-block",
    "memory_block_bytes",
    type=size,
    metavar="SIZE",
    help="Memory compressed as one piece: less makes single pages quicker to get, more makes the file smaller.",
)
_storage_block_option = click.option(
    "--storage-block",
    "storage_block_bytes",
    type=size,
    metavar="SIZE",
    help="Memory blocks written, and read back, as one piece.",
)


def check_stream(output: str, *, as_json: bool) -> bool:
    """Whether `output` is standard output, which then carries bytes and nothing else.

    Raises:
        click.UsageError: the JSON wants it as well, or it is a terminal, or closed.
    """
    if output != "-":
        return False
    if as_json:
        raise click.UsageError(
            "--json and the output cannot both go to standard output; give the output a name"
        )
    if sys.stdout is None:
        raise click.UsageError("standard output is closed; give the output a name")
    if sys.stdout.isatty():
        raise click.UsageError("the output would garble this terminal; redirect it, or give it a name")
    return True


def refuse_stream(name: str, path: str) -> None:
    """Refuse `-` where only a file will do.

    Raises:
        click.UsageError: `path` is `-`.
    """
    if path == "-":
        raise click.UsageError(
            f"a stream will not do as {name}: give a file's name (one called `-` is `./-`)"
        )


def input_name(path: str) -> str:
    """An input, as a person reads of it."""
    return "standard input" if path == "-" else path


def block_options(command: Command) -> Command:
    """`--memory-block` and `--storage-block`."""
    return _memory_block_option(_storage_block_option(command))
