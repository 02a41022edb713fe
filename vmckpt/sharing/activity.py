"""How active large pages are: the part of their small pages that was touched. Pure."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vmckpt.sharing.hashes import PageHashes
from vmckpt.sharing.large import LargePages

__all__ = ["activity_of"]


def activity_of(images: Sequence[PageHashes], large: LargePages) -> npt.NDArray[np.float64]:
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
