"""An estimate of sharing as a page to look at: what it answers in, the text of an HTML file out.

    SharingReport ─▶ headline, tiles, facts        its detail too ─▶ figures (`figures`)        both ─▶ document

Pure. Called by `api.sharing_page`.
"""

from vmckpt.charts.axes import memory_text
from vmckpt.charts.markup import Markup, element, joined
from vmckpt.charts.page import Fact, Page, Tile, document
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.curves import concentration, half_of
from vmckpt.sharing.figures import figures_of
from vmckpt.sharing.outcome import SharingReport
from vmckpt.sharing.wording import percent_text, shortened, size_text
from vmckpt.units import format_count, format_duration, format_share, format_size
from vmckpt.version import __version__

__all__ = ["page_of"]

_MOST_SOURCES = 8


def page_of(report: SharingReport) -> str:
    """The page: the text of an HTML file.

    Args:
        report: what the estimate answered; without its `detail` there are no maps, and no matrix.
    """
    return document(
        Page(
            title=_headline(report),
            eyebrow=f"{_images(report)} · {memory_text(report.large_page_bytes)} large pages · {_trust(report)}",
            lead=_lead(report),
            tiles=_tiles(report),
            figures=figures_of(report),
            facts=_facts(report),
            footer=f"vmckpt {__version__}. Nothing was touched: this is what sharing would come to.",
        )
    )


def _freed_pages(report: SharingReport) -> float:
    return report.reclaimable.zero + report.estimate.pages


def _sampled(report: SharingReport) -> bool:
    return report.estimate.fraction < 1


def _images(report: SharingReport) -> str:
    count = len(report.images)
    return f"{format_count(count)} image{'' if count == 1 else 's'}"


def _trust(report: SharingReport) -> str:
    if len(report.images) == 1:
        return "sharing within it"
    if report.trust == "each":
        return "no image trusts another"
    if report.trust == "all":
        return "all images trust each other"
    groups = len({image.trust_group for image in report.images})
    return f"{format_count(groups)} trust group{'' if groups == 1 else 's'} of {shortened(report.trust, 48)}"


def _headline(report: SharingReport) -> str:
    freed, whole = _freed_pages(report), format_size(report.pages * PAGE_BYTES)
    if not freed:
        return f"Sharing would free nothing of {whole}"
    return f"Sharing would free {'about ' if _sampled(report) else ''}{size_text(freed)} of {whole}"


def _lead(report: SharingReport) -> Markup:
    return joined([_sure(report), " ", _cost(report)])


def _sure(report: SharingReport) -> Markup:
    estimate, zero = report.estimate, report.reclaimable.zero
    share = element("b", format_share(_freed_pages(report) / max(report.pages, 1)))
    if not _sampled(report):
        return joined(["That is ", share, " of memory, and exact: every page was looked at."])
    between = element("b", f"{size_text(zero + estimate.low)} and {size_text(zero + estimate.high)}")
    return joined(
        [
            "That is ",
            share,
            (
                f" of memory, from a sample of {_fraction(estimate.fraction)} contents; with {percent_text(estimate.confidence)} "
                "confidence it is between "
            ),
            between,
            ".",
        ]
    )


def _cost(report: SharingReport) -> Markup:
    plan, added = report.plan, concentration(report)
    large = max(report.large_pages, 1)
    if plan is not None:
        broken = len(plan.breaks)
        count = element("b", f"{format_count(broken)} of {format_count(report.large_pages)} large pages")
        least = (
            ""
            if plan.reclaimed_pages >= plan.target_pages
            else f"; the target of {size_text(plan.target_pages)} is out of reach"
        )
        return joined(
            [
                "To free ",
                element("b", size_text(plan.reclaimed_pages)),
                ", break up ",
                count,
                f" ({format_share(broken / large)}){least}.",
            ]
        )
    if not len(added):
        return Markup("")
    count = element("b", f"{format_count(len(added))} of {format_count(report.large_pages)} large pages")
    half = (
        f" ({format_share(len(added) / large)}); half of it lies in {format_count(half_of(added))} of them."
    )
    return joined(["All of it takes breaking up ", count, half])


def _tiles(report: SharingReport) -> list[Tile]:
    estimate, pages = report.estimate, max(report.pages, 1)
    sure = (
        f"{percent_text(estimate.confidence)} sure: {size_text(estimate.low)} – {size_text(estimate.high)}"
        if _sampled(report)
        else "exact"
    )
    freed = _freed_pages(report)
    return [
        Tile("Would be free", size_text(freed), f"{format_share(freed / pages)} of memory"),
        Tile(
            "Zero pages",
            size_text(report.reclaimable.zero),
            f"{format_share(report.reclaimable.zero / pages)} of memory",
        ),
        Tile("Equal pages", size_text(estimate.pages), sure),
        _large_tile(report),
        _wider_tile(report),
    ]


def _large_tile(report: SharingReport) -> Tile:
    of = f"of {format_count(report.large_pages)} large pages"
    if report.plan is not None:
        return Tile(
            "To break up",
            format_count(len(report.plan.breaks)),
            f"{of}, for {size_text(report.plan.reclaimed_pages)}",
        )
    if report.detail is not None:
        return Tile("With something to gain", format_count(len(concentration(report))), of)
    return Tile(
        "Large pages", format_count(report.large_pages), f"{memory_text(report.large_page_bytes)} each"
    )


def _wider_tile(report: SharingReport) -> Tile:
    more = report.reclaimable.all - report.reclaimable.trust
    if report.trust == "all" or len(report.images) == 1:
        return Tile(
            "Different contents", format_count(round(report.distinct_pages)), "pages that are not zero"
        )
    return Tile("If all trusted", f"+{size_text(max(more, 0))}", "more would be free")


def _facts(report: SharingReport) -> list[Fact]:
    estimate = report.estimate
    names = [shortened(image.source, 200) for image in report.images[:_MOST_SOURCES]]
    if len(report.images) > len(names):
        names.append(f"and {format_count(len(report.images) - len(names))} more")
    looked = "every page" if not _sampled(report) else f"{_fraction(estimate.fraction)} contents"
    plan = report.plan
    return [
        Fact("Sources", ", ".join(names)),
        Fact("Pages", f"{format_count(report.pages)}, {memory_text(PAGE_BYTES)} each"),
        Fact(
            "Large pages", f"{format_count(report.large_pages)}, {memory_text(report.large_page_bytes)} each"
        ),
        Fact("Different contents", f"{format_count(round(report.distinct_pages))} that are not zero"),
        Fact("Trust", _trust(report)),
        Fact("Method", f"{estimate.method}; looked at {looked}"),
        Fact(
            "Plan", "" if plan is None else f"target {size_text(plan.target_pages)}, best order: {plan.order}"
        ),
        Fact("Time", format_duration(report.elapsed_s)),
    ]


def _fraction(fraction: float) -> str:
    if fraction >= 0.5:
        return f"{percent_text(fraction)} of all"
    return f"1 in {format_count(round(1 / fraction))}"
