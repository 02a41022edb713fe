"""`vmckpt create`: a size and a seed in, the memory image of an emulated machine out."""

import textwrap
from typing import TYPE_CHECKING

import click

from vmckpt.cli.options import force_option, json_option, quiet_option, refuse_stream, size
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import Line, Share, Table, answer, rate
from vmckpt.machine.profile import DEFAULT_PROFILE, PROFILES
from vmckpt.units import format_count, format_size

if TYPE_CHECKING:
    from vmckpt.machine.image import CreateReport

__all__ = ["command"]

_STYLES = {"zero": "bright_black", "pattern": "blue", "duplicate": "magenta", "unique": "cyan"}


_PROFILES = "\n".join(
    textwrap.fill(profile.description, 78, initial_indent=f"  {name:<7} ", subsequent_indent=" " * 10)
    for name, profile in PROFILES.items()
)


@click.command("create", epilog=f"\b\nProfiles:\n{_PROFILES}")
@click.argument("image", metavar="IMAGE")
@click.option(
    "--size",
    "size_bytes",
    type=size,
    metavar="SIZE",
    required=True,
    help="How much memory it has: 512M, 2G, ...",
)
@click.option(
    "--profile",
    type=click.Choice(tuple(PROFILES)),
    default=DEFAULT_PROFILE,
    show_default=True,
    help="What kind of machine it is; see below.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Chooses what is the machine's own.",
)
@click.option(
    "--common-seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Chooses what machines with the same system share: two images with the same number have content in common.",
)
@force_option
@quiet_option
@json_option
def command(
    image: str,
    *,
    size_bytes: int,
    profile: str,
    seed: int,
    common_seed: int,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the memory image of an emulated machine.

    It is a raw image with what a real machine's memory has in it, in like proportions: zero pages, pages that repeat
    one byte, pages that occur again and again, code, text, numbers, and noise that nothing compresses. The same
    arguments make the same bytes on every machine.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M --seed 7

    \b
    JSON: memory_bytes, file_bytes, elapsed_s, profile, seed, common_seed,
      pages {total, zero, pattern, duplicate, unique}
    """
    refuse_stream("IMAGE", image)

    from vmckpt.machine.image import create_image  # noqa: PLC0415 - start-up: help and usage errors need no numpy

    with progress_bar("creating", quiet=quiet or as_json) as progress:
        report = create_image(
            image,
            size_bytes,
            profile=profile,
            seed=seed,
            common_seed=common_seed,
            force=force,
            progress=progress,
        )
    if as_json or not quiet:
        answer(_table(image, report), _values(report), as_json=as_json)


def _values(report: "CreateReport") -> dict[str, object]:
    pages = {key: getattr(report.pages, key) for key in ("total", *_STYLES)}
    return {
        "memory_bytes": report.memory_bytes,
        "file_bytes": report.file_bytes,
        "elapsed_s": report.elapsed_s,
        "profile": report.profile,
        "seed": report.seed,
        "common_seed": report.common_seed,
        "pages": pages,
    }


def _table(image: str, report: "CreateReport") -> Table:
    total = report.pages.total
    return Table(
        f"Created {image}",
        [
            Line("memory", format_size(report.memory_bytes), "bold"),
            Line("profile", f"{report.profile}, seed {report.seed}, common seed {report.common_seed}"),
            Line("pages", format_count(total)),
            *(Share(f"  {key}", getattr(report.pages, key), total, style) for key, style in _STYLES.items()),
            Line("time", rate(report.memory_bytes, report.elapsed_s)),
        ],
    )
