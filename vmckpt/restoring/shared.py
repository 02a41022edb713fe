"""What the processes of a restore share: states of pages, progress, counters, the log. A dead handler leaves them behind.

    supervisor ── makes it, then forks ──▶ keeper ──▶ handler (writes)      vCPUs without userfaultfd (look at the states)

Mappings without a file, which the kernel fills as they are touched: for a memory of 64 GiB they take room for some tens
of MiB and, at first, nothing. Made by `lazy`.
"""

import os
import weakref
from typing import Self

from vmckpt.kernel.memory import Mapping, create_memfd
from vmckpt.restoring.crew import MOST_HELPERS
from vmckpt.restoring.log import COUNTERS, RECORD_BYTES, Counter, FaultLog
from vmckpt.restoring.residency import Residency

__all__ = ["Shared"]

_MOST_RECORDS = 4 << 20  # 128 MiB; a guest rarely faults as often before all of its memory is there
_RECORDS_A_PAGE = 2  # several vCPUs may wait for one page
_WORD_BYTES = 8


class Shared:
    """The shared memory of one restore.

    Attributes:
        residency: states of pages.
        progress: a byte for each storage block, see `background`.
        log: counters and fault records.
        pending_fd: what `pending` keeps; open for as long as this object lives.
        touched: of each page, 1 if a vCPU without userfaultfd has touched it.
        waiting: a word for each vCPU, for the mechanism without userfaultfd (`software`).
    """

    def __init__(self, page_count: int, storage_blocks: int, vcpus: int) -> None:
        """Make it; all of it is zeros.

        Raises:
            IoError: there is no room in the address space.
        """
        records = min(page_count * _RECORDS_A_PAGE * vcpus, _MOST_RECORDS)
        sizes = [
            page_count,
            storage_blocks,
            (1 + MOST_HELPERS) * COUNTERS * _WORD_BYTES,
            records * RECORD_BYTES,
            vcpus * _WORD_BYTES,
            page_count,
        ]
        self._mappings = [Mapping.anonymous(size, shared=True) for size in sizes]
        cells, self.progress, counters, kept, waiting, self.touched = (
            mapping.view for mapping in self._mappings
        )
        self.residency = Residency(cells)
        self._counters = counters.cast("Q")
        self.log = FaultLog(self._counters[:COUNTERS], kept)
        self.waiting = waiting.cast("Q")
        self.pending_fd = create_memfd("vmckpt-pending", 0)
        self._close = weakref.finalize(self, os.close, self.pending_fd)
        self._close.atexit = False

    def log_of(self, helper: int) -> FaultLog:
        """A log for the `helper`-th helper (from 1 on), which has counters of its own and hears of no fault."""
        return FaultLog(self._counters[helper * COUNTERS : (helper + 1) * COUNTERS], memoryview(b""))

    def total(self, counter: Counter) -> int:
        """What the handlers and all helpers have counted."""
        return sum(self._counters[int(counter) :: COUNTERS])

    def close(self) -> None:
        """Let go of the list of who is pending; what was counted can still be read. Closing twice is fine."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The kernel takes the memory back with the last process that has it."""
        self.close()
