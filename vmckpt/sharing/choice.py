"""A set of large pages to break up, while it is being made: add one, take one out, at the cost of what shares with it.

`orders` make theirs with it, `improve` makes a plan smaller.
"""

import numpy as np

from vmckpt.sharing.candidates import Amounts, Candidates, Marks
from vmckpt.sharing.table import Numbers

__all__ = ["Choice"]


class Choice:
    """A changing set of candidates.

    Attributes:
        chosen: who is in it, [candidates].
        count: how many are.
        freed: pages that breaking up all of them frees.
        gains: pages that each would add that is not in it; -inf for the others, [candidates].
        losses: pages that each would take away that is in it; inf for the others, [candidates].

    The part below one of gains and losses says only who of equals is better: who could gain more, then who is colder.
    """

    def __init__(self, candidates: Candidates, chosen: Marks) -> None:
        """Begin with some candidates."""
        self._candidates = candidates
        self.chosen = chosen.copy()
        self.count = int(chosen.sum())
        self.freed = candidates.freed(chosen)
        self._met = candidates.met(chosen)
        # Numbers of those in the set that hold a group, summed: where only one is left, that is who it is.
        ends = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum(candidates.holders * chosen[candidates.holders])]
        )
        self._sums = np.diff(ends[candidates.starts])
        brings = candidates.brings + _part_below_one(candidates)
        self.gains = np.where(chosen, -np.inf, brings - candidates.sum_over(self._met == 0))
        self.losses = np.where(chosen, brings - candidates.sum_over(self._met == 1), np.inf)

    def add(self, candidate: int) -> None:
        """Put in one that is not."""
        worth = self.gains[candidate]
        groups, met = self._met_of(candidate)
        single = groups[met == 1]
        np.add.at(self.gains, *self._candidates.holders_of(groups[met == 0]))
        np.add.at(self.losses, self._sums[single], self._candidates.weights[single])
        self.gains[candidate], self.losses[candidate] = -np.inf, worth
        self._change(candidate, groups, 1, worth)

    def remove(self, candidate: int) -> None:
        """Take out one that is in."""
        worth = self.losses[candidate]
        groups, met = self._met_of(candidate)
        double = groups[met == 2]
        self._change(candidate, groups, -1, worth)
        np.subtract.at(self.gains, *self._candidates.holders_of(groups[met == 1]))
        np.subtract.at(self.losses, self._sums[double], self._candidates.weights[double])
        self.gains[candidate], self.losses[candidate] = worth, np.inf

    def gains_without(self, candidate: int) -> Amounts:
        """What `gains` would be, were one that is in the set taken out; its own left at -inf."""
        groups, met = self._met_of(candidate)
        gains = self.gains.copy()
        np.subtract.at(gains, *self._candidates.holders_of(groups[met == 1]))
        return gains

    def _met_of(self, candidate: int) -> tuple[Numbers, Numbers]:
        groups = self._candidates.groups_of(candidate)
        return groups, self._met[groups]

    def _change(self, candidate: int, groups: Numbers, by: int, worth: float) -> None:
        self._met[groups] += by
        self._sums[groups] += by * candidate
        self.chosen[candidate] = by > 0
        self.count += by
        self.freed += by * int(worth)


def _part_below_one(candidates: Candidates) -> Amounts:
    part = np.empty(len(candidates))
    part[candidates.by(candidates.gains)] = np.arange(len(candidates))[::-1] / (2 * max(1, len(candidates)))
    return part
