"""A plan for running machines: which of their large pages to break up, from page hashes and what was watched.

    page hashes, activity, what is broken already ─▶ `plan`, hot large pages spared ─▶ short of the target? not spared any more

Machines do not trust each other: equal pages count within one. Called by the command `vm break-up` and by
`bench overcommit`; both take any other `breakup.Planner` as well.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vmckpt.machine.activity import HOT
from vmckpt.sharing.breakup import Seen
from vmckpt.sharing.large import LargePages, large_pages_of, potential_of
from vmckpt.sharing.plan import plan_of
from vmckpt.sharing.table import table_of

__all__ = ["planned", "shareable_pages"]

_Marks = npt.NDArray[np.bool_]


def planned(seen: Sequence[Seen], target_pages: int, large_page_bytes: int) -> list[tuple[int, int]]:
    """A `breakup.Planner`: the fewest large pages, hot ones only where the others do not do, and of equals the coldest."""
    memories = [each.memory for each in seen]
    table = table_of(memories).within(range(len(seen)))
    large = large_pages_of(memories, large_page_bytes)
    activity = np.array([_activity(seen[image], number) for image, number in _places(large)], np.float64)
    already = _marks(seen, large, lambda each, number: number in each.small_already)
    spared = _marks(seen, large, lambda each, number: number in each.spared)
    hot = _marks(
        seen, large, lambda each, number: number in each.watched and each.watched[number].level == HOT
    )
    plan = plan_of(table, large, target_pages, activity, small_already=already, spared=spared | hot)
    if not plan.met and hot.any():
        plan = plan_of(table, large, target_pages, activity, small_already=already, spared=spared)
    places = _places(large)
    return [places[index] for index in plan.large_pages.tolist()]


def shareable_pages(seen: Seen, large_page_bytes: int) -> dict[int, int]:
    """How many small pages of each large page are zero or have an equal in the same machine."""
    large = large_pages_of([seen.memory], large_page_bytes)
    shareable = potential_of(table_of([seen.memory]), large).shareable
    return dict(zip(large.numbers.tolist(), shareable.tolist(), strict=True))


def _places(large: LargePages) -> list[tuple[int, int]]:
    """Machine and number of each large page."""
    return list(zip(large.images.tolist(), large.numbers.tolist(), strict=True))


def _marks(seen: Sequence[Seen], large: LargePages, is_so: Callable[[Seen, int], bool]) -> _Marks:
    return np.array([is_so(seen[image], number) for image, number in _places(large)], np.bool_)


def _activity(seen: Seen, number: int) -> float:
    watched = seen.watched.get(number)
    return np.nan if watched is None else watched.touched_part
