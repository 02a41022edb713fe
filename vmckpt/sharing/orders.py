"""In which order to break up large pages: several ways to say, each of which is best somewhere.

    Candidates ─▶ an order of all of them ─▶ `Candidates.curve`: what its first 1, 2, ... free, exactly ─▶ `plan`

What a set of large pages frees is supermodular: a large page is worth the more, the more others are broken up. (The
first copy of a content frees nothing; the second frees one.) So taking what gains most now, which is safe where gains
shrink, is not safe here: it does not see two large pages that are worth much only together. Nor is any other order here.

- `shareable`: by the number of pages with an equal (US 9,292,452 and 9,977,747).
- `gain`: by the sum of 1 - 1/c, what each would free of its c copies were all broken up.
- `greedy`: whatever gains most next.
- `peeling`: all broken up, put back whatever loses least; read backwards.
- `ksm`: as Linux KSM comes to them, to compare with.
- `balanced`: by a price. Each content costs one page, its keeper; who pays? By `gain` all copies pay alike. Here those
  pay whose large page has most left, until that is the same for all who share it: they are the ones that a plan takes
  first, so they are the ones that pay in truth. It is the order of the concave hull of all plans (the principal
  sequence; Chekuri, Quanrud, Torres, "Densest subgraph: supermodularity, iterative peeling, and flow", SODA'22), found
  by Frank-Wolfe: rank, charge each content to its first in rank, average. Each round is an order, too, and is scored.

The prices say more: no set of k large pages frees more than the k highest of `brings` less what is paid, because what a
set pays never is more than its keepers. So they tell how many large pages any plan needs at least (`Prices.least`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vmckpt.sharing.candidates import Amounts, Candidates, Marks
from vmckpt.sharing.choice import Choice
from vmckpt.sharing.table import Numbers

__all__ = ["ORDERS", "Prices", "greedy", "marked", "needed", "order_of", "peeling", "prices_of"]

_ROUNDING = 1e-6  # pages: sums of parts are not exact
_PAIRS_IN_ALL = 150_000_000  # rounds times pairs: about a second
_FEWEST_ROUNDS, _MOST_ROUNDS = 30, 400
_MOST_STEPS = 40_000  # of an order that goes step by step; with more candidates, a step takes several


@dataclass(frozen=True, slots=True)
class Prices:
    """What is left of each large page when all keepers are paid for."""

    left: Amounts
    """`brings` less what it pays, [candidates]. Over any set the sum is at least what the set frees."""
    order: Numbers
    """Of all rounds, the order that meets the target first; with no target, that of the last."""

    def least(self, target_pages: int) -> int:
        """How many large pages any plan for a target takes at least; all, where no plan can meet it."""
        most = np.cumsum(np.sort(self.left)[::-1])
        return needed(most + _ROUNDING, target_pages)


def prices_of(
    candidates: Candidates, target_pages: int | None = None, *, rounds: int | None = None
) -> Prices:
    """Balance who pays for the keepers.

    Args:
        candidates: all of them.
        target_pages: what the order is to be best for.
        rounds: how many; as many as a second allows unless told.
    """
    if rounds is None:
        rounds = _PAIRS_IN_ALL // max(1, len(candidates.holders))
        rounds = max(_FEWEST_ROUNDS, min(_MOST_ROUNDS, rounds))
    left = candidates.gains.copy()
    paid = candidates.brings - left
    best = order = candidates.by(left)
    fewest = len(candidates) + 1
    for number in range(rounds if len(candidates.weights) else 0):
        keepers = candidates.keepers(order)
        if target_pages is not None:
            found = needed(np.cumsum((candidates.brings - keepers)[order]), target_pages)
            best, fewest = (order, found) if found < fewest else (best, fewest)
        paid += (keepers - paid) * (2 / (number + 3))  # Frank-Wolfe's step, the start being the first round
        left = candidates.brings - paid
        order = candidates.by(left)
    return Prices(left, order if target_pages is None else best)


def needed(curve: Numbers | Amounts, target_pages: int) -> int:
    """How many of an order meet a target, by its curve; all, where it cannot be met."""
    return min(len(curve), int(np.searchsorted(curve, target_pages)) + 1) if target_pages > 0 else 0


def greedy(candidates: Candidates, first: Numbers | None = None, until_pages: int | None = None) -> Numbers:
    """Whatever gains most next; among equals, what could gain most.

    Args:
        candidates: all of them.
        first: those that come first, whatever they gain.
        until_pages: end as soon as so many pages are freed.
    """
    order: list[int] = [] if first is None else first.tolist()
    choice = Choice(candidates, marked(candidates, order))
    while choice.count < len(candidates) and (until_pages is None or choice.freed < until_pages):
        for best in _highest(choice.gains, _step(candidates)):
            if not choice.chosen[best]:
                choice.add(best)
                order.append(best)
    return np.array(order, np.int64)


def peeling(candidates: Candidates, among: Marks | None = None) -> Numbers:
    """All are broken up; put back whatever loses least, again and again; the order is that backwards.

    Args:
        candidates: all of them.
        among: those that are broken up at first, all unless told; no other is in the order.
    """
    choice = Choice(candidates, np.ones(len(candidates), np.bool_) if among is None else among)
    put_back: list[int] = []
    while choice.count:
        for least in _lowest(choice.losses, _step(candidates)):
            if choice.chosen[least]:
                choice.remove(least)
                put_back.append(least)
    return np.array(put_back[::-1], np.int64)


def marked(candidates: Candidates, chosen: Sequence[int] | Numbers) -> Marks:
    """A mark for each candidate that is among the chosen."""
    marks = np.zeros(len(candidates), np.bool_)
    marks[np.asarray(chosen, np.int64)] = True
    return marks


def _step(candidates: Candidates) -> int:
    return -(-len(candidates) // _MOST_STEPS)


def _highest(amounts: Amounts, count: int) -> list[int]:
    return [int(amounts.argmax())] if count == 1 else _lowest(-amounts, count)


def _lowest(amounts: Amounts, count: int) -> list[int]:
    if count == 1:
        return [int(amounts.argmin())]
    best: list[int] = np.argpartition(amounts, count - 1)[:count].tolist()
    return best


ORDERS: Mapping[str, Callable[[Candidates], Numbers]] = {
    "shareable": lambda candidates: candidates.by(candidates.shareable),
    "gain": lambda candidates: candidates.by(candidates.gains),
    "greedy": greedy,
    "peeling": peeling,
    "ksm": lambda candidates: candidates.scan_order,
    "balanced": lambda candidates: prices_of(candidates).order,
}
"""Each gives all candidates, the one to break up first at the front."""


def order_of(name: str, candidates: Candidates) -> Numbers:
    """All candidates in one order, alone.

    Args:
        name: one of `ORDERS`.
        candidates: to be ordered.
    """
    return ORDERS[name](candidates)
