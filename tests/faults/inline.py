"""A crew without processes: the double that makes half a million verifications affordable.

It has the interface of `workers.Crew` and runs the work where it is, on the messages sent so far. That suits work which
keeps nothing between messages (verify, restore); that the real crew comes to the same is shown in `test_flips`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, cast
from unittest.mock import patch

from vmckpt.workers import Channel

__all__ = ["InlineCrew", "inline_crews"]


class _InlineChannel:
    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages
        self.answers: list[bytes] = []

    def messages(self) -> Iterator[bytes]:
        yield from self._messages

    def send(self, answer: bytes) -> None:
        self.answers.append(answer)


class InlineCrew:
    """The double; an error of the work leaves `receive` as it is."""

    def __init__(self, count: int, work: Callable[[Channel], None]) -> None:
        self._work = work
        self._messages: list[list[bytes]] = [[] for _ in range(count)]

    def __len__(self) -> int:
        return len(self._messages)

    def send(self, worker: int, message: bytes) -> None:
        self._messages[worker].append(message)

    def receive(self) -> list[tuple[int, bytes]]:
        answers = []
        for worker, messages in enumerate(self._messages):
            channel = _InlineChannel(messages[:])
            messages.clear()
            self._work(cast("Channel", channel))
            answers += [(worker, answer) for answer in channel.answers]
        assert answers, "the coordinator waits for an answer that nobody owes it"
        return answers

    def close(self) -> None:
        self._messages = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def inline_crews() -> Iterator[None]:
    """Verify and restore without workers, from here on."""
    with patch("vmckpt.checkpoint.check.Crew", InlineCrew), patch("vmckpt.restoring.eager.Crew", InlineCrew):
        yield
