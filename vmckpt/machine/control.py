r"""The control socket: one line of JSON asks, one line of JSON answers (docs/machine.md has the protocol).

    {"id": 1, "do": "pause"}\n  ──▶  ControlServer ──▶ the machine
    {"id": 1, "ok": true, "answer": {"state": "paused", ...}}\n  ◀──

The socket is mode 0600, and who connects must be of the same user, or root. What clients send is hostile all the same:
lines have a longest length, half requests a time to end, clients a number, and nobody is read from while they do not
read. The server has no thread: the machine watches its descriptors. `client` is the other side.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Protocol, Self

from vmckpt.errors import UsageError, VmckptError
from vmckpt.kernel.process import peer_of
from vmckpt.machine.connection import Caller, Client, Handler, line_of, parse
from vmckpt.machine.listener import Listener
from vmckpt.machine.machine import MachineStatus

__all__ = [
    "MOST_CLIENTS",
    "MOST_REQUEST_BYTES",
    "PATIENCE_S",
    "ControlServer",
    "Controlled",
]

MOST_REQUEST_BYTES = 1 << 16
"""The longest request, its line feed included."""
MOST_CLIENTS = 32
"""Connections at a time; one more is told so, and closed."""
PATIENCE_S = 10.0
"""How long a request may take to arrive in whole, and an answer to be read."""

_PROTOCOL = 1
_READ_BYTES = 1 << 16
_GOODBYE_S = 1.0


class Controlled(Protocol):
    """What the server needs of a machine."""

    def status(self) -> MachineStatus:
        """What it does now."""

    def pause(self) -> None:
        """Stop every vCPU between two operations."""

    def resume(self) -> None:
        """Let the vCPUs go on."""

    def stop(self) -> None:
        """End the vCPUs."""

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the events that occur on `fd`."""

    def unwatch(self, fd: int) -> None:
        """End `watch`."""


class ControlServer:
    """Listens at a path. Close it in the end: that removes the socket.

    Attributes:
        path: of the socket; None where it only serves connections that it is given.
    """

    def __init__(self, path: str | None) -> None:
        """Make the socket, if there is to be one; a stale one, where nobody listens any more, is replaced.

        Raises:
            UsageError: the path is too long for a socket.
            IoError: somebody listens there, something else has that name, or the directory cannot be written.
        """
        self.path = path
        self._listener = None if path is None else Listener(path)
        self._machine: Controlled | None = None
        self._handlers: Mapping[str, Handler] = MappingProxyType({})
        self._clients: dict[int, Client] = {}

    def serve(self, machine: Controlled, handlers: Mapping[str, Handler] = MappingProxyType({})) -> None:
        """Answer from now on, whenever the machine waits; `handlers` are requests beside status, pause, resume and stop."""
        self._machine = machine
        self._handlers = {
            "status": lambda *_: {},
            "pause": lambda *_: self._do(machine.pause),
            "resume": lambda *_: self._do(machine.resume),
            "stop": lambda *_: self._do(machine.stop),
            **handlers,
        }
        if self._listener is not None:
            machine.watch(self._listener.fileno(), select.POLLIN, self._accept)

    def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that was made otherwise, too; call `serve` before."""
        connection.setblocking(False)
        client = Client(connection)
        self._clients[connection.fileno()] = client
        self._watch(client)

    @staticmethod
    def _do(action: Callable[[], None]) -> Mapping[str, object]:
        action()
        return {}

    def expire(self) -> None:
        """Part with clients that keep half a request, or an answer, for too long. Call it now and then."""
        now_s = time.monotonic()
        for client in list(self._clients.values()):
            if client.busy_since_s is not None and now_s - client.busy_since_s > PATIENCE_S:
                self._drop(client)

    def _accept(self, events: int) -> None:
        del events
        assert self._listener is not None
        connection = self._listener.accept()
        if connection is None:
            return
        refusal = self._refusal_of(connection)
        if refusal is not None:
            with contextlib.suppress(OSError):
                connection.send(line_of(None, refusal))
            connection.close()
            return
        self.adopt(connection)

    def _refusal_of(self, connection: socket.socket) -> VmckptError | None:
        try:
            peer = peer_of(connection)
        except VmckptError as error:
            return error
        if peer.uid not in {os.geteuid(), 0}:
            return UsageError(
                f"user {peer.uid} may not control this machine: it belongs to user {os.geteuid()}"
            )
        if len(self._clients) >= MOST_CLIENTS:
            return UsageError(f"{MOST_CLIENTS} clients are connected already: no more are served")
        return None

    def _watch(self, client: Client) -> None:
        # Who does not read is not read from.
        events = select.POLLOUT if client.unsent else select.POLLIN
        assert self._machine is not None
        self._machine.watch(client.connection.fileno(), events, partial(self._attend, client))

    def _attend(self, client: Client, events: int) -> None:
        try:
            if not client.unsent and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._read(client)
            self._flush(client)
            while not client.unsent and b"\n" in client.received:
                self._answer_next(client)
                self._flush(client)
        except OSError:  # it vanished
            self._drop(client)
            return
        if client.leaving and not client.unsent:
            self._drop(client)
            return
        if not client.is_busy():
            client.busy_since_s = None
        elif client.busy_since_s is None:
            client.busy_since_s = time.monotonic()
        self._watch(client)

    def _read(self, client: Client) -> None:
        try:
            received = client.connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        client.received += received
        if not received:
            client.leaving = True
        end = client.received.find(b"\n")
        if max(end, len(client.received) if end < 0 else 0) >= MOST_REQUEST_BYTES:
            error = UsageError(f"the request is too long: expected {MOST_REQUEST_BYTES} bytes at most")
            self._part(client, error)

    def _answer_next(self, client: Client) -> None:
        line, _, rest = bytes(client.received).partition(b"\n")
        client.received = bytearray(rest)
        client.busy_since_s = None
        try:
            number, do, values = parse(line)
        except VmckptError as error:
            self._part(client, error)
            return
        try:
            client.unsent = line_of(number, self._act(do, values, client.caller))
        except VmckptError as error:
            client.caller.close_descriptors()
            client.unsent = line_of(number, error)

    def _act(self, do: str, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        handler = self._handlers.get(do)
        if handler is None:
            raise UsageError(f"there is no request {do!r:.40}: choose one of {', '.join(self._handlers)}")
        if values and do in {"status", "pause", "resume", "stop"}:
            raise UsageError(f"the request {do} takes no values, and got {', '.join(sorted(values)):.80}")
        assert self._machine is not None
        answer = handler(values, caller)
        return {"protocol": _PROTOCOL, "pid": os.getpid(), **self._machine.status()._asdict(), **answer}

    def _part(self, client: Client, error: VmckptError) -> None:
        """Say why, and close once that is read: nobody knows where the next request would start."""
        client.received.clear()
        client.unsent = line_of(None, error)
        client.leaving = True

    def _flush(self, client: Client) -> None:
        with contextlib.suppress(BlockingIOError):
            while client.unsent:
                sent = socket.send_fds(client.connection, [client.unsent], client.caller.descriptors)
                client.caller.close_descriptors()
                client.unsent = client.unsent[sent:]

    def _drop(self, client: Client) -> None:
        assert self._machine is not None
        fd = client.connection.fileno()
        self._machine.unwatch(fd)
        del self._clients[fd]
        client.caller.close_descriptors()
        client.connection.close()
        if client.caller.at_end is not None:
            client.caller.at_end()

    def close(self) -> None:
        """Remove the socket, and part with all clients. Closing twice is fine."""
        if self._listener is not None and self._listener.fileno() >= 0:
            if self._machine is not None:
                self._machine.unwatch(self._listener.fileno())
            self._listener.close()
        for client in list(self._clients.values()):
            with contextlib.suppress(OSError):
                client.connection.settimeout(_GOODBYE_S)
                if client.unsent:
                    client.connection.sendall(client.unsent)
            self._drop(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
