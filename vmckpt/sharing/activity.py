"""How active large pages are: the part of their small pages that was touched, and whether that is much.

What was touched comes from a checkpoint's active pages, or from the small mappings of a running machine (`machine`). The
classes are those of US 9,501,422, which leaves the bounds open. Pure.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vmckpt.sharing.large import LargePages
from vmckpt.sharing.table import Numbers

__all__ = ["COLD_BELOW", "HOT_FROM", "Image", "Warmth", "activity_of", "warmth_of"]

COLD_BELOW = 1 / 64
"""Less of its small pages touched, and a large page is cold: of 512, up to 7."""
HOT_FROM = 1 / 4
"""So much of its small pages touched, and it is hot: of 512, 128."""


class Image(Protocol):
    """What is asked of an image; `PageHashes` and `Scanned` answer."""

    @property
    def source(self) -> str:
        """What to call it."""

    @property
    def page_count(self) -> int:
        """Small pages, zero ones included."""

    @property
    def active(self) -> Numbers | None:
        """Pages that were touched while the memory was saved; None: not known."""


class Warmth(IntEnum):
    """How active a large page is; colder is less."""

    COLD = 0
    """Broken up at little cost to who uses it."""
    WARM = 1
    HOT = 2
    """Worth its large mapping."""
    UNKNOWN = 3
    """Nobody looked."""


def activity_of(images: Sequence[Image], large: LargePages) -> npt.NDArray[np.float64]:
    """The part of each large page's small pages that was touched, 0 to 1; NaN where nobody looked."""
    activity = np.full(len(large), np.nan)
    first_place = 0
    for number, image in enumerate(images):
        if image.active is not None:
            touched = np.bincount(large.of(np.unique(image.active) + first_place), minlength=len(large))
            own = large.images == number
            activity[own] = (touched / large.small_pages)[own]
        first_place += image.page_count
    return activity


def warmth_of(
    activity: npt.NDArray[np.float64], *, cold_below: float = COLD_BELOW, hot_from: float = HOT_FROM
) -> Numbers:
    """The `Warmth` of each large page.

    Args:
        activity: of each, 0 to 1; NaN: not known.
        cold_below: what is less active is cold.
        hot_from: what is as active or more is hot.
    """
    warmth = np.full(len(activity), int(Warmth.WARM), np.int64)
    warmth[activity < cold_below] = Warmth.COLD
    warmth[activity >= hot_from] = Warmth.HOT
    warmth[np.isnan(activity)] = Warmth.UNKNOWN
    return warmth
