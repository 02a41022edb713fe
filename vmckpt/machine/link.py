"""Messages between the supervisor and a vCPU's process: JSON and descriptors, each message whole or not at all.

    supervisor ── request: name, number, values ──▶ vCPU
               ◀── answer: same name and number ───            number 0: an event that nobody asked for

Both ends are of our own make, so what arrives is trusted. A pair of sockets that keep the borders of messages; either
side's end shows as the end of the stream on the other.
"""

import json
import select
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vmckpt.errors import FeatureError, IoError
from vmckpt.kernel.process import receive_descriptors, send_descriptors

__all__ = ["Link", "Message"]

_MOST_BYTES = 1 << 16
_MOST_DESCRIPTORS = 16


class Message(NamedTuple):
    """A request, an answer or an event."""

    name: str
    number: int
    """An answer has its request's; 0 for an event."""
    values: Mapping[str, object]
    descriptors: Sequence[int] = ()
    """The receiver owns its copies."""


class Link:
    """One end. Belongs to one thread of one process."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    @classmethod
    def pair(cls) -> "tuple[Link, Link]":
        """Two ends.

        Raises:
            FeatureError: this system has no such sockets.
        """
        try:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise FeatureError(f"cannot link processes by packets: {error.strerror}") from error
        return cls(here), cls(there)

    def fileno(self) -> int:
        """The descriptor, to poll; -1 once closed."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Send a message; the caller keeps its descriptors.

        Raises:
            IoError: the other side has ended.
        """
        body = json.dumps([message.name, message.number, message.values]).encode()
        if message.descriptors:
            send_descriptors(self._socket, body, message.descriptors)
            return
        try:
            self._socket.send(body)
        except OSError as error:
            raise IoError.of(error, "cannot send to the other process") from error

    def wait(self, timeout_s: float | None) -> bool:
        """Whether there is something to receive, or the end, within `timeout_s` (None: for ever)."""
        return bool(self._poll.poll(None if timeout_s is None else max(timeout_s, 0) * 1000))

    def receive(self) -> Message | None:
        """Wait for the next message; None when the other side has ended."""
        received = self._receive()
        if received is None:
            # A side that ended with messages unread resets the link, and that is told once, before what it sent last.
            received = self._receive()
        if received is None:
            return None
        body, descriptors = received
        name, number, values = json.loads(body)
        return Message(name, number, values, descriptors)

    def _receive(self) -> tuple[bytes, list[int]] | None:
        try:
            return receive_descriptors(self._socket, _MOST_BYTES, _MOST_DESCRIPTORS)
        except IoError as error:
            if error.__cause__ is None or isinstance(error.__cause__, ConnectionError):
                return None
            raise

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
