"""A storage block's directory, read record by record as they are asked for.

    head ─▶ checksum ─▶ where each record starts (a few bytes of each are looked at) ─▶ [slot] ─▶ one record, checked

A fault needs one memory block of a storage block that may hold dozens, and taking all of their records apart would take
longer than reading the block. Called by whoever wants few of many; `block.unpack_head` is for who wants all.
"""

import struct
from collections.abc import Sequence
from typing import overload

from vmckpt.checkpoint.block import MemoryBlock, StorageBlock, unpack_record, unpack_storage_head
from vmckpt.checkpoint.format import RECORD, REFERENCE, Header, StorageHeader
from vmckpt.errors import CorruptionError
from vmckpt.pages import Buffer

__all__ = ["Directory", "skim_head"]

_COUNTS = struct.Struct("<Q14xHHHH2x")  # of a record: memory block, pages, stored, pattern, duplicate
assert _COUNTS.size == RECORD.size
_HASH_BYTES = _WORD_BYTES = 8


class Directory(Sequence[MemoryBlock]):
    """The memory blocks of a storage block, by slot. What is taken out of it is proved, as `block.unpack_head` does.

    Attributes:
        numbers: the number of each memory block, by slot, before it is proved.
    """

    __slots__ = ("_blocks", "_directory", "_header", "_starts", "_storage", "numbers")

    def __init__(self, directory: bytes, header: Header, storage: StorageHeader) -> None:
        """Look where the records start.

        Raises:
            CorruptionError: they do not end where the directory ends.
        """
        self._directory = directory
        self._header = header
        self._storage = storage
        self._starts: list[int] = []
        self.numbers: list[int] = []
        self._blocks: dict[int, MemoryBlock] = {}
        at, end = 0, len(directory)
        for _ in range(storage.memory_blocks):
            if end - at < RECORD.size:
                raise CorruptionError(f"storage block {storage.number}'s directory ends within a record")
            self._starts.append(at)
            number, pages, stored, pattern, duplicate = _COUNTS.unpack_from(directory, at)
            self.numbers.append(number)
            at += (
                RECORD.size
                + pages
                + _HASH_BYTES * (stored + duplicate)
                + _WORD_BYTES * pattern
                + REFERENCE.size * duplicate
            )
        if at != end:
            raise CorruptionError(
                f"storage block {storage.number}'s directory has {end} bytes, and its records take {at}"
            )

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, slot: int) -> MemoryBlock: ...

    @overload
    def __getitem__(self, slot: slice) -> Sequence[MemoryBlock]: ...

    def __getitem__(self, slot: int | slice) -> MemoryBlock | Sequence[MemoryBlock]:
        if isinstance(slot, slice):
            return [self[each] for each in range(*slot.indices(len(self)))]
        found = self._blocks.get(slot)
        if found is None:
            found, _ = unpack_record(self._directory, self._starts[slot], self._header, self._storage)
            self._blocks[slot] = found
        return found


def skim_head(data: Buffer, header: Header) -> StorageBlock:
    """A storage block's header and directory, as `block.unpack_head`; a record is proved when it is taken out.

    Raises:
        CorruptionError: the bytes contradict their checksum, each other, or the limits.
    """
    found, directory = unpack_storage_head(data, header)
    return StorageBlock(found, Directory(directory, header, found))
