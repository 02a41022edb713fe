"""What the vCPUs do in a lazy restore: have their own mapping trapped, and in the end not any more.

    supervisor ── "trap" ──▶ vCPU: userfaultfd over its mapping ──▶ answer, with the descriptor ──▶ handler
               ── "untrap" ─▶ vCPU: nothing waits any more

Both are commands of the machine (`machine.processor`), carried out between two operations; "trap" comes before the
first. Missing pages trap in the mapping where they are touched, so every vCPU's is registered.
"""

import os
from collections.abc import Mapping, Sequence

from vmckpt.kernel.features import probe
from vmckpt.kernel.uffdio import Feature, Mode
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.machine.processor import Command, Processor

__all__ = ["MISSING", "TELLING", "Traps"]

MISSING = Feature.MISSING_SHMEM
"""What the kernel must be able to do."""

TELLING = Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM
"""What it should: registered for write protection too (which nobody sets), a mapping gets no pages that were not touched.

Else the kernel maps up to 15 pages around each touched one, and then nobody can tell which pages the guest used.
"""

Answer = tuple[Mapping[str, object], Sequence[int]]


class Traps:
    """A vCPU's part. Made in the supervisor; each vCPU's process has, by the fork, one of its own."""

    def __init__(self) -> None:
        self._uffd: Userfaultfd | None = None
        self._tells = False

    @property
    def commands(self) -> dict[str, Command]:
        """For `machine.Machine`."""
        return {"trap": self.trap, "untrap": self.untrap}

    def trap(self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]) -> Answer:
        """From now on a touch of a missing page waits. Answers with the mapping's address and the userfaultfd."""
        del values, descriptors
        memory = processor.place.memory
        self._tells = not probe().lacks(MISSING | TELLING)
        self._uffd = Userfaultfd.open(MISSING | TELLING if self._tells else MISSING)
        mode = Mode.MISSING | Mode.WP if self._tells else Mode.MISSING
        self._uffd.register(memory.address, memory.size_bytes, mode)
        return {"address": memory.address, "pid": os.getpid()}, [os.dup(self._uffd.fileno())]

    def untrap(
        self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
    ) -> Answer:
        """Nothing waits any more: what is still missing reads as zeros.

        With `telling`, where the kernel can do that, the mapping still tells which pages are touched: for a run that
        is measured to its end.
        """
        del descriptors
        memory, uffd = processor.place.memory, self._uffd
        if uffd is None:
            return {}, ()
        uffd.unregister(memory.address, memory.size_bytes)
        if values["telling"] and self._tells:
            uffd.register(
                memory.address, memory.size_bytes, Mode.WP
            )  # nothing is protected, so nothing traps
            return {}, ()
        uffd.close()
        self._uffd = None
        return {}, ()
