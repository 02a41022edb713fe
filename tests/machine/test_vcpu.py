import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.machine.machines import children, open_fds
from vmckpt.errors import WorkerError
from vmckpt.kernel.memory import Mapping as MemoryMapping
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine.access import Access
from vmckpt.machine.operations import BATCH_OPS, Share, operations_of
from vmckpt.machine.processor import WORDS, Attach, Place, Processor, plain
from vmckpt.machine.ram import Ram
from vmckpt.machine.state import VcpuState
from vmckpt.machine.vcpu import Role, Vcpu
from vmckpt.machine.workload import parse_workload

SOON_S = 20.0


@pytest.fixture
def ram() -> Iterator[Ram]:
    with Ram(Layout.flat(256 * PAGE_BYTES)) as ram:
        yield ram


def pipe_out(
    processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
) -> tuple[Mapping[str, object], Sequence[int]]:
    """A command: writes what it was sent through the descriptor that it got, and sends one back."""
    [fd] = descriptors
    os.write(fd, f"{values['text']} from {processor.place.share.vcpu}".encode())
    return {"pages": processor.place.share.page_count}, [os.dup(fd)]


def vcpu_of(ram: Ram, *, attach: Attach = plain) -> Vcpu:
    share = Share(0, 1, ram.layout.page_count)
    operations = operations_of(parse_workload("uniform"), share, seed=0, recording=None)
    control = MemoryMapping.anonymous(WORDS * 8, shared=True).view.cast("Q")
    return Vcpu(Role(ram, share, operations, VcpuState(0, 0), control, attach, {"pipe out": pipe_out}))


def resume(vcpu: Vcpu, until_ops: int | None = None) -> None:
    vcpu.take(vcpu.post("resume", {"until_ops": until_ops}), timeout_s=SOON_S)


def pause(vcpu: Vcpu) -> None:
    vcpu.take(vcpu.post("pause", {}), timeout_s=SOON_S)


def wait_for(vcpu: Vcpu) -> None:
    """Until it has something to say."""
    poll = select.poll()
    poll.register(vcpu.fd, select.POLLIN)
    assert poll.poll(SOON_S * 1000)


def until_ops_are(vcpu: Vcpu, ops: int) -> None:
    """Until it has done that many; only the operations themselves tell."""
    deadline_s = time.monotonic() + SOON_S
    while vcpu.ops < ops:
        assert time.monotonic() < deadline_s


def test_it_is_a_process_of_that_name_that_starts_paused(ram: Ram) -> None:
    vcpu = vcpu_of(ram)
    pause(vcpu)
    assert Path(f"/proc/{vcpu.pid}/comm").read_text(encoding="utf-8") == "vmckpt-vcpu\n"
    assert vcpu.ops == 0
    vcpu.kill()


@pytest.mark.parametrize("until_ops", [1, 255, 256, 257, BATCH_OPS, BATCH_OPS + 1, 3 * BATCH_OPS - 1])
def test_it_stops_at_exactly_its_last_operation(ram: Ram, until_ops: int) -> None:
    vcpu = vcpu_of(ram)
    resume(vcpu, until_ops)
    wait_for(vcpu)
    vcpu.hear()
    assert vcpu.reached
    assert vcpu.state.ops == vcpu.ops == until_ops
    vcpu.kill()


def test_a_new_end_lets_it_go_on_and_an_old_one_is_told_again(ram: Ram) -> None:
    vcpu = vcpu_of(ram)
    for until_ops in (1000, 5000, 5000, 10):
        resume(vcpu, until_ops)
        wait_for(vcpu)
        vcpu.hear()
        assert vcpu.reached
        assert vcpu.state.ops == max(until_ops, 1000 if until_ops == 10 else 0, vcpu.state.ops)
    assert vcpu.state.ops == 5000
    vcpu.kill()


def test_while_paused_it_does_nothing_and_uses_no_processor(ram: Ram) -> None:
    vcpu = vcpu_of(ram)
    resume(vcpu)
    until_ops_are(vcpu, 10_000)
    pause(vcpu)
    stat = Path(f"/proc/{vcpu.pid}/stat")
    state = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    deadline_s = time.monotonic() + SOON_S
    while state != "S":  # it has answered, and is about to fall asleep
        assert time.monotonic() < deadline_s
        state = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    assert vcpu.state.ops == vcpu.ops
    vcpu.kill()


def test_a_pause_is_short(ram: Ram) -> None:
    vcpu = vcpu_of(ram)
    latencies_s = []
    for _ in range(30):
        resume(vcpu)
        until_ops_are(vcpu, vcpu.state.ops + 1)
        started_s = time.perf_counter()
        pause(vcpu)
        latencies_s.append(time.perf_counter() - started_s)
    # Measured: 0.3 ms; a machine that does other things as well may take a while for single ones.
    assert sorted(latencies_s)[10] < 0.02
    vcpu.kill()


def test_a_command_runs_in_the_vcpus_process_with_descriptors_both_ways(ram: Ram) -> None:
    vcpu = vcpu_of(ram)
    resume(vcpu)
    reading, writing = os.pipe()
    answer = vcpu.take(vcpu.post("pipe out", {"text": "hello"}, [writing]), timeout_s=SOON_S)
    assert os.read(reading, 100) == b"hello from 0"
    assert answer.values["pages"] == 256
    [fd] = answer.descriptors
    os.write(fd, b"again")
    assert os.read(reading, 100) == b"again"
    for each in (reading, writing, fd):
        os.close(each)
    vcpu.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1], ids=lambda number: number.name)
@pytest.mark.parametrize("is_paused", [True, False], ids=["paused", "running"])
def test_a_killed_vcpu_is_an_error_that_says_which_and_how(
    ram: Ram, number: signal.Signals, *, is_paused: bool
) -> None:
    vcpu = vcpu_of(ram)
    if not is_paused:
        resume(vcpu)
    pid = vcpu.pid
    os.kill(pid, number)
    wait_for(vcpu)
    with pytest.raises(
        WorkerError, match=rf"vCPU 0 \(process {pid}\) ended .* signal {int(number)} \({number.name}\)"
    ):
        vcpu.hear()
    assert vcpu.pid == 0
    vcpu.kill()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_a_signal_to_the_whole_terminal_is_the_supervisors_business(ram: Ram, number: signal.Signals) -> None:
    vcpu = vcpu_of(ram)
    pause(vcpu)  # it has started
    os.kill(vcpu.pid, number)
    resume(vcpu, 1000)
    wait_for(vcpu)
    vcpu.hear()
    assert vcpu.reached
    vcpu.kill()


def test_a_stopped_process_does_not_hold_the_supervisor_up_for_ever(ram: Ram) -> None:
    vcpu = vcpu_of(ram)
    pause(vcpu)
    os.kill(vcpu.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match="did not answer"):
        vcpu.take(vcpu.post("pause", {}), timeout_s=0.05)
    vcpu.kill()


def test_what_goes_wrong_at_its_start_is_said_in_its_own_words(ram: Ram) -> None:
    def refuse(place: Place) -> Access:
        raise WorkerError("there is no tracing here")

    vcpu = vcpu_of(ram, attach=refuse)
    wait_for(vcpu)
    with pytest.raises(WorkerError, match="there is no tracing here"):
        vcpu.hear()


def test_no_descriptor_but_its_own_is_open_in_it(ram: Ram) -> None:
    reading, writing = os.pipe()
    vcpu = vcpu_of(ram)
    pause(vcpu)
    names = [
        os.readlink(f"/proc/{vcpu.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{vcpu.pid}/fd") if int(fd) > 2
    ]
    assert sorted(name.partition(":")[0] for name in names) == ["/memfd", "/memfd", "socket"]
    os.close(reading)
    os.close(writing)
    vcpu.kill()


@pytest.mark.parametrize("is_paused", [True, False], ids=["paused", "running"])
def test_it_ends_when_its_supervisor_is_killed(is_paused: bool) -> None:
    script = (
        "import os, signal, sys\n"
        "from tests.machine.test_vcpu import *\n"
        "vcpu = vcpu_of(Ram(Layout.flat(256 * PAGE_BYTES)))\n"
        f"pause(vcpu) if {is_paused} else resume(vcpu)\n"
        "print(vcpu.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        os.closerange(3, 100)
        os.execv(sys.executable, [sys.executable, "-c", script])
    os.close(writing)
    with os.fdopen(reading) as stream:
        vcpu_pid = int(stream.readline())
        # The vCPU has the pipe as its standard output: its end is the end of the stream.
        poll = select.poll()
        poll.register(stream, select.POLLHUP)
        assert poll.poll(SOON_S * 1000)
    os.waitpid(pid, 0)
    assert vcpu_pid > 0


def test_nothing_is_left_of_it(ram: Ram) -> None:
    before, others = open_fds(), children()
    for end in ("stop", "kill", "hear"):
        vcpu = vcpu_of(ram)
        resume(vcpu)
        if end == "stop":
            vcpu.take(vcpu.post("stop", {}), timeout_s=SOON_S)
            vcpu.join()
        elif end == "hear":
            os.kill(vcpu.pid, signal.SIGKILL)
            with pytest.raises(WorkerError):
                pause(vcpu)
        vcpu.kill()
    del vcpu
    assert open_fds() == before
    assert children() == others


class Asking:
    """An access that asks its supervisor before every slice, in the midst of it."""

    def __init__(self) -> None:
        self.processor: Processor | None = None

    def straight(self, words: Sequence[int], draws: Sequence[int], threshold: int, register: int) -> int:
        del words, draws, threshold
        assert self.processor is not None
        self.processor.ask("may I", {"page": 3})
        return register

    def chase(self, draws: Sequence[int], threshold: int, register: int) -> int:
        return self.straight((), draws, threshold, register)


def asking_vcpu(ram: Ram) -> Vcpu:
    access = Asking()

    def meet(
        processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
    ) -> tuple[Mapping[str, object], Sequence[int]]:
        del values, descriptors
        access.processor = processor
        return {}, ()

    share = Share(0, 1, ram.layout.page_count)
    operations = operations_of(parse_workload("uniform"), share, seed=0, recording=None)
    control = MemoryMapping.anonymous(WORDS * 8, shared=True).view.cast("Q")
    commands = {"meet": meet, "amid": meet}
    vcpu = Vcpu(
        Role(ram, share, operations, VcpuState(0, 0), control, lambda _: access, commands, amid=("amid",))
    )
    vcpu.take(vcpu.post("meet", {}), timeout_s=SOON_S)
    return vcpu


def test_one_who_asks_in_the_midst_of_an_operation_obeys_some_and_does_the_rest_afterwards(ram: Ram) -> None:
    vcpu = asking_vcpu(ram)
    asked: list[object] = []
    vcpu.on_event = lambda message: asked.append((message.name, message.values["page"]))
    resume(vcpu, 256)
    wait_for(vcpu)
    vcpu.hear()
    assert asked == [("may I", 3)]
    pausing = vcpu.post("pause", {})
    amid = vcpu.post("amid", {})
    vcpu.take(amid, timeout_s=SOON_S)  # while it waits
    assert not vcpu.has_answered(pausing)
    assert vcpu.ops == 0
    vcpu.answer("may I")
    assert vcpu.take(pausing, timeout_s=SOON_S).values["ops"] == 256
    vcpu.kill()


def test_an_answer_that_comes_while_another_one_is_waited_for_is_kept(ram: Ram) -> None:
    vcpu = vcpu_of(ram)
    numbers = [vcpu.post("pause", {}) for _ in range(3)]
    for number in reversed(numbers):
        assert vcpu.take(number, timeout_s=SOON_S).number == number
    number = vcpu.post("pause", {})
    wait_for(vcpu)
    assert not vcpu.has_answered(number)  # nobody has heard it yet
    vcpu.hear()
    assert vcpu.has_answered(number)
    assert not vcpu.has_answered(number)
    vcpu.kill()


def test_one_who_asks_a_supervisor_that_is_gone_ends(ram: Ram) -> None:
    vcpu = asking_vcpu(ram)
    resume(vcpu)
    wait_for(vcpu)
    vcpu._link.close()
    _, status = os.waitpid(vcpu.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
