"""Reports to text: a table for a person, or one JSON object for a script.

A command turns its report into a `Table`, which is plain values; here it becomes coloured text on a terminal (rich)
or the same text without colours in a pipe, where rich is not even imported.

        saved guest.vmckpt                                   title
          memory     512 MiB                                 Line(label, text)
          pages
            zero      95 031  ██████████████▌       72.5 %   Share(label, count, of)
            stored    20 112  ███                   15.3 %
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click

from vmckpt.errors import IoError
from vmckpt.units import format_count, format_duration, format_size, printable

if TYPE_CHECKING:
    from rich.text import Text

__all__ = [
    "Line",
    "Share",
    "Table",
    "answer",
    "print_error",
    "print_line",
    "rate",
    "times_smaller",
]

_BAR_CELLS = 24
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Line:
    """One labelled fact."""

    label: str
    text: str
    style: str = ""
    """A rich style for the text; the plain table has none."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, drawn as a bar."""

    label: str
    count: int
    """How many pages are of this kind."""
    of: int
    """How many pages there are."""
    style: str = "cyan"


@dataclass(frozen=True, slots=True)
class Table:
    """What a command has to say: a title and its lines."""

    title: str
    rows: Sequence[Line | Share]
    title_style: str = "bold green"


def answer(table: Table, values: Mapping[str, object], *, as_json: bool, to_stderr: bool = False) -> None:
    """Print a report on stdout: `values` as JSON, or the table.

    Raises:
        IoError: standard output is closed, and the JSON would be lost.
        OSError: it cannot be written; the error says what it was.
    """
    if as_json:
        import json  # noqa: PLC0415 - only a script needs it

        indent = 2 if sys.stdout is not None and sys.stdout.isatty() else None
        print_line(json.dumps(values, indent=indent, default=str))
        return
    stream = sys.stderr if to_stderr else sys.stdout
    if stream is None:
        return
    try:
        if stream.isatty():
            _print_rich(table, stream)
        else:
            click.echo("\n".join(_plain_lines(table, ascii_only=_is_ascii_only(stream))), file=stream)
    except OSError as error:
        error.filename = "standard error" if to_stderr else "standard output"
        raise


def print_line(text: str) -> None:
    """One line, or several, on stdout.

    Raises:
        IoError: standard output is closed.
        OSError: it cannot be written; the error says that it was standard output.
    """
    if sys.stdout is None:
        raise IoError("standard output is closed: the answer has nowhere to go")
    try:
        click.echo(text)
    except OSError as error:
        error.filename = "standard output"
        raise


def print_error(sentence: str) -> None:
    """One line on stderr, `vmckpt: ...`."""
    try:
        click.echo(f"vmckpt: {printable(sentence)}", err=True)
    except OSError:
        return  # nobody listens: the exit code still tells


def rate(size_bytes: int, elapsed_s: float) -> str:
    """`1.24 s, 1.61 GiB/s`."""
    if elapsed_s <= 0:
        return format_duration(0.0)
    return f"{format_duration(elapsed_s)}, {format_size(size_bytes / elapsed_s)}/s"


def times_smaller(size_bytes: int, memory_bytes: int) -> str:
    """`63.3 MiB, 8.1 times smaller than the memory`."""
    if size_bytes <= 0 or memory_bytes < size_bytes:
        return f"{format_size(size_bytes)}, {format_size(size_bytes - memory_bytes)} more than the memory"
    ratio = memory_bytes / size_bytes
    return f"{format_size(size_bytes)}, {ratio:.{1 if ratio < 100 else 0}f} times smaller than the memory"


def _bar(part: int, whole: int, *, ascii_only: bool) -> str:
    eighths = round(part / whole * _BAR_CELLS * 8) if whole else 0
    if part:
        eighths = max(eighths, 1)
    if ascii_only:
        return ("#" * -(-eighths // 8)).ljust(_BAR_CELLS)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(_BAR_CELLS)


def _is_ascii_only(stream: TextIO) -> bool:
    return not (stream.encoding or "").lower().startswith("utf")


def _cells(table: Table, *, ascii_only: bool) -> list[tuple[str, list[tuple[str, str]]]]:
    # Each row as its label and (text, style) pieces, columns of numbers already aligned.
    width = max((len(format_count(row.count)) for row in table.rows if isinstance(row, Share)), default=0)
    cells: list[tuple[str, list[tuple[str, str]]]] = []
    for row in table.rows:
        if isinstance(row, Line):
            cells.append((printable(row.label), [(printable(row.text), row.style)]))
            continue
        bar = _bar(row.count, row.of, ascii_only=ascii_only)
        share = row.count / row.of if row.of else 0.0
        count = f"{format_count(row.count):>{width}}  "
        cells.append(
            (row.label, [(count, ""), (bar, row.style), (f"  {share:6.1%}".replace("%", " %"), "dim")])
        )
    return cells


def _plain_lines(table: Table, *, ascii_only: bool) -> list[str]:
    cells = _cells(table, ascii_only=ascii_only)
    width = max((len(label) for label, _ in cells), default=0)
    lines = [f"  {label:<{width}}  {''.join(text for text, _ in pieces)}".rstrip() for label, pieces in cells]
    return [printable(table.title), *lines]


def _print_rich(table: Table, stream: TextIO) -> None:
    from rich.console import Console  # noqa: PLC0415 - 40 ms that a pipe need not wait for
    from rich.table import Table as Grid  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    console = Console(file=stream, highlight=False)
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, pieces in _cells(table, ascii_only=_is_ascii_only(stream)):
        grid.add_row(f"  {label}", _text(pieces, Text()))
    console.print(Text(printable(table.title), style=table.title_style))
    console.print(grid)


def _text(pieces: Sequence[tuple[str, str]], text: "Text") -> "Text":
    for piece, style in pieces:
        text.append(piece, style=style or None)
    return text
