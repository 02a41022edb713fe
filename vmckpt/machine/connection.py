"""A client's connection, as the control server sees it: lines in, lines out, and descriptors with them.

    received ─▶ parse ─▶ handler(values, Caller) ─▶ line_of ─▶ unsent, with the Caller's descriptors

Values and small state; `control` does the sending, and the handlers are those of `saves`, or of a test.
"""

import json
import os
import select
import socket
from collections.abc import Callable, Mapping

from vmckpt.errors import UsageError, VmckptError

__all__ = ["Caller", "Client", "Handler", "line_of", "parse"]


class Caller:
    """A connection, as a request's handler sees it: the same object for all that is asked over it.

    Attributes:
        descriptors: those that go with the next answer; handed over, and closed once they were sent.
        at_end: called when the connection has ended; None: nobody cares.
    """

    def __init__(self, connection: socket.socket) -> None:
        """The server's side of the connection."""
        self.descriptors: list[int] = []
        self.at_end: Callable[[], None] | None = None
        self._poll = select.poll()
        self._poll.register(connection, 0)  # errors and the other side's end are always told

    def has_gone(self) -> bool:
        """Whether the other side has closed, perhaps unnoticed so far by the server."""
        return bool(self._poll.poll(0))

    def close_descriptors(self) -> None:
        """Close those that were not sent."""
        while self.descriptors:
            os.close(self.descriptors.pop())


Handler = Callable[[Mapping[str, object], Caller], Mapping[str, object]]
"""What a request does: its values but for `id` and `do`, and who asks, in; the answer out; raises VmckptError to refuse."""


class Client:
    """A connection: what it has sent of its next request, and what it has not read of its answers.

    Attributes:
        connection: the server's side, which does not block.
        caller: what handlers see of it.
        received: of requests that were not done yet.
        unsent: of an answer.
        busy_since_s: since when either waits, on the monotonic clock.
        leaving: to be closed once `unsent` is read.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Take the connection over."""
        self.connection = connection
        self.caller = Caller(connection)
        self.received = bytearray()
        self.unsent = b""
        self.busy_since_s: float | None = None
        self.leaving = False

    def is_busy(self) -> bool:
        """Whether either side waits for the rest of something."""
        return bool(self.received or self.unsent)


def parse(line: bytes) -> tuple[int | str | None, str, Mapping[str, object]]:
    """A request's number, what it asks to do, and the rest of its values.

    Raises:
        UsageError: it is no request.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError("the request is no JSON") from error
    if not isinstance(values, dict):
        raise UsageError("the request is no JSON object")
    number, do = values.pop("id", None), values.pop("do", None)
    if not isinstance(number, int | str | None) or not isinstance(do, str):
        raise UsageError('the request names nothing to do: expected {"id": number or text, "do": text}')
    return number, do, values


def line_of(number: int | str | None, answer: Mapping[str, object] | VmckptError) -> bytes:
    """The line that answers a request."""
    body: dict[str, object] = {"id": number}
    if isinstance(answer, VmckptError):
        body |= {"ok": False, "error": {"kind": type(answer).__name__, "message": str(answer)}}
    else:
        body |= {"ok": True, "answer": answer}
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"
