"""What is left of a lazy restore that has ended, and for each page why it was brought and whether that was of use.

    states of pages (`residency`) + what was touched ─▶ page_kinds ─▶ a byte for each page, a number of PAGE_KINDS

Pure. Called by `figures`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vmckpt.charts.map import Kind
from vmckpt.pages import Buffer, PageRange
from vmckpt.restoring.log import Fault
from vmckpt.restoring.residency import ORIGIN_SHIFT, Origin, State

__all__ = ["PAGE_KINDS", "History", "page_kinds"]

PAGE_KINDS = (
    Kind("prefetched, used", "blue"),
    Kind("prefetched, not used", "sky"),
    Kind("on demand", "orange"),
    Kind("neighbours of those", "amber"),
    Kind("in the background", "grey"),
    Kind("zero, asked for", "purple"),
    Kind("given up by the guest", "green"),
    Kind("zero, not asked for", "pale"),
)
"""What a page of the map may be, from the lowest."""

_USED, _UNUSED, _DEMAND, _NEIGHBOUR, _BACKGROUND, _ZERO, _REMOVED, _UNTOUCHED = range(len(PAGE_KINDS))
_OF_ORIGIN = {
    Origin.NONE: _BACKGROUND,
    Origin.PREFETCH: _UNUSED,
    Origin.DEMAND: _DEMAND,
    Origin.NEIGHBOUR: _NEIGHBOUR,
    Origin.BACKGROUND: _BACKGROUND,
}


@dataclass(frozen=True, slots=True)
class History:
    """What is left of a restore that has ended, beside its report."""

    faults: Sequence[Fault]
    """In order."""
    start_ns: int
    """What the report's times count from, on the faults' scale."""
    cells: Buffer
    """A byte for each page, as `residency` has them."""
    touched: Sequence[PageRange]
    """What vCPUs touched, ascending."""


def page_kinds(cells: Buffer, touched: Sequence[PageRange]) -> bytearray:
    """For each page, as a byte, which of the map's kinds it is."""
    table_of = bytearray([_UNTOUCHED]) * 256
    for origin, kind in _OF_ORIGIN.items():
        table_of[State.PRESENT | origin << ORIGIN_SHIFT] = kind
        table_of[State.ZERO | origin << ORIGIN_SHIFT] = kind if origin == Origin.PREFETCH else _ZERO
    table_of[State.REMOVED] = _REMOVED
    kinds = bytearray(bytes(cells).translate(table_of))
    used = bytes([_USED if kind == _UNUSED else kind for kind in range(256)])
    for start, end in touched:
        kinds[start:end] = kinds[start:end].translate(used)
    return kinds
