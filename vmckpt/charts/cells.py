"""Maps of several memories, cell by cell: each cell has a hue and a strength, and may be marked below.

    one.raw   512 MiB, ...
    0         ▓▓▒░ ░▓▓▓▓ ...      hue: a class, such as how active it is; strength: how much there is
              ▔▔    ▔▔▔           marked, the stronger the more of what the cell stands for
    two.raw   ...

All strips have cells of one width, so memories compare. Neighbours that are alike are drawn as one. Pure. Called by the
reports.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from vmckpt.charts.axes import memory_text
from vmckpt.charts.markup import Markup, element

__all__ = ["BAND_CELLS", "STRENGTHS", "MapCell", "Ramp", "Strip", "cell_maps", "ramps"]

BAND_CELLS = 128
"""Cells of a band at most."""

STRENGTHS = (0.2, 0.42, 0.68, 1.0)
"""Opacity of each level from 1 on."""

_HEIGHT, _MARK_AT, _END = 100, 110, 132
_MARK_LEVELS = 4


class MapCell(NamedTuple):
    """What a cell shows."""

    start_bytes: int
    """The address that it begins with."""
    end_bytes: int
    colour: str
    """Of the palette: its hue."""
    level: int
    """0: nothing; else from 1 to `len(STRENGTHS)`."""
    marked: float
    """Part of it that is marked, 0 to 1."""
    text: str
    """When it is pointed at, below its addresses."""


@dataclass(frozen=True, slots=True)
class Strip:
    """One memory."""

    name: str
    note: str
    cells: Sequence[MapCell]
    """From its lowest address."""


@dataclass(frozen=True, slots=True)
class Ramp:
    """A hue in the legend."""

    name: str
    colour: str


def cell_maps(label: str, strips: Sequence[Strip]) -> Markup:
    """The memories, one below the other.

    Args:
        label: what it is, for those who do not see it.
        strips: with one cell at least each.
    """
    columns = min(BAND_CELLS, max(len(strip.cells) for strip in strips))
    marked = any(cell.marked for strip in strips for cell in strip.cells)
    return element(
        "div",
        *(part for strip in strips for part in _strip(strip, columns, marked=marked)),
        class_="bands strips",
        role="img",
        aria_label=label,
    )


def _strip(strip: Strip, columns: int, *, marked: bool) -> Iterator[Markup]:
    yield element("p", element("b", strip.name), " ", strip.note, class_="strip")
    for start in range(0, len(strip.cells), columns):
        yield _band(strip.cells[start : start + columns], columns, marked=marked)


def _band(cells: Sequence[MapCell], columns: int, *, marked: bool) -> Markup:
    drawing = element(
        "svg",
        *_shapes(cells),
        *_marks(cells),
        *_hits(cells, _END if marked else _HEIGHT),
        viewBox=f"0 0 {columns} {_END if marked else _HEIGHT}",
        preserveAspectRatio="none",
        class_="band with-rug" if marked else "band",
        aria_hidden="true",
    )
    return element("div", element("span", memory_text(cells[0].start_bytes)), drawing, class_="row")


def _shapes(cells: Sequence[MapCell]) -> list[Markup]:
    paths: dict[tuple[str, int], str] = {}
    left = 0
    for (level, colour), same in groupby(
        cells, lambda cell: (cell.level, cell.colour if cell.level else "pale")
    ):
        width = len(list(same))
        paths[colour, level] = paths.get((colour, level), "") + f"M{left} 0h{width}v{_HEIGHT}h-{width}z"
        left += width
    return [
        element(
            "path",
            class_=f"fill flat c-{colour}",
            fill_opacity=STRENGTHS[level - 1] if level else None,
            d=path,
        )
        for (colour, level), path in sorted(paths.items())
    ]


def _marks(cells: Sequence[MapCell]) -> list[Markup]:
    paths: dict[int, str] = {}
    left = 0
    for level, same in groupby(cells, lambda cell: -int(-_MARK_LEVELS * cell.marked // 1)):
        width = len(list(same))
        if level:
            box = f"M{left} {_MARK_AT}h{width}v{_END - _MARK_AT}h-{width}z"
            paths[level] = paths.get(level, "") + box
        left += width
    return [
        element("path", class_="fill flat c-ink", fill_opacity=0.25 + 0.75 * level / _MARK_LEVELS, d=path)
        for level, path in sorted(paths.items())
    ]


def _hits(cells: Sequence[MapCell], height: int) -> Iterator[Markup]:
    left = 0
    for (text, *_), same in groupby(cells, lambda cell: (cell.text, cell.colour, cell.level, cell.marked)):
        alike = list(same)
        where = f"{memory_text(alike[0].start_bytes)} – {memory_text(alike[-1].end_bytes)}"
        said = text if len(alike) == 1 else f"{len(alike)} cells, each:\n{text}"
        title = element("title", f"{where}\n{said}")
        yield element("path", title, class_="hit", d=f"M{left} 0h{len(alike)}v{height}h-{len(alike)}z")
        left += len(alike)


def ramps(strength: str, hues: Sequence[Ramp], none: str, levels: Sequence[str], marked: str = "") -> Markup:
    """The legend of such maps: a row for each hue, a column for each strength.

    Args:
        strength: what the colours are the stronger for.
        hues: the rows.
        none: what a cell of no strength is.
        levels: what each strength stands for.
        marked: what a mark stands for; nothing: there is none.
    """
    heads = [element("span", text, class_="level") for text in levels]
    rows = [
        part
        for hue in hues
        for part in (
            element("span", hue.name, class_="hue"),
            *(element("i", class_=f"c-{hue.colour}", style=f"opacity:{opacity}") for opacity in STRENGTHS),
        )
    ]
    extra = [element("li", element("i", class_="key c-pale"), element("span", none))]
    if marked:
        extra.append(element("li", element("i", class_="key rug c-ink"), element("span", marked)))
    return element(
        "div",
        element("div", element("span", strength, class_="hue"), *heads, *rows, class_="ramps"),
        element("ul", *extra, class_="legend"),
        class_="keys",
    )
