"""What a sample says of all pages: estimates, and how sure they are.

Each content is kept with probability p, with all its copies. So a sum over all contents is estimated by the sum over
those that are kept, times 1/p; what matters is of what. Let N be the pages that are not zero (known), c_v the copies of
content v, and n_v the trust groups that have it. Sharing frees R = sum (c_v - n_v), which is also N - sum n_v:

    difference           R = N - (1/p) sum n_v        a content weighs 1 (more only if several groups have it)
    horvitz-thompson     R = (1/p) sum (c_v - n_v)    one with 40,000 copies adds 40,000/p or nothing: see `horvitz`

The first is the default, and its interval is that of a binomial count. The second is chosen by bounds that are known
before, and never by the error that the sample itself shows: that would leave the interval too narrow.

In: tallies and, for the second, the heavy contents. Out: `SampledSharing`. Pure, on numpy arrays.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vmckpt.sharing.heavy import Heavy
from vmckpt.sharing.horvitz import Circumstances, choose, freed_in, horvitz_thompson
from vmckpt.sharing.interval import binomial_interval, weighted_interval
from vmckpt.sharing.ksm import counters_of
from vmckpt.sharing.outcome import Estimate, KsmForecast, Ladder
from vmckpt.sharing.table import Numbers
from vmckpt.sharing.tally import Circles, Copies, Tally, copies_of, parts_of

__all__ = ["SampledSharing", "estimate_of", "sampled_matrix"]

Weights = npt.NDArray[np.float64]

_PART_ROWS = 1 << 18  # of some 100 bytes each


class SampledSharing(NamedTuple):
    """What sharing would come to, by a sample. A fraction of 1 makes all of it exact."""

    pages: int
    """Small pages of all images; exact."""
    zero_pages: int
    """Of these, zero ones; exact."""
    distinct: Estimate
    """Different contents that are not zero, over everything."""
    reclaimable: Ladder
    """Each step from the same sample; `trust` is the estimate's."""
    estimate: Estimate
    """Pages that are not zero reclaimable under the chosen trust."""
    histogram: Mapping[int, float]
    """Copies -> contents with so many, over everything."""
    attributed_pages: tuple[float, ...]
    """Of each image; they add up to the estimate."""
    exclusive_pages: tuple[float, ...]
    """Of each image: what sharing within it alone would free."""
    ksm: KsmForecast


def estimate_of(
    tallies: Sequence[Tally],
    groups: Sequence[int],
    *,
    fraction: float,
    confidence: float,
    heavy: Heavy | None = None,
    share_cap: int = 256,
) -> SampledSharing:
    """Estimate what sharing would free.

    Args:
        tallies: one for each image, all of one selection and of this `fraction`.
        groups: the trust group of each image, by numbers from 0.
        fraction: of contents that the selection keeps.
        confidence: of the interval, less than 1.
        heavy: the heavy contents of all pages (`horvitz.circle_values` of what the selection puts for each); None:
            only the first estimator can be used.
        share_cap: pages that may share one frame, for the KSM forecast.
    """
    group_of = np.asarray(groups, np.int64)
    known = Circumstances(
        sum(tally.data_pages for tally in tallies), int(group_of.max(initial=0)) + 1, fraction, confidence
    )
    counted = _Counted(np.zeros(len(tallies)))
    for copies in map(copies_of, parts_of(tallies, _PART_ROWS)):
        counted.add(copies, copies.within(group_of))
    estimate = _within_bounds(_better(tallies, group_of, counted, heavy, known), counted, known)
    zero_pages = sum(tally.zero_pages for tally in tallies)
    histogram = {copies: counted.copies[copies] / fraction for copies in sorted(counted.copies)}
    return SampledSharing(
        known.data_pages + zero_pages,
        zero_pages,
        _distinct(counted.contents, known),
        _ladder(group_of, counted, estimate.pages, known, zero_pages),
        estimate,
        histogram,
        _attributed(tallies, counted, estimate),
        tuple(_clip(tally.data_pages - len(tally.values) / fraction, tally.data_pages) for tally in tallies),
        counters_of(
            np.array(list(histogram), np.int64),
            np.array(list(histogram.values()), np.float64),
            pages=known.data_pages,
            zero_pages=zero_pages,
            share_cap=share_cap,
        ),
    )


@dataclass(slots=True)
class _Counted:
    """What was kept, counted part after part."""

    own: Weights
    """The parts of contents that are each image's: m/c for m pages in a circle of c, [images]."""
    contents: int = 0
    rows: int = 0  # contents, counted once for each image that has them
    circles: int = 0
    square: int = 0  # of the circles of each content
    pages: int = 0
    copies: Counter[int] = field(default_factory=Counter)  # copies -> contents

    def add(self, copies: Copies, circles: Circles) -> None:
        self.contents += len(copies)
        self.rows += len(copies.images)
        self.circles += len(circles.pages)
        self.square += int((np.bincount(circles.contents) ** 2).sum())
        self.pages += int(circles.pages.sum())
        found, contents = np.unique(copies.totals, return_counts=True)
        self.copies.update(dict(zip(found.tolist(), contents.tolist(), strict=True)))
        parts = copies.counts / circles.pages[circles.of_row]
        self.own += np.bincount(copies.images, weights=parts, minlength=len(self.own))


def _better(
    tallies: Sequence[Tally], groups: Numbers, counted: _Counted, heavy: Heavy | None, known: Circumstances
) -> Estimate:
    """The estimate of the estimator whose bound is the better one."""
    if heavy is not None and known.fraction < 1:
        heavy.fold()
        choice = choose(heavy, counted.circles, known)
        if choice is not None:
            parts = [
                freed_in(copies.values, copies.within(groups), heavy, choice)
                for copies in map(copies_of, parts_of(tallies, _PART_ROWS))
            ]
            return horvitz_thompson(parts, heavy, choice, known)
    return _difference(counted, known)


def _difference(counted: _Counted, known: Circumstances) -> Estimate:
    """N - (1/p) sum n_v."""
    if known.fraction >= 1:
        freed = float(known.data_pages - counted.circles)
        return Estimate(freed, freed, freed, known.confidence, "exact", 1.0)
    low, high = weighted_interval(
        counted.circles, counted.square, known.fraction, known.confidence, known.groups
    )
    return Estimate(
        known.data_pages - counted.circles / known.fraction,
        known.data_pages - high,
        known.data_pages - low,
        known.confidence,
        "difference",
        known.fraction,
    )


def _within_bounds(estimate: Estimate, counted: _Counted, known: Circumstances) -> Estimate:
    """No more than if what was kept were all there is, and no less than what was seen to be equal."""
    least, most = float(counted.pages - counted.circles), float(known.data_pages - counted.circles)
    pages, low, high = (min(max(number, least), most) for number in estimate[:3])
    return estimate._replace(pages=pages, low=low, high=high)


def _distinct(kept: int, known: Circumstances) -> Estimate:
    low, high = binomial_interval(kept, known.fraction, known.confidence)
    return Estimate(
        min(kept / known.fraction, known.data_pages),
        max(low, kept),
        min(high, known.data_pages),
        known.confidence,
        "distinct" if known.fraction < 1 else "exact",
        known.fraction,
    )


def sampled_matrix(tallies: Sequence[Tally], fraction: float) -> list[list[float]]:
    """Pages that two images would share if they trusted each other, [image][image].

    For each content that both have, the smaller number of copies; on the diagonal what sharing within the image frees.
    """
    matrix = [[0.0] * len(tallies) for _ in tallies]
    for row, one in enumerate(tallies):
        matrix[row][row] = _clip(one.data_pages - len(one.values) / fraction, one.data_pages)
        for column, other in enumerate(tallies[:row]):
            _, mine, theirs = np.intersect1d(
                one.values, other.values, assume_unique=True, return_indices=True
            )
            both = float(np.minimum(one.counts[mine], other.counts[theirs]).sum()) / fraction
            matrix[row][column] = matrix[column][row] = min(both, one.data_pages, other.data_pages)
    return matrix


def _ladder(
    groups: Numbers, counted: _Counted, trust: float, known: Circumstances, zero_pages: int
) -> Ladder:
    # Where a step is the same circle as the estimate's, it is the estimate; else it must not pass it.
    intra = _clip(known.data_pages - counted.rows / known.fraction, known.data_pages)
    everything = _clip(known.data_pages - counted.contents / known.fraction, known.data_pages)
    each = len(set(groups.tolist())) == len(groups)
    together = known.groups == 1
    return Ladder(
        zero_pages,
        round(trust if each else min(intra, trust)),
        round(trust),
        round(trust if together else max(everything, trust)),
    )


def _attributed(tallies: Sequence[Tally], counted: _Counted, estimate: Estimate) -> tuple[float, ...]:
    """N_i - (1/p) sum m/c, over the m pages of image i in each circle of c: no content weighs more than 1."""
    data = np.array([tally.data_pages for tally in tallies], np.float64)
    found = np.clip(data - counted.own / estimate.fraction, 0, data)
    total = float(found.sum())
    # They add up by themselves but where one was cut off, or where the other estimator was the better one.
    scaled = (
        found * (estimate.pages / total) if total else np.full(len(tallies), estimate.pages / len(tallies))
    )
    return tuple(scaled.tolist())


def _clip(pages: float, most: float) -> float:
    return min(max(pages, 0.0), float(most))
