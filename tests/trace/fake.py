"""The kernel's part of one vCPU's traced mapping, played by a page table: tests/kernel/fake.py and write protection."""

import os

from tests.kernel.fake import FakeFaults
from vmckpt.kernel.faults import FaultFlag, Stop
from vmckpt.layout import PAGE_BYTES


class FakeMapping(FakeFaults):
    """A fresh mapping. `first_touch` and `writes` as in `rules.Needs`; `refusals` are the next answers instead."""

    def __init__(
        self, pages: int, address: int = 1 << 32, *, first_touch: bool = True, writes: bool = True
    ) -> None:
        super().__init__(pages, address)
        self.first_touch = first_touch
        self.writes = writes
        self.refusals: list[Stop] = []
        self.seam: int | None = None  # no range crosses this page's start
        self.unmapped = False
        self.calls = 0
        self._fd = os.eventfd(0)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def trap(self, page: int, *, write: bool) -> int | None:
        """What traps a touch, as `FaultFlag` bits; None where nothing does. The order is the kernel's."""
        flags = int(FaultFlag.WRITE) if write else 0
        if page not in self.content and self.first_touch:
            return flags
        if page not in self.mapped and self.first_touch:
            return flags | FaultFlag.MINOR
        if write and page in self.protected:
            return flags | FaultFlag.WP
        return None

    def write_protect(self, address: int, length_bytes: int, on: bool, *, wake: bool = True) -> Stop:
        stop = self._refusal(address, length_bytes)
        if stop is not None:
            return stop
        if not self.writes:
            return Stop.ABSENT
        start = (address - self.address) // PAGE_BYTES
        pages = set(range(start, start + length_bytes // PAGE_BYTES))
        self.protected = self.protected | pages if on else self.protected - pages
        if wake and not on:
            self.woken.append((address, length_bytes))
        return Stop.DONE

    def was_woken(self, page: int) -> bool:
        address = self.address + page * PAGE_BYTES
        return any(start <= address < start + length for start, length in self.woken)

    def _refusal(self, address: int, length_bytes: int) -> Stop | None:
        self.calls += 1
        if self.refusals:
            return self.refusals.pop(0)
        start = (address - self.address) // PAGE_BYTES
        end = start + length_bytes // PAGE_BYTES
        if self.unmapped or (self.seam is not None and start < self.seam < end):
            return Stop.ABSENT
        return super()._refusal(address, length_bytes)
