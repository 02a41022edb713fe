"""The protocol of who stops a machine's touches and lets them go on: `userfault` with the kernel, `software` without.

    poll(descriptors) ─▶ traps(fd) ─▶ (whatever has to happen first) ─▶ let(trap, pages)        arm(pages): once more

Called by `serve` in the tracer process, and nowhere else once that has been forked.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vmckpt.pages import PageRange

__all__ = ["Tracer", "Trap"]


class Trap(NamedTuple):
    """A vCPU that touched a page and waits. A named tuple: one is made for each trap while the vCPU waits."""

    vcpu: int
    page: int
    write: bool
    how: int
    """The tracer's own business; pass it back."""


class Tracer(Protocol):
    """Stops touches of memory. Belongs to one thread; after a fork, to one of the two processes."""

    def descriptors(self) -> Sequence[int]:
        """All it holds open, to poll for input; whoever forks keeps these open and no others for its sake."""

    def traps(self, fd: int) -> list[Trap]:
        """Who waits now on a descriptor that polled readable.

        Raises:
            IoError: what was read is not understood.
        """

    def let(self, trap: Trap, pages: PageRange, *, writes: bool) -> None:
        """Lift the traces of `pages` in the mapping of `trap.vcpu`, and let that vCPU go on.

        A vCPU that has ended is no error.

        Args:
            trap: as `traps` told it.
            pages: `trap.page` among them.
            writes: lift the traces of writes too; without it (where `trap` is a read) writes to them still trap.

        Raises:
            IoError: the kernel refused.
        """

    def arm(self, pages: PageRange, *, reads: bool = False) -> None:
        """Trap writes to `pages` again, in every vCPU's mapping; reads as they do now.

        Args:
            pages: which.
            reads: reads too, where the tracer can do that by itself: in a mapping that the kernel traces, only the
                vCPU can, by unmapping the page.

        Raises:
            IoError: the kernel refused.
        """

    def close(self) -> None:
        """Close this process's copies of its descriptors. When the last copies are closed, nothing traps any more."""
