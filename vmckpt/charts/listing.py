"""Tables that stand open, because they are what there is to show: text, numbers, and a bar in a cell.

    heads, rows of text and Markup ─▶ listing        parts of a whole ─▶ beam (a bar as wide as its cell)

Pure. Called by the reports.
"""

from collections.abc import Iterable, Sequence

from vmckpt.charts.markup import Markup, element, number

__all__ = ["beam", "listing"]

_WIDTH = 100


def listing(
    name: str, heads: Sequence[str], rows: Iterable[Sequence[str]], texts: Sequence[int] = (0,)
) -> Markup:
    """A table; the first cell of each row names it.

    Args:
        name: of the table, for those who do not see it.
        heads: of the columns.
        rows: a cell for each head, Markup among them.
        texts: the columns that are no numbers, from 0.
    """
    head = element(
        "tr", *(element("th", text, scope="col", class_=_side(at, texts)) for at, text in enumerate(heads))
    )
    body = (
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", text, class_=_side(at, texts)) for at, text in enumerate(row[1:], 1)),
        )
        for row in rows
    )
    grid = element("table", element("thead", head), element("tbody", *body))
    return element("div", grid, class_="scroll open", tabindex="0", role="region", aria_label=name)


def _side(at: int, texts: Sequence[int]) -> str | None:
    return "text" if at in texts else None


def beam(parts: Sequence[tuple[str, float]]) -> Markup:
    """A bar of parts side by side; the rest of the cell is what they leave of the whole.

    Args:
        parts: colour, and part of the whole from 0 to 1.
    """
    shapes, left = [element("path", class_="fill c-pale", d=f"M0 0h{_WIDTH}v1h-{_WIDTH}z")], 0.0
    for colour, part in parts:
        if part > 0:
            width = _WIDTH * part
            shapes.append(
                element(
                    "path",
                    class_=f"fill c-{colour}",
                    d=f"M{number(left)} 0h{number(width)}v1h-{number(width)}z",
                )
            )
            left += width
    return element(
        "svg",
        *shapes,
        viewBox=f"0 0 {_WIDTH} 1",
        preserveAspectRatio="none",
        class_="inbar",
        aria_hidden="true",
    )
