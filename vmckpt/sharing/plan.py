"""The plan: which large pages to break up, so that as few and as cold ones as can be free so much.

    table, large pages, target ─▶ candidates ─▶ every order, scored exactly ─▶ the best prefix ─▶ made smaller, colder ─▶ `Plan`

The rule: the fewest large pages come first, and among plans with as few the least active one. A large page that is worth
its place is broken up even where it is hot; whoever wants hot ones left alone says so (`spared`), and pays with more cold
ones. A target that cannot be met has a plan, too: it frees what can be freed, and says less than was asked for.

`Plan.least` is proved: no plan for the target breaks up fewer. Where it is the plan's own number, the plan is the best
there is; the orders alone come within a large page or two of it on the memories of real guests (docs/sharing.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vmckpt.sharing.candidates import Amounts, Candidates, Marks, candidates_of
from vmckpt.sharing.improve import InDoubt, colder, exact, fewer
from vmckpt.sharing.large import LargePages
from vmckpt.sharing.orders import ORDERS, Prices, greedy, marked, needed, peeling, prices_of
from vmckpt.sharing.outcome import Break, Curve, PlanOutcome
from vmckpt.sharing.table import Numbers, SharingTable

__all__ = ["PLANNED", "Plan", "outcome_of", "plan_among", "plan_of"]

PLANNED = "plan"
"""The name of the plan's own curve, and its order where it is better than each of `ORDERS`."""

_POINTS = 300  # of a curve, for a picture
_PART_WAYS = (0.25, 0.5, 0.75, 0.9)  # of the best order, before `greedy` goes on
_BEYOND = (1.05, 1.25, 1.5, 2.0)  # of it, before `peeling` takes back
_MOST_MIXED = 2_500  # large pages of a plan: for more, mixing would take longer than all the orders


@dataclass(frozen=True, slots=True)
class Plan:
    """Large pages to break up, and how they were found."""

    target_pages: int
    reclaimed_pages: int
    """What breaking exactly these frees; less than the target where it cannot be met."""
    large_pages: Numbers
    """Indices of `LargePages`, in the order to break them up."""
    order: str
    """The one of `ORDERS` that the plan is a part of, or `PLANNED`."""
    least: int
    """Large pages that any plan for the target breaks up at least; all that are worth it where none can meet it."""
    curves: Mapping[str, Numbers]
    """Pages freed once the first 1, 2, ... large pages of each order are broken up; `PLANNED` ends with the plan."""

    @property
    def met(self) -> bool:
        """Whether the target is."""
        return self.reclaimed_pages >= self.target_pages


def plan_of(
    table: SharingTable,
    large: LargePages,
    target_pages: int,
    activity: Amounts | None = None,
    *,
    small_already: Marks | None = None,
    spared: Marks | None = None,
    count_zero: bool = True,
) -> Plan:
    """Choose the fewest and coldest large pages whose break-up frees so many pages.

    Args:
        table: of the pages that may share (`SharingTable.within` the trust groups).
        large: the large pages of the same images.
        target_pages: pages to free.
        activity: of each large page, 0 to 1; NaN: not known (`activity_of`). What is not known counts as a half.
        small_already: large pages that were broken up before, [large pages]: see `candidates.reclaim`.
        spared: large pages that are not to be broken up, [large pages].
        count_zero: zero pages are freed too.
    """
    candidates = candidates_of(
        table, large, activity=activity, small_already=small_already, spared=spared, count_zero=count_zero
    )
    return plan_among(candidates, target_pages)


def plan_among(candidates: Candidates, target_pages: int) -> Plan:
    """The same, among candidates that are known."""
    prices = prices_of(candidates, min(target_pages, candidates.most))
    orders = {
        name: prices.order if name == "balanced" else order(candidates) for name, order in ORDERS.items()
    }
    curves = {name: candidates.curve(order) for name, order in orders.items()}
    best = min(orders, key=lambda name: needed(curves[name], target_pages))
    order = orders[best][: needed(curves[best], target_pages)]
    least = len(order)
    if candidates.freed(chosen := marked(candidates, order)) >= target_pages:
        improved, least = _improved(candidates, chosen, orders[best], target_pages, prices)
        if not np.array_equal(improved, chosen):
            best, order = PLANNED, peeling(candidates, improved)
            curves = {PLANNED: candidates.curve(order), **curves}
    return Plan(
        target_pages,
        int(curves[best][len(order) - 1]) if len(order) else 0,
        candidates.numbers[order],
        best,
        least,
        curves,
    )


def _improved(
    candidates: Candidates, chosen: Marks, order: Numbers, target_pages: int, prices: Prices
) -> tuple[Marks, int]:
    """A set of as few candidates or fewer than the chosen ones, and how many there must be at least."""
    least = prices.least(target_pages)
    chosen = fewer(candidates, chosen, target_pages, least)
    if chosen.sum() > least and chosen.sum() <= _MOST_MIXED:
        for mixed in _mixed(candidates, order, int(chosen.sum()), target_pages):
            chosen = min(chosen, fewer(candidates, mixed, target_pages, least), key=np.sum)
    try:
        while (found := exact(candidates, prices.left, int(chosen.sum()) - 1, target_pages)) is not None:
            chosen = found
        least = int(chosen.sum())
        coldest = exact(candidates, prices.left, least, target_pages)
        return (chosen if coldest is None else coldest), least
    except InDoubt:
        return colder(candidates, chosen, target_pages), least


def _mixed(candidates: Candidates, order: Numbers, count: int, target_pages: int) -> Sequence[Marks]:
    """Sets that meet the target, begun by one order and ended by another."""
    sets = [greedy(candidates, order[: int(count * part)], target_pages) for part in _PART_WAYS]
    for part in _BEYOND:
        peeled = peeling(candidates, marked(candidates, order[: int(count * part) + 1]))
        sets.append(peeled[: needed(candidates.curve(peeled), target_pages)])
    marks = [marked(candidates, found) for found in sets]
    return [chosen for chosen in marks if candidates.freed(chosen) >= target_pages]


def outcome_of(plan: Plan, large: LargePages, sources: Sequence[str]) -> PlanOutcome:
    """The plan in plain numbers.

    Args:
        plan: the plan.
        large: the large pages it was made of.
        sources: the name of each image.
    """
    images, numbers = large.images[plan.large_pages].tolist(), large.numbers[plan.large_pages].tolist()
    return PlanOutcome(
        plan.target_pages,
        plan.reclaimed_pages,
        tuple(Break(sources[image], number) for image, number in zip(images, numbers, strict=True)),
        plan.order,
        tuple(Curve(name, _thinned(curve)) for name, curve in plan.curves.items()),
        plan.least,
    )


def _thinned(curve: Numbers) -> list[tuple[int, int]]:
    """Some hundred of its points, with the first and the last."""
    picked = np.unique(np.linspace(0, len(curve) - 1, min(len(curve), _POINTS)).astype(np.int64))
    return [(0, 0), *zip((picked + 1).tolist(), curve[picked].tolist(), strict=True)]
