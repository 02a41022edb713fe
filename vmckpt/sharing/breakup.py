"""Large pages of a running machine broken up, from outside: what to ask its supervisor for, a piece at a time.

    watch: low-activity test ─▶ touched parts ─┐
    look:  page hashes, read while it runs ────┴▶ planner ─▶ numbers ─▶ break_up ─▶ BreakUpReport

The supervisor carries out each piece (`machine.breakups`), comparing bytes; here it is only decided what comes next. All
that costs time (hashes, the plan) is spent in this process. Called by the command `vm break-up`, and by `bench overcommit`.
"""

import select
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from vmckpt.errors import IoError, SourceError, UsageError
from vmckpt.machine.activity import Thresholds
from vmckpt.machine.client import Conversation
from vmckpt.machine.large import LARGE_PAGE_BYTES
from vmckpt.pages import PAGE_BYTES
from vmckpt.reports import Progress
from vmckpt.saving.guest import NO_TRACES, Guest
from vmckpt.sharing.hashes import PageHashes, hashes_of
from vmckpt.units import format_size

__all__ = [
    "BreakUpReport",
    "Planner",
    "Seen",
    "Watched",
    "break_up",
    "broken_of",
    "look",
    "target_of",
    "watch",
]

_PIECE = 16  # large pages in a request: some ten milliseconds


class Watched(NamedTuple):
    """What the low-activity test found of a large page."""

    touched_part: float
    """Distinct small pages touched, of all: in the scan that found most."""
    level: str
    """`hot`, `warm` or `cold`."""


class Seen(NamedTuple):
    """What is known of a machine that runs."""

    memory: PageHashes
    watched: Mapping[int, Watched] = MappingProxyType({})
    """By large page; empty where nobody watched."""
    small_already: frozenset[int] = frozenset()
    """Large pages that are broken already."""
    spared: frozenset[int] = frozenset()
    """Large pages that are not to be broken."""


class Planner(Protocol):
    """Chooses large pages."""

    def __call__(
        self, seen: Sequence[Seen], target_pages: int, large_page_bytes: int
    ) -> Sequence[tuple[int, int]]:
        """Break-ups that free `target_pages`, the fewest and coldest; all that help, should that be less.

        Each is the position of a machine in `seen`, and the number of a large page.
        """


class BreakUpReport(NamedTuple):
    """What breaking up large pages came to."""

    broken_large_pages: int
    """Large pages that are mapped small now, and were not before."""
    freed_pages: int
    """Pages that gave up a frame of their own."""
    shared_pages: int
    """Pages of the machine that share their memory now, those from before included; the zero page counts as shared."""
    unshared_pages: int
    """Pages that were written to meanwhile, and have memory of their own again."""
    differed_pages: int
    """Pages that had the hash of another one and, when it was looked at closely, not its bytes."""
    resident_pages_before: int
    resident_pages_after: int
    """Pages that take memory of the host."""
    large_pages: int
    """Large pages left."""
    elapsed_s: float


def break_up(
    conversation: Conversation,
    numbers: Sequence[int],
    *,
    large_page_bytes: int = LARGE_PAGE_BYTES,
    progress: Progress | None = None,
    enough: Callable[[int], bool] = lambda _: False,
) -> BreakUpReport:
    """Break up large pages while the machine goes on.

    Args:
        conversation: with the machine.
        numbers: of the large pages, in this order.
        large_page_bytes: their size.
        progress: told (done bytes, total bytes) of the large pages.
        enough: asked after each piece with the pages freed so far whether to leave it at that.

    Raises:
        UsageError: there is no such large page, or the machine is being saved or restored.
        IoError: the machine has ended.
    """
    started_s = time.monotonic()
    before = conversation.ask("status").values
    broken = freed = differed = 0
    for first in range(0, len(numbers), _PIECE):
        piece = list(numbers[first : first + _PIECE])
        asked = {"large_pages": piece, "large_page_bytes": large_page_bytes}
        answer = conversation.ask("break-up", asked).values
        broken += _number(answer, "broken_large_pages")
        freed += _number(answer, "freed_pages")
        differed += _number(answer, "differed_pages")
        if progress is not None:
            progress((first + len(piece)) * large_page_bytes, len(numbers) * large_page_bytes)
        if enough(freed):
            break
    after = conversation.ask("status").values
    return BreakUpReport(
        broken_large_pages=broken,
        freed_pages=freed,
        shared_pages=_number(after, "shared_pages"),
        unshared_pages=_number(after, "unshared_pages") - _number(before, "unshared_pages"),
        differed_pages=differed,
        resident_pages_before=_number(before, "resident_pages"),
        resident_pages_after=_number(after, "resident_pages"),
        large_pages=_number(after, "large_pages"),
        elapsed_s=time.monotonic() - started_s,
    )


def watch(
    conversation: Conversation,
    *,
    seconds: float,
    scans: int = 2,
    large_page_bytes: int = LARGE_PAGE_BYTES,
    thresholds: Thresholds = Thresholds(),  # noqa: B008 immutable
) -> dict[int, Watched]:
    """Test how active each large page is, for `seconds` in all.

    Raises:
        UsageError: the machine is being saved or restored, or somebody else tests it.
        IoError: the machine has ended.
    """
    begin = {"large_page_bytes": large_page_bytes, "hot": thresholds.hot, "cold": thresholds.cold}
    tested = _number(conversation.ask("activity-begin", begin).values, "tested_large_pages")
    small_pages = large_page_bytes // PAGE_BYTES
    found: dict[int, Watched] = {}
    for _ in range(scans if tested else 0):
        _wait(conversation, seconds / scans)
        for each in _list(conversation.ask("activity-scan").values, "activity"):
            touched = _number(each, "touched_pages")
            found[_number(each, "large_page")] = Watched(min(touched / small_pages, 1.0), str(each["level"]))
    conversation.ask("activity-end")
    return found


def broken_of(conversation: Conversation) -> tuple[frozenset[int], int]:
    """The large pages of a machine that are broken already, and the size of its large pages.

    Raises:
        IoError: the machine has ended.
    """
    answer = conversation.ask("broken").values
    numbers = answer.get("broken")
    if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
        raise SourceError(f"what listens there does not answer as a machine does: broken is {numbers!r:.40}")
    return frozenset(numbers), _number(answer, "large_page_bytes")


def look(
    conversation: Conversation,
    name: str,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> PageHashes:
    """The page hashes of a machine, read while it goes on.

    Raises:
        UsageError: the machine is being saved.
        IoError: the machine has ended.
    """
    with Guest(conversation, NO_TRACES, "auto") as guest:
        try:
            with guest.memory() as memory:
                hashes = hashes_of(memory, jobs=jobs, progress=progress)
        finally:
            guest.end(stop=False)
    return PageHashes(name, hashes.layout, hashes.pages, hashes.hashes, hashes.active)


def target_of(size_bytes: int, memory_bytes: int) -> int:
    """The pages of a target.

    Raises:
        UsageError: it is nothing, or more than the machine has.
    """
    if not 0 < size_bytes <= memory_bytes:
        raise UsageError(
            f"cannot free {format_size(size_bytes)} of a machine with {format_size(memory_bytes)}: expected more than "
            "nothing, and no more than that"
        )
    return -(-size_bytes // PAGE_BYTES)


def _wait(conversation: Conversation, seconds: float) -> None:
    """Let the machine work for so long.

    Raises:
        IoError: it has ended.
    """
    poll = select.poll()
    poll.register(conversation.fileno(), select.POLLIN)
    if poll.poll(seconds * 1000):
        raise IoError("the machine ended while it was watched")


def _number(values: Mapping[str, object], name: str) -> int:
    value = values.get(name)
    if type(value) is not int:
        raise SourceError(f"what listens there does not answer as a machine does: {name} is {value!r:.40}")
    return value


def _list(values: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    value = values.get(name)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise SourceError(f"what listens there does not answer as a machine does: {name} is {value!r:.40}")
    return value
