"""A matrix: who has how much to do with whom; a cell is the stronger, the more.

           1   2   3
    1 one  ▓   ▒   ░         rows are named, columns numbered like the rows
    2 two  ▒   ▓
    3 six  ░       ▓         few cells say what they are; all do when they are pointed at

Pure. Called by the reports.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vmckpt.charts.markup import Markup, element, number

__all__ = ["LEVELS", "Cell", "level_of", "matrix"]

LEVELS = (0.12, 0.25, 0.38, 0.5, 1.0)
"""Opacity of each level from 1 on: text has a contrast of 4.5 on every one, in the ink below the last, in the card's colour on it."""

_HEIGHT, _LEAST, _MOST = 340, 16, 56  # of all rows, and of each, in pixels
_ALL_NUMBERED = 12
_MOST_TEXTS = 6  # rows in whose cells there is room for text


@dataclass(frozen=True, slots=True)
class Cell:
    """What a row and a column have in common."""

    level: int
    """0: nothing; else from 1 to `len(LEVELS)`."""
    colour: str
    """Of the palette."""
    text: str
    """In the cell, if there is room."""
    title: str
    """When it is pointed at."""


def level_of(value: float, most: float) -> int:
    """The level of a cell: by its part of `most`; what is more than that is of the last level."""
    if value <= 0 or most <= 0:
        return 0
    return min(max(math.ceil(len(LEVELS) * value / most), 1), len(LEVELS))


def matrix(
    label: str, names: Sequence[str], numbers: Sequence[int], cells: Sequence[Sequence[Cell]]
) -> Markup:
    """A square of cells.

    Args:
        label: what it is, for those who do not see it.
        names: of the rows.
        numbers: of the columns, in the same order.
        cells: [row][column].
    """
    count = len(names)
    height = min(max(_HEIGHT // count, _LEAST), _MOST)
    drawing = element(
        "svg",
        *_shapes(cells),
        *_hits(cells),
        viewBox=f"0 0 {count} {count}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    texts = _texts(cells) if count <= _MOST_TEXTS else []
    return element(
        "div",
        element("div", *_heads(numbers), class_="columns"),
        element("div", *(element("span", name) for name in names), class_="rows"),
        element("div", drawing, *texts, class_="square"),
        class_="matrix",
        role="img",
        aria_label=label,
        style=f"--n:{count};--cell:{height}px",
    )


def _heads(numbers: Sequence[int]) -> list[Markup]:
    # Where there are many and room is short, the style sheet hides the odd ones.
    hidden = "odd" if len(numbers) > _ALL_NUMBERED else None
    return [element("span", str(of), class_=hidden if at % 2 else None) for at, of in enumerate(numbers)]


def _shapes(cells: Sequence[Sequence[Cell]]) -> list[Markup]:
    paths: dict[tuple[str, int], str] = {}
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            key = (cell.colour if cell.level else "pale", cell.level)
            paths[key] = paths.get(key, "") + f"M{x} {y}h1v1h-1z"
    return [
        element(
            "path",
            class_=f"fill cell c-{colour}",
            fill_opacity=LEVELS[level - 1] if level else 0.5,
            d=path,
        )
        for (colour, level), path in sorted(paths.items())
    ]


def _hits(cells: Sequence[Sequence[Cell]]) -> list[Markup]:
    return [
        element("path", element("title", cell.title), class_="hit", d=f"M{x} {y}h1v1h-1z")
        for y, row in enumerate(cells)
        for x, cell in enumerate(row)
    ]


def _texts(cells: Sequence[Sequence[Cell]]) -> list[Markup]:
    count = len(cells)
    return [
        element(
            "span",
            cell.text,
            class_="on" if cell.level == len(LEVELS) else None,
            style=f"left:{number(100 * (x + 0.5) / count)}%;top:{number(100 * (y + 0.5) / count)}%",
        )
        for y, row in enumerate(cells)
        for x, cell in enumerate(row)
    ]
