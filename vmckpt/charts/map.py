"""A map of memory: bands of equal length one below the other, each a row of columns, each column what its pages are.

    0        ▆▆▇██▇▆▅ ...        a column: some pages (`Bins`), their kinds on top of each other in proportion
    64 MiB   ██▇▆▆▆▆▆ ...        below it, if anything is overlaid, a rug: the darker, the more of the column's pages

Columns that are alike are drawn as one, so a map of little is short. Pure. Called by the reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from vmckpt.charts.axes import memory_text
from vmckpt.charts.bins import Bins, heights
from vmckpt.charts.markup import Markup, element
from vmckpt.charts.plots import Key, legend, table
from vmckpt.units import format_count

__all__ = ["MOST_COLUMNS", "Kind", "Overlay", "PageMap", "page_map"]

_BAND_COLUMNS = 128
MOST_COLUMNS = 16 * _BAND_COLUMNS
_HEIGHT = 100
_LEAST = 10
_RUG_AT, _RUG_END, _RUG_LEVELS = 108, 126, 4


@dataclass(frozen=True, slots=True)
class Kind:
    """What a page may be."""

    name: str
    colour: str
    """Of the palette."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """Some of the pages, whatever kind they are."""

    name: str
    colour: str
    counts: Sequence[int]
    """For each column."""


@dataclass(frozen=True, slots=True)
class PageMap:
    """Pages by kind."""

    bins: Bins
    """Columns, `MOST_COLUMNS` of them at most, in pages."""
    kinds: Sequence[Kind]
    """From the lowest."""
    counts: Sequence[Sequence[int]]
    """For each column, its pages of each kind."""
    page_bytes: int
    overlay: Overlay | None = None

    @property
    def totals(self) -> list[int]:
        """The pages of each kind."""
        return [sum(column[at] for column in self.counts) for at in range(len(self.kinds))]


def page_map(label: str, pages: PageMap) -> Markup:
    """The map, its legend, and a table of its bands."""
    columns = min(_BAND_COLUMNS, pages.bins.count)
    starts = range(0, pages.bins.count, columns)
    used = [at for at, total in enumerate(pages.totals) if total]
    bands = [_band(pages, used, start, columns) for start in starts]
    return element(
        "div",
        legend(_keys(pages, used)),
        element("div", *bands, class_="bands", role="img", aria_label=label),
        _table(pages, used, starts, columns),
    )


def _keys(pages: PageMap, used: Sequence[int]) -> list[Key]:
    whole = max(pages.bins.total, 1)
    keys = [Key(pages.kinds[at].name, pages.kinds[at].colour, _share(pages.totals[at], whole)) for at in used]
    if pages.overlay is not None and any(pages.overlay.counts):
        total = sum(pages.overlay.counts)
        keys.append(Key(pages.overlay.name, pages.overlay.colour, _share(total, whole), "rug"))
    return keys


def _share(count: int, whole: int) -> str:
    share = 100 * count / whole
    return f"{format_count(count)} · {share:.1f} %" if share >= 0.05 else format_count(count)


def _band(pages: PageMap, used: Sequence[int], start: int, columns: int) -> Markup:
    end = min(start + columns, pages.bins.count)
    overlay = pages.overlay if pages.overlay is not None and any(pages.overlay.counts) else None
    drawing = element(
        "svg",
        *_shapes(pages, used, start, end),
        *(() if overlay is None else _rug(pages, overlay, start, end)),
        *_hits(pages, used, start, end),
        viewBox=f"0 0 {columns} {_HEIGHT if overlay is None else _RUG_END}",
        preserveAspectRatio="none",
        class_="band" if overlay is None else "band with-rug",
        aria_hidden="true",
    )
    first_page, _ = pages.bins.span(start)
    return element("div", element("span", memory_text(first_page * pages.page_bytes)), drawing, class_="row")


def _shapes(pages: PageMap, used: Sequence[int], start: int, end: int) -> list[Markup]:
    paths = dict.fromkeys(used, "")
    columns = [tuple(heights(pages.counts[at], _HEIGHT, _LEAST)) for at in range(start, end)]
    left = 0
    for column, same in groupby(columns):
        width, floor = len(list(same)), _HEIGHT
        for kind in used:
            if column[kind]:
                floor -= column[kind]
                paths[kind] += f"M{left} {floor}h{width}v{column[kind]}h-{width}z"
        left += width
    return [
        element("path", class_=f"fill flat c-{pages.kinds[kind].colour}", d=path)
        for kind, path in paths.items()
        if path
    ]


def _rug(pages: PageMap, overlay: Overlay, start: int, end: int) -> list[Markup]:
    paths = [""] * (_RUG_LEVELS + 1)
    levels = [_rug_level(pages, overlay, at) for at in range(start, end)]
    left = 0
    for level, same in groupby(levels):
        width = len(list(same))
        paths[level] += f"M{left} {_RUG_AT}h{width}v{_RUG_END - _RUG_AT}h-{width}z"
        left += width
    return [
        element(
            "path", class_=f"fill flat c-{overlay.colour}", opacity=0.25 + 0.75 * level / _RUG_LEVELS, d=path
        )
        for level, path in enumerate(paths)
        if path and level
    ]


def _rug_level(pages: PageMap, overlay: Overlay, column: int) -> int:
    start, end = pages.bins.span(column)
    return -(-_RUG_LEVELS * overlay.counts[column] // (end - start))


def _hits(pages: PageMap, used: Sequence[int], start: int, end: int) -> list[Markup]:
    hits = []
    for (counts, extra), same in groupby(
        range(start, end),
        lambda at: (tuple(pages.counts[at]), pages.overlay.counts[at] if pages.overlay else 0),
    ):
        columns = list(same)
        left, width = columns[0] - start, len(columns)
        first_page, end_page = pages.bins.span(columns[0])[0], pages.bins.span(columns[-1])[1]
        where = f"{memory_text(first_page * pages.page_bytes)} – {memory_text(end_page * pages.page_bytes)}"
        lines = [
            f"{pages.kinds[kind].name}: {format_count(counts[kind] * width)}" for kind in used if counts[kind]
        ]
        if pages.overlay is not None and extra:
            lines.append(f"{pages.overlay.name}: {format_count(extra * width)}")
        title = element("title", "\n".join([where, *lines]))
        hits.append(element("path", title, class_="hit", d=f"M{left} 0h{width}v{_RUG_END}h-{width}z"))
    return hits


def _table(pages: PageMap, used: Sequence[int], starts: range, columns: int) -> Markup:
    heads = ["from", *(pages.kinds[kind].name for kind in used)]
    if pages.overlay is not None:
        heads.append(pages.overlay.name)
    rows = []
    for start in starts:
        band = range(start, min(start + columns, pages.bins.count))
        sums = [sum(pages.counts[at][kind] for at in band) for kind in used]
        if pages.overlay is not None:
            sums.append(sum(pages.overlay.counts[at] for at in band))
        rows.append([memory_text(pages.bins.span(start)[0] * pages.page_bytes), *map(format_count, sums)])
    return table(heads, rows, "Pages of each band")
