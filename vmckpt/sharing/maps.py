"""The map of large pages: of each image, coloured by how active a large page is, the stronger the more it would free.

    ImageMap of each image ─▶ bins of so many large pages that all fit ─▶ cells ─▶ Figure

Activity and gain are means over a bin, weighted by small pages. Pure. Called by `figures`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vmckpt.charts.axes import memory_text
from vmckpt.charts.cells import BAND_CELLS, MapCell, Ramp, Strip, cell_maps, ramps
from vmckpt.charts.markup import joined
from vmckpt.charts.page import Figure
from vmckpt.charts.plots import nothing, table
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.activity import COLD_BELOW, HOT_FROM
from vmckpt.sharing.outcome import ImageMap, SharingReport
from vmckpt.sharing.wording import names_of, percent_text, size_text
from vmckpt.units import format_count, format_share

__all__ = ["Binned", "binned", "large_page_map"]

_KIND = "Map of large pages"
_GAIN_STEPS = (0.1, 0.25, 0.5)
_LEVEL_TEXTS = ("to 10 %", "to 25 %", "to 50 %", "above 50 %")
_HEADS = ("image", "large pages", "with gain", "would free", "zero pages", "touched", "in the plan")
_NOTHING_BELOW = 0.001
_MOST_BANDS = 24
_MOST_IMAGES = 24
_MOST_ROWS = 200
_COLD, _WARM, _HOT, _UNKNOWN = "blue", "purple", "orange", "green"

Columns = npt.NDArray[np.float64]


class Binned(NamedTuple):
    """The large pages of an image, some at a time. Arrays have a number for each bin."""

    first: npt.NDArray[np.int64]
    """Number of its first large page."""
    last: npt.NDArray[np.int64]
    """Number of its last one."""
    large: Columns
    """How many there are."""
    small: Columns
    """Small pages."""
    gain: Columns
    """Pages freed."""
    zero: Columns
    """Zero pages."""
    touched: Columns | None
    """Small pages touched; None: not known."""
    broken: Columns
    """Large pages that the plan breaks up."""


def binned(image: ImageMap, size: int) -> Binned:
    """Add up `size` large pages at a time, by their order, so that holes in memory take no room."""
    starts = np.arange(0, len(image.large_pages), size)
    numbers = np.asarray(image.large_pages, np.int64)
    small = np.asarray(image.small_pages, np.float64)

    def sums(values: Columns) -> Columns:
        added: Columns = np.add.reduceat(values, starts)
        return added

    return Binned(
        numbers[starts],
        numbers[np.minimum(starts + size, len(numbers)) - 1],
        sums(np.ones(len(numbers))),
        sums(small),
        sums(np.asarray(image.gain_pages, np.float64)),
        sums(np.asarray(image.zero_pages, np.float64)),
        None if image.activity is None else sums(np.asarray(image.activity, np.float64) * small),
        sums(np.asarray(image.broken, np.float64)),
    )


def large_page_map(report: SharingReport, maps: Sequence[ImageMap]) -> Figure:
    """The map of each image, or of those with the most to gain.

    Args:
        report: what the estimate answered.
        maps: of its images, in the same order.
    """
    if not any(len(image.large_pages) for image in maps):
        return Figure("No image has a large page", "", nothing("There is nothing to draw."), kind=_KIND)
    names = names_of([image.source for image in maps])
    chosen = _chosen(maps)
    size = _bin_size([len(maps[at].large_pages) for at in chosen])
    bins = [binned(maps[at], size) for at in chosen]
    strips = [
        Strip(names[at], _note(maps[at]), _cells(found, report.large_page_bytes))
        for at, found in zip(chosen, bins, strict=True)
    ]
    marked = "to be broken up, by the plan" if any(found.broken.any() for found in bins) else ""
    drawn = [
        ramps("would free", _hues(bins), "nothing to gain", _LEVEL_TEXTS, marked),
        cell_maps(f"{_KIND}: {_title(maps)}; the table has the numbers", strips),
        table(_HEADS, [_row(image, name) for image, name in zip(maps[:_MOST_ROWS], names, strict=False)]),
    ]
    text = _text(maps, len(chosen), size, report.large_page_bytes)
    return Figure(_title(maps), text, joined(drawn), kind=_KIND)


def _chosen(maps: Sequence[ImageMap]) -> list[int]:
    """Those that are shown, in their order."""
    there = [at for at, image in enumerate(maps) if len(image.large_pages)]
    return sorted(sorted(there, key=lambda at: -float(np.sum(maps[at].gain_pages)))[:_MOST_IMAGES])


def _text(maps: Sequence[ImageMap], shown: int, size: int, large_page_bytes: int) -> str:
    each_image = "The image" if len(maps) == 1 else "Each image"
    each = memory_text(large_page_bytes)
    cell = f"one large page of {each}"
    if size > 1:
        whole = memory_text(size * large_page_bytes)
        cell = f"the mean of {format_count(size)} large pages of {each}, {whole} in all"
    left_out = ""
    if shown < len(maps):
        left_out = f" Shown are the {shown} images with the most to gain, of {format_count(len(maps))}"
        left_out += f"; the table has the first {_MOST_ROWS}." if len(maps) > _MOST_ROWS else "."
    return (
        f"{each_image} from its start to its end. A cell is {cell}; the stronger its colour, the larger the part of its small "
        f"pages that sharing would free, zero pages included{_hue_text(maps)}{left_out}"
    )


def _bin_size(counts: Sequence[int]) -> int:
    size = 1
    while sum(-(-count // (size * BAND_CELLS)) for count in counts) > max(_MOST_BANDS, len(counts)):
        size *= 2
    return size


def _hue_text(maps: Sequence[ImageMap]) -> str:
    if all(image.activity is None for image in maps):
        return ". How active they are is not known: a checkpoint that was saved live knows."
    return (
        f". Cold: below {percent_text(COLD_BELOW)} of the small pages were touched while the memory was saved; hot: "
        f"{percent_text(HOT_FROM)} and more. Strong and cold is best to break up."
    )


def _title(maps: Sequence[ImageMap]) -> str:
    total = sum(len(image.large_pages) for image in maps)
    gains = np.concatenate([np.asarray(image.gain_pages, np.float64) for image in maps])
    if not gains.any():
        return "No large page has anything to gain"
    if any(image.activity is None for image in maps):
        return f"{format_count(int(np.count_nonzero(gains)))} of {format_count(total)} large pages have something to gain"
    active = np.concatenate([np.asarray(image.activity, np.float64) for image in maps])
    return f"{format_share(float(gains[active < COLD_BELOW].sum() / gains.sum()))} of the gain lies in cold large pages"


def _hues(found: Sequence[Binned]) -> list[Ramp]:
    if all(bins.touched is None for bins in found):
        return [Ramp("not known", _UNKNOWN)]
    known = [Ramp("cold", _COLD), Ramp("warm", _WARM), Ramp("hot", _HOT)]
    return [*known, Ramp("not known", _UNKNOWN)] if any(bins.touched is None for bins in found) else known


def _note(image: ImageMap) -> str:
    small = int(np.sum(image.small_pages))
    planned = int(np.sum(image.broken))
    broken = (
        f", {format_count(planned)} of {format_count(len(image.large_pages))} in the plan" if planned else ""
    )
    return (
        f"{memory_text(small * PAGE_BYTES)}, would free {size_text(float(np.sum(image.gain_pages)))}{broken}"
    )


def _cells(bins: Binned, large_page_bytes: int) -> list[MapCell]:
    levels = np.where(
        bins.gain < _NOTHING_BELOW * bins.small, 0, np.searchsorted(_GAIN_STEPS, bins.gain / bins.small) + 1
    )
    active = None if bins.touched is None else bins.touched / bins.small
    return [
        MapCell(
            int(bins.first[at]) * large_page_bytes,
            (int(bins.last[at]) + 1) * large_page_bytes,
            _UNKNOWN if active is None else _hue(float(active[at])),
            int(levels[at]),
            float(bins.broken[at] / bins.large[at]),
            _cell_text(bins, at),
        )
        for at in range(len(bins.first))
    ]


def _hue(activity: float) -> str:
    return _COLD if activity < COLD_BELOW else _HOT if activity >= HOT_FROM else _WARM


def _cell_text(bins: Binned, at: int) -> str:
    small = format_count(round(bins.small[at]))
    lines = [f"would free {format_count(round(bins.gain[at]))} of {small} small pages"]
    if bins.zero[at]:
        lines.append(f"zero pages: {format_count(round(bins.zero[at]))}")
    if bins.touched is not None:
        lines.append(f"touched: {format_share(float(bins.touched[at] / bins.small[at]))}")
    if bins.broken[at]:
        large, broken = round(bins.large[at]), round(bins.broken[at])
        lines.append("in the plan" if large == 1 else f"in the plan: {broken} of {large} large pages")
    return "\n".join(lines)


def _row(image: ImageMap, name: str) -> list[str]:
    gains = np.asarray(image.gain_pages, np.float64)
    small = np.asarray(image.small_pages, np.float64)
    active = image.activity
    return [
        name,
        format_count(len(image.large_pages)),
        format_count(int(np.count_nonzero(gains))),
        size_text(float(gains.sum())),
        format_count(int(np.sum(image.zero_pages))),
        "–"
        if active is None
        else format_share(float(np.asarray(active, np.float64) @ small) / max(float(small.sum()), 1)),
        format_count(int(np.sum(image.broken))),
    ]
