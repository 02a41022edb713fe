"""Figures: axes, shapes and what they say when they are pointed at.

    Axis, Axis, layers (areas, bars, lines, heat, marks), hits ─▶ plot ─▶ Markup

The shapes are an SVG that stretches with the page; labels are text beside it, in the page's own size, so that a figure
is as legible on a phone as on a desk. Colours are names of the page's palette (`style`). Pure. Called by the reports.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vmckpt.charts.axes import Axis, Tick
from vmckpt.charts.markup import Markup, element, joined, number

__all__ = [
    "Key",
    "Mark",
    "bars",
    "dot",
    "heat",
    "hits",
    "legend",
    "line",
    "marks",
    "nothing",
    "outline",
    "plot",
    "shade",
    "table",
    "x_ticks",
]

_SPAN = 1000  # of the drawing, both ways
_LEVELS = 5
_ODD = 2


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend."""

    name: str
    colour: str
    """Of the palette."""
    value: str = ""
    shape: str = "box"
    """`box`, `line`, `thick`, `thin`, `dash`, `dot`, `solid`, `dashes`, `point` or `rug`."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment or a value that a line stands at."""

    name: str
    at: float
    """0: the axis's start, 1: its end."""
    text: str
    shape: str = "dash"


def plot(label: str, x: Axis, y: Axis, *layers: Markup, tall: bool = False) -> Markup:
    """A figure with axes.

    Args:
        label: what it is, for those who do not see it.
        x: along the lower side.
        y: along the left side.
        layers: shapes, the lowest first.
        tall: nearly square.
    """
    grid = "".join(f"M0 {number(_SPAN * (1 - tick.at))}h{_SPAN}" for tick in y.ticks)
    drawing = element(
        "svg",
        element("path", class_="grid", d=grid),
        *layers,
        viewBox=f"0 0 {_SPAN} {_SPAN}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    width = max((len(tick.text) for tick in y.ticks), default=0)
    return element(
        "div",
        element("div", y.title, class_="y-title"),
        element("div", *map(_y_tick, y.ticks), class_="ys", aria_hidden="true"),
        element("div", drawing, class_="drawing"),
        element("div", *x_ticks(x.ticks), class_="xs", aria_hidden="true"),
        element("div", x.title, class_="x-title"),
        class_="plot tall" if tall else "plot",
        style=f"--y:{width + 1}ch",
    )


def _y_tick(tick: Tick) -> Markup:
    return element("span", tick.text, style=f"top:{number(100 * (1 - tick.at))}%")


def x_ticks(ticks: Sequence[Tick]) -> list[Markup]:
    """The labels of an axis along a lower side."""
    return [_x_tick(tick, index) for index, tick in enumerate(ticks)]


def _x_tick(tick: Tick, index: int) -> Markup:
    kind = "first" if tick.at <= 0.01 else "last" if tick.at >= 0.97 else None
    names = [name for name in (kind, "odd" if index % _ODD else None) if name]
    return element("span", tick.text, class_=" ".join(names) or None, style=f"left:{number(100 * tick.at)}%")


def _box(left: float, right: float, bottom: float, top: float) -> str:
    x, y = _SPAN * left, _SPAN * (1 - top)
    return f"M{number(x)} {number(y)}H{number(_SPAN * right)}V{number(_SPAN * (1 - bottom))}H{number(x)}z"


def bars(edges: Sequence[float], layers: Sequence[tuple[str, Sequence[float]]]) -> Markup:
    """Bars side by side, of several layers on top of each other.

    Args:
        edges: where bars begin and end, from 0 to 1.
        layers: for each, from the lowest: colour, and the height of each bar from 0 to 1.
    """
    floor = [0.0] * (len(edges) - 1)
    paths = []
    for colour, values in layers:
        boxes = []
        for index, value in enumerate(values):
            if value > 0:
                gap = min((edges[index + 1] - edges[index]) * 0.12, 0.002)
                boxes.append(
                    _box(edges[index] + gap, edges[index + 1] - gap, floor[index], floor[index] + value)
                )
                floor[index] += value
        paths.append(element("path", class_=f"fill c-{colour}", d="".join(boxes)))
    return joined(paths)


def outline(edges: Sequence[float], values: Sequence[float | None], colour: str) -> Markup:
    """Steps, filled down to the axis; None leaves a gap."""
    fill, edge, last = [], [], None
    for index, value in enumerate(values):
        if value is not None:
            left, right, y = (number(_SPAN * part) for part in (edges[index], edges[index + 1], 1 - value))
            fill.append(_box(edges[index], edges[index + 1], 0, value))
            edge.append(f"{'M' + left + ' ' + y if last is None else 'V' + y}H{right}")
        last = value
    return joined(
        [
            element("path", class_=f"wash c-{colour}", d="".join(fill)),
            element("path", class_=f"stroke c-{colour}", d="".join(edge)),
        ]
    )


def line(points: Sequence[tuple[float, float]], colour: str, width: float, *, shape: str = "") -> Markup:
    """A line through points, both coordinates from 0 to 1; `see` lets others show through, `dash` breaks it up."""
    path = "L".join(f"{number(_SPAN * x)} {number(_SPAN * (1 - y))}" for x, y in points)
    return element(
        "path",
        class_=f"stroke c-{colour} {shape}".rstrip(),
        d=f"M{path}",
        style=f"stroke-width:{number(width)}px",
    )


def dot(x: float, y: float, colour: str) -> Markup:
    """A round mark, however the drawing is stretched."""
    place = f"M{number(_SPAN * x)} {number(_SPAN * (1 - y))}h0"
    return joined(
        element("path", class_=f"stroke c-{name}", d=place, style=f"stroke-width:{width}px")
        for name, width in (("card", 15), (colour, 10))
    )


def heat(counts: Sequence[Sequence[int]], colour: str) -> Markup:
    """A grid of cells, each the darker the more it counts: by powers of the largest, as most are far below it.

    Args:
        counts: for each column, from the left, its cells from the lowest up.
        colour: of all.
    """
    most = max((max(column, default=0) for column in counts), default=0)
    paths = [""] * _LEVELS
    for at, column in enumerate(counts):
        for up, count in enumerate(column):
            if count:
                level = min(int(_LEVELS * (count / most) ** 0.5), _LEVELS - 1)
                paths[level] += _box(
                    at / len(counts), (at + 1) / len(counts), up / len(column), (up + 1) / len(column)
                )
    return joined(
        element("path", class_=f"fill flat c-{colour}", opacity=(level + 1.5) / (_LEVELS + 0.5), d=path)
        for level, path in enumerate(paths)
        if path
    )


def shade(left: float, right: float) -> Markup:
    """A stretch of the x axis that is not part of what is shown."""
    return element("path", class_="shade", d=_box(left, right, 0, 1))


def marks(lines: Iterable[Mark]) -> Markup:
    """Upright lines."""
    return joined(
        element(
            "path",
            element("title", f"{mark.name}\n{mark.text}"),
            class_=f"mark {mark.shape}",
            d=_upright(mark.at),
        )
        for mark in lines
    )


def _upright(at: float) -> str:
    return f"M{number(_SPAN * min(max(at, 0.001), 0.999))} 0v{_SPAN}"


def hits(edges: Sequence[float], texts: Sequence[str]) -> Markup:
    """What each stretch of the x axis says when it is pointed at; nothing where the text is empty."""
    return joined(
        element("path", element("title", text), class_="hit", d=_box(edges[index], edges[index + 1], 0, 1))
        for index, text in enumerate(texts)
        if text and edges[index + 1] > edges[index]
    )


def legend(keys: Iterable[Key]) -> Markup:
    """Names of colours and lines, with their numbers."""
    return element("ul", *map(_entry, keys), class_="legend")


def _entry(key: Key) -> Markup:
    swatch = element("i", class_=f"key {key.shape} c-{key.colour}")
    value = [element("b", key.value)] if key.value else []
    return element("li", swatch, element("span", key.name), *value)


def nothing(text: str) -> Markup:
    """In the place of a figure that would be empty."""
    return element("p", text, class_="nothing")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], name: str = "Table") -> Markup:
    """The numbers behind a figure, folded away; the first cell of each row names it."""
    head = element("tr", *(element("th", text, scope="col") for text in heads))
    body = (
        element("tr", element("th", row[0], scope="row"), *(element("td", text) for text in row[1:]))
        for row in rows
    )
    grid = element("table", element("thead", head), element("tbody", *body))
    return element(
        "details",
        element("summary", name),
        element("div", grid, class_="scroll", tabindex="0", role="region", aria_label=name),
    )
