"""`vmckpt estimate-sharing`: sources of guest memory in; what sharing equal pages would free, and where, out."""

from contextlib import ExitStack
from fractions import Fraction
from typing import TYPE_CHECKING

import click

from vmckpt.cli.options import (
    force_option,
    input_name,
    jobs_option,
    json_option,
    quiet_option,
    report_option,
    size,
)
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import Line, Share, Table, answer
from vmckpt.pages import PAGE_BYTES
from vmckpt.units import format_count, format_duration, format_share, format_size

if TYPE_CHECKING:
    from vmckpt.sharing.forecast import Forecast
    from vmckpt.sharing.outcome import CoLocated, LargeShare, PlanOutcome, SharingReport

__all__ = ["command", "sharing_table", "sharing_values"]

_MOST_LISTED = 12
_MOST_COPIES = 4


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
    "--sketch-out", metavar="FILE", help="Keep a sketch of the one SOURCE: it will do in place of it."
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
      breaks [{source, large_page}]},
      co_location {hosts [{sources, reclaimable_pages}], reclaimable_pages, alone_pages, random_pages},
      large_page_bytes, elapsed_s;
      with --forecast instead read_bytes, duration_s, memory_bytes
    """
    from vmckpt import api  # noqa: PLC0415 - start-up: help and usage errors need no engine

    if forecast:
        expected = api.forecast_sharing(
            sources, sample=sample, memory_limit_bytes=memory_limit_bytes, jobs=jobs
        )
        answer(_forecast_table(expected), expected._asdict(), as_json=as_json)
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


def sharing_values(report: "SharingReport") -> dict[str, object]:
    """The JSON of an estimate."""
    values: dict[str, object] = {
        "pages": report.pages,
        "large_pages": report.large_pages,
        "large_page_bytes": report.large_page_bytes,
        "zero_pages": report.zero_pages,
        "distinct_pages": report.distinct_pages,
        "reclaimable_pages": report.reclaimable._asdict(),
        "estimate": report.estimate._asdict(),
        "histogram": {str(copies): contents for copies, contents in report.histogram.items()},
        "images": [image._asdict() for image in report.images],
        "ksm": report.ksm._asdict(),
        "top": [large._asdict() for large in report.top],
        "elapsed_s": report.elapsed_s,
    }
    if report.plan is not None:
        values["plan"] = _plan_values(report.plan)
    if report.co_location is not None:
        located = report.co_location
        values["co_location"] = {**located._asdict(), "hosts": [host._asdict() for host in located.hosts]}
    return values


def _plan_values(plan: "PlanOutcome") -> dict[str, object]:
    return {
        "target_pages": plan.target_pages,
        "reclaimed_pages": plan.reclaimed_pages,
        "broken_large_pages": len(plan.breaks),
        "least_large_pages": plan.least,
        "order": plan.order,
        "breaks": [each._asdict() for each in plan.breaks],
    }


def sharing_table(report: "SharingReport") -> Table:
    """What a person sees of an estimate."""
    ladder = report.reclaimable
    rows: list[Line | Share] = [
        Line("reclaimable", _headline(report), "bold"),
        Share("  zero pages", ladder.zero, report.pages, "bright_black"),
        Share("  equal within an image", ladder.intra, report.pages),
    ]
    if ladder.trust not in {ladder.intra, ladder.all} or report.trust not in {"each", "all"}:
        rows.append(Share("  within trust groups", ladder.trust, report.pages))
    if len(report.images) > 1:
        rows.append(Share("  over everything", ladder.all, report.pages))
    rows += _interval_rows(report)
    rows += _image_rows(report)
    rows.append(Line("copies", _copies_text(report)))
    rows.append(Line("KSM would show", _ksm_text(report)))
    rows += _top_rows(report.top, single=len(report.images) == 1)
    if report.plan is not None:
        rows += _plan_rows(report, report.plan)
    if report.co_location is not None:
        rows += _host_rows(report.co_location)
    memory_bytes = report.pages * PAGE_BYTES
    rows.append(
        Line(
            "time",
            f"{format_duration(report.elapsed_s)}, {format_size(memory_bytes / max(report.elapsed_s, 1e-9))}/s",
        )
    )
    return Table(_title(report), rows)


def _title(report: "SharingReport") -> str:
    count = len(report.images)
    what = input_name(report.images[0].source) if count == 1 else f"{count} images"
    return (
        f"Sharing inside {what}: {format_size(report.pages * PAGE_BYTES)}, "
        f"{format_count(report.large_pages)} large pages of {format_size(report.large_page_bytes)}"
    )


def _headline(report: "SharingReport") -> str:
    pages = report.zero_pages + report.estimate.pages
    left = max(report.pages - pages, 1)
    sure = (
        "counted exactly"
        if report.estimate.method == "exact"
        else f"from {report.estimate.fraction:.3g} of all contents"
    )
    return (
        f"{format_size(pages * PAGE_BYTES)} of {format_size(report.pages * PAGE_BYTES)} "
        f"({format_share(pages / report.pages)}, {report.pages / left:.2f} times), {sure}"
    )


def _interval_rows(report: "SharingReport") -> list[Line | Share]:
    estimate = report.estimate
    if estimate.method == "exact":
        return []
    low, high = (
        format_size((report.zero_pages + pages) * PAGE_BYTES) for pages in (estimate.low, estimate.high)
    )
    return [
        Line(
            "how sure",
            f"between {low} and {high} with {format_share(estimate.confidence)} confidence ({estimate.method})",
        )
    ]


def _image_rows(report: "SharingReport") -> list[Line]:
    if len(report.images) == 1:
        return []
    rows = [
        Line(
            image.source,
            f"{format_size((image.zero_pages + image.attributed_pages) * PAGE_BYTES)} of "
            f"{format_size(image.pages * PAGE_BYTES)}: {format_count(image.zero_pages)} zero pages, "
            f"{format_count(round(image.attributed_pages))} by sharing",
        )
        for image in report.images[:_MOST_LISTED]
    ]
    if len(report.images) > _MOST_LISTED:
        rows.append(Line("...", f"and {format_count(len(report.images) - _MOST_LISTED)} more: see --json"))
    return rows


def _copies_text(report: "SharingReport") -> str:
    """How often contents are there; those that free most."""
    by_gain = sorted(report.histogram.items(), key=lambda each: -(each[0] - 1) * each[1])
    shared = [
        f"{format_count(round(contents))} in {format_count(copies)} copies"
        for copies, contents in by_gain
        if copies > 1
    ]
    listed = shared if len(shared) <= _MOST_COPIES else [*shared[:_MOST_COPIES], "..."]
    return ", ".join([f"{format_count(round(report.histogram.get(1, 0)))} contents once", *listed])


def _ksm_text(report: "SharingReport") -> str:
    ksm = report.ksm
    profit = abs(ksm.general_profit_bytes)
    sign = "" if ksm.general_profit_bytes >= 0 else "-"
    return (
        f"pages_shared {format_count(ksm.pages_shared)}, pages_sharing {format_count(ksm.pages_sharing)}, "
        f"general_profit {sign}{format_size(profit)}"
    )


def _top_rows(top: "tuple[LargeShare, ...]", *, single: bool) -> list[Line]:
    return [
        Line(
            "best large pages" if not index else "",
            f"{large.large_page:>6}{'' if single else f' of {large.source}'}: "
            f"{large.shareable_pages} small pages to share, frees {large.gain_pages:.0f}"
            f"{'' if large.activity is None else f', {format_share(large.activity)} active'}",
        )
        for index, large in enumerate(top)
    ]


def _plan_rows(report: "SharingReport", plan: "PlanOutcome") -> list[Line]:
    freed = format_size(plan.reclaimed_pages * PAGE_BYTES)
    text = f"{freed} by breaking {format_count(len(plan.breaks))} of {format_count(report.large_pages)} large pages"
    if plan.reclaimed_pages < plan.target_pages:
        text += f": {format_size(plan.target_pages * PAGE_BYTES)} cannot be had, this is all there is"
    elif plan.least == len(plan.breaks):
        text += ", and no fewer would do"
    return [Line("plan", text, "bold")]


def _host_rows(located: "CoLocated") -> list[Line]:
    freed, alone, random = (
        format_size(pages * PAGE_BYTES)
        for pages in (located.reclaimable_pages, located.alone_pages, located.random_pages)
    )
    rows = [
        Line(
            "hosts" if not index else "",
            f"{', '.join(host.sources)}: {format_size(host.reclaimable_pages * PAGE_BYTES)}",
        )
        for index, host in enumerate(located.hosts[:_MOST_LISTED])
    ]
    if len(located.hosts) > _MOST_LISTED:
        rows.append(Line("", f"and {format_count(len(located.hosts) - _MOST_LISTED)} more: see --json"))
    return [
        *rows,
        Line("in all", f"{freed} by sharing within hosts; {random} at random, {alone} each by itself"),
    ]


def _forecast_table(forecast: "Forecast") -> Table:
    rows = [
        Line("to read", format_size(forecast.read_bytes)),
        Line("time", f"about {format_duration(forecast.duration_s)}, once the sources are in the page cache"),
        Line("memory", f"about {format_size(forecast.memory_bytes)} at most"),
    ]
    return Table("This estimate would take", rows)
