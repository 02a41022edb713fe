"""Accesses by way of the page table: what a vCPU does while some large pages of its machine are small ones.

    page's entry ─┬─ SMALL: note the page as touched, and count
                  ├─ read ─────────────────────▶ the word in the entry's frame
                  └─ write ─┬─ WRITABLE ───────▶ the word in the entry's frame
                            └─ not: ask the supervisor, wait, look again

Same operations, same results as `access.PlainAccess`. Every operation looks the entry up afresh: a supervisor that has
changed it and then has every vCPU pass between two operations knows that nobody uses the old one any more. While it
waits for an answer, a vCPU holds on to no entry, so that counts as between two operations: it answers fences then.

The supervisor's side is `mappings`.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence

from vmckpt.errors import VmckptError
from vmckpt.kernel.memory import Mapping as MemoryMapping
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.access import Access
from vmckpt.machine.operations import Share
from vmckpt.machine.pagetable import FRAME_SHIFT, SMALL, WORD_MASK, WRITABLE, PageTable
from vmckpt.machine.processor import Command, Processor

__all__ = ["FAULT", "FENCE", "TranslatedAccess", "Translation"]

FAULT = "write-fault"
"""A vCPU wants to write to a page that is not WRITABLE; so is the answer called: it should look again."""
FENCE = "translate-fence"

_Reply = tuple[Mapping[str, object], Sequence[int]]


class TranslatedAccess:
    """Accesses of one vCPU."""

    def __init__(
        self, frames: memoryview, share: Share, table: PageTable, fault: Callable[[int], None]
    ) -> None:
        """Translate accesses.

        Args:
            frames: the vCPU's mapping of all frames, as 64-bit words.
            share: which words of memory are its own.
            table: where the pages are.
            fault: waits until something was done about a page that is not WRITABLE.
        """
        self._frames = frames
        self._share = share
        self._entries = table.entries
        self._touched = table.touched[share.vcpu]
        self._counter = table.counter(share.vcpu)
        self._fault = fault
        # As in PlainAccess: room for the word after a node.
        self._limit = (share.page_count << FRAME_SHIFT) - 2 * share.vcpus

    def straight(self, words: Sequence[int], draws: Sequence[int], threshold: int, register: int) -> int:
        """See `Access`."""
        frames, entries, touched = self._frames, self._entries, self._touched
        small = 0
        for word, draw in zip(words, draws, strict=True):
            page = word >> FRAME_SHIFT
            entry = entries[page]
            if draw < threshold:
                while not entry & WRITABLE:
                    self._fault(page)
                    entry = entries[page]
                frames[entry & ~WORD_MASK | word & WORD_MASK] = register ^ draw
            else:
                register = register >> 1 ^ frames[entry & ~WORD_MASK | word & WORD_MASK]
            if entry & SMALL:
                touched[page] = 1
                small += 1
        self._counter[0] += small
        return register

    def chase(self, draws: Sequence[int], threshold: int, register: int) -> int:
        """See `Access`."""
        frames, entries, touched, limit = self._frames, self._entries, self._touched, self._limit
        vcpu, vcpus, _ = self._share
        small = 0
        register %= limit
        register += (vcpu - register) % vcpus
        for draw in draws:
            word = register + vcpus if draw < threshold else register
            page = word >> FRAME_SHIFT
            entry = entries[page]
            if draw < threshold:
                while not entry & WRITABLE:
                    self._fault(page)
                    entry = entries[page]
                frames[entry & ~WORD_MASK | word & WORD_MASK] = register ^ draw
            else:
                register = frames[entry & ~WORD_MASK | word & WORD_MASK] % limit
                register += (vcpu - register) % vcpus
            if entry & SMALL:
                touched[page] = 1
                small += 1
        self._counter[0] += small
        return register

    def close(self) -> None:
        """Let go of the table."""
        self._counter.release()


class Translation:
    """A vCPU's part in it: commands that every `Machine` has. Each vCPU's process has its own."""

    def __init__(self) -> None:
        self._before: Access | None = None
        self._access: TranslatedAccess | None = None
        self._table: PageTable | None = None
        self._memory: MemoryMapping | None = None
        self._frames: memoryview | None = None

    def commands(self) -> dict[str, Command]:
        """By name, for `Processor`."""
        return {"translate-enter": self._enter, FENCE: self._fence, "translate-leave": self._leave}

    def _enter(
        self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
    ) -> _Reply:
        memory_fd, table_fd = descriptors
        share, frame_count = processor.place.share, values["frames"]
        assert isinstance(frame_count, int)
        try:
            self._memory = MemoryMapping.of_file(memory_fd, frame_count * PAGE_BYTES)
            self._table = PageTable(table_fd, share.page_count, share.vcpus)
        except VmckptError as error:  # the machine lives on as it was
            return {"error": error.message}, ()
        finally:
            for fd in descriptors:
                os.close(fd)
        self._frames = self._memory.view.cast("Q")

        def fault(page: int) -> None:
            processor.ask(FAULT, {"page": page})

        self._access = TranslatedAccess(self._frames, share, self._table, fault)
        self._before, processor.access = processor.access, self._access
        return {}, ()

    @staticmethod
    def _fence(processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]) -> _Reply:
        del processor, values, descriptors
        return {}, ()

    def _leave(
        self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
    ) -> _Reply:
        del values, descriptors
        if self._access is None or self._before is None:
            return {}, ()
        processor.access, access = self._before, self._access
        self._access = self._before = None
        assert self._frames is not None
        assert self._memory is not None
        assert self._table is not None
        access.close()
        with contextlib.suppress(BufferError):  # as it is on its way out, it is not lost either
            self._frames.release()
            self._table.close()
            self._memory.close()
        return {}, ()
