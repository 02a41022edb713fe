"""What goes wrong during a live save, at any moment of it, and the machine that must not be harmed by it.

Each case boots a machine that listens at a socket and starts a save of it. When that is under way, and a time drawn by the
seed is over, one thing is done to it. Then the machine goes on, and the digest of its memory is the one of a machine that
was never saved; or, where a vCPU died, it ends and says so. There is a whole checkpoint in the end or none, and a save that
ended for what was done says so.
"""

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.saving.exactness import SOON_S, Case, case_of, digest_of, replay
from vmckpt import api
from vmckpt.errors import VmckptError
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.client import ask
from vmckpt.machine.image import create_image

HARMS = {
    "saver killed": r"",
    "ctrl-c": r"stopped by Ctrl-C",
    "terminated": r"stopped by SIGTERM",
    "tracer killed": r"the tracer process \d+ ended before the save did: killed by signal 9",
    "worker killed": r"a worker process ended before its work did: killed by signal 9",
    "disk full": r"cannot write the checkpoint: File too large",
    "vcpu killed": r"the machine (has )?ended|vCPU \d+ .*killed by signal 9",
    "stopped": r"the machine (has )?ended|the machine was stopped",
}
"""What goes wrong, and what the save complains of."""
LONGEST_S = 0.25
MEMORY_BYTES = (48 << 20) + 7 * PAGE_BYTES
_SIGNALS = {"saver killed": signal.SIGKILL, "ctrl-c": signal.SIGINT, "terminated": signal.SIGTERM}
_LEAST_BLOCK_BYTES = 16 << 10
_FILE_BYTES = 1 << 16
_LOOK_S = 0.005


class Image(NamedTuple):
    """What machines are booted from."""

    path: str
    content: bytes


def harm_image(folder: Path) -> Image:
    """An image for any number of cases: large enough for a save to take some tenths of a second."""
    path = folder / "harm.raw"
    create_image(os.fspath(path), MEMORY_BYTES, profile="server", seed=1, common_seed=1)
    return Image(os.fspath(path), path.read_bytes())


def harm_case_of(seed: int, harm: str) -> Case:
    """The case with that seed, but of the size of the image, and with a tracer where that is to be killed."""
    case = case_of(seed)
    return case._replace(
        trace="access" if harm == "tracer killed" and case.trace == "off" else case.trace,
        memory_bytes=MEMORY_BYTES,
        memory_block_bytes=max(case.memory_block_bytes, _LEAST_BLOCK_BYTES),
    )


class Harmed:
    """A machine and its save."""

    def __init__(self, case: Case, image: Image, folder: Path) -> None:
        """Boot and start."""
        self.case = case
        self.image = image
        self.socket = os.path.relpath(folder / "vm.sock")
        self.checkpoint = folder / "out" / "c.vmckpt"
        self.checkpoint.parent.mkdir(exist_ok=True)
        arguments = ["--workload", case.workload, "--vcpus", str(case.vcpus), "--seed", str(case.seed)]
        self.machine = _start("run", image.path, *arguments, "--socket", self.socket, "--json")
        try:
            ask(self.socket, "status", wait_s=SOON_S)
            self.save = _start(
                *("save", self.socket, os.fspath(self.checkpoint)),
                *("--mode", case.mode, "--trace", case.trace, "--tracer", case.tracer),
                *("--memory-block", str(case.memory_block_bytes), "--jobs", str(case.jobs)),
            )
        except BaseException:
            self.machine.kill()
            self.machine.communicate()
            raise

    def state(self) -> str:
        """`ended`, or what the machine says of itself."""
        try:
            return str(ask(self.socket, "status")["state"])
        except VmckptError:
            return "ended"

    def wait_until_saving(self) -> None:
        """Or until the save is over."""
        while self.save.poll() is None and self.state() != "saving":
            time.sleep(_LOOK_S)

    def wait_until_written(self) -> None:
        """Until all memory files that a save needs are made, which a limit on files would hold for too."""
        while self.save.poll() is None and self.case.trace != "off" and not self.tracers():
            time.sleep(_LOOK_S)

    def tracers(self) -> list[int]:
        return [pid for pid, name in children_of(self.save.pid) if name == "vmckpt-tracer"]

    def workers(self) -> list[int]:
        return [pid for pid, name in children_of(self.save.pid) if name != "vmckpt-tracer"]

    def close(self) -> None:
        for process in (self.save, self.machine):
            process.kill()
            process.communicate()


def _start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "vmckpt", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children_of(pid: int) -> Iterator[tuple[int, str]]:
    """The processes that it forked, and their names."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            name, _, rest = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8").rpartition(")")
            if int(rest.split()[1]) == pid:
                yield int(entry), name.partition("(")[2]


def _kill_last(pids: list[int]) -> None:
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[-1], signal.SIGKILL)


def _do(harm: str, harmed: Harmed) -> None:
    """The thing that goes wrong."""
    match harm:
        case "vcpu killed":
            _kill_last([pid for pid, _ in children_of(harmed.machine.pid)])
        case "stopped":
            with contextlib.suppress(VmckptError):
                ask(harmed.socket, "stop", until_closed=True)
        case "disk full":
            harmed.wait_until_written()
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(harmed.save.pid, resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
        case "tracer killed":
            _kill_last(harmed.tracers())
        case "worker killed":
            _kill_last(harmed.workers())
        case _:
            harmed.save.send_signal(_SIGNALS[harm])


def check_harm(seed: int, harm: str, image: Image, folder: Path) -> bool:
    """Do it; whether the save came to an end because of it."""
    harmed = Harmed(harm_case_of(seed, harm), image, folder)
    try:
        harmed.wait_until_saving()
        time.sleep(random.Random(seed).uniform(0, LONGEST_S))
        _do(harm, harmed)
        _, complaint = harmed.save.communicate(timeout=SOON_S)
        _check_save(harm, harmed, complaint)
        saved = harmed.checkpoint.exists()
        _check_machine(harm, harmed, ended=saved and harmed.case.mode == "suspend")
    finally:
        harmed.close()
    return harmed.save.returncode != 0


def _check_save(harm: str, harmed: Harmed, complaint: str) -> None:
    code, saved, what = harmed.save.returncode, harmed.checkpoint.exists(), f"{harmed.case.name}: {complaint}"
    assert os.listdir(harmed.checkpoint.parent) == (["c.vmckpt"] if saved else [])
    if saved:
        assert api.verify(os.fspath(harmed.checkpoint), jobs=1).ok
    if code == -signal.SIGKILL:  # it may have had its name already
        assert harm == "saver killed", what
        return
    assert saved == (code == 0), what
    if code:
        assert complaint.startswith("vmckpt: "), what
        assert len(complaint.splitlines()) == 1, what
        assert re.search(HARMS[harm], complaint), what


def _check_machine(harm: str, harmed: Harmed, *, ended: bool) -> None:
    case, machine = harmed.case, harmed.machine
    if harm == "saver killed" and ended:
        ended = (
            harmed.state() == "ended"
        )  # killed between the checkpoint's name and the machine's end, it goes on
    if harm == "vcpu killed" and not ended:
        _, complaint = machine.communicate(timeout=SOON_S)
        assert machine.returncode == 1, complaint
        assert "killed by signal 9" in complaint
        return
    if not ended and harm != "stopped":
        before = ask(harmed.socket, "status")
        deadline_s = time.monotonic() + SOON_S
        while before["state"] == "saving" and time.monotonic() < deadline_s:
            time.sleep(0.01)  # a killed saver's workers, which end a moment later, keep its connection open
            before = ask(harmed.socket, "status")
        assert before["state"] == "running", before
        time.sleep(0.05)  # it works on
        assert ask(harmed.socket, "stop", until_closed=True)["ops"] != before["ops"]
    output, complaint = machine.communicate(timeout=SOON_S)
    if harm == "vcpu killed" and "killed by signal 9" in complaint:
        return  # as it was about to end
    assert machine.returncode == 0, complaint
    report = json.loads(output)
    expected = digest_of(replay(harmed.image.content, case, report["ops_per_vcpu"]))
    assert report["digest"] == expected, f"{case.name}: {harm} harmed the machine"
