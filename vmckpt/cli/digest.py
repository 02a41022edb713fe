"""`vmckpt digest`: sources of guest memory in, one line each out, as sha256sum writes them."""

import click

from vmckpt.cli.options import jobs_option, json_option
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import print_error, print_line
from vmckpt.errors import VmckptError

__all__ = ["command"]


@click.command("digest")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@jobs_option
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, sources: tuple[str, ...], *, jobs: int | None, quiet: bool, as_json: bool
) -> None:
    """Print the digest of memory, whatever holds it.

    The digest follows from the content of the pages alone, in guest-physical order: an image, its checkpoint and its
    restored copy have the same. For each SOURCE a line: 32 hex digits, two spaces, the name. `-` is standard input.

    It is the XXH3-128 of the little-endian XXH3-64 (seed 0) of every 4 KiB page, zero pages included: made to find
    accidents, not forgeries.

    A SOURCE that cannot be read is reported, and the others are still done; the exit code is then that of the first
    failure.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt save guest.raw guest.vmckpt
      vmckpt digest guest.raw guest.vmckpt

    \b
    JSON: digests [{source, digest}]
    """
    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine

    digests: list[dict[str, str]] = []
    failure = 0
    for source in sources:
        try:
            with progress_bar(
                f"reading {click.format_filename(source, shorten=True)}", quiet=quiet or as_json
            ) as progress:
                digest = api.digest(source, jobs=jobs, progress=progress)
        except VmckptError as error:
            print_error(str(error))
            failure = failure or error.exit_code
            continue
        digests.append({"source": source, "digest": digest})
        if not as_json:
            print_line(_line(digest, source))
    if as_json:
        import json  # noqa: PLC0415 - only a script needs it

        print_line(json.dumps({"digests": digests}))
    if failure:
        ctx.exit(failure)


def _line(digest: str, source: str) -> str:
    # As sha256sum: a leading backslash says that the name is escaped.
    escaped = source.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{digest}  {source}" if escaped == source else f"\\{digest}  {escaped}"
