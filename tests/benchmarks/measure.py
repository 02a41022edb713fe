"""Run one command to its end and say what it cost: the only place here that starts processes to be measured.

`timed` disturbs nothing: a clock before and after, and the kernel's own account from `wait4`. `sampled` looks at
/proc/PID/smaps_rollup of every process of the command's session many times a second, so it is never timed.

A process started by exec inherits the peak of the one it was started from (Linux keeps it in the signal struct), so
no peak from `wait4` is below the harness's own: `rss_floor_bytes` tells that floor. `sampled` has no such floor.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tests.benchmarks.results import Footprint, Sample
from vmckpt.errors import VmckptError

__all__ = [
    "CommandError",
    "asked",
    "busy_s",
    "last_line",
    "limited",
    "rss_floor_bytes",
    "sampled",
    "spawn",
    "stop",
    "timed",
]

LIMIT_S = 1800.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_INTERVAL_S = 0.01


class CommandError(VmckptError):
    """A measured command failed, or could not be started."""

    exit_code = 1


def timed(argv: Sequence[str], stderr_path: str, limit_s: float = LIMIT_S) -> Sample:
    """Run `argv` with its output thrown away and its errors in `stderr_path`.

    Raises:
        CommandError: it cannot be started, exits with another status than 0, or takes longer than `limit_s`.
    """
    program = _program(argv)
    busy_before_s = busy_s()
    start_s = time.perf_counter()
    with _interrupts_held():
        pid = spawn(program, argv, stderr_path)
        status, usage = _wait(pid, limit_s)
    wall_s = time.perf_counter() - start_s
    cpu_s = usage.ru_utime + usage.ru_stime
    foreign_s = max(0.0, busy_s() - busy_before_s - cpu_s)
    _check(argv, status, stderr_path)
    return Sample(wall_s, cpu_s, usage.ru_maxrss * 1024, foreign_s)


def sampled(argv: Sequence[str], stderr_path: str, labels: tuple[str, str, str, bool]) -> Footprint:
    """Run `argv` while looking at the memory of its processes; `labels` are the footprint's first four fields.

    Raises:
        CommandError: as for `timed`.
    """
    program = _program(argv)
    with _interrupts_held():
        watch = _Watch(spawn(program, argv, stderr_path))
        watch.start()
        try:
            status, _ = _wait(watch.session, LIMIT_S)
        finally:
            watch.over.set()
            watch.join()
    _check(argv, status, stderr_path)
    return Footprint(
        *labels, watch.pss_bytes, watch.rss_bytes, watch.largest_bytes, watch.processes, watch.samples
    )


def asked(argv: Sequence[str], stderr_path: str, limit_s: float = LIMIT_S) -> dict[str, object]:
    """Run `argv`, which ends in the JSON object that it prints; that object.

    Raises:
        CommandError: as for `timed`, or it prints something else.
    """
    program = _program(argv)
    with open(stderr_path, "wb") as errors:
        process = subprocess.Popen(
            argv,
            executable=program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    with process:
        try:
            with limited(process.pid, limit_s):
                printed, _ = process.communicate()
        except BaseException:  # Ctrl-C too: nothing that was started stays behind
            _kill(process.pid)
            raise
    _check(argv, process.returncode, stderr_path)
    try:
        values = json.loads(printed)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise CommandError(f"`{' '.join(argv)}` printed no JSON object: {printed[:100]!r}")
    return values


def last_line(path: str) -> str:
    """The last thing that a command said there."""
    with open(path, encoding="utf-8", errors="replace") as errors:
        return (errors.read().strip().splitlines() or ["it said nothing"])[-1][:300]


def busy_s() -> float:
    """Processor seconds that all cores together have not been idle since the system was started."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def rss_floor_bytes() -> int:
    """The least peak that `wait4` can report for a process started from this one, as things stand now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def spawn(program: str, argv: Sequence[str], stderr_path: str, channel: int | None = None) -> int:
    """Start `argv` in a session of its own, detached from the terminal, and return its process id.

    The descriptor `channel`, if any, is descriptor 3 of the new process.

    Raises:
        CommandError: the system refuses.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    errors = os.open(stderr_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    actions = [
        (os.POSIX_SPAWN_DUP2, source, target) for source, target in ((null, 0), (null, 1), (errors, 2))
    ]
    if channel is not None:
        actions.append((os.POSIX_SPAWN_DUP2, channel, 3))
    try:
        return os.posix_spawn(
            program, list(argv), os.environ, file_actions=actions, setsid=True, setsigmask=()
        )
    except OSError as error:
        raise CommandError(f"cannot start it: {error.strerror}", path=program) from error
    finally:
        os.close(null)
        os.close(errors)


def stop(pid: int) -> None:
    """End the session of `pid` at once and reap it; nothing happens when it has ended."""
    _kill(pid)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


@contextmanager
def limited(pid: int, limit_s: float) -> Iterator[None]:
    """Kill the session of `pid` if the body takes longer than `limit_s` seconds."""
    timer = threading.Timer(limit_s, _kill, [pid])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _program(argv: Sequence[str]) -> str:
    program = shutil.which(argv[0])
    if program is None:
        raise CommandError("no such program", path=argv[0])
    return program


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until `_wait` is ready for it, or one just after the start would leave a process behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(pid: int, limit_s: float) -> tuple[int, resource.struct_rusage]:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with limited(pid, limit_s):
            _, status, usage = os.wait4(pid, 0)
    except BaseException:  # Ctrl-C too: nothing that was started stays behind
        stop(pid)
        raise
    return os.waitstatus_to_exitcode(status), usage


def _check(argv: Sequence[str], exit_code: int, stderr_path: str) -> None:
    if exit_code == 0:
        return
    raise CommandError(f"`{' '.join(argv)}` ended with status {exit_code}: {last_line(stderr_path)}")


class _Watch(threading.Thread):
    # Looks at all processes of a session until `over`; a session, not a tree, so that a worker whose parent has
    # ended still counts.

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session = session
        self.over = threading.Event()
        self.pss_bytes = self.rss_bytes = self.largest_bytes = self.processes = self.samples = 0

    def run(self) -> None:
        while not self.over.wait(_INTERVAL_S):
            sizes = [size for pid in _session_pids(self.session) if (size := _size_of(pid)) is not None]
            if not sizes:
                continue
            self.pss_bytes = max(self.pss_bytes, sum(pss for _, pss in sizes))
            self.rss_bytes = max(self.rss_bytes, sum(rss for rss, _ in sizes))
            self.largest_bytes = max(self.largest_bytes, *(rss for rss, _ in sizes), 0)
            self.processes = max(self.processes, len(sizes))
            self.samples += 1


def _session_pids(session: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(name)) == session:
                    found.append(int(name))
    return found


def _size_of(pid: int) -> tuple[int, int] | None:
    # Resident and proportional bytes; None for a process that is just starting or ending.
    sizes = {}
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as lines:
            for line in lines:
                name, _, rest = line.partition(":")
                if name in {"Rss", "Pss"}:
                    sizes[name] = int(rest.split()[0]) * 1024
    except OSError:
        return None
    return (sizes["Rss"], sizes["Pss"]) if len(sizes) == 2 else None
