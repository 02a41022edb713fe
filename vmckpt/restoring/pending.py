"""Duplicates that wait until the storage block which they refer to is at hand: a list that all processes share.

    storage block X is brought ─▶ its duplicates of pages elsewhere ─▶ `add`            (the list: a memfd, appended to)
    storage block Y is brought ─▶ `take(Y)`: who refers to it, from whichever process ─▶ brought with it
    at the end                 ─▶ `pages`: all that ever waited; those that nobody brought are brought one by one

So a storage block is not read a second time for what refers to it. Duplicates refer to what was saved before them, so
whoever walks through the file from its end to its start meets X before Y. Appending is one write, and no reader sees
half of it; a writer that is killed in it leaves whole records (they divide the kernel's pages). Used by `background`.
"""

import os
import struct
from collections.abc import Iterable
from typing import NamedTuple, Self

from vmckpt.errors import IoError
from vmckpt.kernel.memory import create_memfd

__all__ = ["Pending", "Referring"]

_RECORD = struct.Struct("=Q8sIHH8x")
_MOST_READ_BYTES = 1 << 20


class Referring(NamedTuple):
    """A duplicate page, and where the page lies that it equals."""

    page: int
    hash: bytes
    """Of the page, as packed: what it refers to must have the same."""
    storage_block: int
    slot: int
    at: int
    """Index of the page within the memory block."""


class Pending:
    """One process's view of the list. A process that is forked needs a view of its own (`apart`)."""

    def __init__(self, fd: int) -> None:
        """Look at the list in `fd`, which stays the caller's, from its beginning."""
        self._fd = fd
        self._read_bytes = 0
        self._by_target: dict[int, list[Referring]] = {}

    @classmethod
    def new(cls) -> Self:
        """An empty list, whose descriptor lives as long as the process."""
        return cls(create_memfd("vmckpt-pending", 0))

    def apart(self) -> "Pending":
        """Another view of the same list."""
        return Pending(self._fd)

    def add(self, waiting: Iterable[Referring]) -> None:
        """Append to the list.

        Raises:
            IoError: there is no memory for it.
        """
        body = b"".join([_RECORD.pack(*each) for each in waiting])
        try:
            while body:
                body = body[os.pwritev(self._fd, [body], 0, os.RWF_APPEND) :]
        except OSError as error:
            raise IoError.of(error, "cannot note which pages are still to be brought") from error

    def take(self, storage_block: int) -> list[Referring]:
        """Who refers to a storage block, of those that were added so far; told once by each view."""
        self._look()
        return self._by_target.pop(storage_block, [])

    def _look(self) -> None:
        while body := os.pread(self._fd, _MOST_READ_BYTES, self._read_bytes):
            whole = len(body) - len(body) % _RECORD.size
            if not whole:
                break
            self._read_bytes += whole
            for fields in _RECORD.iter_unpack(body[:whole]):
                each = Referring._make(fields)
                self._by_target.setdefault(each.storage_block, []).append(each)

    def pages(self) -> list[int]:
        """All pages that were ever added, ascending, each once."""
        everything = Pending(self._fd)
        everything._look()
        return sorted({each.page for waiting in everything._by_target.values() for each in waiting})
