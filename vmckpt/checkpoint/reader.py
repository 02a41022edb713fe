"""A checkpoint as a source of pages (`pages.Source`): it can be digested, compared and saved again like any other.

    page ─▶ memory block ─▶ map piece ─▶ storage block (one read, proved, kept a while) ─▶ pages

After a fork each process has its own caches; threads must not share one.
"""

from collections import OrderedDict
from collections.abc import Iterator

from vmckpt.checkpoint.block import MemoryBlock, StorageBlock
from vmckpt.checkpoint.file import CheckpointFile, Place
from vmckpt.checkpoint.format import DUPLICATE, PATTERN, STORED
from vmckpt.errors import CorruptionError
from vmckpt.hashing import Digest
from vmckpt.pages import PAGE_BYTES, PageRange, page_view

__all__ = ["Checkpoint", "Place"]

_CACHED_STORED_BYTES = 8 << 20  # of storage blocks as read
_CACHED_PLAIN_BYTES = 16 << 20  # of decompressed memory blocks, which duplicates refer to from near and far


class Checkpoint(CheckpointFile):
    """An open checkpoint, read by page number."""

    kind = "checkpoint"

    def __init__(self, fd: int, name: str) -> None:
        """Open the checkpoint on `fd`; raises what `CheckpointFile` does."""
        super().__init__(fd, name)
        self._blocks: OrderedDict[int, tuple[StorageBlock, memoryview]] = OrderedDict()
        self._plain: OrderedDict[Place, memoryview] = OrderedDict()

    @property
    def identity(self) -> bytes:
        """The checkpoint's unique id."""
        return self.header.checkpoint_id

    @property
    def modified_ns(self) -> int:
        """When the memory was taken."""
        return self.header.created_ns

    def head(self, number: int) -> StorageBlock:
        """As in `CheckpointFile`; no read where the whole storage block is at hand."""
        found = self._blocks.get(number)
        return super().head(number) if found is None else found[0]

    def _cached_block(self, number: int) -> tuple[StorageBlock, memoryview]:
        found = self._blocks.get(number)
        if found is None:
            found = self._blocks[number] = self.storage_block(number)
            if (
                len(self._blocks) * self.header.storage_block_bytes > _CACHED_STORED_BYTES
                and len(self._blocks) > 1
            ):
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(number)
        return found

    def _stored_pages(self, place: Place) -> tuple[MemoryBlock, memoryview]:
        """A memory block and the content of its stored pages."""
        block = self.memory_block(place)
        plain = self._plain.get(place)
        if plain is None:
            _, payload = self._cached_block(place.storage_block)
            try:
                plain = block.stored_pages(payload)
            except CorruptionError as error:
                error.path, error.offset = self.name, self.storage_entry(place.storage_block).offset
                raise
            self._plain[place] = plain
            if len(self._plain) * self.header.memory_block_bytes > _CACHED_PLAIN_BYTES:
                self._plain.popitem(last=False)
        else:
            self._plain.move_to_end(place)
        return block, plain

    def referenced_page(self, block: MemoryBlock, index: int) -> memoryview:
        """The content of a block's `index`-th duplicate page, proved against the hash that the duplicate has.

        Raises:
            CorruptionError: the reference does not lead to such a page.
        """
        place, stored = self.referenced(block, index)
        _, plain = self._stored_pages(place)
        return page_view(plain, stored)

    def stored_place(self, page: int) -> tuple[int, int, int] | None:
        """Where the bytes of a page are stored, its own or those it is a duplicate of: storage block, slot, page.

        Two pages stored in one place are equal, and no byte needs to be read to know it. None for zero and pattern
        pages.
        """
        number, index = divmod(page, self.header.block_pages)
        place = self.place_of(number)
        if place is None:
            return None
        block = self._block_at(number, place)
        if block.kinds[index] == STORED:
            return (*place, index)
        if block.kinds[index] == DUPLICATE:
            reference = block.reference(block.kinds.count(DUPLICATE, 0, index))
            return reference.storage_block, reference.slot, reference.page
        return None

    def _block_at(self, number: int, place: Place) -> MemoryBlock:
        """What the directory says of memory block `number`, which the map puts at `place`."""
        block = self.memory_block(place)
        if block.number != number:
            raise CorruptionError(
                f"the map puts memory block {number} where memory block {block.number} is", path=self.name
            )
        return block

    def expand(self, place: Place, into: memoryview) -> None:
        """Write the pages of the memory block at `place` into `into`, which has room for exactly those."""
        block = self.memory_block(place)
        plain = memoryview(b"")
        if block.stored_bytes:
            _, plain = self._stored_pages(place)
        stored = pattern = duplicate = 0
        for kind, start, end in block.runs():
            target = into[start * PAGE_BYTES : end * PAGE_BYTES]
            if kind == STORED:
                target[:] = plain[stored * PAGE_BYTES : (stored + end - start) * PAGE_BYTES]
                stored += end - start
            elif kind == PATTERN:
                words = block.patterns[pattern * 8 : (pattern + end - start) * 8]
                target[:] = b"".join(words[i : i + 8] * (PAGE_BYTES // 8) for i in range(0, len(words), 8))
                pattern += end - start
            elif kind == DUPLICATE:
                for index in range(end - start):
                    page_view(target, index)[:] = self.referenced_page(block, duplicate)
                    duplicate += 1
            else:
                target[:] = bytes(len(target))

    def read(self, pages: PageRange, into: memoryview) -> None:
        """Fill `into` with the content of `pages`; see `pages.PageReader`.

        Raises:
            ValueError: there are no such pages, or `into` is of another size.
        """
        if (
            not 0 <= pages.start <= pages.end <= self.header.page_count
            or len(into) != pages.pages * PAGE_BYTES
        ):
            raise ValueError(f"cannot read pages {pages} of {self.header.page_count} into {len(into)} bytes")
        block_pages = self.header.block_pages
        page = pages.start
        while page < pages.end:
            number = page // block_pages
            start = number * block_pages
            end = min(start + block_pages, self.header.page_count)
            stop = min(end, pages.end)
            target = into[(page - pages.start) * PAGE_BYTES : (stop - pages.start) * PAGE_BYTES]
            place = self.place_of(number)
            if place is not None:
                self._block_at(number, place)
            if place is None:
                target[:] = bytes(len(target))
            elif (page, stop) == (start, end):
                self.expand(place, target)
            else:
                whole = bytearray((end - start) * PAGE_BYTES)
                self.expand(place, memoryview(whole))
                target[:] = memoryview(whole)[(page - start) * PAGE_BYTES : (stop - start) * PAGE_BYTES]
            page = stop

    def data_ranges(self) -> Iterator[PageRange]:
        """The pages of memory blocks that are not all zero; see `pages.Source`."""
        block_pages, page_count = self.header.block_pages, self.header.page_count
        start = end = 0
        for number, _ in self.places():
            if number * block_pages != end:
                if end > start:
                    yield PageRange(start, end)
                start = number * block_pages
            end = min((number + 1) * block_pages, page_count)
        if end > start:
            yield PageRange(start, end)

    def kept_hashes(self) -> Iterator[tuple[PageRange, bytes]]:
        """The page hashes in the directories, in page order; pages in between are zero. Reads no page."""
        for number, place in self.places():
            block = self._block_at(number, place)
            yield block.pages(self.header.block_pages), block.page_hashes()

    def computed_digest(self) -> bytes:
        """The digest that follows from the page hashes in the directories; reads no page."""
        digest = Digest()
        for pages, hashes in self.kept_hashes():
            digest.add_zeros(pages.start - digest.pages)
            digest.add(hashes)
        digest.add_zeros(self.header.page_count - digest.pages)
        return digest.bytes()

    def check_unchanged(self) -> None:
        """Nothing to do: a checkpoint proves its bytes as they are read."""
