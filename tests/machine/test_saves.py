"""Saves as the supervisor sees them, with a saver that can die anywhere; digests tell whether the machine took harm."""

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.machine.machines import boot, children, content, load, open_fds
from tests.machine.saver import (
    EVERYTHING,
    FIRST_TOUCH,
    MECHANISMS,
    NOTHING,
    SOON_S,
    WRITES,
    Saver,
    SaverProcess,
    die,
)
from vmckpt.errors import FeatureError, IoError, UsageError, VmckptError, WorkerError
from vmckpt.kernel.features import Features, probe
from vmckpt.kernel.uffdio import Feature
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine import saves as saves_module
from vmckpt.machine import traces
from vmckpt.machine.client import Conversation
from vmckpt.machine.control import ControlServer
from vmckpt.machine.ram import Ram
from vmckpt.machine.session import RunReport, Session
from vmckpt.machine.tracing import features_of
from vmckpt.trace.rules import Needs

OPS = 40_000
PAGES = [0, 1, 2, 0, 0, 3, 4, 77, 0, 5, 0, 0] * 4

HAS_UFFD = not probe().lacks(features_of(first_touch=True, writes=True))

mechanisms = pytest.mark.parametrize(
    "mechanism",
    [
        pytest.param(
            "userfaultfd",
            marks=pytest.mark.skipif(not HAS_UFFD, reason="this kernel's userfaultfd cannot trace a memfd"),
        ),
        "software",
    ],
)
needs_of = pytest.mark.parametrize(
    "needs", [FIRST_TOUCH, EVERYTHING, WRITES], ids=["first-touch", "everything", "writes"]
)
vcpu_counts = pytest.mark.parametrize("vcpus", [1, 3])

Script = Callable[[Saver], None]


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Memory after OPS operations of each vCPU of a machine that nobody saved."""
    known: dict[int, str] = {}

    def digest(vcpus: int) -> str:
        if vcpus not in known:
            with boot(load(tmp_path_factory.mktemp("alone"), content(PAGES)), "zipf", vcpus=vcpus) as machine:
                machine.start(until_ops=OPS)
                assert machine.wait(SOON_S)
                known[vcpus] = machine.digest()
        return known[vcpus]

    return digest


@contextmanager
def session_of(ram: Ram, *, vcpus: int = 1, workload: str = "zipf") -> Iterator[Session]:
    with Session(boot(ram, workload, vcpus=vcpus), ControlServer(None)) as session:
        yield session


def connect(session: Session) -> socket.socket:
    ours, theirs = socket.socketpair()
    ours.settimeout(SOON_S)
    session.control.adopt(theirs)
    return ours


def join(session: Session, script: Script) -> SaverProcess:
    return SaverProcess(connect(session), script)


def run(folder: Path, script: Script, *, vcpus: int = 1) -> tuple[RunReport, list[Any]]:
    """A machine that is saved from its start on, and runs to OPS."""
    with session_of(load(folder, content(PAGES)), vcpus=vcpus) as session:
        session.machine.start(until_ops=OPS, paused=True)
        saver = join(session, script)
        session.serve()
        report = session.finish()
        session.close()
        return report, saver.end()


# ---- the machine's memory is right, whatever the saver does


@mechanisms
@needs_of
@vcpu_counts
def test_a_saved_machine_ends_as_one_that_was_not(
    tmp_path: Path, digests: Callable[[int], str], mechanism: str, needs: Needs, vcpus: int
) -> None:
    def script(saver: Saver) -> None:
        prepared = saver.prepare(mechanism, needs)
        saver.answer(prepared)
        begun = saver.ask("trace-begin")
        saver.ask("resume")
        saver.ask("trace-fence")
        saver.ask("trace-forget", ranges=[[0, 3], [5, 6]])
        status = saver.ask("status")
        ended = saver.ask("trace-end", stop=False)
        saver.report([begun, status, ended, saver.traps])

    report, [[begun, status, ended, traps]] = run(tmp_path, script, vcpus=vcpus)
    assert report.digest == digests(vcpus)
    assert (report.ended_by, report.ops) == ("until-ops", OPS * vcpus)
    assert begun["machine"]["vcpus"] == [{"ops": 0, "register": "0x0"}] * vcpus
    assert 0 < begun["pause_s"] < SOON_S
    assert begun["state"] == status["state"] == "saving"
    assert ended["pause_s"] == 0
    assert traps > 0


@mechanisms
@needs_of
@vcpu_counts
@pytest.mark.parametrize("moment", ["prepared", "waiting", "traced", "held"])
def test_a_machine_whose_saver_is_killed_goes_on(
    tmp_path: Path, digests: Callable[[int], str], mechanism: str, needs: Needs, vcpus: int, moment: str
) -> None:
    def script(saver: Saver) -> None:
        prepared = saver.prepare(mechanism, needs)
        if moment == "waiting":
            saver.ask("trace-begin")
            saver.ask("resume")
            saver.wait_for_waiters(prepared)
            die()
        saver.ask("resume")
        if moment == "prepared":
            die()
        saver.answer(prepared)
        saver.ask("trace-begin")
        if moment == "held":
            saver.ask("trace-hold")
        die()

    report, reported = run(tmp_path, script, vcpus=vcpus)
    assert report.digest == digests(vcpus)
    assert reported == []


@mechanisms
def test_savers_that_are_killed_at_any_moment_leave_the_machine_as_it_was(
    tmp_path: Path, digests: Callable[[int], str], mechanism: str
) -> None:
    def script(saver: Saver) -> None:
        while True:
            prepared = saver.prepare(mechanism, FIRST_TOUCH)
            saver.answer(prepared)
            saver.ask("trace-begin")
            saver.ask("trace-hold")
            saver.ask("trace-end", stop=False)
            prepared.tracer.close()

    moments = random.Random(5)
    with session_of(load(tmp_path, content(PAGES)), vcpus=3) as session:
        session.start(until_ops=OPS)
        for _ in range(8):
            saver = join(session, script)
            deadline_s = time.monotonic() + moments.uniform(0, 0.1)
            while time.monotonic() < deadline_s:
                session.machine.wait(0.002)
            os.kill(saver.pid, signal.SIGKILL)
            saver.end()
        session.serve()
        assert session.finish().digest == digests(3)


@mechanisms
def test_a_machine_can_be_saved_again(tmp_path: Path, digests: Callable[[int], str], mechanism: str) -> None:
    def script(saver: Saver) -> None:
        for needs in (FIRST_TOUCH, NOTHING, WRITES, EVERYTHING):
            if needs is NOTHING:
                saver.ask("trace-prepare", mechanism=mechanism, first_touch=False, writes=False)
            else:
                saver.answer(saver.prepare(mechanism, needs))
            saver.ask("trace-begin")
            saver.ask("resume")
            saver.ask("trace-hold")
            saver.ask("pause")
            saver.report(saver.ask("trace-end", stop=False)["pause_s"])
        saver.ask("resume")

    report, pauses_s = run(tmp_path, script, vcpus=3)
    assert all(isinstance(pause_s, float) for pause_s in pauses_s), pauses_s
    assert len(pauses_s) == 4
    assert min(pauses_s) > 0
    assert report.digest == digests(3)


@mechanisms
def test_a_suspend_ends_the_machine_where_it_was_held(tmp_path: Path, mechanism: str) -> None:
    def script(saver: Saver) -> None:
        saver.answer(saver.prepare(mechanism, EVERYTHING))
        saver.ask("resume")
        saver.ask("trace-begin")
        held = saver.ask("trace-hold")
        try:
            saver.ask("resume")
        except UsageError as error:
            saver.report([held, saver.ask("trace-end", stop=True), str(error)])

    report, [[held, ended, refusal]] = run(tmp_path, script, vcpus=3)
    assert report.ended_by == "socket"
    assert [vcpu["ops"] for vcpu in held["machine"]["vcpus"]] == list(report.ops_per_vcpu)
    assert held["state"] == "saving"
    assert ended["state"] == "stopped"
    assert ended["ops_per_s_during"] == held["ops_per_s_during"] > 0
    assert "held until it is saved" in refusal


def test_a_machine_at_its_last_operation_waits_for_the_save(tmp_path: Path) -> None:
    def script(saver: Saver) -> None:
        saver.answer(saver.prepare("software", FIRST_TOUCH))
        saver.ask("trace-begin")
        saver.ask("resume")
        while saver.ask("status")["ops"] < 1000:
            pass
        time.sleep(0.3)  # longer than a tick of the session: it had the chance to end
        saver.report(saver.ask("status")["state"])
        saver.ask("trace-end", stop=False)

    with session_of(load(tmp_path, content(PAGES))) as session:
        session.machine.start(until_ops=1000, paused=True)
        saver = join(session, script)
        session.serve()
        assert session.finish().ended_by == "until-ops"
        session.close()
        assert saver.end() == ["saving"]


@mechanisms
def test_who_paused_the_machine_resumes_it(tmp_path: Path, mechanism: str) -> None:
    def script(saver: Saver) -> None:
        saver.answer(saver.prepare(mechanism, FIRST_TOUCH))
        saver.ask("trace-begin")
        saver.report(saver.ask("trace-end", stop=False)["state"])
        saver.ask("resume")
        saver.ask("trace-prepare", mechanism=mechanism, first_touch=False, writes=False)
        saver.ask("trace-hold")
        saver.ask("pause")
        saver.report(saver.ask("trace-end", stop=False)["state"])
        saver.ask("stop")

    assert run(tmp_path, script)[1] == ["paused", "paused"]


# ---- a tracer that does not answer


@mechanisms
@needs_of
def test_a_tracer_that_does_not_answer_loses_its_traces(
    tmp_path: Path,
    digests: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
    mechanism: str,
    needs: Needs,
) -> None:
    monkeypatch.setattr(saves_module, "PATIENCE_S", 0.2)

    def script(saver: Saver) -> None:
        prepared = saver.prepare(mechanism, needs)
        saver.ask("trace-begin")
        saver.ask("resume")
        saver.wait_for_waiters(prepared)
        while saver.ask("status")["state"] == "saving":
            time.sleep(0.02)
        saver.ask("trace-end", stop=False)

    report, [[kind, message]] = run(tmp_path, script, vcpus=3)
    assert (kind, "the machine goes on without it" in message) == ("WorkerError", True)
    assert report.digest == digests(3)


@pytest.mark.parametrize(
    ("mechanism", "needs"),
    [("userfaultfd", FIRST_TOUCH), ("software", FIRST_TOUCH), ("userfaultfd", NOTHING)],
)
def test_a_held_machine_whose_saver_says_nothing_goes_on(
    tmp_path: Path,
    digests: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
    mechanism: str,
    needs: Needs,
) -> None:
    monkeypatch.setattr(saves_module, "HOLD_PATIENCE_S", 1.5)

    def script(saver: Saver) -> None:
        saver.ask("pause")
        saver.prepare(mechanism, needs)
        saver.ask("trace-hold")
        try:
            for _ in range(6):  # said often enough
                time.sleep(0.3)
                saver.ask("trace-confirm")
            while saver.ask("status")["state"] == "saving":
                time.sleep(0.05)
            saver.ask("trace-confirm")
        except WorkerError as error:
            saver.report(str(error))
        finally:
            saver.ask("resume")

    report, [message] = run(tmp_path, script, vcpus=3)
    assert "nothing was heard of the saver" in message
    assert report.digest == digests(3)


@mechanisms
@needs_of
@pytest.mark.parametrize("do", ["stop", "pause"])
def test_a_stopped_tracer_does_not_keep_the_machine_from_being_controlled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechanism: str, needs: Needs, do: str
) -> None:
    monkeypatch.setattr(saves_module, "PATIENCE_S", 0.2 if do == "pause" else 1000)
    savers: list[SaverProcess] = []
    answers: list[str] = []

    def script(saver: Saver) -> None:
        prepared = saver.prepare(mechanism, needs)
        saver.ask("trace-begin")
        saver.ask("resume")
        saver.wait_for_waiters(prepared)
        saver.report("stopped")
        os.kill(os.getpid(), signal.SIGSTOP)

    def control(end: socket.socket) -> None:
        os.waitid(os.P_PID, savers[0].pid, os.WSTOPPED)
        with Conversation.over(end) as conversation:
            answers.append(str(conversation.ask(do).values["state"]))
            if do == "pause":
                conversation.ask("stop")

    with session_of(load(tmp_path, content(PAGES)), vcpus=3) as session:
        session.machine.start(paused=True)
        savers.append(join(session, script))
        thread = threading.Thread(target=control, args=(connect(session),))
        thread.start()
        session.serve()
        report = session.finish()
        thread.join()
        os.kill(savers[0].pid, signal.SIGKILL)
        savers[0].end()
    assert answers == ["stopped" if do == "stop" else "saving"]
    assert report.ended_by == "socket"


@mechanisms
def test_a_signal_ends_a_machine_whose_tracer_is_stopped(tmp_path: Path, mechanism: str) -> None:
    def script(saver: Saver) -> None:
        prepared = saver.prepare(mechanism, FIRST_TOUCH)
        saver.ask("trace-begin")
        saver.ask("resume")
        saver.wait_for_waiters(prepared)
        os.kill(os.getpid(), signal.SIGSTOP)

    with session_of(load(tmp_path, content(PAGES)), vcpus=3) as session:
        session.machine.start(paused=True)
        saver = join(session, script)
        while os.waitid(os.P_PID, saver.pid, os.WSTOPPED | os.WNOHANG) is None:
            session.machine.wait(0.01)
        assert session.finish().ended_by == "signal"  # as `vmckpt run` does
        os.kill(saver.pid, signal.SIGKILL)
        saver.end()


# ---- the pause


@mechanisms
def test_the_pause_does_not_grow_with_memory(mechanism: str) -> None:
    def script(saver: Saver) -> None:
        pauses_s = []
        for _ in range(3):
            prepared = saver.prepare(mechanism, FIRST_TOUCH)
            saver.answer(prepared)
            pauses_s.append(saver.ask("trace-begin")["pause_s"])
            saver.ask("trace-end", stop=False)
        saver.report(pauses_s)
        saver.ask("stop")

    with session_of(Ram(Layout.flat(2 << 30)), vcpus=2) as session:
        session.start()
        saver = join(session, script)
        session.serve()
        session.close()
    [pauses_s] = saver.end()
    assert min(pauses_s) < 0.05


def test_rates_are_those_of_before_and_during(tmp_path: Path) -> None:
    def script(saver: Saver) -> None:
        time.sleep(0.3)
        saver.ask("trace-prepare", mechanism="auto", first_touch=False, writes=False)
        held = saver.ask("trace-hold")
        time.sleep(0.2)
        saver.report([held["ops_per_s_before"], saver.ask("trace-end", stop=False)["ops_per_s_during"]])
        saver.ask("stop")

    with session_of(load(tmp_path, content(PAGES))) as session:
        session.start()
        saver = join(session, script)
        session.serve()
        session.close()
    [[before, during]] = saver.end()
    assert 0 <= during < before


# ---- refusals


@mechanisms
def test_requests_out_of_turn_are_refused(tmp_path: Path, mechanism: str) -> None:
    prepare = {"do": "trace-prepare", "mechanism": mechanism, "first_touch": True, "writes": False}
    turns: list[tuple[dict[str, object], str]] = [
        ({"do": "trace-begin"}, "trace-prepare comes first"),
        ({"do": "trace-end", "stop": False}, "trace-prepare comes first"),
        ({**prepare, "mechanism": "magic"}, "no mechanism"),
        ({**prepare, "mechanism": ["auto"]}, "no mechanism"),
        ({**prepare, "writes": 1}, "writes is true or false"),
        ({**prepare, "speed": 9}, "does not take speed"),
        (prepare, ""),
        (prepare, "being saved already"),
        ({"do": "trace-forget", "ranges": []}, "has not begun"),
        ({"do": "trace-begin", "stop": True}, "does not take stop"),
        ({"do": "trace-begin"}, ""),
        ({"do": "trace-begin"}, "begun already"),
        ({"do": "trace-forget"}, "list of pairs"),
        ({"do": "trace-forget", "ranges": [[1]]}, "a pair of page numbers"),
        ({"do": "trace-forget", "ranges": [[True, 2]]}, "a pair of page numbers"),
        ({"do": "trace-forget", "ranges": [[2, 2]]}, "or empty"),
        ({"do": "trace-forget", "ranges": [[-1, 2]]}, "not in a memory"),
        ({"do": "trace-forget", "ranges": [[0, 49]]}, "not in a memory"),
        ({"do": "trace-forget", "ranges": [[0, 48]] * 3000}, ""),
        ({"do": "trace-hold"}, ""),
        ({"do": "trace-hold"}, "held already"),
        ({"do": "trace-end"}, "stop is true or false"),
        ({"do": "trace-end", "stop": False}, ""),
        ({"do": "trace-fence"}, "trace-prepare comes first"),
        ({"do": "stop"}, ""),
    ]
    said: list[str] = []

    def ask(end: socket.socket) -> None:
        with Conversation.over(end) as conversation:
            for turn, _ in turns:
                try:
                    for fd in conversation.ask(str(turn["do"]), turn).descriptors:
                        os.close(fd)
                    said.append("")
                except VmckptError as error:
                    said.append(str(error))

    with session_of(load(tmp_path, content(PAGES)), vcpus=2) as session:
        session.machine.start(paused=True)
        thread = threading.Thread(target=ask, args=(connect(session),))
        thread.start()
        session.serve()
        session.close()
        thread.join()
    for (turn, expected), heard in zip(turns, said, strict=True):
        assert bool(expected) == bool(heard), (turn, heard)
        assert expected in heard


def test_only_one_connection_saves_the_machine(tmp_path: Path) -> None:
    said: list[str] = []

    def ask(ends: list[socket.socket]) -> None:
        one, other = map(Conversation.over, ends)
        values = {"mechanism": "software", "first_touch": True, "writes": True}
        for fd in one.ask("trace-prepare", values).descriptors:
            os.close(fd)
        for do in ("trace-prepare", "trace-begin"):
            try:
                other.ask(do, values if do == "trace-prepare" else {})
            except UsageError as error:
                said.append(str(error))
        one.close()
        while other.ask("status").values["state"] == "saving":
            pass
        for fd in other.ask("trace-prepare", values).descriptors:
            os.close(fd)
        other.ask("stop")
        try:
            other.ask("status")
        except IoError as error:
            said.append(str(error))
        other.close()

    with session_of(load(tmp_path, content(PAGES))) as session:
        session.start()
        thread = threading.Thread(target=ask, args=([connect(session), connect(session)],))
        thread.start()
        session.serve()
        session.close()
        thread.join()
    assert "being saved already" in said[0]
    assert "does not save the machine" in said[1]
    assert "has ended" in said[2]


def test_what_the_kernel_cannot_do_software_does_or_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Features(Feature(0), kernel_faults=False, reason="no userfaultfd (tests)")
    monkeypatch.setattr(traces, "probe", lambda: nothing)

    with boot(load(tmp_path, content(PAGES))) as machine:
        machine.start()
        wanted = traces.Wanted("auto", first_touch=True, writes=True)
        prepared = traces.prepare(machine, wanted)
        assert prepared.mechanism == "software"
        prepared.lift()
        with pytest.raises(FeatureError, match=r"no userfaultfd \(tests\)"):
            traces.prepare(machine, wanted._replace(mechanism="userfaultfd"))


def test_a_vcpu_that_cannot_prepare_says_so_and_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise FeatureError("not in this process")

    everything = Features(Feature(sum(Feature)), kernel_faults=True, reason="")
    monkeypatch.setattr(traces, "probe", lambda: everything)
    monkeypatch.setattr("vmckpt.machine.tracing._register", refuse)
    with boot(load(tmp_path, content(PAGES)), vcpus=2) as machine:
        machine.start()
        wanted = traces.Wanted("userfaultfd", first_touch=True, writes=True)
        with pytest.raises(FeatureError, match="not in this process"):
            traces.prepare(machine, wanted)
        prepared = traces.prepare(machine, wanted._replace(mechanism="auto"))
        assert prepared.mechanism == "software"
        prepared.lift()
        machine.stop()


# ---- what is left


@mechanisms
@pytest.mark.parametrize("fate", ["end", "killed", "vCPU killed"])
def test_nothing_is_left_of_a_save(tmp_path: Path, mechanism: str, fate: str) -> None:
    before, others = open_fds(), children()
    session_fds: list[set[str]] = []

    def script(saver: Saver) -> None:
        prepared = saver.prepare(mechanism, EVERYTHING)
        saver.answer(prepared)
        saver.ask("trace-begin")
        if fate == "killed":
            die()
        if fate == "end":
            saver.ask("trace-end", stop=False)
        while fate == "vCPU killed":
            saver.ask("status")

    with session_of(load(tmp_path, content(PAGES)), vcpus=2) as session:
        machine = session.machine
        machine.start(paused=True)
        machine.pause()  # all have started
        session_fds.append(open_fds())
        vcpu_fds = [len(os.listdir(f"/proc/{vcpu.pid}/fd")) for vcpu in machine._vcpus]
        saver = join(session, script)
        if fate == "vCPU killed":
            deadline_s = time.monotonic() + SOON_S
            while machine.activity is None:
                assert time.monotonic() < deadline_s
                machine.wait(0.01)
            os.kill(machine._vcpus[0].pid, signal.SIGKILL)
            with pytest.raises(VmckptError, match="vCPU 0"):
                machine.wait(SOON_S)
            session.close()
            saver.end()
        else:
            deadline_s = time.monotonic() + SOON_S
            while os.waitid(os.P_PID, saver.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                assert time.monotonic() < deadline_s
                machine.wait(0.01)
            saver.end()
            machine.wait(0.05)
            assert open_fds() == session_fds[0]
            machine.resume()
            machine.pause()
            assert [len(os.listdir(f"/proc/{vcpu.pid}/fd")) for vcpu in machine._vcpus] == vcpu_fds
            for vcpu in machine._vcpus:
                maps = Path(f"/proc/{vcpu.pid}/maps").read_text(encoding="utf-8")
                assert maps.count("vmckpt-ram") == 1
    assert open_fds() == before
    assert children() == others


def test_the_limits_of_saves_are_those_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "machine.md").read_text(encoding="utf-8")
    assert f"{saves_module.PATIENCE_S:g} seconds in the midst of an operation" in page
    assert f"A held machine waits {saves_module.HOLD_PATIENCE_S:g} seconds" in page
    for do in (do for do in saves_module.Saves(boot(Ram(Layout.flat(PAGE_BYTES)))).handlers()):
        assert f"`{do}`" in page


assert set(MECHANISMS) == {"userfaultfd", "software"}
