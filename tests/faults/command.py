"""The vmckpt command as a process that gets killed, and a look at what it left behind."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.faults.child import PATIENCE_S
from vmckpt import api

__all__ = ["Run", "killed_save", "send_signal", "time_of_a_save", "whole_or_nothing"]


class Run:
    """A vmckpt command in a process group of its own, and a pipe that tells when all of it is gone."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._alive, held = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vmckpt", *arguments],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[held],
        )
        os.close(held)
        self._poll = select.poll()
        self._poll.register(self._alive, select.POLLHUP)

    def over_within(self, seconds: float) -> bool:
        """Whether every process of the run has ended by then; returns as soon as that is so."""
        return bool(self._poll.poll(seconds * 1000))

    def workers(self) -> list[int]:
        """Its children, as /proc knows them."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == self.process.pid and fields[0] != "Z":
                found.append(int(entry))
        return found

    def end(self) -> tuple[int, str]:
        """Exit code and stderr, once nobody of it is left."""
        gone = self.over_within(PATIENCE_S)
        os.close(self._alive)
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        assert gone, "a worker outlived its coordinator"
        return self.process.returncode, errors


def send_signal(pid: int, number: signal.Signals) -> None:
    """Signal a process that may have ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def whole_or_nothing(folder: Path, out: str, digest: str) -> bool:
    """Whether the output is there; then it verifies."""
    left = os.listdir(folder)
    assert left in ([], [out])
    if not left:
        return False
    path = str(folder / out)
    assert api.verify(path, jobs=1).ok
    assert api.digest(path) == digest
    return True


def time_of_a_save(image: Path, folder: Path) -> float:
    """How long an undisturbed save takes, more or less: seconds."""
    started = time.monotonic()
    assert Run(folder, "save", str(image), "usual", "--jobs", "2").end() == (0, "")
    (folder / "usual").unlink()
    return time.monotonic() - started


def killed_save(image: Path, folder: Path, moment_s: float, digest: str) -> bool:
    """Save, kill -9 after so many seconds; whether there is a whole output, which is removed again."""
    run = Run(folder, "save", str(image), "out", "--jobs", "2")
    run.over_within(moment_s)
    run.process.kill()
    code, _ = run.end()
    assert code in {0, -signal.SIGKILL}
    if not whole_or_nothing(folder, "out", digest):
        return False
    (folder / "out").unlink()
    return True
