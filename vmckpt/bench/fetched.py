"""How well the storage blocks that faults brought were chosen: the share of their other pages that was used later. Pure.

    storage block ─▶ its pages        faults ─▶ blocks read        touched pages
            └──────────────┬─────────────────┴────────────────────────┘
                    Fetched: blocks, other pages, those of them that were used

A block's *other* pages are all but the one it was read for (Halite, ATC'13, table 1). Used by `restored`.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from vmckpt.restoring.log import Fault, FaultKind
from vmckpt.restoring.store import Store

__all__ = ["Fetched", "fetched_by", "pages_by_storage_block"]


class Fetched(NamedTuple):
    """What came with the pages that were asked for."""

    storage_blocks: int
    """Read for a fault, each counted once."""
    other_pages: int
    """That lie in them, beside the one that each was read for."""
    used_pages: int
    """Those of the others that a vCPU touched."""

    @property
    def share(self) -> float | None:
        """The part of the other pages that was used; None where there were no others."""
        return self.used_pages / self.other_pages if self.other_pages else None


def fetched_by(
    faults: Iterable[Fault], pages: Mapping[int, Collection[int]], touched: Collection[int]
) -> Fetched:
    """What the reads of a restore brought.

    Args:
        faults: its log.
        pages: those that are not zero, of each storage block.
        touched: pages that vCPUs touched.
    """
    numbers = {fault.storage_block for fault in faults if fault.kind == FaultKind.READ}
    read = [number for number in numbers if number is not None]
    others = sum(max(len(pages.get(number, ())) - 1, 0) for number in read)
    used = sum(max(sum(page in touched for page in pages.get(number, ())) - 1, 0) for number in read)
    return Fetched(len(read), others, used)


def pages_by_storage_block(path: str) -> dict[int, list[int]]:
    """The pages that are not zero, of each storage block of a checkpoint.

    Raises:
        FormatError, CorruptionError, IoError: it cannot be read.
    """
    found: dict[int, list[int]] = {}
    with Store.open(path) as store:
        for number, place in sorted(store.places(), key=lambda each: each[1]):
            pages = found.setdefault(place.storage_block, [])
            for run in store.data_runs(number, place):
                pages += range(*run)
    return found
