"""An estimate of sharing, or the forecast of one, as JSON and as a table. Called by `vmckpt estimate-sharing`."""

from typing import TYPE_CHECKING

from vmckpt.cli.options import input_name
from vmckpt.cli.render import Line, Share, Table
from vmckpt.pages import PAGE_BYTES
from vmckpt.units import format_count, format_duration, format_share, format_size

if TYPE_CHECKING:
    from vmckpt.sharing.forecast import Forecast
    from vmckpt.sharing.outcome import CoLocated, LargeShare, PlanOutcome, SharingReport

__all__ = ["forecast_table", "sharing_table", "sharing_values"]

_MOST_LISTED = 12
_MOST_COPIES = 4


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
        values["plan"] = _plan_values(report.plan, report.large_page_bytes)
    if report.co_location is not None:
        located = report.co_location
        values["co_location"] = {**located._asdict(), "hosts": [host._asdict() for host in located.hosts]}
    return values


def _plan_values(plan: "PlanOutcome", large_page_bytes: int) -> dict[str, object]:
    return {
        "target_pages": plan.target_pages,
        "reclaimed_pages": plan.reclaimed_pages,
        "broken_large_pages": len(plan.breaks),
        "least_large_pages": plan.least,
        "order": plan.order,
        "large_page_bytes": large_page_bytes,  # so that the plan can be carried out without the rest
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


def forecast_table(forecast: "Forecast") -> Table:
    """What a person sees of a forecast."""
    rows = [
        Line("to read", format_size(forecast.read_bytes)),
        Line("time", f"about {format_duration(forecast.duration_s)}, once the sources are in the page cache"),
        Line("memory", f"about {format_size(forecast.memory_bytes)} at most"),
    ]
    return Table("This estimate would take", rows)
