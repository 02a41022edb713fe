"""`vmckpt convert`: a checkpoint in, one of the same memory in another layout out."""

import click

from vmckpt.cli.options import (
    block_options,
    check_stream,
    checkpoint_argument,
    codec_option,
    force_option,
    input_name,
    jobs_option,
    json_option,
    new_argument,
    quiet_option,
)
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import answer
from vmckpt.cli.save import save_table, save_values

__all__ = ["command"]


@click.command("convert")
@checkpoint_argument
@new_argument
@click.option(
    "--layout",
    type=click.Choice(("physical", "random", "access")),
    default="physical",
    show_default=True,
    help="The order of memory blocks in the file: by address, shuffled (to compare with), or as they were accessed.",
)
@codec_option
@block_options
@jobs_option
@force_option
@quiet_option
@json_option
def command(
    checkpoint: str,
    new: str,
    *,
    layout: str,
    codec: str | None,
    memory_block_bytes: int | None,
    storage_block_bytes: int | None,
    jobs: int | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write a checkpoint anew, laid out or compressed in another way.

    The memory, and so the digest, stays the same; active pages, vCPU state and metadata come along; and what no option
    names is as it was in CHECKPOINT. CHECKPOINT `-` is standard input, NEW `-` standard output, as in `vmckpt save`.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt save guest.raw guest.vmckpt
      vmckpt convert guest.vmckpt small.vmckpt --codec zstd
      vmckpt digest guest.vmckpt small.vmckpt

    \b
    JSON: the keys of `vmckpt save`
    """
    is_stream = check_stream(new, as_json=as_json)

    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine

    with progress_bar("converting", quiet=quiet or as_json) as progress:
        report = api.convert(
            checkpoint,
            new,
            layout=layout,
            codec=codec,
            memory_block_bytes=memory_block_bytes,
            storage_block_bytes=storage_block_bytes,
            jobs=jobs,
            force=force,
            progress=progress,
        )
    if as_json or not quiet:
        table = save_table(
            f"Converted {input_name(checkpoint)} to {'standard output' if is_stream else new}", report
        )
        answer(table, save_values(report), as_json=as_json, to_stderr=is_stream)
