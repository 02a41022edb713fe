"""A bounded pool of storage blocks as they were read: whoever wants one that is there needs no read.

    number ─▶ get ─▶ the block, or None ─▶ make_room: the least useful ones leave ─▶ (one read) ─▶ put

Blocks that still hold pages which nobody has brought are more useful than those that only duplicates may refer to: of
the spent ones only the last few are kept, and of each kind the one leaves first that was not used for longest. Called by
`store`.

`Buffers` is what they are read into, and what is decompressed goes to. Memory that the kernel has yet to give costs more
than reading into it (64 KiB: 40 µs against 10), and what was used a moment ago is still in the processor's cache: so
buffers are used again, the last one first, and lie in large pages.
"""

import contextlib
from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

from vmckpt.errors import VmckptError
from vmckpt.kernel.memory import Advice, Mapping

__all__ = ["Buffers", "Lease", "Pool"]

Block = TypeVar("Block")


class Pool(Generic[Block]):
    """Blocks by number.

    Attributes:
        used_bytes: what they take together.
    """

    def __init__(self, limit_bytes: int, most_spent: int | None = None) -> None:
        """Keep nothing yet.

        Args:
            limit_bytes: the most they take together; a single block may take more.
            most_spent: of spent ones no more than so many are kept; None: as there is room.
        """
        self._limit_bytes = limit_bytes
        self._most_spent = most_spent
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
        while self._blocks and (self.used_bytes + size_bytes > self._limit_bytes or self._has_too_many_spent):
            least_useful = next(iter(self._spent or self._blocks))
            gone.append(self._blocks[least_useful][0])
            self.drop(least_useful)
        return gone

    @property
    def _has_too_many_spent(self) -> bool:
        return self._most_spent is not None and len(self._spent) > self._most_spent

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


class Lease(NamedTuple):
    """A buffer that was taken, for as long as nobody else takes it."""

    buffers: "Buffers"
    number: int
    turn: int

    @property
    def holds(self) -> bool:
        """Whether what was put into the buffer is still there."""
        return self.buffers.turns[self.number] == self.turn


class Buffers:
    """Buffers of one size, used again and again. Whoever looks into one that was given back asks its lease first.

    Attributes:
        size_bytes: of each.
        turns: how often each was taken.
    """

    def __init__(self, size_bytes: int, count: int) -> None:
        """Make `count` buffers; they take memory as they are used.

        Raises:
            IoError: there is no room in the address space.
        """
        self.size_bytes = size_bytes
        mapping = Mapping.anonymous(size_bytes * count)
        with contextlib.suppress(VmckptError):  # a kernel without them
            mapping.advise(Advice.HUGEPAGE)
        view = mapping.view
        self._views = [view[at : at + size_bytes] for at in range(0, size_bytes * count, size_bytes)]
        self._free = list(range(count - 1, -1, -1))
        self._next = 0
        self.turns = [0] * count

    def take(self) -> tuple[int, memoryview]:
        """The first available buffer: its number and its bytes."""
        index = self._free.pop()
        self.turns[index] += 1
        return index, self._views[index]

    def give(self, index: int) -> None:
        """Take a buffer back."""
        self._free.append(index)

    def lease(self, index: int) -> Lease:
        """For who wants to know later whether the buffer was taken again."""
        return Lease(self, index, self.turns[index])

    def rotate(self) -> tuple[Lease, memoryview]:
        """Each buffer in turn, for who neither takes nor gives."""
        index = self._next
        self._next = (index + 1) % len(self.turns)
        self.turns[index] += 1
        return Lease(self, index, self.turns[index]), self._views[index]
