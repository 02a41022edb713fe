"""What goes wrong during a live save, at any moment of it, and the machine that must not be harmed by it.

Each case boots a machine that listens at a socket, starts a save of it, and does one thing to it after a time drawn by its
seed. Then the machine goes on, and the digest of its memory is the one of a machine that was never saved; or, where a
vCPU died, it ends and says so. There is a whole checkpoint in the end or none.
"""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.saving.exactness import SOON_S, Case, case_of, digest_of, image_of, replay
from vmckpt import api
from vmckpt.errors import VmckptError
from vmckpt.machine.client import ask

HARMS = (
    "saver killed",
    "ctrl-c",
    "terminated",
    "tracer killed",
    "worker killed",
    "disk full",
    "vcpu killed",
    "stopped",
)
LONGEST_S = 0.5
_FILE_BYTES = 1 << 16


class Harmed:
    """A machine, its save, and the time."""

    def __init__(self, case: Case, folder: Path, *, full: bool) -> None:
        """Boot and start; with `full`, the save's output may not grow past some KiB."""
        self.case = case
        self.image_path, self.image = image_of(case, folder)
        self.socket = os.path.relpath(folder / "vm.sock")
        self.checkpoint = folder / "out" / "c.vmckpt"
        self.checkpoint.parent.mkdir(exist_ok=True)
        arguments = ["--workload", case.workload, "--vcpus", str(case.vcpus), "--seed", str(case.seed)]
        self.machine = _start("run", self.image_path, *arguments, "--socket", self.socket, "--json")
        try:
            ask(self.socket, "status", wait_s=SOON_S)
            self.save = _start(
                *("save", self.socket, os.fspath(self.checkpoint)),
                *("--mode", case.mode, "--trace", case.trace, "--tracer", case.tracer),
                *("--memory-block", str(case.memory_block_bytes), "--jobs", str(case.jobs)),
                limit_bytes=_FILE_BYTES if full else None,
            )
        except BaseException:
            self.machine.kill()
            raise

    def close(self) -> None:
        for process in (self.save, self.machine):
            process.kill()
            process.communicate()


def _start(*arguments: str, limit_bytes: int | None = None) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "vmckpt", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if limit_bytes is not None:  # before it has so much as started Python
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    return process


def children_of(pid: int) -> Iterator[tuple[int, str]]:
    """The processes that it forked, and their names."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            name, _, rest = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8").rpartition(")")
            if int(rest.split()[1]) == pid:
                yield int(entry), name.partition("(")[2]


def _kill_one(pid: int, *, tracer: bool) -> None:
    found = [child for child, name in children_of(pid) if (name == "vmckpt-tracer") == tracer]
    if found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found[-1], signal.SIGKILL)


def _do(harm: str, harmed: Harmed) -> None:
    """The thing that goes wrong."""
    signals = {"saver killed": signal.SIGKILL, "ctrl-c": signal.SIGINT, "terminated": signal.SIGTERM}
    if harm in signals:
        harmed.save.send_signal(signals[harm])
    elif harm == "vcpu killed":
        _kill_one(harmed.machine.pid, tracer=False)
    elif harm == "stopped":
        with contextlib.suppress(VmckptError):
            ask(harmed.socket, "stop", until_closed=True)
    elif harm != "disk full":
        _kill_one(harmed.save.pid, tracer=harm == "tracer killed")


def check_harm(seed: int, harm: str, folder: Path) -> bool:
    """Do it; whether the save came to its end all the same."""
    case = case_of(seed)
    harmed = Harmed(case, folder, full=harm == "disk full")
    try:
        time.sleep(random.Random(seed).uniform(0, LONGEST_S))
        _do(harm, harmed)
        _, complaint = harmed.save.communicate(timeout=SOON_S)
        saved = harmed.save.returncode == 0
        assert harmed.checkpoint.exists() == saved, f"{case.name}: {complaint}"
        assert os.listdir(harmed.checkpoint.parent) == (["c.vmckpt"] if saved else [])
        if saved:
            assert api.verify(os.fspath(harmed.checkpoint), jobs=1).ok
        elif harmed.save.returncode > 0 and "KeyboardInterrupt" not in complaint:  # else Python still started
            assert complaint.startswith("vmckpt: "), complaint
            assert len(complaint.splitlines()) == 1, complaint
        _check_machine(harm, harmed, ended=saved and case.mode == "suspend")
    finally:
        harmed.close()
    return saved


def _check_machine(harm: str, harmed: Harmed, *, ended: bool) -> None:
    case, machine = harmed.case, harmed.machine
    if harm == "vcpu killed" and not ended:
        output, complaint = machine.communicate(timeout=SOON_S)
        assert machine.returncode == 1, complaint
        assert "killed by signal 9" in complaint
        return
    if not ended and harm != "stopped":
        before = ask(harmed.socket, "status")
        assert before["state"] == "running", before
        time.sleep(0.05)  # it works on
        assert ask(harmed.socket, "stop", until_closed=True)["ops"] != before["ops"]
    output, complaint = machine.communicate(timeout=SOON_S)
    assert machine.returncode == 0, complaint
    report = json.loads(output)
    expected = digest_of(replay(harmed.image, case, report["ops_per_vcpu"]))
    assert report["digest"] == expected, f"{case.name}: {harm} harmed the machine"
