"""The estimator for memory in which little is equal: only what has copies counts, and heavy contents are counted exactly.

    R = exact part + (1/p) sum f_v      over the rest, f_v = what sharing frees of content v

In memory where next to nothing is shared, most contents have f_v = 0 and add no error at all, whereas each adds some to
the difference N - d/p. But a content with 40,000 copies would add 40,000/p or nothing. So the contents with most copies
are taken out (`Heavy`: exact, or between known bounds) and of the rest none has more than tau copies:

    variance <= (1-p)/p  groups (tau - 1) R_rest

It is chosen only where this bound is below the least variance that the difference can have, (1-p)/p times the
contents. Bounds are compared, never the errors that a sample happens to show.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vmckpt.sharing.hashes import Hashes
from vmckpt.sharing.heavy import Heavy
from vmckpt.sharing.interval import binomial_interval, normal_quantile, weighted_interval
from vmckpt.sharing.outcome import Estimate
from vmckpt.sharing.table import Numbers
from vmckpt.sharing.tally import Circles

__all__ = ["Choice", "Circumstances", "Freed", "choose", "circle_values", "freed_in", "horvitz_thompson"]

_WORD = (1 << 64) - 1


class Circumstances(NamedTuple):
    """What is known beside the sample."""

    data_pages: int
    """Pages of all images that are not zero."""
    groups: int
    """Trust groups."""
    fraction: float
    """Of contents that were kept."""
    confidence: float
    """Of the interval wanted."""


def circle_values(values: Hashes, group: int) -> Hashes:
    """What stands for a content within a group: `Heavy` counts these. Group 0 leaves the values as they are."""
    return values ^ np.uint64(group * 0x9E3779B97F4A7C15 & _WORD)


class Choice(NamedTuple):
    """Which circles to count exactly."""

    heaviest: Numbers
    """Their rows in the table of heavy contents."""
    rest_copies: int
    """tau: no other circle has more pages."""


def choose(heavy: Heavy, kept: int, known: Circumstances) -> Choice | None:
    """How many heavy circles to take out so that the bound is least; None if that is no better than the difference.

    Args:
        heavy: the circles with most pages, of all contents, folded.
        kept: circles that were kept.
        known: what is known beside.
    """
    most = heavy.counted + heavy.missed
    order = np.argsort(-most, kind="stable")
    taken = np.arange(len(order) + 1)
    rest_copies = np.maximum(np.append(most[order], 0), max(heavy.dropped, 1))
    contents, _ = binomial_interval(kept, known.fraction, known.confidence)
    rest_pages = known.data_pages - _sums(heavy.counted[order])
    rest_freed = np.maximum(rest_pages - np.maximum(contents - taken, 0), 0)
    quantile = normal_quantile(known.confidence)
    odds = (1 - known.fraction) / known.fraction
    width = quantile * np.sqrt(odds * known.groups * (rest_copies - 1) * rest_freed)
    width += _sums(heavy.missed[order]) / 2
    best = int(np.argmin(width))
    if width[best] >= quantile * np.sqrt(odds * contents):
        return None
    return Choice(order[:best], int(rest_copies[best]))


class Freed(NamedTuple):
    """What sharing frees in a part of the circles that were kept; parts add up."""

    pages: float
    """Of circles that are not heavy."""
    square: float
    """The squares of the same, content by content."""
    heavy_pages: float
    """Of heavy circles: of these the pages are known, whatever the table missed."""
    heavy_circles: Hashes
    """Which heavy circles were kept."""


def freed_in(values: Hashes, circles: Circles, heavy: Heavy, choice: Choice) -> Freed:
    """Count what sharing frees.

    Args:
        values: what stands for each content of this part.
        circles: of these contents.
        heavy: the circles with most pages.
        choice: which of them to take out.
    """
    of_circle = values[circles.contents]
    for group in np.unique(circles.groups).tolist():
        rows = circles.groups == group
        of_circle[rows] = circle_values(of_circle[rows], group)
    is_heavy = np.isin(of_circle, heavy.hashes[choice.heaviest])
    rest = np.flatnonzero(~is_heavy)
    freed = circles.pages[rest] - 1
    of_content = np.bincount(circles.contents[rest], weights=freed)
    return Freed(
        float(freed.sum()),
        float((of_content**2).sum()),
        float((circles.pages[is_heavy] - 1).sum()),
        of_circle[is_heavy],
    )


def horvitz_thompson(parts: Sequence[Freed], heavy: Heavy, choice: Choice, known: Circumstances) -> Estimate:
    """The estimate, of all parts."""
    kept = np.concatenate([part.heavy_circles for part in parts])
    unkept = choice.heaviest[~np.isin(heavy.hashes[choice.heaviest], kept)]
    exact = sum(part.heavy_pages for part in parts) + float((heavy.counted[unkept] - 1).sum())
    slack = float(heavy.missed[unkept].sum())
    pages = sum(part.pages for part in parts)
    low, high = weighted_interval(
        pages,
        sum(part.square for part in parts),
        known.fraction,
        known.confidence,
        known.groups * (choice.rest_copies - 1),
    )
    found = exact + slack / 2 + pages / known.fraction
    return Estimate(
        found, exact + low, exact + slack + high, known.confidence, "horvitz-thompson", known.fraction
    )


def _sums(counts: Numbers) -> Numbers:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
