"""A guest's page faults, and the protocol of who reads and answers them.

    guest touches a page ─▶ it blocks ─▶ read_events in the handler ─▶ copy | zero | proceed ─▶ the guest goes on

Pure values: `kernel.userfaultfd` answers the protocol with the kernel, tests answer it with a page table of their own.
Values are named tuples rather than dataclasses: one is made for every trap, in 0.25 µs instead of 0.6.
"""

from enum import Enum, IntEnum, IntFlag
from typing import NamedTuple, Protocol

from vmckpt.pages import Buffer

__all__ = ["CopyOutcome", "Event", "EventKind", "FaultFlag", "Faults", "Stop"]


class EventKind(IntEnum):
    """What happened to the traced memory."""

    FAULT = 0x12
    """A thread touched a page and waits."""
    REMOVE = 0x15
    """A range's content was given up (MADV_DONTNEED, MADV_REMOVE); whoever did it waits until the event is read."""
    UNMAP = 0x16
    """A range was unmapped."""


class FaultFlag(IntFlag):
    """How a page was touched, and why that trapped. Without WP and MINOR the page was missing."""

    WRITE = 1
    WP = 2
    MINOR = 4


class Event(NamedTuple):
    """One event of the traced memory."""

    kind: EventKind
    address: int
    """Of the page that was touched, or where the range starts; a host address in the guest's process."""
    end: int
    """Where the range ends; of a fault, `address`."""
    flags: int
    """`FaultFlag` bits of a fault; a plain number, because making the flags costs more than reading the event."""
    thread_id: int
    """Of the thread that touched the page, in the reader's pid namespace; 0 unless THREAD_ID was asked for."""

    @property
    def write(self) -> bool:
        """The fault is a write."""
        return bool(self.flags & FaultFlag.WRITE)

    @property
    def wp(self) -> bool:
        """The fault is a write to a write-protected page that is there."""
        return bool(self.flags & FaultFlag.WP)

    @property
    def minor(self) -> bool:
        """The page is in the file, and not mapped."""
        return bool(self.flags & FaultFlag.MINOR)


class Stop(Enum):
    """Why filling a range stopped where it did."""

    DONE = "done"
    """All of the range is filled, and whoever waited for it woken (unless that was not wanted)."""
    EXISTS = "exists"
    """The next page is there already. Nobody was woken for it: skip the page and call `wake`."""
    AGAIN = "again"
    """Read the events and try again: one that removes memory is waiting, or the kernel was short of something."""
    GONE = "gone"
    """The guest's process has ended."""
    ABSENT = "absent"
    """What is left of the range is not, or not any more, part of one registered mapping of the guest."""
    HOLE = "hole"
    """`proceed` only: the file has no page there. Use `zero` or `copy`."""


class CopyOutcome(NamedTuple):
    """How far filling a range came."""

    bytes_done: int
    """From the start of the range, in whole pages; filled and, unless that was not wanted, woken."""
    stop: Stop
    """Why no further."""


class Faults(Protocol):
    """What a fault engine asks of the kernel: read a guest's faults, answer them.

    Addresses are those of the guest's process; ranges are whole pages. Answers never block on the guest.
    """

    def copy(
        self, dst: int, src: int | Buffer, length_bytes: int, *, wp: bool = False, wake: bool = True
    ) -> CopyOutcome:
        """Fill missing pages from `src`, a buffer or an address in the caller's process; `wp` protects them."""

    def zero(self, address: int, length_bytes: int, *, wake: bool = True) -> CopyOutcome:
        """Fill missing pages with zeros; they are not write-protected."""

    def proceed(self, address: int, length_bytes: int, *, wp: bool = False, wake: bool = True) -> CopyOutcome:
        """Map pages that the file has already (the answer to a minor fault); `wp` protects them."""

    def wake(self, address: int, length_bytes: int) -> None:
        """Let the threads that wait for these pages try again."""

    def read_events(self, limit: int = 16) -> list[Event]:
        """Up to `limit` events that are waiting now; empty when none is."""
