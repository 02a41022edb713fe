"""A plan for running machines: which of their large pages to break up, from page hashes and what was watched.

    page hashes, activity, what is broken already ─▶ large pages in order, each scored exactly ─▶ the first so many

Machines do not trust each other: equal pages count within one. Pure. Called by the command `vm break-up` and by
`bench overcommit`; both take any other `breakup.Planner` as well.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vmckpt.sharing.breakup import Seen
from vmckpt.sharing.large import LargePages, large_pages_of, potential_of
from vmckpt.sharing.table import Numbers, SharingTable, table_of

__all__ = ["planned", "shareable_pages"]

_COLDNESS = 16  # steps of activity that are told apart: within one, who frees more comes first
_UNKNOWN = 0.5  # activity of a large page that nobody watched

_Marks = npt.NDArray[np.bool_]


def planned(seen: Sequence[Seen], target_pages: int, large_page_bytes: int) -> list[tuple[int, int]]:
    """A `breakup.Planner`: coldest first, then those that free most; the first so many that meet the target."""
    memories = [each.memory for each in seen]
    table = table_of(memories).within(range(len(seen)))
    large = large_pages_of(memories, large_page_bytes)
    places = list(zip(large.images.tolist(), large.numbers.tolist(), strict=True))
    already = np.array([number in seen[image].small_already for image, number in places], np.bool_)
    spared = np.array([number in seen[image].spared for image, number in places], np.bool_)
    touched = np.array([_touched(seen[image], number) for image, number in places], np.float64)
    gain = potential_of(table, large).gain
    order = np.lexsort((-gain, np.ceil(touched * _COLDNESS)))
    order = order[(~already & ~spared & (gain > 0))[order]]
    freed = _freed(table, large, order, already)
    enough = int(np.searchsorted(freed, target_pages)) + 1
    return [places[index] for index in order[:enough].tolist()]


def shareable_pages(seen: Seen, large_page_bytes: int) -> dict[int, int]:
    """How many small pages of each large page are zero or have an equal in the same machine."""
    large = large_pages_of([seen.memory], large_page_bytes)
    shareable = potential_of(table_of([seen.memory]), large).shareable
    return dict(zip(large.numbers.tolist(), shareable.tolist(), strict=True))


def _touched(seen: Seen, number: int) -> float:
    watched = seen.watched.get(number)
    return _UNKNOWN if watched is None else watched.touched_part


def _freed(table: SharingTable, large: LargePages, order: Numbers, already: _Marks) -> Numbers:
    """Pages freed once the first 1, 2, ... of `order` are broken up."""
    count = len(order)
    rank = np.full(len(large), count, np.int64)
    rank[order] = np.arange(count)
    of = large.of(table.places)
    ranks = np.where(already[of], -1, rank[of])
    copies = np.bincount(ranks[(ranks >= 0) & (ranks < count)], minlength=count)
    # Of each content the copy that comes first keeps its frame, unless a small one is there already.
    firsts = np.minimum.reduceat(ranks, table.starts[:-1]) if len(ranks) else ranks
    keepers = np.bincount(firsts[(firsts >= 0) & (firsts < count)], minlength=count)
    return np.cumsum(large.zero_pages[order] + copies - keepers)
