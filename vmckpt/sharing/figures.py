"""The figures of an estimate of sharing: what it answers in, drawings with their numbers out.

    SharingReport ─▶ ladder, histogram (here), curves of its plan (`curves`), images, best large pages, KSM (`lists`)
    its detail    ─▶ map of large pages (`maps`), who shares with whom (`pairs`), a curve without a plan (`curves`)

A figure's title is what came of it. Pure. Called by `report`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vmckpt.charts.axes import Axis, Tick, size_axis
from vmckpt.charts.ladder import Step, ladder
from vmckpt.charts.markup import joined
from vmckpt.charts.page import Figure
from vmckpt.charts.plots import Key, bars, hits, legend, nothing, plot, table
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.curves import concentration, gain_curve, plan_curve
from vmckpt.sharing.lists import images_list, ksm_list, top_list
from vmckpt.sharing.maps import large_page_map
from vmckpt.sharing.outcome import SharingReport
from vmckpt.sharing.pairs import pair_matrix
from vmckpt.sharing.wording import percent_text, size_text
from vmckpt.units import format_count, format_share, format_size

__all__ = ["figures_of"]

_MOST_OF_HALF = 12  # images of which a matrix stands in half of the width
_MOST_LABELS, _SHORT = 8, 2  # of the histogram, before some are left out; characters of one that never is


def figures_of(report: SharingReport) -> list[Figure]:
    """All that have something to show; those that a reader looks for, in any case."""
    others = [*_of_large_pages(report), *_of_copies(report), images_list(report)]
    others += [top_list(report)] if report.top else []
    others.append(ksm_list(report))
    if report.estimate.fraction < 1:
        others = [replace(figure, text=f"{figure.text} Estimated from the sample.") for figure in others]
    return [_ladder(report), *others]


def _of_large_pages(report: SharingReport) -> list[Figure]:
    if report.plan is not None:
        curves = [plan_curve(report, report.plan)]
    else:
        curves = [gain_curve(report)] if len(concentration(report)) else []
    return curves if report.detail is None else [*curves, large_page_map(report, report.detail.maps)]


def _of_copies(report: SharingReport) -> list[Figure]:
    if report.detail is None or len(report.images) == 1:
        return [_histogram(report, half=False)]
    half = len(report.images) <= _MOST_OF_HALF
    return [pair_matrix(report, report.detail.matrix, half=half), _histogram(report, half=half)]


def _ladder(report: SharingReport) -> Figure:
    zero, _, _, most = report.reclaimable
    high = max(most, report.estimate.high if report.estimate.fraction < 1 else 0)
    axis = size_axis(f"freed, of {format_size(report.pages * PAGE_BYTES)}", (zero + high) * PAGE_BYTES)
    steps = _steps(report)
    rows = [[step.name, step.value, step.share, format_size(step.end)] for step in steps]
    drawn = [
        ladder(f"The ladder: {_ladder_title(report)}", axis, steps),
        table(["step", "more", "of memory", "all so far"], rows),
    ]
    body = joined(drawn) if zero + most else nothing("No page is zero, and no two are equal.")
    return Figure(_ladder_title(report), _ladder_text(report), body, kind="The ladder")


def _ladder_text(report: SharingReport) -> str:
    several = len(report.images) > 1
    circle = ", each step over a wider circle" if several else ""
    text = f"What sharing frees{circle}: zero pages, and of equal pages all but one."
    if several and report.reclaimable.all > report.reclaimable.trust:
        text += " The dashed step is not counted, as it takes more trust than there is."
    if report.estimate.fraction < 1:
        sure = percent_text(report.estimate.confidence)
        text += f" Estimated from a sample: with {sure} confidence, what is counted ends within the line with two ends."
    return text


def _ladder_title(report: SharingReport) -> str:
    zero, _, trust, most = report.reclaimable
    if not zero + most:
        return "There is nothing to share"
    if most > trust and len(report.images) > 1:
        return f"Were all images to trust each other, {size_text(most - trust)} more would be free"
    if not trust:
        return f"All of it are zero pages: {size_text(zero)}"
    return f"{size_text(zero)} are zero pages, {size_text(trust)} equal ones"


def _steps(report: SharingReport) -> list[Step]:
    zero, intra, trust, most = report.reclaimable
    sampled = report.estimate.fraction < 1
    interval = ((zero + report.estimate.low) * PAGE_BYTES, (zero + report.estimate.high) * PAGE_BYTES)
    groups = len({image.trust_group for image in report.images})
    among = {"each": "no image trusts another", "all": "all images trust each other"}.get(
        report.trust, f"{format_count(groups)} trust group{'' if groups == 1 else 's'}"
    )
    ends = [
        ("Zero pages", "one page serves them all", zero, "grey"),
        ("Equal within an image", "trust plays no part", zero + intra, "blue"),
        ("Between images that trust", among, zero + trust, "green"),
        ("Between all images", "whether they trust or not", zero + most, "purple"),
    ]
    if len(report.images) == 1:
        del ends[2:]
    steps, start = [], 0
    for index, (name, note, end, colour) in enumerate(ends):
        steps.append(
            Step(
                name,
                note,
                start * PAGE_BYTES,
                end * PAGE_BYTES,
                _more(end - start, first=not index),
                format_share((end - start) / max(report.pages, 1)) if end != start else "",
                colour,
                faint=index == 3,
                interval=interval if sampled and index == (2 if trust > intra else 1) else None,
            )
        )
        start = end
    return steps


def _more(pages: int, *, first: bool) -> str:
    if not pages:
        return "nothing"
    return size_text(pages) if first or pages < 0 else f"+{size_text(pages)}"


def _histogram(report: SharingReport, *, half: bool) -> Figure:
    together = ", in all images together, whoever trusts whom" if len(report.images) > 1 else ""
    text = f"Contents that are not zero, by how many pages hold them{together}. One page of each is kept, the others are freed."
    kind = "Copies"
    alone = report.histogram.get(1, 0)
    if alone:
        text += f" Not drawn: {format_count(round(alone))} pages that have no equal."
    bins = _copies_bins(report.histogram)
    if not bins:
        return Figure(
            "No two pages are equal", text, nothing("No content has a second copy."), half=half, kind=kind
        )
    labels = [_range(low, high) for low, high, _, _ in bins]
    best = max(range(len(bins)), key=lambda at: bins[at][3])
    title = f"Contents with {labels[best]} copies free the most: {size_text(bins[best][3])}"
    y = size_axis("memory", max(kept + freed for _, _, kept, freed in bins) * PAGE_BYTES)
    ticks = [Tick((at + 0.5) / len(bins), text) for at, text in _marked(bins)]
    edges = [at / len(bins) for at in range(len(bins) + 1)]
    layers = [
        ("blue", [y.at(freed * PAGE_BYTES) for _, _, _, freed in bins]),
        ("sky", [y.at(kept * PAGE_BYTES) for _, _, kept, _ in bins]),
    ]
    texts = [
        f"{label} copies\n{format_count(round(kept))} contents\nfreed: {size_text(freed)}"
        for label, (_, _, kept, freed) in zip(labels, bins, strict=True)
    ]
    drawn = plot(
        f"{kind}: {title}",
        Axis("pages of one content, up to the next bar", 0, 1, ticks),
        y,
        bars(edges, layers),
        hits(edges, texts),
        tall=half,
    )
    keys = [
        Key("freed", "blue", size_text(sum(freed for *_, freed in bins))),
        Key("kept, one of each", "sky", size_text(sum(kept for _, _, kept, _ in bins))),
    ]
    rows = [
        [label, format_count(round(kept)), size_text(freed)]
        for label, (_, _, kept, freed) in zip(labels, bins, strict=True)
    ]
    return Figure(
        title,
        text,
        joined([legend(keys), drawn, table(["copies", "contents", "freed"], rows)]),
        half=half,
        kind=kind,
    )


def _copies_bins(histogram: Mapping[int, float]) -> list[tuple[int, int, float, float]]:
    """Least and most copies, contents, and pages freed: 2, 3, 4 to 7, 8 to 15, ..."""
    shared = {copies: contents for copies, contents in histogram.items() if copies > 1 and contents > 0}
    edges, low = [2, 3], 4
    while shared and edges[-1] <= max(shared):
        edges.append(low)
        low *= 2
    found = []
    for start, end in itertools.pairwise(edges):
        inside = [(copies, contents) for copies, contents in shared.items() if start <= copies < end]
        kept = math.fsum(contents for _, contents in inside)
        found.append(
            (start, end - 1, kept, math.fsum((copies - 1) * contents for copies, contents in inside))
        )
    return found if shared else []


def _marked(bins: Sequence[tuple[int, int, float, float]]) -> list[tuple[int, str]]:
    """The bars that have a label, and what it says: where bars are many, of two with a long one the left has none."""
    labels = [format_count(low) if low == high else f"{format_count(low)}+" for low, high, _, _ in bins]
    last = len(bins) - 1
    return [
        (at, text)
        for at, text in enumerate(labels)
        if len(bins) <= _MOST_LABELS or len(text) <= _SHORT or (last - at) % 2 == 0
    ]


def _range(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"{low}–{high}" if high < 1000 else f"{format_count(low)}+"
