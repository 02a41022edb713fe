"""The counters that Linux KSM would come to, from a table of equal pages. Pure.

A frame of KSM serves at most `max_page_sharing` pages (256 as Linux comes): a content with more copies gets further
frames. With `use_zero_pages` on, zero pages are mapped to the kernel's own and counted apart. What KSM keeps for a page
that it tracks is 64 bytes (Documentation/admin-guide/mm/ksm.rst: general_profit).
"""

import numpy as np

from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.outcome import KsmForecast
from vmckpt.sharing.table import SharingTable

__all__ = ["SHARE_CAP", "ksm_forecast"]

SHARE_CAP = 256
"""KSM's `max_page_sharing` as Linux comes."""

_ITEM_BYTES = 64  # struct rmap_item on a 64-bit kernel


def ksm_forecast(table: SharingTable, share_cap: int = SHARE_CAP) -> KsmForecast:
    """What KSM would count, were all pages of a table mergeable on one host.

    Args:
        table: over all images.
        share_cap: how many pages may share a frame, at least 2.
    """
    frames = int(np.sum(-(-table.copies // share_cap)))
    pages = int((table.page_counts - table.zero_pages).sum())
    shared, sharing = frames, len(table.places) - frames
    zero = int(table.zero_pages.sum())
    profit = (sharing + zero) * PAGE_BYTES - pages * _ITEM_BYTES
    return KsmForecast(shared, sharing, pages - len(table.places), zero, profit)
