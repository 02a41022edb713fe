"""What an estimate will take before it is begun: time and memory. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from vmckpt.pages import PAGE_BYTES

__all__ = ["Forecast", "forecast_of"]

HASH_BYTES_PER_S = 3 << 30
"""What one processor hashes of an image in the page cache, start-up left out; measured (docs/fleets.md)."""
KEPT_HASHES_PAGES_PER_S = 2_600_000
"""What is read of the hashes that a checkpoint brings."""
SORT_PAGES_PER_S = 4_000_000
"""What is sorted and joined into the table."""

_BASE_BYTES = 60 << 20  # the interpreter and numpy
_PAGE_MEMORY_BYTES = 36  # twelve for the hash, up to 16 for a row of the table, the rest while it is made
_ANSWER_BYTES = 16  # a row of the table, for each page that has an equal: how many have is not known before
_KEPT_MEMORY_BYTES = 64  # of a sample: kept, sorted, joined
_HEAVY_BYTES = 48 << 20


class Forecast(NamedTuple):
    """What to expect."""

    read_bytes: int
    """Memory that will be read and hashed."""
    duration_s: float
    memory_bytes: int
    """The most that the process that coordinates will hold."""


def forecast_of(
    image_pages: Sequence[int],
    checkpoint_pages: Sequence[int] = (),
    *,
    fraction: float = 1.0,
    jobs: int = 1,
    memory_limit_bytes: int | None = None,
    bytes_per_s: float | None = None,
) -> Forecast:
    """Say what an estimate will take.

    Args:
        image_pages: small pages of each image that must be read; those of holes left out, if that is known.
        checkpoint_pages: of each that brings its hashes.
        fraction: of contents that are kept.
        jobs: processors that hash.
        memory_limit_bytes: what spilling engines are held to, the answer on top.
        bytes_per_s: what was measured on the first batches, all processors together; None: what is usual.
    """
    read = sum(image_pages) * PAGE_BYTES
    pages = sum(image_pages) + sum(checkpoint_pages)
    rate = bytes_per_s or HASH_BYTES_PER_S * jobs
    kept = pages * fraction
    duration = read / rate + sum(checkpoint_pages) / KEPT_HASHES_PAGES_PER_S + kept / SORT_PAGES_PER_S
    memory = kept * (_PAGE_MEMORY_BYTES if fraction >= 1 else _KEPT_MEMORY_BYTES)
    if fraction < 1:
        memory += _HEAVY_BYTES
    if memory_limit_bytes is not None:
        memory = min(memory, memory_limit_bytes + kept * _ANSWER_BYTES)
    return Forecast(read, duration, _BASE_BYTES + int(memory))
