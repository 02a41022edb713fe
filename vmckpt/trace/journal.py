"""What the tracer process and the saver tell each other: memory that both map, where each field has one writer.

    field      of each    written by   meaning
    captures   block      tracer       0: as it was; n + 1: copied into slot n; RELEASED: was saved, and may have changed since
                          saver        RELEASED instead of n + 1: was copied, and the slot given back
    saved      block      saver        1: read while it was as it has to be; a copy is not needed any more
    dirty      block      both         the tracer sets it, the saver clears it (clear, then arm, then read)
    slots      block      tracer       the copies, one block long each
    log        trap       tracer       a ring of `Entry`, packed; the saver follows with a word that says how far
    freed      slot       saver        a ring of the slots given back; the tracer follows in its own memory

Two memfds, mapped shared before the fork, and sparse: memory is taken for what was logged, and for the copies that
waited at one time. There is a slot for each block, so the tracer never waits for the saver.
"""

import contextlib
import os
from collections import deque
from types import TracebackType
from typing import NamedTuple, Self

from vmckpt.errors import VmckptError
from vmckpt.kernel.memory import Mapping, create_memfd
from vmckpt.layout import PAGE_BYTES

__all__ = ["MOST_VCPUS", "RELEASED", "Entry", "Journal", "pack_entry"]

RELEASED = 0xFFFFFFFF
"""In `captures`: the block is saved, its slot given back if it had one; memory may say something else by now."""
MOST_VCPUS = 16
"""An entry of the log has four bits for the vCPU."""

# The words of the first page, u64. Tracer and saver write into cache lines of their own.
_HEAD, _READS, _WRITES, _LOST = range(4)  # the tracer's
_TAIL, _FREED = 8, 9  # the saver's
_COPIED, _WRITE = 2, 1
_VCPU_SHIFT, _PAGE_SHIFT = 4, 8
_AHEAD_BYTES = 8 << 20  # slots that are in memory before they are needed
_PIECE_BYTES = 32 << 10  # brought in one go: a trap that comes meanwhile waits some 10 µs for it


class Entry(NamedTuple):
    """One trap, as it was logged."""

    vcpu: int
    page: int
    write: bool
    copied: bool
    """Its block was copied because of it."""


def pack_entry(vcpu: int, page: int, write: bool, copied: bool) -> int:
    """An entry as one word of the log: page, vCPU (4 bits), 2 bits unused, copied, write."""
    return page << _PAGE_SHIFT | vcpu << _VCPU_SHIFT | copied << 1 | write


def _unpack(word: int) -> Entry:
    vcpu = word >> _VCPU_SHIFT & MOST_VCPUS - 1
    return Entry(vcpu, word >> _PAGE_SHIFT, bool(word & _WRITE), bool(word & _COPIED))


class Journal:
    """The shared memory, and what each side keeps in its own. Made before the fork; one thread of each process uses it.

    Attributes:
        page_count: of the machine's memory.
        block_pages: pages in a memory block; the last block may be shorter.
        block_count: how many there are.
        block_bytes: of a slot.
        captures: `I`, one for each block.
        saved: `B`, one for each block.
        dirty: `B`, one for each block.
    """

    def __init__(self, page_count: int, block_pages: int, vcpus: int) -> None:
        """Make it, all zero.

        Raises:
            IoError: there is no memory for it.
            ValueError: there are more vCPUs than an entry can tell apart.
        """
        if not 1 <= vcpus <= MOST_VCPUS:
            raise ValueError(f"an entry tells 1 to {MOST_VCPUS} vCPUs apart, not {vcpus}")
        self.page_count = page_count
        self.block_pages = block_pages
        self.block_count = count = -(-page_count // block_pages)
        self.block_bytes = block_pages * PAGE_BYTES
        # Each page traps a few times at most, until the saver arms it again and reads the log: this cannot fill up.
        self._ring_words = _power(4 * page_count * vcpus)
        self._freed_words = _power(count)
        self._tables = _shared(
            "vmckpt-journal", PAGE_BYTES + 8 * self._ring_words + 10 * count + 4 * self._freed_words
        )
        self._copies = _shared("vmckpt-captures", count * self.block_bytes)
        whole = self._tables.view
        self._words, rest = whole[:PAGE_BYTES].cast("Q"), whole[PAGE_BYTES:]
        self._ring, rest = rest[: 8 * self._ring_words].cast("Q"), rest[8 * self._ring_words :]
        self._freed, rest = rest[: 4 * self._freed_words].cast("I"), rest[4 * self._freed_words :]
        self.captures, rest = rest[: 4 * count].cast("I"), rest[4 * count :]
        self.saved, self.dirty = rest[:count], rest[count : 2 * count]
        self._slots = self._copies.view
        # The tracer's own
        self._head = self._limit = 0
        self._reads = self._writes = 0
        self._freed_seen = 0
        self._free: deque[int] = deque()
        self._next_slot = 0  # never used before
        self._ready_bytes = 0  # of the slots, in memory already
        # The saver's own
        self._tail = 0
        self._freed_head = 0

    # Both sides

    def slot(self, number: int) -> memoryview:
        """The bytes of a slot; the last block uses the first of them only. Release it before `close`."""
        start = number * self.block_bytes
        return self._slots[start : start + self.block_bytes]

    @property
    def traps_read(self) -> int:
        """Reads that trapped so far."""
        return self._words[_READS]

    @property
    def traps_write(self) -> int:
        """Writes that trapped so far."""
        return self._words[_WRITES]

    @property
    def lost(self) -> int:
        """Entries that found the log full: 0, unless the saver stopped reading. Their copies and marks are there."""
        return self._words[_LOST]

    # The tracer's side

    def take_slot(self) -> int:
        """A slot to copy a block into: the one given back last, for it is in the caches, or a new one."""
        freed = self._words[_FREED]
        while self._freed_seen != freed:
            self._free.append(self._freed[self._freed_seen & self._freed_words - 1])
            self._freed_seen += 1
        if self._free:
            return self._free.pop()
        self._next_slot += 1
        return self._next_slot - 1

    def log(self, word: int) -> None:
        """Log a trap, as `pack_entry` packs it."""
        words = self._words
        if word & _WRITE:
            self._writes += 1
            words[_WRITES] = self._writes
        else:
            self._reads += 1
            words[_READS] = self._reads
        head = self._head
        if head == self._limit:
            self._limit = words[_TAIL] + self._ring_words
            if head == self._limit:
                words[_LOST] += 1
                return
        self._ring[head & self._ring_words - 1] = word
        self._head = words[_HEAD] = head + 1

    def make_ready(self) -> bool:
        """Bring a piece of the next slots into memory; False when there are enough of them.

        A copy takes twice to three times as long where it meets page faults. Where the kernel cannot, or has no
        memory, the copies will tell.
        """
        used = self._next_slot * self.block_bytes
        start = max(self._ready_bytes, used)
        end = min(start + _PIECE_BYTES, used + max(_AHEAD_BYTES, self.block_bytes), self._copies.size_bytes)
        if start >= end:
            return False
        with contextlib.suppress(VmckptError):
            self._copies.populate(start, end - start, write=True)
        self._ready_bytes = end
        return True

    # The saver's side

    def release(self, block: int) -> None:
        """Give the slot of a copied block back.

        Raises:
            ValueError: the block has none.
        """
        number = self.captures[block] - 1
        if not 0 <= number < self.block_count:
            raise ValueError(f"memory block {block} has no copy to give back")
        self.captures[block] = RELEASED
        self._freed[self._freed_head & self._freed_words - 1] = number
        self._freed_head += 1
        self._words[_FREED] = self._freed_head

    def entries(self) -> list[Entry]:
        """What was logged since the last call, in order."""
        head, tail, mask = self._words[_HEAD], self._tail, self._ring_words - 1
        found: list[Entry] = []
        while tail != head:
            start = tail & mask
            end = min(start + head - tail, mask + 1)
            found += map(_unpack, self._ring[start:end].tolist())
            tail += end - start
        self._tail = self._words[_TAIL] = tail
        return found

    def close(self) -> None:
        """Unmap it. Closing twice is fine."""
        for view in (
            self._words,
            self._ring,
            self._freed,
            self.captures,
            self.saved,
            self.dirty,
            self._slots,
        ):
            view.release()
        for mapping in (self._tables, self._copies):
            with contextlib.suppress(
                BufferError
            ):  # a traceback may hold a slot's view: it goes when that goes
                mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _power(least: int) -> int:
    return 1 << max(least - 1, 1).bit_length()


def _shared(name: str, size_bytes: int) -> Mapping:
    fd = create_memfd(name, size_bytes)
    try:
        return Mapping.of_file(fd, size_bytes)
    finally:
        os.close(fd)
