"""An emulated machine that runs while it is measured: started by the command under test, ended with the context.

image ─▶ vmckpt run --socket ─▶ Emulated (work, save, pause, resume) ─▶ stopped, and its socket removed
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.benchmarks.measure import CommandError, asked, last_line, spawn, stop
from tests.benchmarks.trial import Bench
from vmckpt.errors import VmckptError
from vmckpt.machine.client import ask

__all__ = ["WORKLOAD", "Emulated", "running"]

WORKLOAD = "working-set:phase=0"
"""What all of them do: a tenth of memory is used, always the same."""
_START_S, _LOOK_S, _STOP_S = 60.0, 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Emulated:
    """A machine that runs."""

    bench: Bench
    """With what, and where."""
    socket_path: str
    """Its control socket."""
    errors_path: str
    """What the commands that are asked say goes there."""

    def work(self, duration_s: float) -> None:
        """Leave it alone for a while: its speed before a save is that of the last second."""
        time.sleep(duration_s)

    def save(self, output_path: str, *options: str) -> dict[str, object]:
        """Save it, flushed before and replacing what is at `output_path`; the command's JSON.

        Raises:
            CommandError: the save failed.
        """
        os.sync()
        argv = [*self.bench.vmckpt, "save", self.socket_path, output_path, "--force", "--json", *options]
        return asked(argv, self.errors_path)

    def pause(self) -> None:
        """Stop it for now.

        Raises:
            CommandError: it does not answer.
        """
        self._ask("pause")

    def resume(self) -> None:
        """Let it go on.

        Raises:
            CommandError: it does not answer.
        """
        self._ask("resume")

    def _ask(self, what: str) -> None:
        try:
            ask(self.socket_path, what)
        except VmckptError as error:
            raise CommandError(f"the machine does not {what}: {error}") from error


@contextmanager
def running(bench: Bench, image_path: str, *, vcpus: int = 1) -> Iterator[Emulated]:
    """Boot a machine in the memory of `image_path`, and wait until it answers.

    Raises:
        CommandError: it does not come up.
    """
    socket_path = os.path.join(bench.work_dir, "vm.sock")
    errors_path = os.path.join(bench.work_dir, "vm.err")
    argv = [*bench.vmckpt, "run", image_path, "--workload", WORKLOAD, "--vcpus", str(vcpus)]
    program = shutil.which(bench.vmckpt[0]) or bench.vmckpt[0]
    pid = spawn(program, [*argv, "--quiet", "--socket", socket_path], errors_path)
    try:
        _await(socket_path, errors_path, pid)
        yield Emulated(bench, socket_path, os.path.join(bench.work_dir, "errors"))
    finally:
        with suppress(
            VmckptError
        ):  # so that it reaps its vCPUs; what it would tell about its memory is not waited for
            ask(socket_path, "stop", timeout_s=_STOP_S)
        stop(pid)
        with suppress(FileNotFoundError):
            os.unlink(socket_path)


def _await(socket_path: str, errors_path: str, pid: int) -> None:
    # Until it answers, or has ended; a machine of some GiB takes seconds to load.
    end_s = time.monotonic() + _START_S
    while True:
        try:
            ask(socket_path, "status", wait_s=_LOOK_S)
            return
        except VmckptError as error:
            if os.waitpid(pid, os.WNOHANG) != (0, 0) or time.monotonic() > end_s:
                raise CommandError(f"the machine did not start: {last_line(errors_path)}") from error
