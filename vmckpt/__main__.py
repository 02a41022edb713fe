"""The `vmckpt` command, and `python -m vmckpt`: as little as possible before and after the work.

A save of half a gigabyte takes a fifth of a second in all, so what an interpreter does around it counts. Collecting
garbage while modules are imported finds none and costs 4 ms, and taking the interpreter down object by object another
8 ms; the kernel does that at once.
"""

import gc
import os
import sys
from contextlib import suppress

__all__ = ["run"]


def run() -> None:
    """Run the command line and leave with its exit code."""
    gc.disable()
    from vmckpt.cli import main  # noqa: PLC0415 it is the imports that are not to be interrupted

    code = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed; `main` has said what there was to say
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
