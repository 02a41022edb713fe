"""How scarce a host's memory is, and what that is worth: states, thresholds, rates. Pure.

    free memory, in parts of minFree        400 %        100 %        64 %        32 %        16 %
                                        ───────┼────────────┼───────────┼───────────┼───────────┼──────
    state                             high     │ high,      │ clear     │ soft      │ hard      │ low
                                               │ short      │           │           │           │
    large pages                       stay     │ cold ones  │ break, share now ──────────────────────▶
    beside that                                                         │ balloon   │ compress, │ block
                                                                        │           │ swap      │
State falls at once, and climbs only where its border is clearly exceeded (ESX, OSDI'02; the borders are those of ESXi 6).
Sharing comes before all that hurts: it is tried from the first state on, ballooning and swapping from the third
and fourth (VEE'15; US 9,658,775 for the rate and its margin). Used by `bench overcommit`.
"""

from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "BORDERS",
    "SHORT_PER_CENT",
    "Actions",
    "Pressure",
    "State",
    "actions_in",
    "break_threshold",
    "min_free_bytes",
    "next_pressure",
    "scan_rate",
]

_GIB = 1 << 30
_SLICES = (
    (4 * _GIB, 6),
    (12 * _GIB, 4),
    (28 * _GIB, 2),
)  # up to so much of memory, so many per cent; 1 above


class State(IntEnum):
    """The less memory is free, the less the state."""

    LOW = 0
    HARD = 1
    SOFT = 2
    CLEAR = 3
    HIGH = 4


SHORT_PER_CENT = 400
"""Per cent of minFree; with less than that free, memory is short: scanning speeds up, cold large pages are broken."""
BORDERS = {State.CLEAR: 100, State.SOFT: 64, State.HARD: 32, State.LOW: 16}
"""Per cent of minFree; with less than that free, this is the state, or a worse one."""

_CLIMB = 1.25  # a border has to be exceeded by so much on the way up


class Pressure(NamedTuple):
    """What a host is under."""

    state: State
    is_short: bool
    """Less than SHORT_PER_CENT is free, or was, and no more than a margin above since."""


class Actions(NamedTuple):
    """What a host does in a state."""

    break_all: bool
    """Large pages are broken whether they are cold or not."""
    share_now: bool
    """Equal pages are made to share at once, and not at the next turn of a slow scan."""
    balloon: bool
    swap: bool
    block: bool
    """VMs above their share wait."""


def min_free_bytes(memory_bytes: int) -> int:
    """What a host with that much memory keeps free: 6 % of the first 4 GiB, 4 % up to 12, 2 % up to 28, 1 % of the rest."""
    total = start = 0
    for end, per_cent in _SLICES:
        total += max(min(memory_bytes, end) - start, 0) * per_cent
        start = end
    return (total + max(memory_bytes - start, 0)) // 100


def next_pressure(before: Pressure, free_bytes: int, min_free: int) -> Pressure:
    """The pressure with so much free now; less than nothing is free where memory is overcommitted.

    Args:
        before: the pressure so far.
        free_bytes: of the host's memory.
        min_free: bytes that it keeps free.
    """
    fallen = _state_of(free_bytes, min_free)
    climbed = _state_of(free_bytes / _CLIMB, min_free)
    state = fallen if fallen < before.state else max(before.state, climbed)
    short_bytes = SHORT_PER_CENT * min_free / 100
    margin = _CLIMB if before.is_short else 1.0
    return Pressure(state, free_bytes < short_bytes * margin)


def _state_of(free_bytes: float, min_free: int) -> State:
    below = [state for state, per_cent in BORDERS.items() if free_bytes < per_cent * min_free / 100]
    return min(below, default=State.HIGH)


def actions_in(state: State) -> Actions:
    """What a host does in a state."""
    return Actions(
        break_all=state <= State.CLEAR,
        share_now=state <= State.CLEAR,
        balloon=state == State.SOFT,
        swap=state <= State.HARD,
        block=state == State.LOW,
    )


def break_threshold(free_bytes: int, min_free: int, small_pages: int) -> int:
    """How many of its small pages a large page must be able to share to be broken: half of them where memory is plenty, one
    where it is at its end, and evenly in between (US 9,292,452: the threshold falls as memory is used up).

    Args:
        free_bytes: of the host's memory.
        min_free: bytes that it keeps free.
        small_pages: of a large page.
    """
    plenty, none = SHORT_PER_CENT * min_free / 100, BORDERS[State.LOW] * min_free / 100
    part = min(max((free_bytes - none) / max(plenty - none, 1), 0.0), 1.0)
    return 1 + round(part * (small_pages // 2 - 1))


def scan_rate(
    pressure: Pressure, missing_pages: int, shareable_part: float, *, slow: int, most: int, within_s: float
) -> int:
    """Pages to look at in a second: slowly where memory is not short, else as many as should bring what is missing in time.

    Args:
        pressure: now.
        missing_pages: to be freed.
        shareable_part: of the pages looked at, how many can be freed: an estimate's lower bound rather than its middle.
        slow: the rate at rest.
        most: the highest rate.
        within_s: in which time.
    """
    if not pressure.is_short or missing_pages <= 0:
        return slow
    wanted = missing_pages / max(shareable_part, 1e-9) / within_s
    return int(min(max(wanted, slow), most))
