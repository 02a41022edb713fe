"""A plan made smaller, and colder: what the orders leave to be gained.

    a set that meets the target ─▶ `fewer`: take one out and swap until the target is met again, as long as that works
                                ─▶ `exact`: where a few candidates only are in doubt, all their subsets are tried
                                ─▶ `colder`: swap hot ones for cold ones while the target stays met

`exact` rests on the prices (`orders`): what is left of a set is no less than what it frees. A candidate that no set of
k large pages with enough left can hold is out, one that none can do without is in, and seldom are many in doubt.
"""

import math

import numpy as np

from vmckpt.sharing.candidates import Amounts, Candidates, Marks
from vmckpt.sharing.choice import Choice
from vmckpt.sharing.table import Numbers

__all__ = ["DOUBTFUL", "InDoubt", "colder", "exact", "fewer"]

DOUBTFUL = 18
"""Candidates in doubt of which all subsets are tried at most: 2^18 take a tenth of a second."""

_OUTSIDE = 24  # of those in the set, so many are tried for a swap
_SWAPS = 400  # in all, at most
_ROUNDING = 1e-6  # pages: sums of parts are not exact


def fewer(candidates: Candidates, chosen: Marks, target_pages: int, least: int = 0) -> Marks:
    """Take large pages out of a set while it meets the target.

    Args:
        candidates: all of them.
        chosen: a set that meets the target.
        target_pages: pages to free.
        least: no set has fewer: then there is nothing to try.
    """
    choice, best, swaps = Choice(candidates, chosen), chosen, _SWAPS
    while choice.count > least:
        choice.remove(int(choice.losses.argmin()))
        while choice.freed < target_pages and swaps and (swap := _best_swap(choice)) is not None:
            choice.remove(swap[0])
            choice.add(swap[1])
            swaps -= 1
        if choice.freed < target_pages:
            break
        best = choice.chosen.copy()
    return best


def _best_swap(choice: Choice) -> tuple[int, int] | None:
    """Who goes and who comes, so that the most more is freed; None where no swap frees more."""
    inside = np.flatnonzero(choice.chosen)
    if len(inside) > _OUTSIDE:
        inside = inside[np.argpartition(choice.losses[inside], _OUTSIDE)[:_OUTSIDE]]
    best, swap = 0, None
    highest = choice.gains.max()
    for going in inside[np.argsort(choice.losses[inside])].tolist():
        loss = math.floor(choice.losses[going])
        if math.floor(highest) - loss <= best:
            break  # what shares with it only makes it worse
        gains = choice.gains_without(going)
        coming = int(gains.argmax())
        if (more := math.floor(gains[coming]) - loss) > best:
            best, swap = more, (going, coming)
    return swap


class InDoubt(Exception):  # noqa: N818 - no error: an answer that would take too long
    """Too many candidates are in doubt to try all their subsets."""


def exact(candidates: Candidates, left: Amounts, count: int, target_pages: int) -> Marks | None:
    """The coldest set of at most `count` large pages that meets the target, of the smallest such sets; None: there is none.

    Args:
        candidates: all of them.
        left: of each, when all keepers are paid for (`Prices.left`).
        count: large pages, at most; less than all candidates.
        target_pages: pages to free.

    Raises:
        InDoubt: it would take too long to say.
    """
    if count < 0 or count > len(candidates):
        return None
    order = np.argsort(-left, kind="stable")
    inside, outside = order[:count], order[count:]
    most = float(left[inside].sum()) + _ROUNDING
    if most < target_pages:
        return None
    if not count or count == len(candidates):
        return (
            _marks(candidates, inside)
            if candidates.freed(_marks(candidates, inside)) >= target_pages
            else None
        )
    sure = inside[most - left[inside] + left[outside[0]] < target_pages]
    doubtful = np.concatenate(
        [
            inside[most - left[inside] + left[outside[0]] >= target_pages],
            outside[most - left[inside[-1]] + left[outside] >= target_pages],
        ]
    )
    if len(doubtful) > DOUBTFUL:
        raise InDoubt
    return _best_subset(candidates, sure, doubtful, count - len(sure), target_pages)


def _best_subset(
    candidates: Candidates, sure: Numbers, doubtful: Numbers, most: int, target_pages: int
) -> Marks | None:
    """All subsets of the doubtful ones beside the sure ones; subset s holds those whose bit is set in s."""
    keepers = _keepers_of_subsets(candidates, sure, doubtful)
    freed = _sums_of_subsets(candidates.brings[doubtful]) - keepers
    freed += candidates.freed(_marks(candidates, sure))
    sizes = _sums_of_subsets(np.ones(len(doubtful)))
    meet = np.flatnonzero((freed >= target_pages) & (sizes <= most))
    if not len(meet):
        return None
    activity = _sums_of_subsets(candidates.activity[doubtful])
    best = int(meet[np.lexsort((-freed[meet], activity[meet], sizes[meet]))[0]])
    picked = doubtful[[bool(best >> bit & 1) for bit in range(len(doubtful))]]
    return _marks(candidates, np.concatenate([sure, picked]))


def _keepers_of_subsets(candidates: Candidates, sure: Numbers, doubtful: Numbers) -> Numbers:
    """Contents that each subset meets and the sure ones do not, [2 ** doubtful]."""
    bits = np.zeros(len(candidates), np.int64)
    bits[doubtful] = 1 << np.arange(len(doubtful))
    # A group's holders are told by their bits; those that nobody in doubt holds, or a sure one does, do not count.
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(bits[candidates.holders])])
    held_by = np.diff(ends[candidates.starts])
    open_ = (candidates.met(_marks(candidates, sure)) == 0) & (held_by > 0)
    unmet = np.bincount(held_by[open_], candidates.weights[open_], 1 << len(doubtful)).astype(np.int64)
    for bit in range(len(doubtful)):  # from those held by just this subset to those held by no other than it
        halves = unmet.reshape(-1, 2, 1 << bit)
        halves[:, 1] += halves[:, 0]
    keepers: Numbers = unmet[-1] - unmet[::-1]
    return keepers


def _sums_of_subsets(amounts: Amounts | Numbers) -> Amounts:
    """Of the chosen amounts of each subset, [2 ** amounts]; whole numbers stay exact."""
    sums = np.zeros(1)
    for amount in amounts.tolist():
        sums = np.concatenate([sums, sums + amount])
    return sums


def colder(candidates: Candidates, chosen: Marks, target_pages: int) -> Marks:
    """Swap large pages of a set for colder ones, as long as it meets the target: the most active first.

    Args:
        candidates: all of them.
        chosen: a set that meets the target.
        target_pages: pages to free.
    """
    choice = Choice(candidates, chosen)
    activity = candidates.activity
    inside = np.flatnonzero(chosen)
    inside = inside[activity[inside] > activity[~chosen].min(initial=np.inf)]
    for going in inside[np.argsort(-activity[inside], kind="stable")][:_SWAPS].tolist():
        gains = choice.gains_without(going)
        good = (activity < activity[going]) & (
            gains >= target_pages - choice.freed + int(choice.losses[going])
        )
        if good.any():
            coming = int(np.lexsort((-gains, np.where(good, activity, np.inf)))[0])
            choice.remove(going)
            choice.add(coming)
    return choice.chosen


def _marks(candidates: Candidates, chosen: Numbers) -> Marks:
    marks = np.zeros(len(candidates), np.bool_)
    marks[chosen] = True
    return marks
