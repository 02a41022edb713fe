"""`--report`: the page's file, opened before the work that it will show, written after it.

    path ─▶ report_file ─▶ AtomicFile (nothing is there, or --force) ─▶ ... ─▶ its write_text

The options of several commands lead here; what is on the page is made elsewhere.
"""

import os
from collections.abc import Sequence

from vmckpt.cli.options import refuse_stream
from vmckpt.errors import UsageError
from vmckpt.output import AtomicFile, refuse_input

__all__ = ["report_file"]


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
