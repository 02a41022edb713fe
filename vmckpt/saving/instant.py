"""What of a running machine goes into a checkpoint of one instant, and in which order.

    news of traps ─▶ captured blocks, for each vCPU in the order of access ─┐
    blocks with data, in page order: the background ────────────────────────┴─▶ next batch

A block that the machine touches is captured (copied aside) before the touch goes on; so memory that was read, and whose
block had still not been captured after that, is memory of the instant. What was read while its block was captured is
read once more, from the capture. Both ways give the same bytes: it does not matter which of the two comes first.
"""

from collections import deque
from collections.abc import Callable, Iterable

from vmckpt.pages import PAGE_BYTES, PageRange, PageReader
from vmckpt.saving.pipeline import Batch
from vmckpt.trace.journal import RELEASED, Entry, Journal

__all__ = ["InstantFeed", "InstantMemory"]

_NONE = 0
_HANDED_OUT, _KEPT = 1, 2


class InstantMemory:
    """Memory of the instant, as far as it is still to be had: from captures, else from the machine. For the workers."""

    def __init__(self, memory: PageReader, journal: Journal, block_pages: int) -> None:
        self.layout = memory.layout
        self._memory = memory
        self._journal = journal
        self._block_pages = block_pages

    def read(self, pages: PageRange, into: memoryview) -> None:
        """Fill `into` with `pages`; the feed says afterwards whether that was of the instant."""
        start, end = pages
        while start < end:
            block, first = divmod(start, self._block_pages)
            stop = min((block + 1) * self._block_pages, end)
            part = into[: (stop - start) * PAGE_BYTES]
            captured = self._journal.captures[block]
            if captured in {_NONE, RELEASED}:
                self._memory.read(PageRange(start, stop), part)
            else:
                at = first * PAGE_BYTES
                part[:] = self._journal.slot(captured - 1)[at : at + len(part)]
            into = into[len(part) :]
            start = stop


class InstantFeed:
    """The feed of a checkpoint. Ends when every block was handed out."""

    def __init__(
        self,
        journal: Journal,
        hear: Callable[[], Iterable[Entry]],
        blocks: Iterable[int],
        *,
        block_pages: int,
        batch_blocks: int,
        on_done: Callable[[Batch], None],
        kept_bytes: int = 64 << 20,
    ) -> None:
        """Set it up.

        Args:
            journal: what the tracer has captured.
            hear: what it has trapped since it was last asked; raises when the save cannot go on.
            blocks: those that may have had data at the instant.
            block_pages: pages of a memory block.
            batch_blocks: the most blocks in a batch.
            on_done: told which blocks are in the file now.
            kept_bytes: captures that stay when they are in the file, so that equal pages can be compared with them.
        """
        self._journal = journal
        self._hear = hear
        self._background = iter(blocks)
        self._block_pages = block_pages
        self._batch_blocks = batch_blocks
        self._on_done = on_done
        # Of each block; 0: nobody has taken it yet.
        self._claimed = bytearray(len(journal.captures))
        self._captured: dict[int, deque[int]] = {}  # of each vCPU, in the order of access
        self._kept: deque[int] = deque()  # captured blocks that are in the file
        self._kept_blocks = kept_bytes // (block_pages * PAGE_BYTES)
        self._read_as: dict[int, list[int]] = {}  # by a batch's first block: captures when it was handed out

    def next(self) -> Batch | None:
        """Captured blocks once they fill a batch, for they hold memory; else the background; in the end, all."""
        self._take_news()
        batch = (
            self._captured_batch(self._batch_blocks) or self._background_batch() or self._captured_batch(1)
        )
        if batch is not None:
            self._read_as[batch.blocks[0]] = self._captures_of(batch)
        return batch

    def _take_news(self) -> None:
        for entry in self._hear():
            if not entry.copied:
                continue
            block = entry.page // self._block_pages
            if not self._claimed[block]:
                self._claimed[block] = _HANDED_OUT
                self._captured.setdefault(entry.vcpu, deque()).append(block)
            elif self._journal.saved[block]:
                self._keep(block)  # captured when it had just been read as well

    def _captured_batch(self, least: int) -> Batch | None:
        for vcpu, queue in self._captured.items():
            if len(queue) >= least:
                count = min(len(queue), self._batch_blocks)
                self._captured[vcpu] = self._captured.pop(vcpu)  # the next turn is another one's
                return Batch(tuple(queue.popleft() for _ in range(count)), stream=vcpu + 1)
        return None

    def _background_batch(self) -> Batch | None:
        blocks: list[int] = []
        for block in self._background:
            if not self._claimed[block]:
                self._claimed[block] = _HANDED_OUT
                blocks.append(block)
                if len(blocks) == self._batch_blocks:
                    break
        return Batch(tuple(blocks)) if blocks else None

    def _captures_of(self, batch: Batch) -> list[int]:
        captures = self._journal.captures
        return [captures[block] for block in batch.blocks]

    def intact(self, batch: Batch) -> Batch:
        """The batch, unless one of its blocks was captured while it was read."""
        captured = self._captures_of(batch)
        if captured != self._read_as[batch.blocks[0]]:
            self._read_as[batch.blocks[0]] = captured
            return batch._replace()  # an equal one: read it again
        for block in batch.blocks:
            self._journal.saved[block] = 1
        return batch

    def steady(self, page: int) -> bool:
        """Whether the page's bytes of the instant were to be had until now: in the machine, or in a capture."""
        return self._journal.captures[page // self._block_pages] != RELEASED

    def done(self, batch: Batch) -> None:
        """Give captures back, but for the last ones."""
        del self._read_as[batch.blocks[0]]
        for block in batch.blocks:
            self._keep(block)
        self._on_done(batch)

    def _keep(self, block: int) -> None:
        if self._journal.captures[block] in {_NONE, RELEASED} or self._claimed[block] == _KEPT:
            return
        self._claimed[block] = _KEPT
        self._kept.append(block)
        if len(self._kept) > self._kept_blocks:
            self._journal.release(self._kept.popleft())
