"""Which pages vCPUs have touched, as their page tables tell: what a restore brings gets into none of these by itself.

    page table of each vCPU ─▶ runs of pages ─▶ one list ─▶ how many of them had been brought, and why

Called by `lazy`.
"""

import re
from collections.abc import Iterable, Sequence

from vmckpt.kernel.pagemap import Category, Pagemap
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.restoring.residency import ORIGIN_SHIFT, Origin, Residency, State

__all__ = ["merged", "noted_in", "touched_by", "used_of"]


def touched_by(pid: int, address: int, size_bytes: int) -> list[PageRange]:
    """The pages that a process has mapped of the memory that lies at `address` there, ascending.

    Raises:
        FeatureError, IoError: this process may not look.
    """
    with Pagemap(pid) as pagemap:
        return [
            PageRange((run.start - address) // PAGE_BYTES, (run.end - address) // PAGE_BYTES)
            for run in pagemap.runs(address, address + size_bytes, Category.PRESENT)
        ]


def noted_in(touched: memoryview) -> list[PageRange]:
    """The pages whose byte is not 0, ascending; that is how vCPUs without userfaultfd note what they touch."""
    return [PageRange(*run.span()) for run in re.finditer(rb"[^\0]+", touched)]


def merged(runs: Iterable[PageRange]) -> list[PageRange]:
    """Runs in any order, as ascending ones that do not overlap."""
    together: list[PageRange] = []
    for run in sorted(runs):
        if together and run.start <= together[-1].end:
            together[-1] = PageRange(together[-1].start, max(together[-1].end, run.end))
        else:
            together.append(run)
    return together


def used_of(residency: Residency, touched: Sequence[PageRange]) -> dict[Origin, int]:
    """How many of the touched pages were brought for each reason."""
    used = dict.fromkeys(Origin, 0)
    for start, end in touched:
        part = bytes(residency.cells[start:end])
        for origin in used:
            used[origin] += part.count(State.PRESENT | origin << ORIGIN_SHIFT)
        used[Origin.PREFETCH] += part.count(State.ZERO | Origin.PREFETCH << ORIGIN_SHIFT)
    return used
