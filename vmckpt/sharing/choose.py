"""A plan for one running machine: which of its large pages to break up, from its page hashes and what was watched.

Called by the command `vm break-up` and by `bench overcommit`, which take any other `breakup.Planner` as well.
"""

import numpy as np

from vmckpt.sharing.breakup import Aim
from vmckpt.sharing.hashes import PageHashes
from vmckpt.sharing.large import LargePages, large_pages_of, potential_of
from vmckpt.sharing.table import SharingTable, table_of

__all__ = ["planned"]

_COLDNESS = 16  # steps of activity that are told apart: within one, who frees more comes first


def planned(memory: PageHashes, aim: Aim) -> list[int]:
    """A `breakup.Planner`: coldest first, then those that free most; the first so many that meet the target."""
    table, large = table_of([memory]), large_pages_of([memory], aim.large_page_bytes)
    gain = potential_of(table, large).gain
    numbers = large.numbers.tolist()
    left = np.array(
        [number not in aim.small_already and number not in aim.spared for number in numbers], np.bool_
    )
    unknown = 0.5
    touched = np.array(
        [aim.watched[number].touched_part if number in aim.watched else unknown for number in numbers],
        np.float64,
    )
    order = np.lexsort((-gain, np.ceil(touched * _COLDNESS)))
    order = order[(left & (gain > 0))[order]]
    already = np.array([number in aim.small_already for number in numbers], np.bool_)
    freed = _freed(table, large, order, already)
    enough = int(np.searchsorted(freed, aim.target_pages)) + 1
    return [numbers[index] for index in order[:enough].tolist()]


def _freed(
    table: SharingTable,
    large: LargePages,
    order: np.ndarray[tuple[int], np.dtype[np.int64]],
    already: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Pages freed once the first 1, 2, ... of `order` are broken up."""
    rank = np.full(len(large), len(order), np.int64)
    rank[order] = np.arange(len(order))
    of = large.of(table.places)
    ranks = np.where(already[of], -1, rank[of])
    copies = np.bincount(ranks[(ranks >= 0) & (ranks < len(order))], minlength=len(order))
    # Of each content the copy that comes first keeps its frame, unless a small one is there already.
    firsts = np.minimum.reduceat(ranks, table.starts[:-1]) if len(ranks) else ranks
    keepers = np.bincount(firsts[(firsts >= 0) & (firsts < len(order))], minlength=len(order))
    return np.cumsum(large.zero_pages[order] + copies - keepers)
