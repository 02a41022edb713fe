"""What a host may do about large pages when memory gets short: never break them, break all, as KSM does, or by plan.

    Policy.act(host) ─▶ break-ups ─▶ whether there may be more to do        called when a machine has arrived, and then by turns

KSM's order and the decisions of a turn are pure; `act` carries them out.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from vmckpt.bench.host import Host
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.activity import COLD
from vmckpt.machine.large import LARGE_PAGE_BYTES
from vmckpt.sharing.breakup import Planner, Seen
from vmckpt.sharing.choose import shareable_pages
from vmckpt.sharing.hashes import PageHashes
from vmckpt.sharing.large import large_pages_of
from vmckpt.sharing.pressure import (
    SHORT_PER_CENT,
    Pressure,
    State,
    actions_in,
    break_threshold,
    next_pressure,
    scan_rate,
)
from vmckpt.sharing.table import table_of

__all__ = ["AsKsm", "BreakAll", "ByPlan", "NeverBreak", "Policy", "Turn", "ksm_order", "turn_of"]

_PIECE = 8  # large pages between two looks at how much is free
_SMALL_PAGES = LARGE_PAGE_BYTES // PAGE_BYTES
_SLOW_PAGES = 1000  # a second
_TURN_S = 1.0
_WITHIN_S = 5.0


class Policy(Protocol):
    """A host's policy, for one run."""

    def act(self, host: Host) -> bool:
        """Do what is to be done now; whether another turn could do more."""


class NeverBreak:
    """Large pages stay."""

    def act(self, host: Host) -> bool:
        """See `Policy`."""
        del host
        return False


class BreakAll:
    """All large pages are broken as soon as a machine is there."""

    def act(self, host: Host) -> bool:
        """See `Policy`."""
        for machine, seen in enumerate(host.see(activity=False)):
            numbers = large_pages_of([seen.memory], LARGE_PAGE_BYTES).numbers.tolist()
            host.break_up([(machine, number) for number in numbers if number not in seen.small_already])
        return False


class AsKsm:
    """Pages are scanned machine by machine; a match splits the large pages of both. It stops where enough is free."""

    def act(self, host: Host) -> bool:
        """See `Policy`."""
        if host.free_bytes >= _wanted_free(host):
            return False
        for machine, seen in enumerate(host.see(activity=False)):
            order = [number for number in ksm_order(seen.memory) if number not in seen.small_already]
            for first in range(0, len(order), _PIECE):
                host.break_up([(machine, number) for number in order[first : first + _PIECE]])
                if host.free_bytes >= _wanted_free(host):
                    return False
        return False


def ksm_order(memory: PageHashes, large_page_bytes: int = LARGE_PAGE_BYTES) -> list[int]:
    """Large pages in the order in which a scan of all small pages splits them.

    Nothing happens at the first of equal pages; at the second, the large pages of both are split; at each further one, its own.
    A zero page is a page like any other.
    """
    table, large = table_of([memory]), large_pages_of([memory], large_page_bytes)
    zeros = np.setdiff1d(np.arange(memory.page_count), memory.pages.astype(np.int64))
    groups = [table.places[low:high] for low, high in zip(table.starts[:-1], table.starts[1:], strict=True)]
    if len(zeros) > 1:
        groups.append(zeros)
    split_at = np.full(len(large), memory.page_count, np.int64)
    for group in groups:
        ordered = np.sort(group)
        np.minimum.at(split_at, large.of(ordered), np.maximum(ordered, ordered[1]))
    order = np.argsort(split_at, kind="stable")
    return [int(large.numbers[index]) for index in order if split_at[index] < memory.page_count]


class Turn(NamedTuple):
    """What a turn of `ByPlan` decides."""

    target_pages: int
    spared: Sequence[frozenset[int]]
    """Of each machine the large pages that are not to be broken in this turn."""
    most_large_pages: int
    """As many as can be looked through in a turn, at the rate that the estimate asks for."""


def turn_of(
    pressure: Pressure,
    free_bytes: int,
    min_free: int,
    seen: Sequence[Seen],
    shareable: Sequence[dict[int, int]],
) -> Turn:
    """Decide a turn.

    Args:
        pressure: now.
        free_bytes: of the host.
        min_free: bytes that it keeps free.
        seen: the machines.
        shareable: small pages of each of their large pages that could share.
    """
    missing = max(-(-(SHORT_PER_CENT * min_free // 100 - free_bytes) // PAGE_BYTES), 0)
    threshold = break_threshold(free_bytes, min_free, _SMALL_PAGES)
    only_cold = not actions_in(pressure.state).break_all
    spared = [
        frozenset(
            number
            for number, count in counts.items()
            if count < threshold
            or (only_cold and (number not in each.watched or each.watched[number].level != COLD))
        )
        for each, counts in zip(seen, shareable, strict=True)
    ]
    pages = sum(each.memory.page_count for each in seen)
    part = sum(sum(counts.values()) for counts in shareable) / max(pages, 1)
    rate = scan_rate(pressure, missing, part, slow=_SLOW_PAGES, most=pages, within_s=_WITHIN_S)
    return Turn(missing, spared, max(round(rate * _TURN_S / _SMALL_PAGES), 1))


class ByPlan:
    """Ours: by states, cold large pages first, those that free most, and no more of them than it takes.

    It looks at all machines, and watches them, when one has come; the turns after that work with what was seen.
    """

    def __init__(self, planner: Planner, note: Callable[[State], None] = lambda _: None) -> None:
        """`planner` chooses; `note` is told the host's state at each turn."""
        self._planner = planner
        self._note = note
        self._pressure = Pressure(State.HIGH, is_short=False)
        self._seen: list[Seen] = []
        self._shareable: list[dict[int, int]] = []

    def act(self, host: Host) -> bool:
        """See `Policy`."""
        free_bytes = host.free_bytes
        self._pressure = next_pressure(self._pressure, free_bytes, host.min_free)
        self._note(self._pressure.state)
        if not self._pressure.is_short:
            return False
        if len(self._seen) != len(host):
            self._seen = host.see(activity=True)
            self._shareable = [shareable_pages(each, LARGE_PAGE_BYTES) for each in self._seen]
        turn = turn_of(self._pressure, free_bytes, host.min_free, self._seen, self._shareable)
        if not turn.target_pages:
            return False
        choice = [each._replace(spared=spared) for each, spared in zip(self._seen, turn.spared, strict=True)]
        breaks = self._planner(choice, turn.target_pages, LARGE_PAGE_BYTES)[: turn.most_large_pages]
        host.break_up(breaks)
        for machine, number in breaks:
            seen = self._seen[machine]
            self._seen[machine] = seen._replace(small_already=seen.small_already | {number})
        return bool(breaks)


def _wanted_free(host: Host) -> int:
    """Where memory is not short any more: all policies that stop stop there."""
    return SHORT_PER_CENT * host.min_free // 100
