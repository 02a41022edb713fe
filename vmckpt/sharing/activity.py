"""How active large pages are: the part of their small pages that was touched, and how much of that is much.

What was touched comes from a checkpoint's active pages. The bounds are those of a running machine's low-activity test
(`machine.activity.Thresholds`, with the levels of US 9,501,422, which leaves the bounds open). Pure.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vmckpt.sharing.large import LargePages
from vmckpt.sharing.table import Numbers

__all__ = ["COLD_BELOW", "HOT_FROM", "Image", "activity_of"]

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
