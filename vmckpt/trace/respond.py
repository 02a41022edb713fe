"""What is done about one trap, while a vCPU waits: copy or mark dirty, log, and let it go on, in this order.

    trap ─▶ judge ─┬─ copy, unless the block was copied or saved ─▶ captures: slot ─────────┬─▶ log ─▶ let
                   │                └─ saved, and writes are let ─▶ captures: RELEASED ─────┤
                   └─ dirty ────────────────────────────────────────────────────────────────┘

Whoever read a block from the memory and finds `captures` 0 afterwards has it as it was at the start: that it may change
is noted before any vCPU can write. A touch of a block that was copied for another vCPU only logs. Called by `serve`.
"""

import os
from collections.abc import Callable

from vmckpt.errors import IoError
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import PageRange
from vmckpt.trace.journal import RELEASED, Journal, pack_entry
from vmckpt.trace.rules import Mode, Rule, judge
from vmckpt.trace.tracer import Tracer, Trap

__all__ = ["responder"]


def responder(
    tracer: Tracer, journal: Journal, rule: Rule, mode: Mode, memory_fd: int
) -> Callable[[Trap], None]:
    """A function that answers a trap; page p lies at p * 4096 of `memory_fd`.

    It is a closure, for a vCPU waits: its variables are found faster than a class's attributes. It raises IoError
    where the memory cannot be read, or the tracer cannot let the vCPU go on.
    """
    verdicts = judge(rule, mode, write=False), judge(rule, mode, write=True)
    block_pages, page_count = journal.block_pages, journal.page_count
    captures, saved, dirty = journal.captures, journal.saved, journal.dirty
    take_slot, slot_of, log, let = journal.take_slot, journal.slot, journal.log, tracer.let

    def respond(trap: Trap) -> None:
        vcpu, page, write, _ = trap
        must_copy, is_dirty, whole_block, lift_writes = verdicts[write]
        block = page // block_pages
        start = block * block_pages
        copied = must_copy and not captures[block] and not saved[block]
        if copied:
            number = take_slot()
            _copy(memory_fd, start * PAGE_BYTES, slot_of(number), page_count * PAGE_BYTES)
            captures[block] = number + 1
        elif is_dirty:
            dirty[block] = 1
        elif lift_writes and not captures[block]:
            captures[block] = RELEASED  # saved already; from now on the memory may say something else
        log(pack_entry(vcpu, page, write, copied))
        if whole_block:
            let(trap, PageRange(start, min(start + block_pages, page_count)), writes=lift_writes)
        else:
            let(trap, PageRange(page, page + 1), writes=lift_writes)

    return respond


def _copy(fd: int, offset: int, into: memoryview, end: int) -> None:
    """Read until `into` is full, or the memory at its end."""
    done = os.preadv(fd, [into], offset)
    wanted = len(into)
    if done == wanted:
        return
    wanted = min(wanted, end - offset)
    while done < wanted:
        more = os.preadv(fd, [into[done:wanted]], offset + done)
        if not more:
            raise IoError("the memory of the machine ends before its last page", offset=offset + done)
        done += more
