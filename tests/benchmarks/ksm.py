"""What Linux KSM makes of an image, against the forecast of its counters and the plan.

    image ─▶ table ─▶ forecast, plan
      └▶ mergeable memory ─▶ KSM to the end ─▶ counters        small pages, `use_zero_pages` on and off, two caps of sharers
                                            └▶ large pages split        large pages, those only that hold data

KSM is one for the whole machine: it is tried out only where nobody uses it, and left as it was.
"""

import os
import sys
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np

from tests.benchmarks.cases import FORECAST, KSM, KSM_CASES, OF_SPLIT, OFF_BY, PLAN, KsmCase
from tests.benchmarks.images import Image
from tests.benchmarks.results import Reading
from vmckpt import api
from vmckpt.errors import FeatureError, IoError, VmckptError
from vmckpt.kernel import ksm
from vmckpt.kernel.memory import Advice, Mapping
from vmckpt.layout import PAGE_BYTES
from vmckpt.sharing.hashes import PageHashes, hashes_of
from vmckpt.sharing.ksm import ksm_forecast
from vmckpt.sharing.large import LargePages, large_pages_of
from vmckpt.sharing.plan import plan_of
from vmckpt.sharing.table import SharingTable, table_of

__all__ = ["LARGE_PAGE_BYTES", "MOST_BYTES", "measure_ksm", "off_by"]

LARGE_PAGE_BYTES = 2 << 20
MOST_BYTES = 1 << 30
"""Larger images are left out: all their pages have to be in memory at once."""
PART = 0.95
"""Of what KSM frees, so much is planned for."""

_LEAST_SCANS = (
    3  # a page is merged at the second that sees it unchanged; the third sees that nothing more comes
)
_LIMIT_S = 180.0
_FAST = {"pages_to_scan": 1_000_000, "sleep_millisecs": 0}


class _Known(NamedTuple):
    """An image, and what is computed from it."""

    image: Image
    pages: PageHashes
    table: SharingTable
    large: LargePages


def measure_ksm(image: Image) -> Iterator[Reading]:
    """Readings, or one with a note of the reason why there are none."""
    try:
        yield from _measured(image)
    except VmckptError as error:
        yield Reading("sharing-ksm", image.name, "", "", "pages", note=str(error))
    finally:
        sys.stderr.write("\n")


def off_by(expected: int, found: int) -> float:
    """By which part of what was found the expected number is wrong."""
    return abs(expected - found) / found if found else float(expected != found)


def _measured(image: Image) -> Iterator[Reading]:
    if reason := ksm.lacks():
        raise FeatureError(f"cannot try KSM out: {reason}")
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if image.size_bytes > min(MOST_BYTES, free_bytes // 2):
        raise IoError("its pages do not fit in memory beside everything else")
    with api.open_source(image.path) as source:
        pages = hashes_of(source, jobs=os.cpu_count() or 1)
    known = _Known(image, pages, table_of([pages]), large_pages_of([pages], LARGE_PAGE_BYTES))
    for case in KSM_CASES:
        yield from _counted(known, case)
        sys.stderr.write(".")
        sys.stderr.flush()
    yield from _split(known)


def _counted(known: _Known, case: KsmCase) -> Iterator[Reading]:
    """The counters with small pages only, where KSM finds every page that is there."""
    settings = {
        **_FAST,
        "use_zero_pages": int(case.use_zero_pages),
        "max_page_sharing": case.share_cap,
    }
    before = ksm.counters()  # the kernel goes on counting zero pages of some processes that are long gone
    with ksm.tuned(settings), _Memory(known, large=False):
        found = ksm.scan(_LEAST_SCANS, _LIMIT_S)
    forecast = ksm_forecast(known.table, case.share_cap, use_zero_pages=case.use_zero_pages)
    both = {
        "pages_shared": (forecast.pages_shared, found.pages_shared),
        "pages_sharing": (forecast.pages_sharing, found.pages_sharing),
        "zero pages": (forecast.zero_pages, found.ksm_zero_pages - before.ksm_zero_pages),
        "general_profit": (
            forecast.general_profit_bytes // PAGE_BYTES,
            (found.general_profit - before.general_profit) // PAGE_BYTES,
        ),
    }
    worst = 0.0
    for quantity, (expected, counted) in both.items():
        yield _reading(known, case.of(KSM), quantity, counted, ours=False)
        yield _reading(known, case.of(FORECAST), quantity, expected)
        worst = max(worst, off_by(expected, counted))
    yield Reading("sharing-ksm", known.image.name, case.of(FORECAST), OFF_BY, "part", (worst,))


def _split(known: _Known) -> Iterator[Reading]:
    """How many large pages KSM splits to free everything, and the plan takes for the most of it."""
    with ksm.tuned({**_FAST, "use_zero_pages": 1}), _Memory(known, large=True) as memory:
        backed, before = memory.large_pages(), ksm.split_count()
        ksm.scan(_LEAST_SCANS, _LIMIT_S)
        split, after = backed - memory.large_pages(), ksm.split_count()
    if not split or after - before < split:
        raise FeatureError(f"KSM split {split} of {backed} large pages: this kernel gives none that it could")
    target = int(np.ceil(PART * known.table.reclaimable))
    plan = plan_of(known.table, known.large, target, count_zero=False)
    yield _reading(known, KSM, "large pages split for all", split, ours=False)
    yield _reading(known, PLAN, "large pages with any duplicate", len(plan.curves["gain"]))
    yield _reading(known, PLAN, "large pages for 95 %", len(plan.large_pages))
    yield _reading(known, PLAN, "large pages for 95 %, at least", plan.least)
    part = len(plan.large_pages) / split
    yield Reading("sharing-ksm", known.image.name, PLAN, OF_SPLIT, "part", (part,))


def _reading(known: _Known, contender: str, quantity: str, value: int, *, ours: bool = True) -> Reading:
    return Reading("sharing-ksm", known.image.name, contender, quantity, "pages", (float(value),), ours=ours)


class _Memory:
    """An image in mergeable memory of this process, from the first full scan on that comes."""

    def __init__(self, known: _Known, *, large: bool) -> None:
        """Map it.

        Args:
            known: the image.
            large: in large pages, and of these only those that hold data: nothing is known of what a guest has not
                touched. Otherwise all of it in small ones.
        """
        size_bytes = known.image.size_bytes
        self._mapping = Mapping.anonymous(size_bytes + LARGE_PAGE_BYTES)
        try:
            self._mapping.advise(Advice.HUGEPAGE if large else Advice.NOHUGEPAGE)
            self._mapping.advise(Advice.MERGEABLE)
            self._load(known, only_data=large)
        except BaseException:
            self._mapping.close()
            raise

    def _load(self, known: _Known, *, only_data: bool) -> None:
        start = -self._mapping.address % LARGE_PAGE_BYTES
        data = known.large.small_pages > known.large.zero_pages
        numbers = known.large.numbers[data] if only_data else known.large.numbers
        with open(known.image.path, "rb", buffering=0) as file, self._mapping.view as view:
            for number in numbers.tolist():
                offset = number * LARGE_PAGE_BYTES
                length = min(LARGE_PAGE_BYTES, known.image.size_bytes - offset)
                file.seek(offset)
                with view[start + offset : start + offset + length] as part:
                    file.readinto(part)

    def large_pages(self) -> int:
        """How many large pages back it now."""
        end = self._mapping.address + self._mapping.size_bytes
        bytes_ = 0
        with open("/proc/self/smaps", encoding="utf-8") as file:
            inside = False
            for line in file:
                first = line.split(maxsplit=1)[0]
                if not first.endswith(":"):
                    low, high = (int(address, 16) for address in first.split("-"))
                    inside = low < end and high > self._mapping.address
                elif inside and first == "AnonHugePages:":
                    bytes_ += int(line.split()[1]) << 10
        return bytes_ // LARGE_PAGE_BYTES

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._mapping.close()
