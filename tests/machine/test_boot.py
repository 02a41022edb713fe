import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.machine.machines import children, content, image, open_fds
from tests.support.memory import write_sparse
from vmckpt.errors import FormatError, IoError, SourceError, UsageError, VmckptError, WorkerError
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.boot import boot
from vmckpt.machine.session import Wishes

SOON_S = 20.0


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return image(tmp_path_factory.mktemp("boot") / "guest.raw")


def vcpus_of(supervisor: int) -> list[int]:
    text = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text(encoding="utf-8")
    return [int(pid) for pid in text.split()]


def runs(pid: int) -> bool:
    """Whether it still does: who has reaped it is another matter."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False


def wait_for_end(pids: list[int]) -> None:
    deadline_s = time.monotonic() + SOON_S
    while any(map(runs, pids)):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_a_booted_machine_runs_and_answers(guest: str) -> None:
    with boot(guest, Wishes("zipf", 2, 5)) as booted:
        status = booted.conversation.ask("status").values
        assert (status["state"], status["vcpus"], status["workload"], status["seed"]) == (
            "running",
            2,
            "zipf",
            5,
        )
        assert status["pid"] == booted.pid != os.getpid()
        assert Path(f"/proc/{booted.pid}/comm").read_text(encoding="utf-8") == "vmckpt-machine\n"
        assert booted.conversation.ask("pause").values["state"] == "paused"


def test_it_is_served_once_every_vcpu_is_warm(guest: str) -> None:
    with boot(guest, Wishes("zipf", 3), warmup_ops=20_000) as booted:
        ops = booted.conversation.ask("status").values["ops_per_vcpu"]
        assert isinstance(ops, list)
        assert min(ops) >= 20_000


def test_nothing_is_left_of_it(guest: str) -> None:
    before, others = open_fds(), children()
    with boot(guest, Wishes("zipf", 2)) as booted:
        vcpus = vcpus_of(booted.pid)
        assert len(vcpus) == 2
    booted.close()
    wait_for_end(vcpus)
    assert open_fds() == before
    assert children() == others


def test_a_stopped_machine_has_ended_and_says_so(guest: str) -> None:
    with boot(guest) as booted:
        assert booted.conversation.ask("stop").values["state"] == "stopped"
        with pytest.raises(IoError, match="has ended"):
            booted.conversation.ask("status")


@pytest.mark.parametrize(
    ("name", "wishes", "error_class"),
    [
        ("missing.raw", Wishes(), IoError),
        ("guest.raw", Wishes("walk"), UsageError),
        ("guest.raw", Wishes(vcpus=17), UsageError),
        ("guest.raw", Wishes("trace:missing"), IoError),
        ("odd.raw", Wishes(), SourceError),
        ("cut.vmckpt", Wishes(), VmckptError),
    ],
)
def test_what_keeps_it_from_booting_is_raised_as_what_it_is(
    tmp_path: Path, guest: str, name: str, wishes: Wishes, error_class: type[VmckptError]
) -> None:
    (tmp_path / "odd.raw").write_bytes(b"x" * (PAGE_BYTES + 1))
    (tmp_path / "cut.vmckpt").write_bytes(b"VMCKPT")
    path = guest if name == "guest.raw" else str(tmp_path / name)
    before, others = open_fds(), children()
    with pytest.raises(error_class) as caught:
        boot(path, wishes)
    assert not isinstance(caught.value, WorkerError | FormatError)
    assert open_fds() == before
    assert children() == others


def test_loading_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = write_sparse(tmp_path / "memory.raw", content(range(1, 9001)))
    with boot(path, progress=lambda done, total: told.append((done, total))):
        pass
    assert told[-1] == (9000 * PAGE_BYTES, 9000 * PAGE_BYTES)
    assert told == sorted(told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP])
def test_a_signal_to_the_whole_terminal_is_the_parents_business(guest: str, number: int) -> None:
    with boot(guest) as booted:
        os.kill(booted.pid, number)
        assert booted.conversation.ask("status").values["state"] == "running"


def test_it_ends_with_its_parent(guest: str) -> None:
    script = (
        "import os, signal, sys\n"
        "from tests.machine.test_boot import *\n"
        "booted = boot(sys.argv[1], Wishes('zipf', 2))\n"
        "print(booted.pid, *vcpus_of(booted.pid), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, guest], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3
    wait_for_end(pids)


def test_a_vcpu_that_is_killed_ends_it(guest: str) -> None:
    with boot(guest, Wishes("zipf", 2)) as booted:
        os.kill(vcpus_of(booted.pid)[1], signal.SIGKILL)
        poll = select.poll()
        poll.register(booted.conversation.fileno(), select.POLLIN)
        assert poll.poll(SOON_S * 1000)
        with pytest.raises(IoError, match="has ended"):
            booted.conversation.ask("status")


def test_no_descriptor_of_the_parent_keeps_its_conversation_open(guest: str) -> None:
    with boot(guest) as booted:
        end = socket.socket(fileno=os.dup(booted.conversation.fileno()))
        with end:
            os.kill(booted.pid, signal.SIGKILL)
            end.settimeout(SOON_S)
            assert end.recv(1) == b""
