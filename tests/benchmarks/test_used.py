import pytest

from tests.benchmarks.used import Foresight, foresight, used_pages
from tests.machine.reference import Reference, draw_of
from vmckpt.machine.operations import BATCH_OPS
from vmckpt.machine.state import MachineState, VcpuState
from vmckpt.machine.workload import parse_workload

PAGES, SEED = 512, 7


def machine(workload: str, ops: list[int], recording: str = "") -> MachineState:
    vcpus = tuple(VcpuState(count, 0) for count in ops)
    return MachineState(parse_workload(workload), recording, SEED, PAGES, vcpus)


def touched(name: str, state: MachineState, ops_each: int) -> set[int]:
    """The same by the reference machine, operation by operation."""
    options = dict(state.workload.options)
    reference = Reference(bytes(PAGES * 4096), name, options, vcpus=len(state.vcpus), seed=SEED)
    word_of = getattr(reference, name.replace("-", "_"))
    return {
        word_of(number, op, draw_of(name, SEED, number, op)) // 512
        for number, vcpu in enumerate(state.vcpus)
        for op in range(vcpu.ops, vcpu.ops + ops_each)
    }


@pytest.mark.parametrize(
    ("workload", "ops", "ops_each"),
    [
        pytest.param("working-set:phase=0", [0], 40, id="from boot"),
        pytest.param("working-set:phase=0", [BATCH_OPS - 5], 11, id="across batches"),
        pytest.param("working-set:phase=2048", [BATCH_OPS - 20], 40, id="across phases"),
        pytest.param("uniform", [3, 5000, 0], 15, id="three vCPUs, each from its own place"),
        pytest.param("sequential", [100], 200, id="pages side by side"),
        pytest.param("zipf", [1], 0, id="nothing"),
    ],
)
def test_used_pages_are_those_that_the_machine_touches(workload: str, ops: list[int], ops_each: int) -> None:
    state = machine(workload, ops)
    assert used_pages(state, ops_each) == touched(state.workload.name, state, ops_each)


@pytest.mark.parametrize(
    "state",
    [machine("pointer-chase", [0]), machine("trace:file", [0], recording="abc")],
    ids=["chase", "recording"],
)
def test_what_follows_from_more_than_the_state_is_refused(state: MachineState) -> None:
    with pytest.raises(ValueError, match="does not follow"):
        used_pages(state, 1)


@pytest.mark.parametrize(
    ("recorded", "used", "expected"),
    [
        pytest.param([1, 2, 3], {1, 2, 3}, Foresight(1.0, 1.0), id="all, and no more"),
        pytest.param([1, 2, 3, 9], {1, 2}, Foresight(1.0, 2.0), id="too many"),
        pytest.param([9, 1], {1, 2, 3, 4}, Foresight(0.25, 0.5), id="too few"),
        pytest.param([], {1}, Foresight(0.0, 0.0), id="nothing recorded"),
        pytest.param([1], set(), Foresight(1.0, 0.0), id="nothing used"),
    ],
)
def test_foresight_counts_used_and_recorded_pages(
    recorded: list[int], used: set[int], expected: Foresight
) -> None:
    assert foresight(recorded, used) == expected
