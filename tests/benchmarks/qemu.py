"""QEMU's own save of a raw image: a paused machine whose RAM is that file, migrated to a file.

The machine maps the image privately and never runs, so the image stays as it is. Timed is what a person with a
running QEMU would wait for: from the `migrate` command to the event that says `completed` (and, with `sync`, to the
end of the fsync after it). QEMU's start-up is not counted. QEMU 7.2 has no `file:` migration, so it pipes into
`cat`, as libvirt does with its own helper.
"""

import json
import os
import select
import shlex
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.benchmarks.measure import TICKS_PER_S, CommandError, busy_s, limited, spawn, stop
from tests.benchmarks.results import Sample

__all__ = ["PROGRAM", "migrated"]

PROGRAM = "qemu-system-x86_64"
_LIMIT_S = 900.0
_UNLIMITED_BYTES_PER_S = 1 << 40


def migrated(image_path: str, output_path: str, work_dir: str, *, sync: bool) -> Sample:
    """Migrate a paused machine with the memory of `image_path` to `output_path`.

    Raises:
        CommandError: QEMU is missing, cannot map the image, or fails.
    """
    with _machine(image_path, work_dir) as (pid, monitor), _signal_pipe(work_dir) as (fifo_path, fifo):
        after = f" && sync {shlex.quote(output_path)}" if sync else ""
        uri = f"exec:cat > {shlex.quote(output_path)}{after}; echo > {shlex.quote(fifo_path)}"
        busy_before_s, cpu_before_s = busy_s(), _cpu_s(pid)
        start_s = time.perf_counter()
        monitor.command("migrate", {"uri": uri})
        monitor.wait_migrated()
        wall_s = time.perf_counter() - start_s
        # The file is whole when `cat` has ended; with `sync`, that belongs to what is measured.
        if not select.select([fifo], [], [], _LIMIT_S)[0]:
            raise CommandError("the migration's output was not finished", path=output_path)
        if sync:
            wall_s = time.perf_counter() - start_s
        cpu_s = _cpu_s(pid) - cpu_before_s
        return Sample(wall_s, cpu_s, None, max(0.0, busy_s() - busy_before_s - cpu_s))


@contextmanager
def _machine(image_path: str, work_dir: str) -> Iterator[tuple[int, "_Monitor"]]:
    program = shutil.which(PROGRAM)
    if program is None:
        raise CommandError("no such program", path=PROGRAM)
    stderr_path = os.path.join(work_dir, "qemu.err")
    before = os.stat(image_path)
    ours, theirs = socket.socketpair()
    with closing(ours):
        with closing(theirs):
            pid = spawn(program, _argv(image_path, before.st_size), stderr_path, theirs.fileno())
        try:
            with limited(pid, _LIMIT_S):
                yield pid, _Monitor(ours, stderr_path)
        finally:
            stop(pid)
    after = os.stat(image_path)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise CommandError("QEMU changed the image", path=image_path)


def _argv(image_path: str, size_bytes: int) -> list[str]:
    # A comma in a QEMU option value is doubled.
    path = image_path.replace(",", ",,")
    memory = f"memory-backend-file,id=ram,mem-path={path},share=off,size={size_bytes}"
    return [
        *(PROGRAM, "-S", "-nodefaults", "-display", "none", "-accel", "kvm", "-accel", "tcg"),
        *("-machine", "pc,memory-backend=ram", "-m", f"{size_bytes}B", "-object", memory),
        *("-chardev", "socket,id=monitor,fd=3", "-mon", "chardev=monitor,mode=control"),
    ]


@contextmanager
def _signal_pipe(work_dir: str) -> Iterator[tuple[str, int]]:
    path = os.path.join(work_dir, "migrated.fifo")
    os.mkfifo(path, 0o600)
    fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield path, fifo
    finally:
        os.close(fifo)
        os.unlink(path)


def _cpu_s(pid: int) -> float:
    # User and system ticks of the process and of the children it has waited for: fields 14 to 17 of proc(5) stat.
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS_PER_S


class _Monitor:
    # The QMP connection. Should QEMU hang, its limit ends it, and a read sees the end of the stream.

    def __init__(self, connection: socket.socket, stderr_path: str) -> None:
        self._stderr_path = stderr_path
        self._lines = connection.makefile("rwb")
        self._receive()
        self.command("qmp_capabilities", {})
        self.command("migrate-set-parameters", {"max-bandwidth": _UNLIMITED_BYTES_PER_S})
        self.command("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})

    def command(self, name: str, arguments: dict[str, object]) -> None:
        # Raises CommandError when QEMU answers with an error.
        self._lines.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        self._lines.flush()
        while True:
            answer = self._receive()
            if "error" in answer:
                raise CommandError(f"QEMU refuses {name}: {answer['error']}")
            if "return" in answer:
                return

    def wait_migrated(self) -> None:
        # A migration takes longer than its command's answer, so its last event comes after that.
        while True:
            message = self._receive()
            if message.get("event") == "MIGRATION":
                if message.get("data") == {"status": "failed"}:
                    raise CommandError(f"QEMU's migration failed: {self._complaint()}")
                if message.get("data") == {"status": "completed"}:
                    return

    def _receive(self) -> dict[str, object]:
        line = self._lines.readline()
        if not line:
            raise CommandError(f"QEMU ended: {self._complaint()}")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise CommandError(f"QEMU answered with something that is no object: {line[:100]!r}")
        return message

    def _complaint(self) -> str:
        with open(self._stderr_path, encoding="utf-8", errors="replace") as errors:
            return (errors.read().strip().splitlines() or ["it said nothing"])[-1][:300]
