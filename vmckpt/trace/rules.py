"""What a trapped touch means, for each rule of tracing and each moment that a checkpoint can stand for.

    rule         trap         CHECKPOINT (memory as it was at the start)     SUSPEND (memory as it is at the end)
    ACCESS       read         copy the block; lift all its traces            lift the block's read traces
                 write        copy the block; lift all its traces            dirty; lift all the block's traces
    WRITE        write        copy the block; lift all its traces            dirty; lift all the block's traces
    WORKING_SET  read         lift the page's read trace                     lift the page's read trace
                 write        copy the block; lift the page's traces         dirty; lift the page's traces

ACCESS is Halite's copy on access (ATC'13; US 9,053,064, claim 1), WORKING_SET the memory tracing of VEE'11. Copying a
block spares what was copied, or read by the saver, before. Pure: `respond` acts on it, whoever registers and protects
memory asks `needs`.
"""

from enum import Enum
from typing import NamedTuple

__all__ = ["Mode", "Needs", "Rule", "Verdict", "judge", "needs"]


class Rule(Enum):
    """Which touches trap, and how much one of them brings into the checkpoint early."""

    ACCESS = "access"
    """The first touch of any kind; it stands for its whole memory block."""
    WRITE = "write"
    """Writes only; they stand for their whole memory block."""
    WORKING_SET = "working-set"
    """The first read and the first write of each page, which stands for itself alone."""

    @property
    def by_block(self) -> bool:
        """A trap marks its whole memory block as active, not its page alone."""
        return self is not Rule.WORKING_SET


class Mode(Enum):
    """Which moment of the machine's memory the checkpoint holds."""

    CHECKPOINT = "checkpoint"
    """The start: what changes later is copied first."""
    SUSPEND = "suspend"
    """The stop: what changed after it was saved is saved again."""


class Needs(NamedTuple):
    """How a vCPU's mapping is set up for tracing."""

    first_touch: bool
    """The first touch of each page traps (registered MISSING and MINOR, and nothing is mapped yet)."""
    writes: bool
    """Writes to protected pages trap (registered WP)."""
    protect: bool
    """All of it is write-protected before the vCPU uses it."""


class Verdict(NamedTuple):
    """What to do about a trap before the vCPU goes on."""

    copy: bool
    """Copy the memory block, unless that was done, or the saver has read it."""
    dirty: bool
    """The block has to be saved, again if it was saved before."""
    whole_block: bool
    """Traces are lifted from all of the memory block, not from the page alone."""
    lift_writes: bool
    """Writes trap no more there either; else only reads are let through."""


_NEEDS = {
    (Rule.ACCESS, Mode.CHECKPOINT): Needs(first_touch=True, writes=False, protect=False),
    (Rule.WRITE, Mode.CHECKPOINT): Needs(first_touch=False, writes=True, protect=True),
    (Rule.WORKING_SET, Mode.CHECKPOINT): Needs(first_touch=True, writes=True, protect=False),
    (Rule.ACCESS, Mode.SUSPEND): Needs(first_touch=True, writes=True, protect=False),
    (Rule.WRITE, Mode.SUSPEND): Needs(first_touch=False, writes=True, protect=True),
    (Rule.WORKING_SET, Mode.SUSPEND): Needs(first_touch=True, writes=True, protect=False),
}


def needs(rule: Rule, mode: Mode) -> Needs:
    """How the vCPUs' mappings are set up; under WORKING_SET and SUSPEND pages are let in protected, one by one."""
    return _NEEDS[rule, mode]


def judge(rule: Rule, mode: Mode, *, write: bool) -> Verdict:
    """What to do about a read or a write that trapped.

    Reads never trap under WRITE; should one be reported all the same, it is let through and nothing else.
    """
    checkpoint = mode is Mode.CHECKPOINT
    if write:
        return Verdict(copy=checkpoint, dirty=not checkpoint, whole_block=rule.by_block, lift_writes=True)
    at_once = rule is Rule.ACCESS and checkpoint  # the block is safe, so its writes need no trace any more
    return Verdict(copy=at_once, dirty=False, whole_block=rule is Rule.ACCESS, lift_writes=at_once)
