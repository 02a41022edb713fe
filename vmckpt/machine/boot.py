"""A machine booted by the one who wants to save it, with no socket in the file system: `vmckpt save IMAGE --workload W`.

    parent ── fork ─▶ supervisor: load, start, warm up ─▶ serves its end of a pair of sockets
       │ ◀── pipe: progress, READY, or an error ───┘         │
       └── Conversation ◀────────────────────────────────────┘      close: the machine ends, and all its processes

The supervisor is a child process, for it has to answer while the parent saves. It lives as any (`session`), ends with its
parent, and lets the parent decide what signals mean. Called by `api.save`.
"""

import contextlib
import gc
import os
import signal
import socket
import struct
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from vmckpt.kernel.process import die_with_parent, name_process
from vmckpt.machine.client import Conversation
from vmckpt.machine.session import Session, Wishes
from vmckpt.workers import Channel, Crew

__all__ = ["Booted", "boot"]

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)
_LOADED = struct.Struct(
    "<QQ"
)  # bytes loaded, of how many; at last, when the machine is ready: its process, and 0
_DEFAULTS = Wishes()


class Booted:
    """A machine that runs in a child process. Use it as a context manager: leaving it ends the machine.

    Attributes:
        pid: of its supervisor.
        conversation: with it.
    """

    def __init__(self, crew: Crew, pid: int, conversation: Conversation) -> None:
        """Take over the process and the conversation; see `boot`."""
        self.pid = pid
        self.conversation = conversation
        self._crew = crew

    def close(self) -> None:
        """End the machine for good, and wait for the end of its supervisor. Closing twice is fine."""
        self.conversation.close()
        if len(self._crew):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # its vCPUs end with it
            self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def boot(
    path: str,
    wishes: Wishes = _DEFAULTS,
    *,
    progress: Callable[[int, int], None] | None = None,
    warmup_ops: int = 0,
    populate: bool = False,
) -> Booted:
    """Load a machine, and let it run.

    Args:
        path: an image, an ELF core or a checkpoint.
        wishes: what to run.
        progress: told (done bytes, total bytes) as memory is loaded.
        warmup_ops: return when each vCPU has done so many operations.
        populate: have zero pages take memory too, as they do behind a host's large pages.

    Raises:
        VmckptError: as `Session.open`.
        WorkerError: a vCPU, or the supervisor, ended.
    """
    ours, theirs = socket.socketpair()
    parent_pid = os.getpid()

    def supervise(channel: Channel) -> None:
        ours.close()
        _follow(parent_pid)
        report = partial(_report, channel)
        with Session.open(path, wishes, populate=populate, progress=report) as session:
            session.start()
            session.warm_up(warmup_ops)
            session.control.adopt(theirs)
            report(os.getpid(), 0)
            session.serve()

    try:
        crew = Crew(1, supervise)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    booted = None
    try:
        while booted is None:
            for _, answer in crew.receive():
                done, total = _LOADED.unpack(answer)
                if not total:
                    booted = Booted(crew, done, Conversation.over(ours))
                elif progress is not None:
                    progress(done, total)
    except BaseException as error:
        ours.close()
        crew.__exit__(type(error), error, None)
        raise
    return booted


def _report(channel: Channel, done_bytes: int, total_bytes: int) -> None:
    channel.send(_LOADED.pack(done_bytes, total_bytes))


def _follow(parent_pid: int) -> None:
    """End with the parent, and in no other way."""
    gc.freeze()  # objects of the parent must not be finalized here
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(parent_pid)
    name_process("vmckpt-machine")
