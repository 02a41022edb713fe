"""Which pages a restored machine really touched, in their order: a small file for the next restore to go by.

    restore --record FILE ─▶ {"touched_pages": 1, "checkpoint_id": "...", "pages": [7, 3, ...]} ─▶ restore --order FILE

The next restore prefetches them in place of the active pages of the checkpoint, which stays as it is. First in the list
are the pages that were prefetched and used, in the order of the list they came from; then those that a vCPU waited for, as
the log has them; then the other ones that were touched, by number: they came with a block, and no trap told when.
Pure: text in, text out. Called by `lazy`.
"""

import json
from collections.abc import Iterable, Sequence

from vmckpt.errors import FormatError
from vmckpt.pages import PageRange

__all__ = ["packed_order", "touched_order", "unpacked_order"]

_VERSION = 1


def touched_order(
    prefetched: Iterable[int], faulted: Iterable[int], touched: Sequence[PageRange]
) -> list[int]:
    """Touched pages in the order in which to want them next time, each once.

    Args:
        prefetched: what was wanted this time, in that order.
        faulted: pages that vCPUs waited for, in that order.
        touched: all pages that vCPUs touched, as far as known; those of `faulted` count in any case.
    """
    known = {page for run in touched for page in range(*run)}
    used = [page for page in prefetched if page in known]
    return list(dict.fromkeys([*used, *faulted, *sorted(known)]))


def packed_order(pages: Sequence[int], checkpoint_id: bytes) -> str:
    """The file's text."""
    values = {"touched_pages": _VERSION, "checkpoint_id": checkpoint_id.hex(), "pages": list(pages)}
    return json.dumps(values, separators=(",", ":")) + "\n"


def unpacked_order(text: str, checkpoint_id: bytes, page_count: int) -> list[int]:
    """Read `packed_order` back.

    Raises:
        FormatError: it is something else, or belongs to another checkpoint.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("touched_pages") != _VERSION:
            raise ValueError(f"expected a list of touched pages of version {_VERSION}")
        if values["checkpoint_id"] != checkpoint_id.hex():
            raise ValueError(f"it belongs to the checkpoint {values['checkpoint_id']}")
        pages = values["pages"]
        if not isinstance(pages, list) or not all(
            type(page) is int and 0 <= page < page_count for page in pages
        ):
            raise ValueError(f"expected page numbers from 0 to {page_count - 1}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"this is no order of pages for the checkpoint: {error}") from error
    return pages
