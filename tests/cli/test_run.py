"""`vmckpt run` and `vmckpt vm`, with real machines."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vmckpt
from tests.machine.machines import RECORDING
from vmckpt.checkpoint.codec import choose
from vmckpt.checkpoint.format import SectionType
from vmckpt.machine.client import ask
from vmckpt.machine.image import create_image
from vmckpt.machine.session import Session, Wishes
from vmckpt.saving import source as saving
from vmckpt.saving.request import Request

SOON_S = 60.0
RUN_KEYS = {"ops", "digest", "elapsed_s", "ops_per_s"}
STATUS_KEYS = {"state", "memory_bytes", "vcpus", "ops", "workload", "resident_pages"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    create_image(str(folder / "guest.raw"), 4 << 20, seed=1)
    return folder


@pytest.fixture
def path(tmp_path: Path) -> str:
    return os.path.relpath(tmp_path / "vm.sock")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vmckpt", "run", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(folder: Path, *arguments: str, code: int = 0) -> Any:
    """The JSON of a command that ends, or its one sentence."""
    done = subprocess.run(
        [sys.executable, "-m", "vmckpt", *arguments, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=SOON_S,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert len(done.stderr.splitlines()) == 1
        return done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def ended(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    out, err = process.communicate(timeout=SOON_S)
    assert process.returncode == code, err
    return out, err


def test_a_run_ends_at_its_last_operation_and_says_what_it_did(folder: Path) -> None:
    before = (folder / "guest.raw").read_bytes()
    report = call(folder, "run", "guest.raw", "--workload", "zipf", "--vcpus", "3", "--until-ops", "5000")
    assert set(report) >= RUN_KEYS
    assert (report["ops"], report["ops_per_vcpu"], report["vcpus"]) == (15_000, [5000] * 3, 3)
    assert (report["memory_bytes"], report["workload"], report["ended_by"]) == (4 << 20, "zipf", "until-ops")
    again = call(folder, "run", "guest.raw", "--workload", "zipf", "--vcpus", "3", "--until-ops", "5000")
    assert again["digest"] == report["digest"]
    other = call(folder, "run", "guest.raw", "--workload=zipf", "--vcpus=3", "--seed=1", "--until-ops=5000")
    assert other["digest"] != report["digest"]
    assert (folder / "guest.raw").read_bytes() == before


def test_no_operations_leave_the_memory_as_it_was(folder: Path) -> None:
    report = call(folder, "run", "guest.raw", "--until-ops", "0")
    assert report["digest"] == vmckpt.digest(str(folder / "guest.raw"))
    assert report["ops"] == 0


def test_the_table_is_for_people(folder: Path) -> None:
    out, err = ended(start(folder, "guest.raw", "--until-ops", "1000", "--workload", f"trace:{RECORDING}"), 0)
    assert out.startswith("Ran guest.raw\n")
    assert "1 000" in out
    assert err == ""
    assert ended(start(folder, "guest.raw", "--until-ops", "1000", "--quiet"), 0) == ("", "")


def test_a_machine_is_controlled_from_outside(folder: Path, path: str) -> None:
    with start(folder, "guest.raw", "--socket", os.path.abspath(path), "--vcpus", "2", "--json") as process:
        running = call(Path(), "vm", "status", path, "--wait", "30")
        assert set(running) >= STATUS_KEYS
        assert (running["state"], running["vcpus"], running["pid"]) == ("running", 2, process.pid)
        paused = call(Path(), "vm", "pause", path)
        assert paused["state"] == "paused"
        assert call(Path(), "vm", "status", path) == paused
        assert call(Path(), "vm", "resume", path)["state"] == "running"
        stopped = call(Path(), "vm", "stop", path)
        assert not os.path.lexists(path)
        report = json.loads(ended(process, 0)[0])
    assert stopped["state"] == "stopped"
    assert report["ended_by"] == "socket"
    assert report["ops"] == stopped["ops"] >= paused["ops"]
    assert "cannot connect" in call(Path(), "vm", "status", path, code=1)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_stop_signal_ends_it_with_a_report(folder: Path, path: str, number: int, code: int) -> None:
    with start(folder, "guest.raw", "--socket", os.path.abspath(path), "--json") as process:
        ask(path, "status", wait_s=SOON_S)
        process.send_signal(number)
        out, err = ended(process, code)
    assert json.loads(out)["ended_by"] == "signal"
    assert err.startswith("vmckpt: stopped by ")
    assert not os.path.lexists(path)


def test_a_killed_vcpu_is_one_sentence_and_no_report(folder: Path, path: str) -> None:
    with start(folder, "guest.raw", "--socket", os.path.abspath(path)) as process:
        ask(path, "pause", wait_s=SOON_S)
        [vcpu] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        os.kill(int(vcpu), signal.SIGKILL)
        out, err = ended(process, 1)
    assert out == ""
    assert err.startswith(f"vmckpt: vCPU 0 (process {vcpu}) ended after ")
    assert err.endswith("killed by signal 9 (SIGKILL)\n")
    assert not os.path.lexists(path)


def test_a_killed_machine_leaves_a_socket_that_the_next_one_takes_over(folder: Path, path: str) -> None:
    absolute = os.path.abspath(path)
    with start(folder, "guest.raw", "--socket", absolute) as process:
        ask(path, "status", wait_s=SOON_S)
        process.kill()
        process.communicate(timeout=SOON_S)  # ends when the vCPU has ended as well: it has the pipes
    assert os.path.lexists(path)
    assert call(folder, "run", "guest.raw", "--socket", absolute, "--until-ops", "1")["ops"] == 1


def test_two_machines_do_not_share_a_socket(folder: Path, path: str) -> None:
    absolute = os.path.abspath(path)
    with start(folder, "guest.raw", "--socket", absolute) as process:
        ask(path, "status", wait_s=SOON_S)
        assert "listens at this socket already" in call(
            folder, "run", "guest.raw", "--socket", absolute, code=1
        )
        ask(path, "stop")
        ended(process, 0)


def test_a_terminal_is_shown_what_goes_on(folder: Path, path: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "vmckpt", "run", "guest.raw", "--socket", os.path.abspath(path)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"/s," not in shown:
            shown += os.read(ours, 4096)
        ask(path, "stop")
        assert process.wait(timeout=SOON_S) == 0
    os.close(ours)
    assert b"running: " in shown


@pytest.fixture(scope="module")
def stopped(folder: Path) -> Path:
    """A checkpoint of a machine that has done 3,000 operations on each of two vCPUs, with its state."""
    path = folder / "stopped.vmckpt"
    with Session.open(str(folder / "guest.raw"), Wishes("zipf", 2, 5)) as session:
        session.run(until_ops=3000)
        session.finish()
        kept = saving.Carried(b"", [], [(SectionType.VCPU_STATE, session.machine.machine_state().to_json())])
        request = Request(choose("lz4"), 1 << 20, "physical", jobs=1, dedup=True, force=False)
        with session.machine.ram.reader() as reader:
            saving.save_source(reader, str(path), request, carried=kept)
    return path


def test_a_checkpoint_goes_on_where_it_was_saved(folder: Path, stopped: Path) -> None:
    whole = call(folder, "run", "guest.raw", "--workload=zipf", "--vcpus=2", "--seed=5", "--until-ops=9000")
    rest = call(folder, "run", str(stopped), "--until-ops", "9000")
    assert rest["digest"] == whole["digest"]
    assert (rest["ops"], rest["workload"], rest["seed"]) == (18_000, "zipf", 5)
    assert rest["ops_per_s"] * rest["elapsed_s"] == pytest.approx(12_000)
    done = call(folder, "run", str(stopped), "--until-ops", "3000")
    assert done["digest"] == vmckpt.digest(str(stopped))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--workload", "uniform"], "--workload"),
        (["--workload", "zipf:write=1"], "--workload"),
        (["--vcpus", "1"], "--vcpus"),
        (["--seed", "0"], "--seed"),
    ],
)
def test_a_checkpoint_does_not_become_another_machine(
    folder: Path, stopped: Path, arguments: list[str], what: str
) -> None:
    assert f"leave {what} out" in call(folder, "run", str(stopped), *arguments, code=2)
    call(folder, "run", str(stopped), "--workload=zipf", "--vcpus=2", "--seed=5", "--until-ops=3001")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "missing.raw"], 1),
        (["run", "guest.raw", "--workload", "walk"], 2),
        (["run", "guest.raw", "--workload", "zipf:write=x"], 2),
        (["run", "guest.raw", "--workload", "trace:missing"], 1),
        (["run", "guest.raw", "--workload", "trace:guest.raw"], 3),
        (["run", "guest.raw", "--vcpus", "17"], 2),
        (["run", "guest.raw", "--seed", "-1"], 2),
        (["run", "guest.raw", "--socket", "x" * 200], 2),
        (["run", "guest.raw", "--socket", "guest.raw"], 1),
        (["vm", "fly", "vm.sock"], 2),
        (["vm", "status", "vm.sock"], 1),
        (["vm", "status", "guest.raw"], 3),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_sentence_and_the_right_code(
    folder: Path, arguments: list[str], code: int
) -> None:
    assert "Traceback" not in call(folder, *arguments, code=code)
