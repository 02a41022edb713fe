"""Which pages a restored machine really touched, in their order: a small file for the next restore to go by.

    restore --record ─▶ CHECKPOINT.order ─▶ the next restore --lazy of it, by itself
    restore --record FILE ─▶ FILE ─▶ restore --order FILE
                      {"touched_pages": 1, "checkpoint_id": "...", "checksum": "...", "pages": [7, 3, ...]}

The next restore prefetches them in place of the active pages of the checkpoint, which stays as it is. First in the list
are the pages that were prefetched and used, in the order of the list they came from; then those that a vCPU waited for, as
the log has them; then the other ones that were touched, by number: they came with a block, and no trap told when.
What is read may be anything: wrong pages would cost time, never correctness. Called by `lazy` and `files`.
"""

import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence

from vmckpt.errors import FormatError, IoError, VmckptError
from vmckpt.hashing import checksum
from vmckpt.pages import PageRange
from vmckpt.restoring.handler import Wanted

__all__ = [
    "ordered",
    "packed_order",
    "read_order",
    "recorded_order",
    "recorded_path",
    "touched_order",
    "unpacked_order",
]

_VERSION = 1
_HEAD_BYTES = 1024


def touched_order(
    prefetched: Iterable[int], faulted: Iterable[int], touched: Iterable[PageRange]
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
    values = {
        "touched_pages": _VERSION,
        "checkpoint_id": checkpoint_id.hex(),
        "checksum": _checksum(pages),
        "pages": list(pages),
    }
    return json.dumps(values, separators=(",", ":")) + "\n"


def unpacked_order(text: str, checkpoint_id: bytes, page_count: int) -> list[int]:
    """Read `packed_order` back.

    Raises:
        FormatError: it is something else, or damaged, or belongs to another checkpoint.
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
        if values["checksum"] != _checksum(pages):
            raise ValueError("its pages are not those that were written")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"this is no order of pages for the checkpoint: {error}") from error
    return pages


def _checksum(pages: Sequence[int]) -> str:
    return f"{checksum(','.join(map(str, pages)).encode()):016x}"


def recorded_path(checkpoint: str) -> str:
    """Where the order lies that a restore of this checkpoint finds by itself."""
    return f"{checkpoint}.order"


def read_order(path: str, checkpoint_id: bytes, page_count: int) -> list[int]:
    """The pages of a file.

    Raises:
        FileNotFoundError: there is none.
        IoError: it cannot be read, or is no regular file.
        FormatError: as `unpacked_order`; or it is larger than any order of so many pages.
    """
    most_bytes = _HEAD_BYTES + page_count * (len(str(page_count)) + 1)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hold us up
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise IoError("cannot read the order of pages: this is no regular file", path=path)
            data = file.read(most_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IoError.of(error, "cannot read the order of pages", path=path) from error
    if len(data) > most_bytes:
        raise FormatError(f"this is no order of {page_count} pages: it is too large", path=path)
    try:
        return unpacked_order(data.decode("ascii", "replace"), checkpoint_id, page_count)
    except FormatError as error:
        error.path = path
        raise


def recorded_order(
    checkpoint: str, checkpoint_id: bytes, page_count: int, warn: Callable[[str], None]
) -> list[int] | None:
    """The order that was recorded beside a checkpoint; None where there is none, or none that is of use.

    Args:
        checkpoint: its path.
        checkpoint_id: of its header.
        page_count: of its memory.
        warn: told why a file that is there is not gone by.
    """
    try:
        return read_order(recorded_path(checkpoint), checkpoint_id, page_count)
    except FileNotFoundError:
        return None
    except VmckptError as error:
        warn(f"{error}; the pages active at the save come first instead, and --record writes it anew")
        return None


def ordered(
    wanted: Wanted,
    order: str | None,
    checkpoint: str,
    checkpoint_id: bytes,
    page_count: int,
    warn: Callable[[str], None] | None,
) -> tuple[Wanted, str]:
    """What to want in which order, and who said so, as in the report's `prefetch_from`.

    Args:
        wanted: so far.
        order: path of an order to go by; None: see `warn`.
        checkpoint: its path.
        checkpoint_id: of its header.
        page_count: of its memory.
        warn: go by the order that was recorded beside the checkpoint, if there is one; told why it is not gone by.

    Raises:
        IoError, FormatError: `order` cannot be read, or is none for the checkpoint.
    """
    if order is not None:
        try:
            return wanted._replace(active=read_order(order, checkpoint_id, page_count)), "order"
        except FileNotFoundError as error:
            raise IoError.of(error, "cannot read the order of pages", path=order) from error
    if wanted.active is not None:
        return wanted, "order" if wanted.active else "none"
    recorded = None if warn is None else recorded_order(checkpoint, checkpoint_id, page_count, warn)
    return (wanted, "active") if recorded is None else (wanted._replace(active=recorded), "recorded")
