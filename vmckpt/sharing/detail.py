"""What a picture of an estimate shows beyond its numbers, computed only where one was asked for.

    table of equal pages over everything ─▶ matrix        large pages, potential, activity, plan ─▶ maps

Pure, on numpy arrays; plain Python numbers come out. Called by `api` for a report.
"""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from vmckpt.sharing.large import LargePages, Potential
from vmckpt.sharing.outcome import Break, ImageMap, SharingDetail
from vmckpt.sharing.table import Numbers, SharingTable

__all__ = ["detail_of", "maps_of"]

_PART_CELLS = 1 << 22  # 8 bytes each
_LAYERS = 8

Floats = npt.NDArray[np.float64]


def detail_of(
    sources: Sequence[str],
    table: SharingTable,
    large: LargePages,
    potential: Potential,
    activity: Floats,
    breaks: Collection[Break] = (),
    *,
    part_cells: int = _PART_CELLS,
) -> SharingDetail:
    """Maps of all images, and what every two of them have in common.

    Args:
        sources: the images' names.
        table: of equal pages over everything, not within trust groups.
        large: the large pages of all images.
        potential: of the pages that may share.
        activity: of each large page, 0 to 1, [large pages]; nan where it is not known.
        breaks: of the plan, if there is one.
        part_cells: how many counts, a value's in an image, to hold at a time.
    """
    return SharingDetail(
        maps_of(sources, large, potential, activity, breaks), _matrix(table, part_cells).tolist()
    )


def maps_of(
    sources: Sequence[str],
    large: LargePages,
    potential: Potential,
    activity: Floats,
    breaks: Collection[Break] = (),
) -> tuple[ImageMap, ...]:
    """The maps alone; see `detail_of`."""
    return tuple(_map(source, at, large, potential, activity, breaks) for at, source in enumerate(sources))


def _map(
    source: str,
    image: int,
    large: LargePages,
    potential: Potential,
    activity: Floats,
    breaks: Collection[Break],
) -> ImageMap:
    own = slice(*np.searchsorted(large.images, [image, image + 1]))
    numbers = large.numbers[own]
    broken = [found.large_page for found in breaks if found.source == source]
    return ImageMap(
        source,
        numbers.tolist(),
        large.small_pages[own].tolist(),
        potential.gain[own].tolist(),
        large.zero_pages[own].tolist(),
        None if np.isnan(activity[own]).any() else activity[own].tolist(),
        np.isin(numbers, broken).tolist(),
    )


def _matrix(table: SharingTable, part_cells: int) -> Floats:
    """`SharingDetail.matrix`, from some values at a time."""
    images = len(table.page_counts)
    shared, within = np.zeros((images, images)), np.zeros(images)
    part = max(part_cells // images, 1)
    for first in range(0, len(table.hashes), part):
        starts = table.starts[first : first + part + 1]
        rows = table.places[starts[0] : starts[-1]]
        values = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        holders = np.searchsorted(table.first_places, rows, side="right") - 1
        counts = np.bincount(values * images + holders, minlength=(len(starts) - 1) * images)
        counts = counts.reshape(-1, images)
        shared += _in_common(counts)
        within += np.maximum(counts - 1, 0).sum(axis=0)
    np.fill_diagonal(shared, within)
    return shared


def _in_common(counts: Numbers) -> Floats:
    """For every two columns, the sum over all rows of the smaller number of the two.

    The smaller of two numbers is how many of 1, 2, 3, ... are at most both. So it is a product of matrices for each of the
    first few, where most rows end, and the rest is counted as it is.
    """
    images = counts.shape[1]
    shared = np.zeros((images, images))
    if images == 1:
        return shared
    second = np.partition(counts, images - 2, axis=1)[:, images - 2]
    for layer in range(1, _LAYERS + 1):
        counts = counts[second >= layer]
        second = second[second >= layer]
        reached = (counts >= layer).astype(np.float32)  # exact: sums are far below 2 ** 24
        shared += reached.T @ reached
    above = np.maximum(counts[second > _LAYERS] - _LAYERS, 0)
    for image in range(images):
        shared[image] += np.minimum(above[:, image : image + 1], above).sum(axis=0)
    return shared
