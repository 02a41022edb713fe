"""What a save is asked for: values, checked before any work is done for them. Made by `api` from what people write."""

from typing import NamedTuple

from vmckpt.checkpoint.codec import Choice
from vmckpt.checkpoint.format import Limits
from vmckpt.errors import UsageError
from vmckpt.pages import PAGE_BYTES
from vmckpt.units import format_size

__all__ = ["STORAGE_BLOCK_BYTES", "Request", "check_blocks"]

STORAGE_BLOCK_BYTES = 1 << 20


class Request(NamedTuple):
    """How to save."""

    choice: Choice
    """Codec, level and memory block size."""
    storage_block_bytes: int
    layout: str
    """Order of memory blocks; one of `order.LAYOUTS`."""
    jobs: int
    """Worker processes."""
    dedup: bool
    """Store equal pages once."""
    force: bool
    """Replace an existing file."""


def check_blocks(request: Request) -> None:
    """Refuse block sizes that no checkpoint can have, before any work is done for them.

    Raises:
        UsageError: a size is no power of two or out of bounds.
    """
    memory_bytes = request.choice.memory_block_bytes
    for option, size_bytes, least, most, why in (
        ("--memory-block", memory_bytes, PAGE_BYTES, Limits.MEMORY_BLOCK_BYTES, ""),
        (
            "--storage-block",
            request.storage_block_bytes,
            2 * memory_bytes,
            Limits.STORAGE_BLOCK_BYTES,
            " (twice the memory block)",
        ),
    ):
        if not least <= size_bytes <= most or size_bytes & (size_bytes - 1):
            raise UsageError(
                f"{option} cannot be {size_bytes} bytes: expected a power of two "
                f"from {format_size(least)}{why} to {format_size(most)}"
            )
