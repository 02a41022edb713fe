"""The files that a lazy restore writes: opened before it begins, written when it has ended.

    names ─▶ LazyFiles (nothing is in the way, or `force`) ─▶ ... LazyRestore runs, finishes ... ─▶ write ─▶ all have their names

What stands in the way of a file is said before the machine runs; a run that fails leaves none. Called by the API.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple, Self

from vmckpt.errors import UsageError
from vmckpt.output import AtomicFile, refuse_input
from vmckpt.restoring.lazy import LazyRestore
from vmckpt.restoring.outcome import LazyReport
from vmckpt.restoring.record import recorded_path

__all__ = ["FileNames", "LazyFiles"]


class FileNames(NamedTuple):
    """What to write; None: not wanted."""

    fault_log: str | None = None
    """A line for each fault."""
    record: str | None = None
    """The pages that were touched, in the order in which to want them next time."""
    page: str | None = None
    """A page for a browser."""


class LazyFiles:
    """Files without a name yet. Use it as a context manager: leaving it without `write` leaves nothing."""

    def __init__(self, checkpoint: str, names: FileNames, *, inputs: Sequence[str] = (), force: bool) -> None:
        """Open them.

        Args:
            checkpoint: that is restored.
            names: of the files.
            inputs: what else is read.
            force: replace what is there; an order beside the checkpoint is replaced in any case.

        Raises:
            UsageError: two files have one name, or one is the checkpoint or another input, or a stream.
            IoError: one exists already, or cannot be made.
        """
        self._checkpoint = checkpoint
        wanted = [name for name in names if name is not None]
        if "-" in wanted:
            raise UsageError("a stream will not do here: give a file's name (one called `-` is `./-`)")
        if len({_place(name) for name in wanted}) < len(wanted):
            raise UsageError("two outputs are one file: give each its own name", path=wanted[0])
        beside = recorded_path(checkpoint)
        with ExitStack() as stack:

            def opened(name: str | None) -> AtomicFile | None:
                if name is None:
                    return None
                for other in (checkpoint, *inputs):
                    refuse_input(other, name)
                return stack.enter_context(AtomicFile(name, force=force or name == beside))

            self._fault_log, self._record, self._page = map(opened, names)
            self._stack = stack.pop_all()

    def write(self, restore: LazyRestore, report: LazyReport) -> None:
        """Write all of them, once the restore is finished.

        Raises:
            IoError: one cannot be written; those before it are there.
        """
        if self._fault_log is not None:
            self._fault_log.write_text(line + "\n" for line in restore.fault_log())
        if self._record is not None:
            self._record.write_text([restore.touched_order()])
        if self._page is not None:
            self._page.write_text([_page(self._checkpoint, restore, report)])

    def close(self) -> None:
        """Let go of them; what was not written is gone."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _place(path: str) -> tuple[str, str]:
    folder, name = os.path.split(path)
    return os.path.realpath(folder), name


def _page(checkpoint: str, restore: LazyRestore, report: LazyReport) -> str:
    from vmckpt.restoring.history import History  # noqa: PLC0415 - only now: nobody waits for it
    from vmckpt.restoring.report import page_of  # noqa: PLC0415

    shared = restore.shared
    history = History(
        list(shared.log.faults()), round(restore.started_s * 1e9), shared.residency.cells, restore.touched
    )
    return page_of(os.path.basename(checkpoint), report, history)
