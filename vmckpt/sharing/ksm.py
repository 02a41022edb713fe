"""The counters that Linux KSM would come to, from a table of equal pages or a histogram. Pure.

A frame of KSM serves at most `max_page_sharing` pages (256 as Linux comes). A content with more copies gets further
frames, each begun by two pages that found no other: so one page that is left over stays as it is, unshared. With
`use_zero_pages` on, zero pages are mapped to the kernel's own and counted apart; with it off they are a content like
any other. What KSM keeps for a page that it tracks is 64 bytes (Documentation/admin-guide/mm/ksm.rst: general_profit).
"""

import numpy as np
import numpy.typing as npt

from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.outcome import KsmForecast
from vmckpt.sharing.table import Numbers, SharingTable

__all__ = ["SHARE_CAP", "counters_of", "ksm_forecast"]

SHARE_CAP = 256
"""KSM's `max_page_sharing` as Linux comes."""

_ITEM_BYTES = 64  # struct ksm_rmap_item on a 64-bit kernel


def ksm_forecast(
    table: SharingTable, share_cap: int = SHARE_CAP, *, use_zero_pages: bool = True
) -> KsmForecast:
    """What KSM would count, were all pages of a table mergeable on one host.

    Args:
        table: over all images; KSM knows no trust groups.
        share_cap: how many pages may share a frame, at least 2.
        use_zero_pages: KSM's setting of that name.
    """
    single = table.distinct - len(table.hashes)
    copies, zero = table.copies, int(table.zero_pages.sum())
    if zero and not use_zero_pages:
        copies, zero = np.append(copies, zero), 0
    pages = single + int(copies.sum())
    contents = np.append(np.ones(len(copies), np.int64), single)
    return counters_of(np.append(copies, 1), contents, pages=pages, zero_pages=zero, share_cap=share_cap)


def counters_of(
    copies: Numbers,
    contents: Numbers | npt.NDArray[np.float64],
    *,
    pages: int,
    zero_pages: int,
    share_cap: int,
) -> KsmForecast:
    """The same from a histogram, be it counted or estimated.

    Args:
        copies: how many pages a content has, [kinds].
        contents: how many contents have so many, [kinds].
        pages: of all these contents.
        zero_pages: besides, mapped to the kernel's own.
        share_cap: how many pages may share a frame, at least 2.
    """
    left = copies % share_cap
    shared = round(float(((copies // share_cap + (left > 1)) * contents).sum()))
    unshared = min(round(float(contents[left == 1].sum())), pages)
    sharing = max(pages - shared - unshared, 0)
    profit = (sharing + zero_pages) * PAGE_BYTES - pages * _ITEM_BYTES
    return KsmForecast(shared, sharing, unshared, zero_pages, profit)
