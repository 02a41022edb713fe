"""`--report`: the page's file, opened before the work that it will show, written after it.

    path ─▶ report_file ─▶ AtomicFile (nothing is there, or --force) ─▶ ... ─▶ write_text ─▶ commit

The options of several commands lead here; what is on the page is made elsewhere.
"""

import os
from collections.abc import Iterable, Sequence

from vmckpt.cli.options import refuse_stream
from vmckpt.errors import IoError, UsageError
from vmckpt.output import AtomicFile, refuse_input

__all__ = ["report_file", "write_text"]


def report_file(
    path: str, *, force: bool, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> AtomicFile:
    """The file for a page; see `AtomicFile`.

    Args:
        path: its name.
        force: replace what is there.
        inputs: files that are read meanwhile.
        outputs: files that are written meanwhile.

    Raises:
        UsageError: it is one of them.
        click.UsageError: it is a stream.
        IoError: it exists already, or cannot be written.
    """
    refuse_stream("a report", path)
    for other in inputs:
        refuse_input(other, path)
    if any(_place(path) == _place(other) for other in outputs):
        raise UsageError("the report and another output are one file: give each its own name", path=path)
    return AtomicFile(path, force=force)


def _place(path: str) -> tuple[str, str]:
    folder, name = os.path.split(path)
    return os.path.realpath(folder), name


def write_text(file: AtomicFile, parts: Iterable[str]) -> None:
    """Write text, and give the file its name.

    Raises:
        IoError: it cannot be written.
    """
    try:
        with open(file.fd, "w", encoding="utf-8", closefd=False) as text:
            text.writelines(parts)
    except OSError as error:
        raise IoError.of(error, "cannot write", path=file.path) from error
    file.commit()
