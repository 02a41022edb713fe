"""A checkpoint as the fault engine asks for it: memory blocks by place, out of storage blocks that are read once.

    memory block ─▶ place ─▶ storage block: in the pool, or one read, proved ─▶ pages of one memory block, decompressed

What comes out lies in the pool's buffer (raw blocks) or in one of a few rooms that are used in turn (compressed ones): no
byte is copied before the kernel copies it into the guest. So it is good for a moment, and `Expanded.is_good` tells.

For a page that a vCPU waits for, of a storage block that is not in the pool but that the kernel has in memory, only the
directory and one memory block are read (a *peek*): reading and proving 1 MiB takes ten times as long. The storage block
follows when nobody waits. A disk would have to be asked twice, so it never is.

Every byte is proved: by the storage block's checksums, and what was decompressed or peeked at by the hash of each page. Of a
raw block in the pool, the checksum was made of the very bytes that the pages are.

A read that fails is tried again, for a disk may have a bad moment; so is, once, a block that does not prove itself. What
fails for good says which storage block it was and which pages are lost with it. Called by `engine` and `background`.

Longer than most modules: pool, pieces of a read and peeks share the buffers, and who may use which again.
"""

import time
from typing import NamedTuple, Self

from vmckpt.checkpoint.block import MemoryBlock, StorageBlock
from vmckpt.checkpoint.codec import RAW
from vmckpt.checkpoint.directory import Directory, skim_head
from vmckpt.checkpoint.file import CheckpointFile, StorageEntry
from vmckpt.checkpoint.format import DUPLICATE, STORAGE_HEADER, STORED, ZERO
from vmckpt.checkpoint.reader import Checkpoint, Place
from vmckpt.errors import CorruptionError, IoError, VmckptError
from vmckpt.hashing import page_hash
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.restoring.cache import Buffers, Lease, Pool
from vmckpt.restoring.expanded import Expanded, expand
from vmckpt.restoring.touched import merged

__all__ = ["Store"]

POOL_BYTES = 128 << 20
_POOL_BLOCKS = 16  # at least so many of the largest there can be
_MOST_SPENT = 8  # what near duplicates refer to; fewer stay in the processor's cache
_PIECE_BYTES = 256 << 10  # of a storage block, read at once while a vCPU may fault; some 40 µs
_MOST_PEEKED = 64
_ROOMS = 20  # for decompressed memory blocks; `engine` keeps some of them in mind
_PAUSES_S = (0.01, 0.1)  # before a failed read is tried again
_HEAD_BYTES = 1 << 14  # header and directory of most storage blocks
_BUFFER_UNIT = 4096
_MOST_NAMED = 4  # runs of pages in a message
_NOTHING = memoryview(b"")
_KEPT_PLAIN_BYTES = 16 << 20  # of decompressed memory blocks that duplicates refer to


class _Held(NamedTuple):
    """A storage block in its buffer."""

    storage: StorageBlock
    payload: memoryview
    buffer: int
    lease: Lease | None
    """Of the buffer; None: the bytes have memory of their own."""


class _Reading(NamedTuple):
    """A storage block of which a part is in its buffer."""

    number: int
    buffer: int
    data: memoryview
    done_bytes: int


class Store(Checkpoint):
    """An open checkpoint with a pool of storage blocks. For one process, and one thread of it.

    Attributes:
        reads: storage blocks read so far; a peek is none.
        read_bytes: what these reads brought.
        peeks: look into the kernel's memory first. Not where reads are another's doing (a simulated disk's).
    """

    _unpack_head = staticmethod(skim_head)

    def __init__(self, fd: int, name: str) -> None:
        """Open the checkpoint on `fd`; raises what `CheckpointFile` does."""
        super().__init__(fd, name)
        size_bytes = self.header.storage_block_bytes
        size_bytes = ((size_bytes + size_bytes // 16) // _BUFFER_UNIT + 2) * _BUFFER_UNIT
        self._buffer_bytes = (
            size_bytes  # of a directory that makes it longer, there is no buffer for the block
        )
        self._block_pages, self._page_count = self.header.block_pages, self.header.page_count
        self.peeks = True
        self._forget()

    def _forget(self) -> None:
        count = max(POOL_BYTES // self._buffer_bytes, _POOL_BLOCKS)
        self._pool: Pool[_Held] = Pool(count * self._buffer_bytes, _MOST_SPENT)
        self._buffers = Buffers(self._buffer_bytes, count)
        self._rooms = Buffers(self.header.memory_block_bytes, _ROOMS)
        self._peek_rooms = Buffers(self.header.memory_block_bytes, _ROOMS)
        self._peeked: dict[int, None] = {}
        self._reading: _Reading | None = None
        self._latest: tuple[Place, memoryview, Lease | None] | None = None
        self.reads = 0
        self.read_bytes = 0

    def apart(self) -> Self:
        """Itself, in a process that was forked: with nothing read so far."""
        self._forget()
        return self

    @property
    def page_count(self) -> int:
        """Pages of memory."""
        return self.header.page_count

    @property
    def block_pages(self) -> int:
        """Pages of a memory block."""
        return self.header.block_pages

    @property
    def storage_blocks(self) -> int:
        """How many there are."""
        return self.summary.storage_blocks

    def fileno(self) -> int:
        """The file's descriptor; -1 once closed."""
        return self._fd

    def holds(self, number: int) -> bool:
        """Whether a storage block is at hand without a read."""
        return number in self._pool

    def is_near(self, number: int) -> bool:
        """Whether a storage block is at hand, or the kernel had it in memory a moment ago."""
        return number in self._pool or number in self._peeked

    def load(self, number: int) -> bool:
        """Read a piece of a storage block that the kernel has in memory, or all of another one; True: it is at hand.

        Raises:
            CorruptionError, IoError: it cannot be had; the message names it.
        """
        if number in self._pool:
            return True
        reading = self._begun(number)
        if reading is None:
            self.memory_blocks(number)
            return True
        end = min(reading.done_bytes + _PIECE_BYTES, len(reading.data))
        entry = self.storage_entry(number)
        if reading.done_bytes == len(reading.data):
            self._reading = None
            try:
                self._keep(number, self._held_of(number, reading.buffer, reading.data, entry))
            except CorruptionError:
                self.memory_blocks(number)  # once more, and says so properly
            return True
        if not self.read_cached(reading.data[reading.done_bytes : end], entry.offset + reading.done_bytes):
            self._abandon()
            self.memory_blocks(number)
            return True
        self._reading = reading._replace(done_bytes=end)
        return False

    def _begun(self, number: int) -> _Reading | None:
        """The reading of a storage block in pieces; None where that cannot be."""
        if self._reading is not None and self._reading.number == number:
            return self._reading
        self._abandon()
        if not self.peeks or (size_bytes := self.storage_entry(number).size_bytes) > self._buffer_bytes:
            return None
        self._make_room()
        buffer, view = self._buffers.take()
        self._reading = _Reading(number, buffer, view[:size_bytes], 0)
        return self._reading

    def _abandon(self) -> None:
        if self._reading is not None:
            self._buffers.give(self._reading.buffer)
            self._reading = None

    def spend(self, number: int) -> None:
        """Every page of a storage block is in place."""
        self._pool.spend(number)

    def memory_blocks(self, number: int, *, load: bool = True) -> list[int]:
        """The memory blocks of a storage block, by slot; unless `load` is False, it is at hand from now on.

        Raises:
            CorruptionError, IoError: it cannot be had; the message names it.
        """
        try:
            storage = self._held(number).storage if load else self.head(number)
        except (CorruptionError, IoError) as error:
            what = f"cannot bring {self._pages_in(number)}, which need storage block {number}"
            raise type(error)(f"{what}: {error.message}", path=error.path, offset=error.offset) from error
        if isinstance(storage.memory_blocks, Directory):
            return storage.memory_blocks.numbers
        return [block.number for block in storage.memory_blocks]

    def _pages_in(self, number: int) -> str:
        """The pages that a storage block holds, as the memory map tells; for messages."""
        try:
            blocks = [self._range(block) for block, place in self.places() if place.storage_block == number]
        except (CorruptionError, IoError):
            return "pages"
        runs = [f"{start} to {end - 1}" for start, end in merged(blocks)]
        more = f" and {len(runs) - _MOST_NAMED} other runs" if len(runs) > _MOST_NAMED else ""
        return f"pages {', '.join(runs[:_MOST_NAMED])}{more}"

    def data_runs(self, number: int, place: Place) -> list[PageRange]:
        """Where memory block `number` is not zero, as its directory tells; no page is read."""
        block = self._block_at(number, place)
        first = number * self.block_pages
        return [PageRange(first + start, first + end) for kind, start, end in block.runs() if kind != ZERO]

    def expanded(self, number: int, place: Place) -> Expanded:
        """The pages of memory block `number`, which lies at `place`.

        Raises:
            CorruptionError, IoError: they cannot be had; the message names storage block and pages.
        """
        try:
            peeked = None if place.storage_block in self._pool else self._peek(number, place)
            if peeked is not None:
                block, plain, lease = peeked
            else:
                block = self._block_at(number, place, self._held(place.storage_block))
                plain, lease = self._plain_of(place, block)
        except (CorruptionError, IoError) as error:
            raise _naming(error, self._range(number), place.storage_block) from error
        return expand(block, self._range(number), plain, lease)

    def peeked_page(self, number: int, place: Place, page: int) -> memoryview | None:
        """One page of memory block `number`, proved, where it can be had without the others; else None."""
        if not self.peeks or place.storage_block in self._pool:
            return None
        try:
            block = self._peeked_block(number, place)
            at = page - number * self.block_pages
            if block is None or block.codec != RAW or block.kinds[at] != STORED:
                return None
            stored = block.kinds.count(STORED, 0, at)
            room = self._peek_rooms.rotate()[1][:PAGE_BYTES]
            if not self.read_cached(room, self._payload_offset(place, block) + stored * PAGE_BYTES):
                return None
        except CorruptionError:
            return None  # the whole storage block is read, and says what is wrong
        proof = int.from_bytes(block.hashes[stored * 8 : stored * 8 + 8], "little")
        return room if page_hash(room) == proof else None

    def _peeked_block(self, number: int, place: Place) -> MemoryBlock | None:
        """The directory's record of a memory block, where the kernel has it in memory."""
        head = self._peeked_head(place.storage_block)
        if head is None or place.slot >= len(head.memory_blocks):
            return None
        block = head.memory_blocks[place.slot]
        if block.number != number or block.stored_bytes > self._peek_rooms.size_bytes:
            return None
        self._note_peek(place.storage_block)
        return block

    def _payload_offset(self, place: Place, block: MemoryBlock) -> int:
        """Where a memory block's compressed pages lie in the file."""
        head = self._heads[place.storage_block]
        return self.storage_entry(place.storage_block).offset + head.head_bytes + block.payload_offset

    def _peek(self, number: int, place: Place) -> tuple[MemoryBlock, memoryview, Lease | None] | None:
        """A memory block whose storage block the kernel has in memory, proved by its pages' hashes; None: it has not."""
        if not self.peeks:
            return None
        try:
            block = self._peeked_block(number, place)
            if block is None:
                return None
            if not block.stored_bytes:
                return block, _NOTHING, None
            lease, room = self._peek_rooms.rotate()
            payload = room[: block.stored_bytes]
            if not self.read_cached(payload, self._payload_offset(place, block)):
                return None
            if block.codec != RAW:
                lease, room = self._rooms.rotate()
            at_start = block._replace(payload_offset=0)
            return block, at_start.stored_pages(payload, room), lease
        except CorruptionError:
            return None  # the whole storage block is read, and says what is wrong

    def _peeked_head(self, number: int) -> StorageBlock | None:
        if number in self._heads:
            return self._heads[number]
        entry = self.storage_entry(number)
        room = self._peek_rooms.rotate()[1][: min(entry.size_bytes, _HEAD_BYTES)]
        if not self.read_cached(room, entry.offset):
            return None
        if STORAGE_HEADER.size + int.from_bytes(room[16:20], "little") > len(room):
            return None
        head = self._proved(number, room, entry)
        self._keep_head(number, head)
        return head

    def _note_peek(self, number: int) -> None:
        self._peeked[number] = None
        if len(self._peeked) > _MOST_PEEKED:
            del self._peeked[next(iter(self._peeked))]

    def stored(self, place: Place) -> tuple[MemoryBlock, memoryview]:
        """A memory block and its stored pages side by side, whether or not they are still those of memory.

        Raises:
            CorruptionError, IoError: they cannot be had.
        """
        self._held(place.storage_block)
        block = self.memory_block(place)
        return block, self._plain_of(place, block)[0]

    def _block_at(self, number: int, place: Place, held: _Held | None = None) -> MemoryBlock:
        if held is not None and place.slot < len(held.storage.memory_blocks):
            block = held.storage.memory_blocks[place.slot]
            if block.number == number:
                return block
        return super()._block_at(number, place)

    def _plain_of(self, place: Place, block: MemoryBlock) -> tuple[memoryview, Lease | None]:
        """The stored pages of a memory block, proved, and how long they can be looked at."""
        if not block.stored_bytes:
            return _NOTHING, None
        held = self._held(place.storage_block)
        if block.codec == RAW:
            size = block.stored * PAGE_BYTES
            if block.stored_bytes != size:
                raise CorruptionError(
                    f"memory block {block.number} has {block.stored_bytes} bytes, expected {size}"
                )
            return held.payload[block.payload_offset : block.payload_offset + size], held.lease
        latest = self._latest
        if latest is not None and latest[0] == place and (latest[2] is None or latest[2].holds):
            return latest[1], latest[2]
        lease, room = self._rooms.rotate()
        plain = block.stored_pages(held.payload, room)
        self._latest = place, plain, lease
        return plain, lease

    def duplicates(self, number: int, place: Place) -> tuple[MemoryBlock, list[tuple[int, int]]]:
        """A memory block's directory entry, and `Expanded.duplicates`; no page is read."""
        block = self._block_at(number, place)
        first = number * self.block_pages
        pages = [first + at for at, kind in enumerate(block.kinds) if kind == DUPLICATE]
        return block, [(page, index) for index, page in enumerate(pages)]

    def duplicate(self, block: MemoryBlock, index: int) -> memoryview:
        """The content of the `index`-th duplicate page of a memory block.

        Raises:
            CorruptionError, IoError: it cannot be had; the message names storage block and page.
        """
        target = block.reference(index).storage_block
        try:
            return self.referenced_page(block, index)
        except (CorruptionError, IoError) as error:
            raise _naming(error, self._range(block.number), target) from error

    def _range(self, number: int) -> PageRange:
        first = number * self._block_pages
        return PageRange(first, min(first + self._block_pages, self._page_count))

    def head(self, number: int) -> StorageBlock:
        """As in `CheckpointFile`; no read where the storage block is at hand."""
        found = self._pool.get(number)
        return CheckpointFile.head(self, number) if found is None else found.storage

    def _stored_pages(self, place: Place) -> tuple[MemoryBlock, memoryview]:
        """As in `Checkpoint`; what it keeps is a copy, for the storage block's buffer will be used again."""
        block = self.memory_block(place)
        plain = self._plain.get(place)
        if plain is None:
            self._held(place.storage_block)
            plain = self._plain[place] = memoryview(bytes(self._plain_of(place, block)[0]))
            if len(self._plain) * self.header.memory_block_bytes > _KEPT_PLAIN_BYTES:
                self._plain.popitem(last=False)
        else:
            self._plain.move_to_end(place)
        return block, plain

    def _held(self, number: int) -> _Held:
        """A storage block, out of the pool or into it."""
        held = self._pool.get(number)
        if held is None:
            self._abandon()
            self._make_room()
            held = self._persistently(number)
            self._keep(number, held)
        return held

    def _keep(self, number: int, held: _Held) -> None:
        self._peeked.pop(number, None)
        self._pool.put(number, held, max(self._buffer_bytes, held.storage.size_bytes))

    def _make_room(self) -> None:
        for gone in self._pool.make_room(self._buffer_bytes):
            if gone.buffer >= 0:
                self._buffers.give(gone.buffer)

    def _read_at(self, offset: int, size_bytes: int) -> bytes:
        """As in `CheckpointFile`, for sections, map pieces and directories; a read that fails is tried again."""
        for pause_s in _PAUSES_S:
            try:
                return super()._read_at(offset, size_bytes)
            except IoError:
                time.sleep(pause_s)  # as in `_persistently`
        return super()._read_at(offset, size_bytes)

    def _persistently(self, number: int) -> _Held:
        is_damaged = False
        for pause_s in _PAUSES_S:
            try:
                return self._load(number)
            except CorruptionError:
                if is_damaged:
                    raise
                is_damaged = True
            except IoError:
                time.sleep(pause_s)  # the disk's time to recover: nothing here tells when it has
        return self._load(number)

    def _load(self, number: int) -> _Held:
        """Read a storage block into the first available buffer, and prove it."""
        entry = self.storage_entry(number)
        if entry.size_bytes > self._buffer_bytes:
            self._count(entry)
            storage, payload = self.storage_block(number)
            return _Held(storage, payload, -1, None)
        buffer, view = self._buffers.take()
        data = view[: entry.size_bytes]
        try:
            self.read_into(data, entry.offset)
        except BaseException:
            self._count(entry)
            self._buffers.give(buffer)
            raise
        return self._held_of(number, buffer, data, entry)

    def _held_of(self, number: int, buffer: int, data: memoryview, entry: StorageEntry) -> _Held:
        """A storage block that was read into a buffer, proved; else the buffer is available again."""
        self._count(entry)
        try:
            storage, payload = self.proved(number, data, entry)
        except BaseException:
            self._buffers.give(buffer)
            raise
        return _Held(storage, payload, buffer, self._buffers.lease(buffer))

    def _count(self, entry: StorageEntry) -> None:
        self.reads += 1
        self.read_bytes += entry.size_bytes


def _naming(error: VmckptError, pages: PageRange, number: int) -> VmckptError:
    """The same error, with what is lost."""
    what = f"cannot bring pages {pages.start} to {pages.end - 1}, which need storage block {number}"
    return type(error)(f"{what}: {error.message}", path=error.path, offset=error.offset)
