"""`vmckpt estimate-sharing`: sources of guest memory in; what sharing equal pages would free, and where, out."""

from contextlib import ExitStack
from fractions import Fraction

import click

from vmckpt.cli.options import (
    force_option,
    jobs_option,
    json_option,
    quiet_option,
    report_option,
    size,
)
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import answer
from vmckpt.cli.sharing import forecast_table, sharing_table, sharing_values

__all__ = ["command"]


class _Fraction(click.ParamType[float]):
    """`0.25` or `1/64`."""

    name = "fraction"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, more than 0 and at most 1."""
        text = str(value)
        try:
            found = float(Fraction(text))
        except (ValueError, ZeroDivisionError, OverflowError):
            self.fail(f"{text!r} is no fraction: expected such as 0.25 or 1/64", param, ctx)
        if not 0 < found <= 1:
            self.fail(f"{text} is no part of a whole: expected more than 0 and at most 1", param, ctx)
        return found


@click.command("estimate-sharing")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option(
    "--large-page",
    "large_page_bytes",
    type=size,
    default="2M",
    metavar="SIZE",
    help="Size of the pages that the host backs memory with.  [default: 2M]",
)
@click.option(
    "--trust",
    default="each",
    metavar="each|all|FILE",
    help="Whose pages may be shared with whose: each image's own only, all, or groups that a file names.  "
    "[default: each]",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    metavar="P",
    help="Of the interval that a sampled estimate gives.  [default: 0.95]",
)
@click.option(
    "--sample",
    type=_Fraction(),
    metavar="FRACTION",
    help="Look at so many of all contents only, such as 1/64: less memory, and an interval.",
)
@click.option(
    "--sketch-out",
    metavar="FILE",
    help="Keep a sketch of the SOURCE: it will do in place of it. Of several, merged into one.",
)
@click.option("--key", metavar="FILE", help="The key of sketches: those of one key go together.")
@click.option(
    "--co-locate",
    type=click.IntRange(min=1),
    metavar="N",
    help="Group the sources into hosts of N by what they would share.",
)
@click.option(
    "--engine",
    type=click.Choice(("local", "dask")),
    default="local",
    help="Work here, or on a Dask cluster.  [default: local]",
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Of the Dask cluster.  [default: processes of this machine]"
)
@click.option(
    "--memory-limit",
    "memory_limit_bytes",
    type=size,
    metavar="SIZE",
    help="Hold so much of page hashes in memory, and spill the rest to disk.",
)
@click.option("--forecast", is_flag=True, help="Only say how long it would take, and how much memory.")
@click.option(
    "--target",
    "target_bytes",
    type=size,
    metavar="SIZE",
    help="Plan which large pages to break to free so much.",
)
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=10,
    metavar="N",
    help="Name the N large pages that are worth most.  [default: 10]",
)
@click.option(
    "--share-cap",
    type=click.IntRange(min=2),
    default=256,
    metavar="N",
    help="How many pages may share a frame of KSM (max_page_sharing).  [default: 256]",
)
@jobs_option
@report_option
@force_option
@quiet_option
@json_option
def command(
    sources: tuple[str, ...],
    *,
    large_page_bytes: int,
    trust: str,
    confidence: float,
    sample: float | None,
    sketch_out: str | None,
    key: str | None,
    co_locate: int | None,
    engine: str,
    scheduler: str | None,
    memory_limit_bytes: int | None,
    forecast: bool,
    target_bytes: int | None,
    top: int,
    share_cap: int,
    jobs: int | None,
    report: str | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Tell what sharing equal pages would free, without touching anything.

    A host that backs machines with large pages shares none of them, as no two are equal; the 4 KiB pages inside them
    often are. Each SOURCE is anything that holds guest memory: an image, an ELF core, a checkpoint (which brings the
    hashes of its pages, so none is read), the control socket of a machine that runs (which works on meanwhile), or `-`
    for any but the last on standard input.

    What is counted: zero pages, for which one serves; then, of each content, all copies but one, within each image,
    within each trust group, and over everything. Machines that share pages can learn of each other's memory by the
    time that writes take; so by default no image trusts another. --trust FILE names groups, a line for each
    (`web: web-1.raw web-2.raw`), or as JSON ({"web": ["web-1.raw"]}).

    --target finds the fewest large pages whose break-up frees so much, the least active ones where a checkpoint says
    what was active. Its plan is what `vmckpt vm break-up` carries out.

    --sample looks at a part of all contents, chosen by their hashes, with all their copies: the estimate comes with an
    interval. --sketch-out keeps that part in a small file, a SOURCE like any other, so that a fleet is asked without
    being read again. A sketch tells who has its key which pages the memory holds: --key names a file with a secret one.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create web-1.raw --size 64M --seed 1 --common-seed 7
      vmckpt create web-2.raw --size 64M --seed 2 --common-seed 7
      vmckpt estimate-sharing web-1.raw web-2.raw --trust all --target 8M

    \b
    JSON: pages, large_pages, zero_pages, distinct_pages (not zero),
      reclaimable_pages {zero, intra, trust, all} (the last three not zero),
      estimate {pages, low, high, confidence, method, fraction}, histogram {copies: contents},
      images [{source, trust_group, pages, zero_pages, attributed_pages, exclusive_pages}],
      ksm {pages_shared, pages_sharing, pages_unshared, zero_pages, general_profit_bytes},
      top [{source, large_page, shareable_pages, gain_pages, activity}],
      plan {target_pages, reclaimed_pages, broken_large_pages, least_large_pages, order,
      large_page_bytes, breaks [{source, large_page}]},
      co_location {hosts [{sources, reclaimable_pages}], reclaimable_pages, alone_pages, random_pages},
      large_page_bytes, elapsed_s;
      with --forecast instead read_bytes, duration_s, memory_bytes
    """
    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine

    if forecast:
        expected = api.forecast_sharing(
            sources, sample=sample, memory_limit_bytes=memory_limit_bytes, jobs=jobs
        )
        answer(forecast_table(expected), expected._asdict(), as_json=as_json)
        return
    with ExitStack() as stack:
        page = None
        if report is not None:
            from vmckpt.cli.report import report_file  # noqa: PLC0415 - only here

            read = [*sources, *filter(None, (key, None if trust in {"each", "all"} else trust))]
            written = [] if sketch_out is None else [sketch_out]
            page = stack.enter_context(report_file(report, force=force, inputs=read, outputs=written))
        with progress_bar("reading", quiet=quiet or as_json) as progress:
            done = api.estimate_sharing(
                sources,
                trust=trust,
                large_page_bytes=large_page_bytes,
                confidence=confidence,
                target_bytes=target_bytes,
                top=top,
                share_cap=share_cap,
                sample=sample,
                key=key,
                sketch_out=sketch_out,
                co_locate=co_locate,
                engine=engine,
                scheduler=scheduler,
                memory_limit_bytes=memory_limit_bytes,
                jobs=jobs,
                force=force,
                detailed=page is not None,
                progress=progress,
            )
        if page is not None:
            page.write_text([api.sharing_page(done)])
    if as_json or not quiet:
        answer(sharing_table(done), sharing_values(done), as_json=as_json)
