"""A progress bar on a terminal, for work that takes long enough to wonder about.

The engine calls it with done and total bytes; what comes out is a bar on stderr. rich is imported once the work has
run for a while and is going to run on: importing it costs as much as saving 100 MiB.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vmckpt.units import format_size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["progress_bar"]

_PATIENCE_S = 0.4
_REDRAW_S = 0.1


@contextmanager
def progress_bar(label: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A callable that takes done and total bytes, or None where no bar is wanted or stderr is no terminal.

    The bar has no thread of its own, for the work may fork; it moves when it is called, from one thread at a time.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(label)
    try:
        yield bar
    finally:
        bar.close()


class _Bar:
    def __init__(self, label: str) -> None:
        self._label = label
        self._started_s = self._drawn_s = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        now_s = time.monotonic()
        if self._progress is None and not self._is_worth_it(now_s, done_bytes, total_bytes):
            return
        if self._progress is not None and now_s - self._drawn_s < _REDRAW_S and done_bytes < total_bytes:
            return
        self._drawn_s = now_s
        self._draw(done_bytes, total_bytes)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _is_worth_it(self, now_s: float, done_bytes: int, total_bytes: int) -> bool:
        elapsed_s = now_s - self._started_s
        if elapsed_s < _PATIENCE_S:
            return False
        return total_bytes <= 0 or elapsed_s * (total_bytes - done_bytes) > _PATIENCE_S * done_bytes

    def _draw(self, done_bytes: int, total_bytes: int) -> None:
        total = float(total_bytes) if total_bytes > 0 else None
        rate = done_bytes / max(time.monotonic() - self._started_s, 1e-3)
        of = f" of {format_size(total_bytes)}" if total_bytes > 0 else ""
        sizes = f"{format_size(done_bytes)}{of}, {format_size(rate)}/s"
        if self._progress is None or self._task is None:
            self._progress = _open_bar()
            self._task = self._progress.add_task(self._label, total=total, sizes=sizes)
            self._progress.start()
        self._progress.update(self._task, completed=done_bytes, total=total, sizes=sizes, refresh=True)


def _open_bar() -> "Progress":
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.progress import (  # noqa: PLC0415 - see above
        BarColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[sizes]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        expand=True,
        redirect_stdout=False,  # stdout may be carrying a memory image
        redirect_stderr=False,
    )
