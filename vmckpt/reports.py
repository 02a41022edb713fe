"""What the functions of the API answer: values with units in their names, and nothing to do in them.

Made by `api`, read by callers and by the command line, which turns them into tables or JSON. Named tuples rather than
dataclasses: making one class costs a tenth of the time, and every command pays for all of them at its start.
"""

from collections.abc import Callable
from typing import NamedTuple

from vmckpt.layout import Region
from vmckpt.pages import PageRange

__all__ = [
    "CheckpointInfo",
    "LiveReport",
    "PageCounts",
    "Problem",
    "Progress",
    "RebuildReport",
    "RestoreReport",
    "SaveReport",
    "VerifyReport",
]

Progress = Callable[[int, int], None]
"""Told (done bytes, total bytes) as work goes on, from the calling thread."""


class PageCounts(NamedTuple):
    """The pages of a memory by what a checkpoint says of them."""

    total: int
    zero: int
    pattern: int
    duplicate: int
    stored: int


class Problem(NamedTuple):
    """Something wrong with a checkpoint."""

    kind: str
    """`file`, `section`, `coverage`, `blocks`, `storage block` or `reference`."""
    offset: int | None
    """File offset where it shows, in bytes."""
    pages: tuple[PageRange, ...]
    """The pages whose content is lost or in doubt."""
    message: str


class LiveReport(NamedTuple):
    """How the save of a running machine went."""

    mode: str
    """`checkpoint` or `suspend`."""
    trace: str
    """`access`, `write`, `working-set` or `off`."""
    mechanism: str
    """`userfaultfd`, `software` or `none`."""
    pause_s: float
    """How long the vCPUs stood still; of a suspend, from the stop until all memory was in the file."""
    ops_at_checkpoint: tuple[int, ...]
    """Operations of each vCPU since boot at the moment that the file holds."""
    ops_per_s_before: float
    """Of all vCPUs, in the last second before the save."""
    ops_per_s_during: float
    """Of all vCPUs, while they worked under traces."""
    read_traps: int
    write_traps: int
    resaved_pages: int
    """Pages of blocks that were saved again (suspend)."""
    rounds: int
    """Rounds after the first (suspend)."""
    stopped_for: str
    """Why the machine was stopped when it was (suspend); else empty."""
    left_pages: int
    """Pages of blocks that were left for the pause (suspend)."""


class SaveReport(NamedTuple):
    """What a save or a conversion wrote."""

    memory_bytes: int
    file_bytes: int
    elapsed_s: float
    pages: PageCounts
    active_pages: int
    digest: str
    """32 hex digits."""
    codec: str
    memory_block_bytes: int
    storage_block_bytes: int
    storage_blocks: int
    live: LiveReport | None = None
    """Of a running machine only."""

    @property
    def ratio(self) -> float:
        """Bytes of memory for each byte of file."""
        return self.memory_bytes / self.file_bytes


class RestoreReport(NamedTuple):
    """What an eager restore wrote."""

    memory_bytes: int
    file_bytes: int
    elapsed_s: float
    digest: str
    format: str


class VerifyReport(NamedTuple):
    """What a verification found."""

    ok: bool
    problems: tuple[Problem, ...]
    memory_bytes: int
    """0 where the header itself is damaged."""
    storage_blocks: int
    elapsed_s: float


class RebuildReport(NamedTuple):
    """What making a new index came to."""

    memory_bytes: int
    file_bytes: int
    storage_blocks: int
    pages: PageCounts
    digest: str
    lost_sections: tuple[str, ...]
    """Sections of the old file that could not be kept."""
    elapsed_s: float


class CheckpointInfo(NamedTuple):
    """What a checkpoint says of itself."""

    format_version: int
    checkpoint_id: str
    memory_bytes: int
    page_bytes: int
    regions: tuple[Region, ...]
    pages: PageCounts
    active_pages: int
    codec: str
    memory_block_bytes: int
    storage_block_bytes: int
    storage_blocks: int
    file_bytes: int
    digest: str
    created: str
    """When the memory was taken: ISO 8601, UTC."""
    vcpu_state: bool
    metadata: dict[str, object]
