"""Which pages a machine uses after a checkpoint, and how well the recorded active pages foretell that: pure, no I/O.

Nothing has to be watched: what a vCPU does is a function of its seed and of how many operations it has done
(docs/machine.md), and a checkpoint holds both.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tests.benchmarks.results import ratio
from vmckpt.machine.operations import BATCH_OPS, WORDS_PER_PAGE, Share, operations_of
from vmckpt.machine.state import MachineState

__all__ = ["Foresight", "foresight", "used_pages"]


class Foresight(NamedTuple):
    """Recorded pages against those that were used."""

    recall: float
    """The part of the used pages that was recorded."""
    size: float
    """Recorded pages for each used one."""


def used_pages(state: MachineState, ops_each: int) -> set[int]:
    """The pages that the machine touches in the next `ops_each` operations of each vCPU, from `state` on.

    Raises:
        ValueError: the workload follows what it reads, or a recording: that does not show in the state.
    """
    used: set[int] = set()
    if state.recording or state.workload.name == "pointer-chase":
        raise ValueError(f"what {state.workload.text} touches does not follow from its state alone")
    for number, vcpu in enumerate(state.vcpus):
        share = Share(number, len(state.vcpus), state.page_count)
        operations = operations_of(state.workload, share, seed=state.seed, recording=None)
        op, end = vcpu.ops, vcpu.ops + ops_each
        while op < end:
            batch, first = divmod(op, BATCH_OPS)
            words = operations.batch(batch).words[first : first + end - op]
            used.update([word // WORDS_PER_PAGE for word in words])
            op += len(words)
    return used


def foresight(recorded: Sequence[int], used: set[int]) -> Foresight:
    """How well `recorded` covers `used`; where nothing was used, anything covers it."""
    met = ratio(len(used.intersection(recorded)), len(used))
    size = ratio(len(recorded), len(used))
    return Foresight(1.0 if met is None else met, 0.0 if size is None else size)
