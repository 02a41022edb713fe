"""What to bring before anybody asks for it, and in which order: planned without reading a page.

    active pages (in the order of their first touch at the save) ─▶ cut ─▶ halo ─▶ by storage block ─▶ Trips

The pages were touched in one order and lie in the file in another; they are fetched in the order of the file, in one
sequential pass, as none of them helps before all are there (VEE'11, 3). Pure. Called by `handler`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from vmckpt.checkpoint.file import Place
from vmckpt.errors import UsageError
from vmckpt.pages import PageRange

__all__ = ["Amount", "Prefetch", "Trip", "parse_amount", "plan_prefetch", "trips_of", "with_halo"]


class Amount(NamedTuple):
    """How much of the active pages to bring before the vCPUs start; the rest follows while they run."""

    pages: int | None = None
    """So many; None: see `fraction`."""
    fraction: float = 1.0
    """This part of all of them."""

    def of(self, count: int) -> int:
        """How many of `count` pages that is."""
        return min(round(count * self.fraction) if self.pages is None else self.pages, count)


def parse_amount(text: str) -> Amount:
    """The amount that a number of pages (`5000`), or a fraction (`0.5`, `1.0`), stands for.

    Raises:
        UsageError: it is neither.
    """
    try:
        if text.isascii() and text.isdigit():
            return Amount(pages=int(text))
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise UsageError(
            f"{text!r} is no amount of pages: expected a number of pages, or a fraction as in 0.5"
        )
    return Amount(fraction=fraction)


class Prefetch(NamedTuple):
    """Pages to bring, each once."""

    first: Sequence[int]
    """Before the vCPUs start."""
    rest: Sequence[int]
    """As soon as they run."""


class Trip(NamedTuple):
    """What to fetch from one storage block."""

    storage_block: int
    """-1: nothing, the pages are zero."""
    wanted: Sequence[tuple[Place | None, Sequence[int]]]
    """Memory blocks by slot, with the pages wanted of each."""


def plan_prefetch(active: Iterable[int], amount: Amount, *, halo_pages: int, page_count: int) -> Prefetch:
    """Which pages to bring.

    Args:
        active: in the order in which they were touched.
        amount: of them, before the vCPUs start.
        halo_pages: that many neighbours on both sides of each count as active, too.
        page_count: of memory; what lies outside is left out.
    """
    known = list(dict.fromkeys(page for page in active if 0 <= page < page_count))
    count = amount.of(len(known))
    first = with_halo(known[:count], halo_pages, page_count)
    brought = set(first)
    rest = [page for page in with_halo(known[count:], halo_pages, page_count) if page not in brought]
    return Prefetch(first, rest)


def with_halo(pages: Sequence[int], halo_pages: int, page_count: int) -> list[int]:
    """The pages, and their neighbours, each once."""
    if not halo_pages:
        return list(pages)
    around = range(-halo_pages, halo_pages + 1)
    return list(dict.fromkeys(page + off for page in pages for off in around if 0 <= page + off < page_count))


def trips_of(pages: Iterable[int], block_pages: int, place_of: Callable[[int], Place | None]) -> list[Trip]:
    """Group pages by where they lie, in the order of the file; zero pages come first, for they cost nothing."""
    by_block: dict[int, list[int]] = {}
    for page in pages:
        by_block.setdefault(page // block_pages, []).append(page)
    by_storage: dict[int, list[tuple[Place | None, list[int]]]] = {}
    for block in sorted(by_block):
        place = place_of(block)
        number = -1 if place is None else place.storage_block
        by_storage.setdefault(number, []).append((place, sorted(by_block[block])))
    return [
        Trip(number, sorted(wanted, key=lambda each: (each[0] or Place(0, 0)).slot))
        for number, wanted in sorted(by_storage.items())
    ]


def runs_of(pages: Sequence[int]) -> Iterable[PageRange]:
    """Ascending pages as runs."""
    start = end = -1
    for page in pages:
        if page != end:
            if end > start:
                yield PageRange(start, end)
            start = page
        end = page + 1
    if end > start:
        yield PageRange(start, end)
