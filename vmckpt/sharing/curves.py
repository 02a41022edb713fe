"""What breaking up large pages frees, as a curve: a plan's orders, or without a plan where the gain lies.

    curves of the plan ─▶ one line for each order, the plan's point on the best
    no plan            ─▶ large pages from the one with the most gain, their gains added up

Pure. Called by `figures`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vmckpt.charts.axes import Axis, order_axis, share_axis, size_axis
from vmckpt.charts.markup import Markup, joined
from vmckpt.charts.page import Figure
from vmckpt.charts.plots import Key, Mark, dot, hits, legend, line, marks, nothing, plot, table
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.outcome import Curve, PlanOutcome, SharingReport
from vmckpt.sharing.wording import large_text, size_text
from vmckpt.units import format_count, format_share

__all__ = ["concentration", "gain_curve", "half_of", "plan_curve"]

_KIND = "Cost and yield"
_COLOURS = ("orange", "green", "purple", "amber", "soft", "sky")
_STRETCHES = 100  # of the x axis that say something
_ROWS = 20

Columns = npt.NDArray[np.float64]


def plan_curve(report: SharingReport, plan: PlanOutcome) -> Figure:
    """Reclaimed memory against large pages broken, for each order that was tried."""
    broken, freed = len(plan.breaks), plan.reclaimed_pages
    title = f"{large_text(broken)} broken up {'frees' if broken == 1 else 'free'} {size_text(freed)}"
    if freed < plan.target_pages:
        title = f"No plan frees {size_text(plan.target_pages)}: the best comes to {size_text(freed)}"
    text = (
        "What breaking up more and more large pages frees, in each order that was tried; steeper is better: the same "
        "memory for fewer large pages."
    )
    curves = [curve for curve in plan.curves if curve.points]
    if not curves:
        return Figure(title, text, nothing("No curve was kept of this plan."), kind=_KIND)
    most_broken = max(*(curve.points[-1][0] for curve in curves), broken, 1)
    x = order_axis(f"large pages broken up, of {format_count(report.large_pages)}", most_broken)
    most = max(*(max(freed for _, freed in curve.points) for curve in curves), freed, plan.target_pages)
    y = size_axis("freed", most * PAGE_BYTES)
    best = [curve for curve in curves if curve.order == plan.order]
    others = [curve for curve in curves if curve.order != plan.order]
    colours = {curve.order: _COLOURS[min(index, len(_COLOURS) - 1)] for index, curve in enumerate(others)}
    target = Mark("target", y.at(plan.target_pages * PAGE_BYTES), size_text(plan.target_pages), "dot")
    drawn = plot(
        f"{_KIND}: {title}",
        x,
        y,
        _level(target.at),
        *(line(_drawn(curve, x, y), "blue", 8, shape="see") for curve in best),
        *(line(_drawn(curve, x, y), "blue", 2) for curve in best),
        *(line(_drawn(curve, x, y), colours[curve.order], 1.8) for curve in others),
        dot(x.at(broken), y.at(freed * PAGE_BYTES), "ink"),
        _curve_hits(curves, x),
        tall=True,
    )
    keys = [
        *(Key(f"{curve.order} (chosen)", "blue", "", "thick") for curve in best),
        *(Key(curve.order, colours[curve.order], "", "line") for curve in others),
        Key("the plan", "ink", f"{format_count(broken)} · {size_text(freed)}", "point"),
        Key("target", "ink", target.text, "dashes"),
    ]
    heads = ["large pages broken", *(curve.order for curve in curves)]
    return Figure(
        title, text, joined([legend(keys), drawn, table(heads, _rows(curves, most_broken))]), kind=_KIND
    )


def _level(at: float) -> Markup:
    return line([(0, at), (1, at)], "ink", 1.2, shape="dash")


def _drawn(curve: Curve, x: Axis, y: Axis) -> list[tuple[float, float]]:
    points = [(0, 0), *curve.points] if curve.points[0][0] else curve.points
    return [(x.at(broken), y.at(freed * PAGE_BYTES)) for broken, freed in points]


def _freed_at(curve: Curve, broken: Sequence[float]) -> Columns:
    """What a curve frees at some places; between its points as if it were straight, nan beyond its end."""
    points = [(0, 0), *curve.points]
    places, freed = (np.array(column, np.float64) for column in zip(*points, strict=True))
    return np.interp(np.asarray(broken, np.float64), places, freed, right=np.nan)


def _curve_hits(curves: Sequence[Curve], x: Axis) -> Markup:
    steps = int(min(_STRETCHES, max(x.high, 1)))
    edges = [index / steps for index in range(steps + 1)]
    places = [round(x.high * (index + 0.5) / steps) for index in range(steps)]
    columns = [_freed_at(curve, places) for curve in curves]
    texts = [
        "\n".join(
            [
                f"{format_count(place)} broken up",
                *(
                    f"{curve.order}: {size_text(column[at])}"
                    for curve, column in zip(curves, columns, strict=True)
                    if not np.isnan(column[at])
                ),
            ]
        )
        for at, place in enumerate(places)
    ]
    return hits(edges, texts)


def _rows(curves: Sequence[Curve], most_broken: int) -> list[list[str]]:
    steps = min(_ROWS, most_broken)
    places = [round(most_broken * index / steps) for index in range(1, steps + 1)]
    columns = [_freed_at(curve, places) for curve in curves]
    return [
        [format_count(place), *("–" if np.isnan(column[at]) else size_text(column[at]) for column in columns)]
        for at, place in enumerate(places)
    ]


def concentration(report: SharingReport) -> Columns:
    """The gains of all large pages that have any, the largest first, added up; empty without detail."""
    maps = report.detail.maps if report.detail is not None else ()
    gains = [np.asarray(image.gain_pages, np.float64) for image in maps]
    every = np.concatenate(gains) if gains else np.empty(0)
    added: Columns = np.cumsum(np.sort(every[every > 0])[::-1])
    return added


def half_of(added: Columns) -> int:
    """How many large pages hold half of the gain."""
    return int(np.searchsorted(added, added[-1] / 2)) + 1 if len(added) else 0


def gain_curve(report: SharingReport) -> Figure:
    """Without a plan: in how few large pages the gain lies."""
    added = concentration(report)
    text = (
        "Large pages, the one with the most to gain first; what sharing would free in them, added up. "
        "Which ones to break up for a given size: ask with --target."
    )
    if not len(added):
        title = "No large page has anything to gain"
        return Figure(title, text, nothing("Nothing would be freed."), kind=_KIND)
    half, count = half_of(added), len(added)
    title = f"Half of the gain lies in {format_count(half)} of {large_text(report.large_pages)}"
    x = order_axis(f"large pages, of {format_count(report.large_pages)}", count)
    y = share_axis("part of the gain")
    places = np.unique(np.linspace(0, count, min(count, _STRETCHES) + 1).round().astype(int))
    shares = [0.0, *(added[places[1:] - 1] / added[-1]).tolist()]
    edges = [x.at(int(place)) for place in places]
    texts = [
        f"{format_count(int(place))} large pages\n{size_text(float(added[place - 1]))}: {format_share(share)}"
        for place, share in zip(places[1:], shares[1:], strict=True)
    ]
    mark = Mark("half of the gain", x.at(half), f"{format_count(half)} large pages", "dash")
    drawn = plot(
        f"{_KIND}: {title}",
        x,
        y,
        line(list(zip(edges, shares, strict=True)), "blue", 2.5),
        hits(edges, texts),
        marks([mark]),
    )
    keys = [
        Key("gain", "blue", size_text(float(added[-1])), "line"),
        Key(mark.name, "ink", mark.text, mark.shape),
    ]
    chosen = places[1 :: max(len(places) // _ROWS, 1)]
    rows = (
        [
            format_count(int(place)),
            size_text(float(added[place - 1])),
            format_share(float(added[place - 1] / added[-1])),
        ]
        for place in chosen
    )
    body = joined([legend(keys), drawn, table(["large pages", "gain", "share"], rows)])
    return Figure(title, text, body, kind=_KIND)
