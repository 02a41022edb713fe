"""Much into little, with no loss: what is counted in bins adds up to what was counted.

    pages (a byte for each, or their numbers) ─▶ Bins ─▶ counts for each bin
    moments and stretches of time ─▶ edges ─▶ counts and sums for each window

So a page about 64 GiB of memory is no longer than one about 64 MiB. Pure. Called by the reports and the plots.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Bins", "counted", "heights", "spread", "tallied", "window_of", "windows"]


@dataclass(frozen=True, slots=True)
class Bins:
    """Things in a row, `size` of them in each bin, but for the last one, which may have fewer."""

    total: int
    """How many things there are."""
    size: int
    """How many of them are in a bin."""

    @classmethod
    def at_most(cls, total: int, most: int) -> "Bins":
        """As many bins as there may be, each of a power of two."""
        size = 1
        while total > most * size:
            size *= 2
        return cls(total, size)

    @property
    def count(self) -> int:
        """How many bins."""
        return -(-self.total // self.size)

    def span(self, index: int) -> tuple[int, int]:
        """The things in bin `index`: `[start, end)`."""
        return index * self.size, min((index + 1) * self.size, self.total)


def tallied(cells: bytes | bytearray, kinds: int, bins: Bins) -> list[tuple[int, ...]]:
    """For each bin, how many of its cells have the value 0, 1, ... `kinds` - 1."""
    spans = map(bins.span, range(bins.count))
    return [tuple(cells.count(kind, start, end) for kind in range(kinds)) for start, end in spans]


def counted(things: Iterable[int], bins: Bins) -> list[int]:
    """For each bin, how many of `things` (numbers below `bins.total`) are in it."""
    counts = [0] * bins.count
    for thing in things:
        counts[thing // bins.size] += 1
    return counts


def windows(start: float, end: float, most: int) -> list[float]:
    """The edges of windows from `start` to `end`, all of one round length (1, 2 or 5 times a power of ten) but the last.

    Args:
        start: of the first.
        end: of the last.
        most: how many there may be.
    """
    if end <= start:
        return [start, start]
    length = round_up((end - start) / most)
    count = 1
    while start + count * length < end * (1 - 1e-12):
        count += 1
    return [start + index * length for index in range(count)] + [end]


def round_up(value: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below `value`, which is above 0."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def window_of(edges: Sequence[float], moment: float) -> int:
    """The window that a moment is in; the first or the last for one that is in none."""
    return min(max(bisect_right(edges, moment) - 1, 0), len(edges) - 2)


def spread(stretches: Iterable[tuple[float, float]], edges: Sequence[float]) -> list[float]:
    """For each window, how much of the stretches (start, end) is in it; what is outside of all is left out."""
    sums = [0.0] * (len(edges) - 1)
    for start, end in stretches:
        low, high = max(start, edges[0]), min(end, edges[-1])
        at = window_of(edges, low)
        while low < high:
            until = min(high, edges[at + 1])
            sums[at] += until - low
            low, at = until, at + 1
    return sums


def heights(counts: Sequence[int], total: int, least: int) -> list[int]:
    """`total` shared out in proportion to `counts`; whatever is there gets `least` of it, so that it can be seen.

    What that costs is taken from the largest. `total` must be enough for all.
    """
    whole = sum(counts)
    if not whole:
        return [0] * len(counts)
    shares = [max(round(count * total / whole), least) if count else 0 for count in counts]
    while (excess := sum(shares) - total) != 0:
        at = shares.index(max(shares))
        shares[at] -= min(excess, max(shares[at] - least, 1))
    return shares
