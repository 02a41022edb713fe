import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.machine.machines import RECORDING, WORKLOADS, again, boot, children, content, image, load, open_fds
from tests.machine.reference import Reference
from vmckpt.errors import FeatureError, FormatError, UsageError, WorkerError
from vmckpt.hashing import Digest, pack_hashes, page_hashes
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine.access import Access
from vmckpt.machine.machine import Machine
from vmckpt.machine.processor import Place
from vmckpt.machine.ram import Ram
from vmckpt.machine.recording import read_recording
from vmckpt.machine.state import MachineState, VcpuState
from vmckpt.machine.workload import Workload, parse_workload
from vmckpt.pages import PageRange
from vmckpt.sources import open_source

SOON_S = 30.0
NUMBERS = [0, 1, 2, 0, 0, 3, 4, 77, 0, 5, 0, 0]

# Digests of 4 MiB of `server` (seed 1, common seed 2), run by two vCPUs with seed 3 to 20,000 operations each. What a
# machine does is promised: a checkpoint of one version goes on in the next as it would have in the first.
GOLDEN = {
    "sequential": "fe1f8f584424af98ce23b2eda13262f6",
    "uniform": "6218a5106dd87132f1e85fc53a69833a",
    "zipf": "34cd72a4e734b5ccf131df9775deedde",
    "working-set": "5e5a180c64346e0c8d9e3a0e2381d423",
    "working-set:phase=4096,set=30,cluster=4": "8af944ab2df44988e4f47653f4a5bdb8",
    "pointer-chase": "05174d6dfafb597315f3272f7f218d27",
    f"trace:{RECORDING}": "91f869d17763b314f63c61e7ddcf9b46",
}


@pytest.fixture(scope="module")
def golden_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    return image(tmp_path_factory.mktemp("golden") / "image.raw")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with boot(load(tmp_path, content(NUMBERS)), vcpus=2) as machine:
        yield machine


def digest_of(memory: bytes) -> str:
    digest = Digest()
    digest.add(pack_hashes(page_hashes(memoryview(memory))))
    return digest.bytes().hex()


def until(machine: Machine, ops: int) -> None:
    """Serve the machine until its vCPUs have done that many together; only operations tell."""
    deadline_s = time.monotonic() + SOON_S
    while machine.status().ops < ops:
        assert time.monotonic() < deadline_s
        machine.wait(0)


@pytest.mark.parametrize("workload", GOLDEN, ids=lambda text: text.rpartition("/")[2])
def test_after_so_many_operations_memory_is_what_it_always_was(golden_image: str, workload: str) -> None:
    with open_source(golden_image) as source:
        ram = Ram.load(source)
    with boot(ram, workload, vcpus=2, seed=3) as machine:
        machine.start(until_ops=20_000)
        assert machine.wait(SOON_S)
        assert machine.digest() == GOLDEN[workload]


@pytest.mark.parametrize("workload", WORKLOADS)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    vcpus=st.integers(1, 4),
    seed=st.integers(0, 2**64 - 1),
    ops=st.integers(1, 1500),
    stops=st.lists(st.tuples(st.sampled_from(["pause", "state"]), st.integers(0, 1500)), max_size=4),
)
def test_pauses_and_new_machines_on_the_way_leave_what_the_reference_leaves(
    tmp_path: Path, workload: str, vcpus: int, seed: int, ops: int, stops: list[tuple[str, int]]
) -> None:
    memory = content(NUMBERS)
    parsed = parse_workload(workload)
    reference = Reference(memory, workload, dict(parsed.options), vcpus=vcpus, seed=seed)
    for _ in range(ops):
        for vcpu in range(vcpus):
            reference.step(vcpu)

    machine = boot(load(tmp_path, memory), workload, vcpus=vcpus, seed=seed)
    machine.start(until_ops=0)
    for what, at in sorted(stops, key=lambda stop: stop[1]):
        machine.resume(until_ops=min(at, ops))
        if what == "pause":
            machine.wait(0.0005)  # wherever it is by then
            machine.pause()
            continue
        assert machine.wait(SOON_S)
        state = MachineState.from_json(machine.machine_state().to_json(), page_count=len(NUMBERS))
        kept = bytearray(len(memory))
        with machine.ram.reader() as reader:
            reader.read(PageRange(0, len(NUMBERS)), memoryview(kept))
        machine.close()
        machine = again(load(tmp_path, bytes(kept)), state)
        machine.start(until_ops=0)
    with machine:
        machine.resume(until_ops=ops)
        assert machine.wait(SOON_S)
        assert machine.digest() == digest_of(reference.memory())
        assert machine.machine_state().vcpus == tuple(
            VcpuState(ops, register) for register in reference.register
        )


def test_the_number_of_pauses_does_not_matter(tmp_path: Path) -> None:
    digests = set()
    for pauses in (0, 1, 25):
        with boot(load(tmp_path, content(NUMBERS)), "zipf", vcpus=3, seed=8) as machine:
            machine.start(until_ops=60_000)
            for turn in range(pauses):
                until(machine, 3 * 60_000 * turn // 30)
                machine.pause()
                assert machine.status().state == "paused"
                machine.resume()
            assert machine.wait(SOON_S)
            digests.add(machine.digest())
    assert len(digests) == 1


@pytest.mark.parametrize("vcpus", [1, 16])
def test_from_boot_to_stop(tmp_path: Path, vcpus: int) -> None:
    with boot(load(tmp_path, content(NUMBERS)), "uniform", vcpus=vcpus) as machine:
        assert machine.status().state == "paused"
        machine.start()
        assert machine.status().state == "running"
        until(machine, 5000)
        machine.pause()
        paused = machine.status()
        assert (paused.state, paused.vcpus, len(paused.ops_per_vcpu)) == ("paused", vcpus, vcpus)
        assert machine.status() == paused
        assert machine.machine_state().ops == paused.ops
        machine.pause()
        machine.resume()
        until(machine, paused.ops + 1000)
        machine.stop()
        machine.stop()
        stopped = machine.status()
        assert stopped.state == "stopped"
        assert machine.machine_state().ops == stopped.ops > paused.ops
        assert len(machine.digest()) == 32
        assert machine.wait()


def test_what_goes_on_beside_running_is_its_state(machine: Machine) -> None:
    machine.start()
    machine.activity = "saving"
    assert machine.status().state == "saving"
    machine.activity = None
    assert machine.status().state == "running"


def test_a_machine_that_starts_paused_does_nothing_until_resumed(machine: Machine) -> None:
    machine.start(paused=True, until_ops=700)
    assert not machine.wait(0.01)
    assert machine.status().ops == 0
    with pytest.raises(UsageError, match="nobody is there to resume"):
        machine.wait()
    machine.resume()
    assert machine.wait(SOON_S)
    assert machine.status().ops_per_vcpu == (700, 700)


def test_zero_pages_that_are_written_take_room(tmp_path: Path) -> None:
    with boot(Ram(Layout.flat(64 * PAGE_BYTES)), "sequential") as machine:
        assert machine.status().resident_pages == 0
        machine.start(until_ops=64 * 64)
        assert machine.wait(SOON_S)
        assert machine.status().resident_pages == 64


def test_memory_beyond_the_hole_is_used_like_any_other() -> None:
    layout = Layout([(0, 3 << 30), (4 << 30, 61 << 30)])
    with boot(Ram(layout), "uniform", vcpus=2) as machine:
        machine.start(until_ops=3000)
        assert machine.wait(SOON_S)
        with machine.ram.reader() as reader:
            touched = [page for start, end in reader.data_ranges() for page in range(start, end)]
        assert len(touched) > 1000
        assert max(touched) > 15 << 20


@pytest.mark.parametrize("is_paused", [True, False], ids=["paused", "running"])
def test_a_killed_vcpu_ends_the_machine_with_a_message(machine: Machine, is_paused: bool) -> None:
    machine.start()
    if is_paused:
        machine.pause()
    pids = children()
    os.kill(machine._vcpus[1].pid, signal.SIGKILL)
    with pytest.raises(
        WorkerError, match=r"vCPU 1 \(process \d+\) ended after \d+ operations: killed by signal 9"
    ):
        machine.wait(SOON_S)
    assert set(children()).isdisjoint(pids)
    assert machine.status().state == "stopped"
    for step in (machine.wait, machine.stop, machine.digest, machine.machine_state):
        with pytest.raises(WorkerError, match="vCPU 1"):
            step()


@pytest.mark.parametrize("step", ["pause", "resume", "stop"])
def test_a_killed_vcpu_is_noticed_by_whatever_comes_next(machine: Machine, step: str) -> None:
    machine.start()
    os.kill(machine._vcpus[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="vCPU 0"):
        getattr(machine, step)()
    assert machine.status().state == "stopped"


def test_a_start_that_is_interrupted_leaves_no_process_and_no_digest(tmp_path: Path) -> None:
    def refuse(place: Place) -> Access:
        raise FeatureError("there is no tracing here")

    others = children()
    with boot(load(tmp_path, content(NUMBERS)), vcpus=3, attach=refuse) as machine:
        with pytest.raises(WorkerError, match="there is no tracing here"):
            machine.start()
        assert children() == others
        with pytest.raises(WorkerError, match="there is no tracing here"):
            machine.digest()


def test_what_makes_no_sense_is_refused(machine: Machine) -> None:
    for step in (machine.pause, machine.resume, machine.wait):
        with pytest.raises(UsageError, match="does not run"):
            step()
    machine.start()
    with pytest.raises(UsageError, match="started before"):
        machine.start()
    for read in (machine.digest, machine.machine_state):
        with pytest.raises(UsageError, match="pause it first"):
            read()
    machine.stop()
    with pytest.raises(UsageError, match="does not run"):
        machine.pause()


def test_nothing_is_left_of_a_machine(tmp_path: Path) -> None:
    before, others = open_fds(), children()
    for _ in range(3):
        with boot(load(tmp_path, content(NUMBERS)), vcpus=4) as machine:
            machine.start()
            machine.pause()
            machine.resume()
    assert open_fds() == before
    assert children() == others


def state(**changes: object) -> MachineState:
    made = MachineState.boot(parse_workload("zipf:write=7"), vcpus=2, seed=2**64 - 1, page_count=9)
    return made._replace(vcpus=(VcpuState(5, 2**64 - 1), VcpuState(2**63, 0)))._replace(**changes)  # type: ignore[arg-type]  # any field


def test_a_state_comes_back_from_json_as_it_was() -> None:
    assert MachineState.from_json(state().to_json(), page_count=9) == state()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff",
        state(page_count=8).to_json(),
        state().to_json().replace(b'"machine":1', b'"machine":2'),
        state().to_json().replace(b"zipf", b"zapf"),
        state().to_json().replace(b'"zipf:write=7"', b"[1]"),
        state().to_json().replace(b'"ops":5', b'"ops":-5'),
        state().to_json().replace(b'"ops":5', b'"ops":5.5'),
        state().to_json().replace(b'"ops":5', b'"ops":true'),
        state().to_json().replace(b'"0x0"', b'"0x10000000000000000"'),
        state().to_json().replace(b'"0x0"', b"7"),
        state().to_json().replace(b'"seed":18446744073709551615', b'"seed":18446744073709551616'),
        state(vcpus=()).to_json(),
        state(vcpus=(VcpuState(0, 0),) * 17).to_json(),
    ],
    ids=lambda body: body[:24].decode(errors="replace") + str(len(body)),
)
def test_a_state_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError, match="vCPU state"):
        MachineState.from_json(body, page_count=9)


@pytest.mark.parametrize(("vcpus", "seed"), [(0, 0), (17, 0), (1, -1), (1, 2**64)])
def test_a_machine_that_cannot_be_is_refused(vcpus: int, seed: int) -> None:
    with pytest.raises(UsageError):
        MachineState.boot(Workload("uniform", MappingProxyType({})), vcpus=vcpus, seed=seed, page_count=1)


def test_a_machine_goes_on_only_with_the_recording_that_it_had(tmp_path: Path) -> None:
    recording = read_recording(RECORDING)
    made = MachineState.boot(
        parse_workload(f"trace:{RECORDING}"), recording="0" * 32, vcpus=1, seed=0, page_count=len(NUMBERS)
    )
    with load(tmp_path, content(NUMBERS)) as ram, pytest.raises(UsageError, match="fingerprint"):
        again(ram, made, recording)


def test_a_callback_that_asks_the_vcpus_may_hear_what_was_to_be_heard_next(tmp_path: Path) -> None:
    with boot(load(tmp_path, content(NUMBERS)), vcpus=2) as machine:
        reading, writing = os.pipe()

        def pause(_: int) -> None:
            os.read(reading, 1)
            machine.pause()

        # Watched before the vCPUs are: so it comes first in a round of events.
        machine.watch(reading, select.POLLIN, pause)
        machine.start(until_ops=100)
        deadline_s = time.monotonic() + SOON_S
        while machine.status().ops < 200 and time.monotonic() < deadline_s:
            time.sleep(0.001)
        time.sleep(0.05)  # each has told that it has reached its end, and nobody has listened
        os.write(writing, b"x")
        assert machine.wait(SOON_S)
        machine.unwatch(reading)
        os.close(reading)
        os.close(writing)
