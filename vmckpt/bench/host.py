"""A simulated host that several emulated machines overcommit: a budget of memory, and real machines that count against it.

    images ─▶ arrive: boot, all memory taken (as behind large pages) ─▶ used_pages ─▶ free = budget - used

Nothing stops the machines from using more than the budget: what is over is what a host would have to swap. Used memory is
that of the machines' memfds, as the kernel counts it. Accesses are counted exactly: the machines' page tables count
those that met a small mapping. Driven by `policies`, measured by `overcommit`.
"""

import contextlib
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from vmckpt.bench.guest import Tell
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.boot import Booted, boot
from vmckpt.machine.session import Wishes
from vmckpt.sharing.breakup import Seen, break_up, broken_of, look, watch
from vmckpt.sharing.pressure import min_free_bytes

__all__ = ["Counted", "Host", "kept_free_bytes"]

_WATCH_S = 0.3
_LIKE_BYTES = 96 << 30  # a host of this size is what the simulated one is a small model of


class Counted(NamedTuple):
    """What the host's machines have done, and have."""

    at_s: float
    """When, on the monotonic clock; the middle, as machines are counted one after the other."""
    ops: int
    small_ops: int
    """Of these, operations that met a small mapping."""
    freed_pages: int
    large_pages: int


def kept_free_bytes(budget_bytes: int) -> int:
    """What the host keeps free: the part of its memory that one of 96 GiB does; the scale is not made for less than 1 GiB."""
    return budget_bytes * min_free_bytes(_LIKE_BYTES) // _LIKE_BYTES


class Host:
    """The host. Use it as a context manager: leaving it ends its machines.

    Attributes:
        budget_bytes: its memory.
        min_free: bytes that it keeps free.
    """

    def __init__(self, budget_bytes: int, tell: Tell) -> None:
        """No machine so far."""
        self.budget_bytes = budget_bytes
        self.min_free = kept_free_bytes(budget_bytes)
        self._tell = tell
        self._machines: list[Booted] = []
        self._stack = contextlib.ExitStack()

    def __len__(self) -> int:
        return len(self._machines)

    def arrive(self, image: str, wishes: Wishes, warmup_ops: int) -> None:
        """Boot one more machine.

        Raises:
            VmckptError: it cannot be booted.
        """
        booted = boot(image, wishes, warmup_ops=warmup_ops, populate=True)
        self._machines.append(self._stack.enter_context(booted))

    def count(self) -> Counted:
        """Sums over all machines; each stands still for the moment in which it is counted, so that counts fit together."""
        answers = []
        for machine in self._machines:
            answers.append((time.monotonic(), machine.conversation.ask("pause").values))
            machine.conversation.ask("resume")

        def total(name: str) -> int:
            return sum(int(str(status[name])) for _, status in answers)

        return Counted(
            sum(at_s for at_s, _ in answers) / max(len(answers), 1),
            total("ops"),
            total("small_ops"),
            total("freed_pages"),
            total("large_pages"),
        )

    @property
    def used_pages(self) -> int:
        """Pages of memory that all machines take."""
        statuses = [machine.conversation.ask("status").values for machine in self._machines]
        return sum(int(str(status["resident_pages"])) for status in statuses)

    @property
    def free_bytes(self) -> int:
        """Of the budget; less than nothing where it is overcommitted."""
        return self.budget_bytes - self.used_pages * PAGE_BYTES

    @property
    def over_pages(self) -> int:
        """Pages that would have to be swapped, so that what is to be kept free is."""
        return max(-(-(self.min_free - self.free_bytes) // PAGE_BYTES), 0)

    def see(self, *, activity: bool) -> list[Seen]:
        """Look at all machines while they run; with `activity`, watch each for a moment."""
        seen = []
        for number, machine in enumerate(self._machines):
            conversation = machine.conversation
            self._tell(f"looking at guest {number + 1} of {len(self)}")
            watched = watch(conversation, seconds=_WATCH_S) if activity else {}
            seen.append(Seen(look(conversation, f"guest {number}"), watched, broken_of(conversation)[0]))
        return seen

    def break_up(self, breaks: Sequence[tuple[int, int]]) -> int:
        """Break up large pages, each told by machine and number; pages freed."""
        freed = 0
        for number, machine in enumerate(self._machines):
            own = [large_page for image, large_page in breaks if image == number]
            if own:
                freed += break_up(machine.conversation, own).freed_pages
        return freed

    def close(self) -> None:
        """End all machines. Closing twice is fine."""
        self._stack.close()
        self._machines.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
