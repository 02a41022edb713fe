"""What of a running machine goes into a checkpoint of the moment at which it is stopped: pre-copy, in rounds.

    round 0     every block with data; those that the machine has written meanwhile are left for the next round
    round n     clear the marks of the written blocks, trace writes to them again, save them once more
    stop rule   few blocks left, or rounds that get no smaller, or too many of them, or too long (`StopRule`)
    the rest    the machine pauses; what is still marked is saved, and nothing can change it any more

A block is marked before the write that trapped goes on. A round begins when the one before is wholly in the file; marks
are cleared before traces are set, and traces are set before memory is read: a write that comes after the reading marks.
Reads of pages that were not saved yet trap too: their blocks go first, for each vCPU in the order of access.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from vmckpt.pages import PageRange
from vmckpt.saving.pipeline import Batch
from vmckpt.trace.journal import Entry, Journal

__all__ = ["RoundsFeed", "StopRule", "Tracing"]


class StopRule(NamedTuple):
    """When a suspended machine is stopped for the rest. Our choice: the patents do not say."""

    left_pages: int = 2048
    """Stop when no more pages than that are left to save."""
    shrink: float = 0.75
    """Stop when a round leaves more than this part of what the one before it left: the machine writes as fast."""
    rounds: int = 8
    """Stop after so many rounds."""
    seconds: float = 30.0
    """Stop when the save has taken so long."""

    def reason(self, left_pages: int, before_pages: int | None, rounds: int, elapsed_s: float) -> str | None:
        """Why to stop now, or None.

        Args:
            left_pages: in blocks written since they were last read.
            before_pages: the same, a round earlier.
            rounds: how many rounds are over.
            elapsed_s: since the save began.
        """
        if left_pages <= self.left_pages:
            return "few pages left"
        if before_pages is not None and left_pages > self.shrink * before_pages:
            return "no fewer pages from round to round"
        if rounds >= self.rounds:
            return "rounds"
        return "time" if elapsed_s >= self.seconds else None


class Tracing(NamedTuple):
    """What the feed asks of those who trace and run the machine; each raises when the save cannot go on."""

    hear: Callable[[], Iterable[Entry]]
    """What was trapped since it was last asked."""
    arm: Callable[[Sequence[PageRange]], None]
    """Trace writes to these pages again; returns when no write to them can slip past."""
    hold: Callable[[], None]
    """Pause the machine for good."""


class RoundsFeed:
    """The feed of a suspend. Ends when the machine stands still and all is saved.

    Attributes:
        rounds: how many have begun after round 0.
        reason: why the machine was stopped.
        left_pages: pages that were left for the pause.
    """

    def __init__(
        self,
        journal: Journal,
        tracing: Tracing,
        blocks: Iterable[int],
        *,
        block_pages: int,
        batch_blocks: int,
        rule: StopRule,
        on_done: Callable[[Batch], None],
        pages_of: Callable[[int], int],
    ) -> None:
        """Set it up.

        Args:
            journal: what the tracer has marked.
            tracing: who traces and runs the machine.
            blocks: those that may have data.
            block_pages: pages of a memory block.
            batch_blocks: the most blocks in a batch.
            rule: when to stop the machine.
            on_done: told which blocks are in the file now.
            pages_of: how many pages of a block are worth saving, as far as known.
        """
        self._journal = journal
        self._tracing = tracing
        self._todo: deque[int] = deque(blocks)
        self._block_pages = block_pages
        self._batch_blocks = batch_blocks
        self._rule = rule
        self._on_done = on_done
        self._pages_of = pages_of
        self._started_s = time.monotonic()
        self._times = bytearray(len(journal.dirty))  # how often each block was handed out
        self._accessed: dict[int, deque[int]] = {}  # not saved yet, of each vCPU, in the order of access
        # Of each block, the first vCPU that touched it; in the order of access.
        self._toucher: dict[int, int] = {}
        self._stale: set[int] = set()  # saved, and to be saved once more in this round
        self._under_way = 0
        self._before_pages: int | None = None
        self._final = False
        self.rounds = 0
        self.reason = ""
        self.left_pages = 0

    def next(self) -> Batch | None:
        """Accessed blocks first; a new round, or the rest, once this one is in the file."""
        if not self._final:
            self._take_news()
        batch = self._accessed_batch() or self._batch()
        while batch is None and not self._under_way and not self._final:
            self._turn()
            batch = self._batch()  # none, where all that is left was written again by now
        if batch is not None:
            self._under_way += 1
        return batch

    def _take_news(self) -> None:
        for entry in self._tracing.hear():
            block = entry.page // self._block_pages
            if block not in self._toucher:
                self._toucher[block] = entry.vcpu
                if not self._times[block]:
                    self._accessed.setdefault(entry.vcpu, deque()).append(block)

    def _wanted(self, block: int) -> bool:
        """Whether to save it now, rather than in the next round."""
        if self._final:
            return True
        return not self._journal.dirty[block] and (self.rounds > 0 or not self._times[block])

    def _accessed_batch(self) -> Batch | None:
        for vcpu, queue in self._accessed.items():
            blocks: list[int] = []
            while queue and len(blocks) < self._batch_blocks:
                block = queue.popleft()
                if not self._times[block] and not self._journal.dirty[block]:
                    blocks.append(block)
            if blocks:
                return self._batch_of(blocks, vcpu + 1, 0)
        return None

    def _batch(self) -> Batch | None:
        """The next blocks of the round, of one stream and one generation."""
        blocks: list[int] = []
        kind = (0, 0)
        while self._todo and len(blocks) < self._batch_blocks:
            block = self._todo[0]
            if not self._wanted(block):
                self._todo.popleft()
                continue
            found = (self._stream_of(block), self._times[block])
            if blocks and found != kind:
                break
            kind = found
            blocks.append(self._todo.popleft())
        return self._batch_of(blocks, *kind) if blocks else None

    def _stream_of(self, block: int) -> int:
        again = self.rounds > 0 or self._final
        return self._toucher[block] + 1 if again and block in self._toucher else 0

    def _batch_of(self, blocks: list[int], stream: int, generation: int) -> Batch:
        for block in blocks:
            self._times[block] += 1
        return Batch(tuple(blocks), stream, generation)

    def _turn(self) -> None:
        """Begin the next round, or stop the machine for the rest."""
        written = self._written()
        left_pages = self._pages_in(written)
        elapsed_s = time.monotonic() - self._started_s
        reason = self._rule.reason(left_pages, self._before_pages, self.rounds, elapsed_s)
        if reason is not None:
            self._stop(reason)
            return
        self.rounds += 1
        self._before_pages = left_pages
        for block in written:
            self._journal.dirty[block] = 0
        self._tracing.arm(
            [
                PageRange(start * self._block_pages, min(end * self._block_pages, self._journal.page_count))
                for start, end in _runs(written)
            ]
        )
        self._plan(written)

    def _stop(self, reason: str) -> None:
        self._tracing.hold()
        self._take_news()
        self.reason = reason
        self._final = True
        self._accessed.clear()  # what was not saved before is now, in the same order
        written = self._written()
        self.left_pages = self._pages_in(written)
        for block in written:
            self._journal.dirty[block] = 0
        self._plan(written)

    def _pages_in(self, blocks: Iterable[int]) -> int:
        return sum(map(self._pages_of, blocks))

    def _plan(self, blocks: Sequence[int]) -> None:
        # In the order of access: the blocks that a restore wants together.
        order = {block: index for index, block in enumerate(self._toucher)}
        self._todo = deque(
            sorted(blocks, key=lambda block: (self._toucher.get(block, -1), order.get(block, block)))
        )
        self._stale = {block for block in blocks if self._times[block]}

    def _written(self) -> list[int]:
        flags = bytes(self._journal.dirty)
        found = []
        at = flags.find(1)
        while at >= 0:
            found.append(at)
            at = flags.find(1, at + 1)
        return found

    def intact(self, batch: Batch) -> Batch | None:
        """The batch without the blocks that were written since they were last traced: the next round has them."""
        dirty = self._journal.dirty
        blocks = tuple(block for block in batch.blocks if not dirty[block])
        if len(blocks) == len(batch.blocks):
            return batch
        for block in set(batch.blocks).difference(blocks):
            self._times[block] -= 1
        if not blocks:
            self._under_way -= 1
            return None
        return batch._replace(blocks=blocks)

    def steady(self, page: int) -> bool:
        """Whether the page is in the machine's memory as it was last saved."""
        block = page // self._block_pages
        return not self._journal.dirty[block] and block not in self._stale

    def done(self, batch: Batch) -> None:
        """One batch less under way."""
        self._under_way -= 1
        self._stale.difference_update(batch.blocks)
        self._on_done(batch)


def _runs(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending block numbers as half-open ranges."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and runs[-1][1] == block:
            runs[-1] = runs[-1][0], block + 1
        else:
            runs.append((block, block + 1))
    return runs
