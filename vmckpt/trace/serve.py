"""The tracer process: answers traps until the saver hangs up, and arms traces again when asked to.

    ┌─▶ poll ─┬─ traps: respond to each ─▶ tell the saver ─┬─▶ one piece of arming, if asked for ─┐
    │         └─ none: a piece of slots for the next copies ─┘                                     │
    └──────────────────────────────────────────────────────────────────────────────────────────────┘

    request    saver ─▶ tracer    number of ranges (and a bit: reads too), then each one's first and end page (u64)
    answer     tracer ─▶ saver    READY once, when the first trap can come; ARMED for each request

A vCPU waits for each trap, so the answer comes first, the news after the batch, and arming goes by pieces of a few MiB
between the batches. Forked by `handler`, which is at the other end of the requests.
"""

import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from vmckpt.pages import PageRange
from vmckpt.trace.tracer import Tracer, Trap

__all__ = ["ARMED", "FAILED", "MOST_RANGES", "READY", "Ends", "pack_request", "serve"]

READY, ARMED, FAILED = b"r", b"a", b"f"
"""Answers; after FAILED the reason follows, in UTF-8, up to the end of the stream."""
MOST_RANGES = 4096
"""In one request."""
_COUNT, _RANGE = struct.Struct("<Q"), struct.Struct("<QQ")
_READS = 1 << 63
_PIECE_PAGES = 1024
_READ_BYTES = 1 << 16


class Ends(NamedTuple):
    """The tracer process's ends of what joins it to the saver."""

    requests: socket.socket
    news_fd: int
    """An eventfd."""


def pack_request(ranges: list[PageRange], *, reads: bool) -> bytes:
    """A request to arm up to MOST_RANGES ranges; `reads` as in `Tracer.arm`."""
    return _COUNT.pack(len(ranges) | (_READS if reads else 0)) + b"".join(
        _RANGE.pack(*pages) for pages in ranges
    )


class _Requests:
    """What the saver asks for, cut into pieces."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._rest = b""
        self._pieces: deque[tuple[PageRange, bool] | None] = deque()  # None: a request ends here

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def hear(self) -> bool:
        """Receive what came; False at the end of the stream."""
        received = self._socket.recv(_READ_BYTES)
        self._rest += received
        while len(self._rest) >= _COUNT.size:
            (count,) = _COUNT.unpack_from(self._rest)
            end = _COUNT.size + (count & ~_READS) * _RANGE.size
            if len(self._rest) < end:
                break
            for first, last in _RANGE.iter_unpack(self._rest[_COUNT.size : end]):
                for start in range(first, last, _PIECE_PAGES):
                    self._pieces.append((PageRange(start, min(start + _PIECE_PAGES, last)), count >= _READS))
            self._pieces.append(None)
            self._rest = self._rest[end:]
        return bool(received)

    def step(self, tracer: Tracer) -> None:
        """Arm one piece, or say that a request is done."""
        piece = self._pieces.popleft()
        if piece is None:
            self._socket.sendall(ARMED)
        else:
            tracer.arm(piece[0], reads=piece[1])


def serve(
    tracer: Tracer, respond: Callable[[Trap], None], ends: Ends, make_ready: Callable[[], bool]
) -> None:
    """Answer traps until the saver hangs up.

    Args:
        tracer: where traps come from.
        respond: answers one.
        ends: to the saver.
        make_ready: prepares a piece of what answers will need, for the time between them; False when all is prepared.

    Raises:
        IoError: a trap could not be answered, or traces not be set again.
        OSError: the saver is gone.
    """
    requests, requests_fd, news_fd = _Requests(ends.requests), ends.requests.fileno(), ends.news_fd
    traps_of = tracer.traps
    poll = select.poll()
    for fd in (*tracer.descriptors(), requests_fd):
        poll.register(fd, select.POLLIN)
    while make_ready():
        pass
    ends.requests.sendall(READY)
    behind = False  # something has to be made ready
    while True:
        news = False
        for fd, state in poll.poll(0 if behind or requests else None):
            if fd == requests_fd:
                if not requests.hear():
                    return
                continue
            traps = traps_of(fd)
            for trap in traps:
                respond(trap)
            if traps:
                news = True
            elif state & ~select.POLLIN:
                poll.unregister(fd)  # its vCPU has ended, and it would poll readable for ever
        if news:
            os.eventfd_write(news_fd, 1)
            behind = True
        elif behind:
            behind = make_ready()
        if requests:
            requests.step(tracer)
