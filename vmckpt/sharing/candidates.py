"""What there is to choose from: the large pages whose break-up frees something, and which contents lie in which.

    SharingTable (within trust groups), LargePages ─▶ `Candidates` ─▶ `orders` ─▶ `plan`

Break up a set B of large pages. Of a content with k copies inside B, k - 1 go, and all k where a small copy is there
already; zero pages go, all of them. So each candidate brings all its shareable pages, and each content that has no
small copy yet takes back one page, once, from the first large page with it that is broken up:

    reclaim(B) = sum of `brings` over B - number of contents that B meets

That one page is the *keeper*: the frame which serves all copies. A content that lies in one candidate only is settled
there, and contents that lie in the very same candidates are counted together (`weights`): what is left to plan with is
small even where the table is large. Pure, on numpy arrays, of the size of the table's rows.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmckpt.sharing.large import LargePages
from vmckpt.sharing.table import Numbers, SharingTable

__all__ = ["Amounts", "Candidates", "Marks", "candidates_of", "reclaim"]

Amounts = npt.NDArray[np.float64]

Marks = npt.NDArray[np.bool_]
"""One for each large page, or for each candidate."""

_SEED = 0x5AE1  # of the marks by which equal sets are found: any will do, the same always


def reclaim(
    table: SharingTable,
    large: LargePages,
    broken: Marks,
    *,
    small_already: Marks | None = None,
    count_zero: bool = True,
) -> int:
    """Pages that breaking up exactly these large pages frees.

    Args:
        table: of the pages that may share (`SharingTable.within` the trust groups).
        large: the large pages of the same images.
        broken: those to break up, [large pages].
        small_already: those that were broken up before, [large pages]: a content that lies in one of them has its
            keeper there, and every further copy is freed. They free nothing more themselves.
        count_zero: zero pages are freed too.
    """
    of = large.of(table.places)
    before = np.zeros(len(large), np.bool_) if small_already is None else small_already
    now = broken & ~before
    copies = _in_each(table, now[of])
    kept = ~(_in_each(table, before[of]) > 0) & (copies > 0)
    return int(copies.sum() - kept.sum()) + (int(large.zero_pages[now].sum()) if count_zero else 0)


def _in_each(table: SharingTable, rows: Marks) -> Numbers:
    """How many rows of each value are marked."""
    return np.diff(np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)])[table.starts])


@dataclass(frozen=True, slots=True)
class Candidates:
    """Large pages to choose from, told by their position here, and the contents that two or more of them have."""

    numbers: Numbers
    """Which large page each is: an index of `LargePages`, ascending, [candidates]."""
    brings: Numbers
    """Pages that are freed with it, the keepers of its contents not taken off, [candidates]."""
    gains: Amounts
    """What sharing frees of it, were all candidates broken up: of c copies each is 1 - 1/c, [candidates]."""
    shareable: Numbers
    """Its pages that are zero or have an equal in any large page, [candidates]."""
    activity: Amounts
    """Part of its small pages that was touched; a half where that is not known, [candidates]."""
    scan_order: Numbers
    """The candidates in the order in which Linux KSM comes to split them, [candidates]."""
    weights: Numbers
    """How many contents each group of contents stands for, [groups]."""
    starts: Numbers
    """Group g lies in the candidates `holders[starts[g]:starts[g + 1]]`, two at least, [groups + 1]."""
    holders: Numbers
    """Candidates, ascending within each group, [pairs]."""
    own_starts: Numbers
    """Candidate i has the groups `own_groups[own_starts[i]:own_starts[i + 1]]`, [candidates + 1]."""
    own_groups: Numbers
    """[pairs]."""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def most(self) -> int:
        """Pages that breaking up all of them frees."""
        return int(self.brings.sum() - self.weights.sum())

    def keepers(self, order: Numbers) -> Numbers:
        """How many contents each candidate is the first to meet when they are broken up in an order, [candidates].

        Args:
            order: all candidates, or some.
        """
        keepers = np.zeros(len(self), np.int64)
        if len(self.weights):
            rank = np.full(len(self), len(order))
            rank[order] = np.arange(len(order))
            first = np.minimum.reduceat(rank[self.holders], self.starts[:-1])
            keepers[order] = np.bincount(first, self.weights, len(order) + 1)[: len(order)]
        return keepers

    def curve(self, order: Numbers) -> Numbers:
        """Pages freed once the first 1, 2, ... of an order are broken up, [as `order`]; never descending."""
        return np.cumsum((self.brings - self.keepers(order))[order])

    def freed(self, chosen: Marks) -> int:
        """Pages that breaking up the marked ones frees."""
        return int(self.brings[chosen].sum() - self.weights[self.met(chosen) > 0].sum())

    def met(self, chosen: Marks) -> Numbers:
        """How many of the marked ones have each group of contents, [groups]."""
        return np.diff(np.concatenate([np.zeros(1, np.int64), np.cumsum(chosen[self.holders])])[self.starts])

    def by(self, amounts: Amounts | Numbers) -> Numbers:
        """All candidates, the highest amount first; among equals the coldest."""
        return np.lexsort((self.activity, -amounts))

    def groups_of(self, candidate: int) -> Numbers:
        """The groups of contents that lie in a candidate."""
        return self.own_groups[self.own_starts[candidate] : self.own_starts[candidate + 1]]

    def holders_of(self, groups: Numbers) -> tuple[Numbers, Numbers]:
        """All candidates of some groups, group after group, and the weight of the group beside each."""
        lengths = self.starts[groups + 1] - self.starts[groups]
        skips = np.repeat(self.starts[groups] - (np.cumsum(lengths) - lengths), lengths)
        return self.holders[skips + np.arange(len(skips))], np.repeat(self.weights[groups], lengths)

    def sum_over(self, groups: Marks) -> Numbers:
        """For each candidate, how many contents it has of the marked groups."""
        weights = np.repeat(self.weights * groups, np.diff(self.starts))
        return np.bincount(self.holders, weights=weights, minlength=len(self)).astype(np.int64)


def candidates_of(
    table: SharingTable,
    large: LargePages,
    *,
    activity: Amounts | None = None,
    small_already: Marks | None = None,
    spared: Marks | None = None,
    count_zero: bool = True,
) -> Candidates:
    """Find the large pages that are worth breaking up.

    Args:
        table: of the pages that may share (`SharingTable.within` the trust groups).
        large: the large pages of the same images.
        activity: of each large page, 0 to 1; NaN: not known (`activity_of`).
        small_already: those that were broken up before, [large pages]; see `reclaim`.
        spared: those that are not to be broken up, [large pages].
        count_zero: zero pages are freed too.
    """
    of = large.of(table.places)
    before = np.zeros(len(large), np.bool_) if small_already is None else small_already
    open_ = ~before if spared is None else ~(before | spared)
    free = _in_each(table, before[of]) > 0  # contents whose keeper is there already
    zero = large.zero_pages * open_ if count_zero else np.zeros(len(large), np.int64)

    values, copies = table.values, table.copies
    rows = np.flatnonzero(open_[of])
    value, holder = values[rows], of[rows]
    if len(rows):  # several copies in one large page make one pair
        new = np.concatenate([[True], (value[1:] != value[:-1]) | (holder[1:] != holder[:-1])])
        value, holder = value[new], holder[new]
    spread = np.bincount(value, minlength=len(copies))  # candidates of each content
    inside = np.bincount(of[rows], minlength=len(large))
    alone = (spread == 1) & ~free
    brings = inside + zero - np.bincount(holder[alone[value]], minlength=len(large))

    useful = np.flatnonzero(brings > 0)
    position = np.full(len(large), -1, np.int64)
    position[useful] = np.arange(len(useful))
    among = _in_each(table, open_[of])
    shares = np.where(free, 1.0, 1 - 1 / np.maximum(among, 1))
    gains: Amounts = zero.astype(np.float64)
    gains += np.bincount(of[rows], weights=shares[values[rows]], minlength=len(large))
    joint = (spread > 1) & ~free
    pairs = joint[value]
    weights, starts, holders = _grouped(position[holder[pairs]], spread[joint])
    by_holder = np.argsort(holders, kind="stable")
    return Candidates(
        numbers=useful,
        brings=brings[useful],
        gains=gains[useful],
        shareable=(inside + zero)[useful],
        activity=_known(activity, large)[useful],
        scan_order=_scan_order(table, large, of, zero)[useful].argsort(kind="stable"),
        weights=weights,
        starts=starts,
        holders=holders,
        own_starts=np.concatenate(
            [np.zeros(1, np.int64), np.cumsum(np.bincount(holders, minlength=len(useful)))]
        ),
        own_groups=np.repeat(np.arange(len(weights)), np.diff(starts))[by_holder],
    )


def _known(activity: Amounts | None, large: LargePages) -> Amounts:
    """Where nobody looked, neither cold nor hot."""
    return np.full(len(large), 0.5) if activity is None else np.nan_to_num(activity, nan=0.5)


def _grouped(holders: Numbers, lengths: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Contents that lie in the very same candidates as one: their number, and starts and holders of each group.

    A set is told by the sum of random marks of what is in it: two sets have the same by chance once in 2^64.
    """
    if not len(lengths):
        return np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int64)
    starts = np.cumsum(lengths) - lengths
    marks = np.random.default_rng(_SEED).integers(0, 1 << 64, int(holders.max()) + 1, np.uint64)
    sets = np.add.reduceat(marks[holders], starts)
    _, first, weights = np.unique(sets, return_index=True, return_counts=True)
    order = np.argsort(first)
    first, weights = first[order], weights[order]
    chosen = np.zeros(len(lengths), np.bool_)
    chosen[first] = True
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[first])])
    return weights.astype(np.int64), ends, holders[np.repeat(chosen, lengths)]


def _scan_order(table: SharingTable, large: LargePages, of: Numbers, zero_pages: Numbers) -> Numbers:
    """When KSM's scan splits each large page, as a number to sort by, [large pages].

    It goes through all pages in order, and remembers each content it has not seen. At the first page that equals one
    seen before it splits the large pages of both (mm/ksm.c: cmp_and_merge_page); at each further one, that of the page.
    Where the zero pages of a large page lie is not known here: one that has any is split as soon as the scan is there.
    """
    moments = 2 * table.places + 1
    firsts = table.starts[:-1]
    moments[firsts] = moments[firsts + 1] - 1  # together with the second copy, just before it
    earliest = np.full(len(large), np.iinfo(np.int64).max, np.int64)
    np.minimum.at(earliest, of, moments)
    with_zero = zero_pages[large.run_large] > 0
    np.minimum.at(earliest, large.run_large[with_zero], 2 * large.run_places[with_zero])
    return earliest
