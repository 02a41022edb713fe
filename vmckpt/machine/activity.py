"""How active large pages are: mapped small for a while, their pages in place, and what is touched counted.

    begin: demote, clear ─▶ (some time) ─▶ scan: count distinct pages touched, clear ─┬─ hot: promote at once
                                                ▲                                     └─ warm, cold ──┐
                                                └────── another signal to scan ───────────────────────┘  end: promote all

Only mappings change, so that an end costs nothing but writing the table ("temporarily demote", US 9,330,015; "clear,
scan, classify, rescan", US 9,501,422). Levels are pure; `ActivityTest` acts. Called by `breakups`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from vmckpt.machine.mappings import Mappings

__all__ = ["COLD", "HOT", "WARM", "Activity", "ActivityTest", "Thresholds", "level_of"]

HOT, WARM, COLD = "hot", "warm", "cold"


class Thresholds(NamedTuple):
    """Where hot begins and cold ends, in small pages touched of a large page's, as parts of them all."""

    hot: float = 0.25
    """So many, or more, in any scan: hot."""
    cold: float = 1 / 64
    """Fewer in every scan: cold; of 512, up to 7. Between the two: warm."""


class Activity(NamedTuple):
    """What was found of a large page."""

    large_page: int
    touched_pages: int
    """Distinct small pages touched, in the scan that found most."""
    scans: int
    level: str
    """`hot`, `warm` or `cold`."""


def level_of(touched: Sequence[int], pages: int, thresholds: Thresholds) -> str:
    """The level of a large page of `pages` small ones, of which each scan found so many touched."""
    most = max(touched)
    if most >= thresholds.hot * pages and most > 0:
        return HOT
    return COLD if most < thresholds.cold * pages else WARM


class ActivityTest:
    """A test that is under way. Belongs to the machine's thread."""

    def __init__(self, mappings: Mappings, numbers: Sequence[int], thresholds: Thresholds) -> None:
        """Demote those large pages that are large; those that are small already are watched as they are.

        Raises:
            UsageError: there is no such large page, or the machine does not run.
            WorkerError: a vCPU has ended.
        """
        self._mappings = mappings
        self._thresholds = thresholds
        self._demoted: set[int] = set()
        self._touched: dict[int, list[int]] = {number: [] for number in numbers}
        for number in numbers:
            mappings.large.pages_of(number)  # all, before anything is done
        for number in numbers:
            if mappings.demote(number):
                self._demoted.add(number)
        self._clear()

    def scan(self) -> list[Activity]:
        """Count what was touched since the last scan, and classify by all scans so far; hot ones are promoted.

        A large page that others have put together meanwhile is left out from then on.
        """
        mappings, table = self._mappings, self._mappings.table
        for number in set(self._touched) - mappings.small:
            del self._touched[number]
        if table is None:
            return []
        found = []
        for number, touched in self._touched.items():
            pages = mappings.large.pages_of(number)
            touched.append(table.touched_pages(pages))
            level = level_of(touched, pages.pages, self._thresholds)
            found.append(Activity(number, max(touched), len(touched), level))
        for activity in found:
            if activity.level == HOT and self._promote(activity.large_page):
                del self._touched[activity.large_page]
        self._clear()
        return found

    def end(self) -> None:
        """Promote what was demoted, and was not broken up since."""
        for number in list(self._demoted):
            self._promote(number)
        self._mappings.leave()

    def _promote(self, number: int) -> bool:
        if number not in self._demoted or number in self._mappings.broken:
            return False
        self._demoted.remove(number)
        self._mappings.promote(number)
        return True

    def _clear(self) -> None:
        table = self._mappings.table
        if table is not None:
            for number in self._touched:
                table.clear_touched(self._mappings.large.pages_of(number))
