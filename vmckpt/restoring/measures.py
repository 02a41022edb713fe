"""What a restore felt like, computed from its fault log: how long vCPUs waited, and from when on it no longer showed.

    stalls of vCPUs ─▶ utilisation U(t) of the window [t, t + w) ─▶ MMU ─▶ TTR(w, u)
    pages by origin, and which of them were touched ─▶ coverage, precision

**TTR(w, u)** (VEE'11, 3): the first moment from which on every window of length w has a utilisation of at least u. A window
that starts before the machine runs has none. So TTR(w, 0) is 0, TTR(w, 1) is the end of the last stall, it never falls as
u grows, and for an eager restore, which has no stalls once it runs, it is the moment in which it runs, for every u > 0.

Pure functions of their arguments; times in seconds from the start of the restore.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import NamedTuple

from vmckpt.restoring.log import Fault, FaultKind

__all__ = [
    "Stall",
    "coverage",
    "demand_pages",
    "mmu",
    "precision",
    "stall_s",
    "stalls_of",
    "ttr",
    "ttr_curve",
    "utilisation",
]

_TOLERANCE = 1e-9


class Stall(NamedTuple):
    """A stretch of time in which a vCPU waited for a page."""

    start_s: float
    end_s: float


def stalls_of(faults: Iterable[Fault], start_ns: int) -> list[Stall]:
    """The stalls of all vCPUs, counted from `start_ns`, in the order of the log."""
    return [
        Stall((fault.at_ns - start_ns) / 1e9, (fault.at_ns + fault.stall_ns - start_ns) / 1e9)
        for fault in faults
    ]


def stall_s(faults: Iterable[Fault]) -> float:
    """How long vCPUs waited, all together."""
    return sum(fault.stall_ns for fault in faults) / 1e9


def demand_pages(faults: Iterable[Fault]) -> int:
    """How many stored pages a vCPU waited for, each counted once."""
    kinds = {FaultKind.READ, FaultKind.HELD}
    return len({fault.page for fault in faults if fault.kind in kinds})


def coverage(used: int, on_demand: int) -> float:
    """The part of what was needed that was there before it was asked for; 0 where nothing was needed."""
    return used / (used + on_demand) if used + on_demand else 0.0


def precision(used: int, prefetched: int) -> float | None:
    """The part of what was prefetched that was needed; None where nothing was prefetched."""
    return used / prefetched if prefetched else None


class _Waiting:
    """How much time vCPUs have waited up to t, each counted as one of `vcpus`: piecewise linear in t."""

    def __init__(self, stalls: Sequence[Stall], vcpus: int) -> None:
        edges = sorted(chain(((start, 1) for start, _ in stalls), ((end, -1) for _, end in stalls)))
        self.times = [time for time, _ in edges]
        depth = list(accumulate(step for _, step in edges))
        steps = (depth[at] * (self.times[at + 1] - self.times[at]) / vcpus for at in range(len(edges) - 1))
        self._sums = list(accumulate(steps, initial=0.0)) if edges else []
        self._at = 0

    def __call__(self, time: float) -> float:
        """The sum at `time`; cheap where each call's time is close to the last one's."""
        times, sums = self.times, self._sums
        if not times or time <= times[0]:
            return 0.0
        if time >= times[-1]:
            return sums[-1]
        at = self._at
        while times[at] > time:
            at -= 1
        while times[at + 1] <= time:
            at += 1
        self._at = at
        part = (time - times[at]) / (times[at + 1] - times[at])
        return sums[at] + part * (sums[at + 1] - sums[at])


def utilisation(stalls: Sequence[Stall], vcpus: int, start_s: float, window_s: float) -> float:
    """The part of a window in which vCPUs did not wait, on average over them."""
    waiting = _Waiting(stalls, vcpus)
    return 1 - (waiting(start_s + window_s) - waiting(start_s)) / window_s


def mmu(stalls: Sequence[Stall], vcpus: int, from_s: float, window_s: float) -> float:
    """The least utilisation of any window that starts at `from_s` or later (minimum mutator utilisation)."""
    low, high = _Waiting(stalls, vcpus), _Waiting(stalls, vcpus)
    return min(
        (
            1 - (high(start + window_s) - low(start)) / window_s
            for start in _turns(low.times, from_s, window_s)
        ),
        default=1.0,
    )


def _turns(times: Sequence[float], from_s: float, window_s: float) -> list[float]:
    """Where the utilisation of a window, as its start moves, can turn; between two of these it is linear."""
    turns = sorted({from_s, *times, *(time - window_s for time in times)})
    return [time for time in turns if time >= from_s]


def ttr(stalls: Sequence[Stall], vcpus: int, *, running_s: float, window_s: float, least: float) -> float:
    """TTR(window_s, least): from when on no window has a lower utilisation than `least`.

    Args:
        stalls: of all vCPUs.
        vcpus: how many there are.
        running_s: when they started.
        window_s: length of the windows.
        least: the utilisation that is asked for, 0 to 1.
    """
    (found,) = ttr_curve(stalls, vcpus, running_s=running_s, window_s=window_s, leasts=[least])
    return found


def ttr_curve(
    stalls: Sequence[Stall], vcpus: int, *, running_s: float, window_s: float, leasts: Sequence[float]
) -> list[float]:
    """TTR(window_s, u) for each u of `leasts`, which ascend, in one walk through the stalls; see `ttr`."""
    low, high = _Waiting(stalls, vcpus), _Waiting(stalls, vcpus)
    found = [0.0 if least <= 0 else running_s for least in leasts]
    open_at = len(leasts) - 1  # the walk is backwards: who asks for more is answered first
    later, later_waited = 0.0, -1.0
    for start in reversed(_turns(low.times, running_s, window_s)):
        waited = high(start + window_s) - low(start)
        while open_at >= 0 and leasts[open_at] > 0:
            allowed = (1 - leasts[open_at]) * window_s + _TOLERANCE
            if waited <= allowed:
                break
            found[open_at] = start
            if 0 <= later_waited < allowed and later > start:
                found[open_at] += (later - start) * (waited - allowed) / (waited - later_waited)
            open_at -= 1
        later, later_waited = start, waited
    return found
