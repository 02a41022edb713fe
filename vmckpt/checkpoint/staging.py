"""The staging buffer: where memory blocks gather until they fill a storage block.

Blocks are copied in whole, one behind the other, and never straddle two storage blocks; when the next one does not fit,
the buffer goes to the file in one write (US 9,053,064, claim 1; Halite, ATC'13). There is one open buffer for each
stream (a vCPU, or the saver at rest), so that blocks touched together lie together.
"""

from vmckpt.checkpoint.block import MemoryBlock, pack_head, pack_record
from vmckpt.pages import Buffer

__all__ = ["StagingBuffer"]

MAX_BLOCKS = 1024  # blocks without stored pages take no room here, but the directory must stay small as well


class StagingBuffer:
    """A storage block being filled.

    Attributes:
        number: the number that the storage block will have.
        stream: whose blocks it takes.
    """

    def __init__(self, number: int, stream: int, capacity_bytes: int) -> None:
        self.number = number
        self.stream = stream
        self._payload = bytearray(capacity_bytes)
        self._used_bytes = 0
        self._records: list[bytes] = []

    @property
    def memory_blocks(self) -> int:
        """How many it holds."""
        return len(self._records)

    def fits(self, size_bytes: int) -> bool:
        """Whether another block of so many compressed bytes goes in."""
        return self._used_bytes + size_bytes <= len(self._payload) and len(self._records) < MAX_BLOCKS

    def append(self, block: MemoryBlock, payload: Buffer) -> int:
        """Copy a block in and return its slot.

        Args:
            block: what the directory will say but for where its pages lie, which is decided here.
            payload: its compressed pages.
        """
        start = self._used_bytes
        self._used_bytes += len(payload)
        self._payload[start : self._used_bytes] = payload
        self._records.append(pack_record(block, start, len(payload)))
        return len(self._records) - 1

    def seal(self, checkpoint_id: bytes, flags: int) -> tuple[bytes, memoryview]:
        """Head and payload of the storage block, valid until `reopen`."""
        payload = memoryview(self._payload)[: self._used_bytes]
        head = pack_head(self.number, checkpoint_id, self._records, payload, stream=self.stream, flags=flags)
        return head, payload

    def reopen(self, number: int) -> None:
        """Start over as storage block `number`."""
        self.number = number
        self._used_bytes = 0
        self._records = []
