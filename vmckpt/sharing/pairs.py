"""Who shares with whom: what every two images have in common, as a matrix, the trust between them as its colour.

Pure. Called by `figures`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vmckpt.charts.markup import joined
from vmckpt.charts.matrix import Cell, level_of, matrix
from vmckpt.charts.page import Figure
from vmckpt.charts.plots import Key, legend, table
from vmckpt.sharing.outcome import SharingReport
from vmckpt.sharing.wording import names_of, size_text

__all__ = ["pair_matrix"]

_KIND = "Who shares with whom"
_MOST_IMAGES = 24


def pair_matrix(report: SharingReport, pairs: Sequence[Sequence[float]], *, half: bool) -> Figure:
    """The matrix of all images, or of those that share most with others.

    Args:
        report: what the estimate answered.
        pairs: `SharingDetail.matrix`.
        half: of the page's width.
    """
    shared = np.asarray(pairs, np.float64)
    between = shared - np.diag(np.diag(shared))
    count = len(report.images)
    names = names_of([image.source for image in report.images])
    order = sorted(range(count), key=lambda at: -between[at].sum())[:_MOST_IMAGES]
    groups = [image.trust_group for image in report.images]
    shown = sorted(order, key=lambda at: (groups.index(groups[at]), at))
    text = (
        "Pages that both of two images hold, and so would share if they trusted each other; on the diagonal, what sharing "
        "within the image frees."
    )
    if shared.any():
        text += f" The stronger, the more; the strongest stand for {size_text(float(between.max() or shared.max()))}."
    if count > len(shown):
        text += f" Shown are the {len(shown)} images that share most, of {count}; numbers are those of the list of images."
    title = _title(between)
    most = float(between.max() or shared.max())
    cells = [[_cell(report, shared, names, y, x, most) for x in shown] for y in shown]
    trusted = any(groups[y] == groups[x] for y in shown for x in shown if x != y)
    keys = [Key("within the image", "blue", size_text(float(np.trace(shared))))]
    if trusted:
        keys.append(Key("they trust each other", "green"))
    if any(groups[y] != groups[x] for y in shown for x in shown):
        keys.append(Key("they do not", "purple"))
    rows = [
        [names[y], *(size_text(float(shared[y, x])) if shared[y, x] else "–" for x in shown)] for y in shown
    ]
    picture = matrix(
        f"{_KIND}: {title}; the table has the numbers",
        [names[at] for at in shown],
        [at + 1 for at in shown],
        cells,
    )
    drawn = [legend(keys), picture, table(["image", *(str(at + 1) for at in shown)], rows)]
    return Figure(title, text, joined(drawn), half=half, kind=_KIND)


def _title(between: npt.NDArray[np.float64]) -> str:
    if not between.any():
        return "No two images have anything in common"
    low, high = sorted(int(at) for at in np.unravel_index(int(between.argmax()), between.shape))
    return f"Images {low + 1} and {high + 1} have the most in common: {size_text(float(between.max()))}"


def _cell(
    report: SharingReport, shared: npt.NDArray[np.float64], names: Sequence[str], y: int, x: int, most: float
) -> Cell:
    pages = float(shared[y, x])
    trusted = report.images[y].trust_group == report.images[x].trust_group
    if y == x:
        return Cell(level_of(pages, most), "blue", _short(pages), f"{names[y]}\nwithin: {size_text(pages)}")
    trust = "they trust each other" if trusted else "they do not trust each other"
    said = f"{names[y]}\n{names[x]}\nin common: {size_text(pages)}\n{trust}"
    return Cell(level_of(pages, most), "green" if trusted else "purple", _short(pages), said)


def _short(pages: float) -> str:
    return size_text(pages) if pages else "–"
