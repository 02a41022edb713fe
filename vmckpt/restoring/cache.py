"""A bounded pool of storage blocks as they were read: whoever wants one that is there needs no read.

    number ─▶ get ─▶ the block, or None ─▶ make_room: the least useful ones leave ─▶ (one read) ─▶ put

Blocks that still hold pages which nobody has brought are more useful than those that only duplicates may refer to: the
spent ones leave first, and of each kind the one that was not used for longest. Called by `store`.

`Buffers` is what they are read into. Memory that the kernel has yet to give costs more than reading into it (64 KiB: 40 µs
against 10), so buffers are used again, and lie in large pages.
"""

import contextlib
from collections import OrderedDict
from typing import Generic, TypeVar

from vmckpt.errors import VmckptError
from vmckpt.kernel.memory import Advice, Mapping

__all__ = ["Buffers", "Pool"]

Block = TypeVar("Block")


class Pool(Generic[Block]):
    """Blocks by number.

    Attributes:
        used_bytes: what they take together.
    """

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes`: the most they take together; a single block may take more."""
        self._limit_bytes = limit_bytes
        self._blocks: OrderedDict[int, tuple[Block, int]] = OrderedDict()
        self._spent: OrderedDict[int, None] = OrderedDict()
        self.used_bytes = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, number: int) -> bool:
        return number in self._blocks

    def get(self, number: int) -> Block | None:
        """The block, which counts as used now; None where it is not here."""
        found = self._blocks.get(number)
        if found is None:
            return None
        self._blocks.move_to_end(number)
        if number in self._spent:
            self._spent.move_to_end(number)
        return found[0]

    def put(self, number: int, block: Block, size_bytes: int) -> None:
        """Keep a block."""
        self.drop(number)
        self._blocks[number] = (block, size_bytes)
        self.used_bytes += size_bytes

    def make_room(self, size_bytes: int) -> list[Block]:
        """Let blocks go until another of `size_bytes` fits, and return them."""
        gone = []
        while self._blocks and self.used_bytes + size_bytes > self._limit_bytes:
            least_useful = next(iter(self._spent or self._blocks))
            gone.append(self._blocks[least_useful][0])
            self.drop(least_useful)
        return gone

    def spend(self, number: int) -> None:
        """All pages of the block are in place: from now on it may leave before others."""
        if number in self._blocks:
            self._spent[number] = None

    def drop(self, number: int) -> None:
        """Let a block go, if it is here."""
        found = self._blocks.pop(number, None)
        if found is not None:
            self.used_bytes -= found[1]
            self._spent.pop(number, None)


class Buffers:
    """Buffers of one size, used again and again. Whoever gives one back must hold no view of it any more."""

    def __init__(self, size_bytes: int, count: int) -> None:
        """Make `count` buffers; they take memory as they are used.

        Raises:
            IoError: there is no room in the address space.
        """
        self.size_bytes = size_bytes
        mapping = Mapping.anonymous(size_bytes * count)
        with contextlib.suppress(VmckptError):  # a kernel without them
            mapping.advise(Advice.HUGEPAGE)
        self._view = mapping.view
        self._free = list(range(count - 1, -1, -1))

    def take(self) -> tuple[int, memoryview]:
        """The first available buffer: its number and its bytes."""
        index = self._free.pop()
        return index, self._view[index * self.size_bytes : (index + 1) * self.size_bytes]

    def give(self, index: int) -> None:
        """Take a buffer back."""
        self._free.append(index)
