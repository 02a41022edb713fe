"""The machine of an experiment, from a seed: its memory image, and a checkpoint of it that was saved while it worked.

    create ─▶ image ─▶ boot, warm up ─▶ save live ─▶ checkpoint, and the operation to which every restore of it runs

Warming up touches each page of the working set some times, so that none is zero when it is saved; what follows touches
each some times again. So the set is known, and what a restore has to bring is the same in every run.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from vmckpt import api
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.image import create_image

__all__ = ["Guest", "Request", "Setting", "Tell", "create", "saved", "set_pages"]

_WARMUP_TOUCHES = 8  # operations for each page of the set
_TOUCHES = 25  # of a page in the run that is measured, on average; one in e**25 pages is missed
_LEAST_OPS = 20_000

Tell = Callable[[str], None]
"""Told what is being done, for whoever waits."""


class Request(NamedTuple):
    """What is asked of any experiment."""

    work_dir: str
    """An empty directory, which is gone afterwards."""
    size_bytes: int
    """Of the guest's memory."""
    seed: int
    runs: int
    tell: Tell


class Setting(NamedTuple):
    """What to run, and how to save it."""

    workload: str
    set_pages: int
    """Pages that the workload uses."""
    trace: str = "access"
    estimator: str = "tracing"
    memory_block_bytes: int | None = None
    """None, here and below: the default."""
    storage_block_bytes: int | None = None


class Guest(NamedTuple):
    """A checkpoint, and to where its machine is to run."""

    path: str
    until_ops: int
    page_count: int


def set_pages(size_bytes: int, per_cent: int) -> int:
    """Pages of a working set."""
    return max(size_bytes // PAGE_BYTES * per_cent // 100, 1)


def create(request: Request) -> str:
    """Make a memory image of the default profile; its path.

    Raises:
        UsageError: there is no memory of that size.
        IoError: it cannot be written.
    """
    request.tell("creating the guest")
    path = os.path.join(request.work_dir, "guest.raw")
    create_image(path, request.size_bytes, seed=request.seed)
    return path


def saved(image: str, path: str, setting: Setting, seed: int) -> Guest:
    """Boot a machine in the image, and save it while it works.

    Raises:
        VmckptError: as `api.save`.
    """
    report = api.save(
        image,
        path,
        workload=setting.workload,
        seed=seed,
        warmup_ops=max(setting.set_pages * _WARMUP_TOUCHES, _LEAST_OPS),
        trace=setting.trace,
        estimator=setting.estimator,
        memory_block_bytes=setting.memory_block_bytes,
        storage_block_bytes=setting.storage_block_bytes,
    )
    assert report.live is not None
    run_ops = max(setting.set_pages * _TOUCHES, _LEAST_OPS)
    return Guest(path, report.live.ops_at_checkpoint[0] + run_ops, report.memory_bytes // PAGE_BYTES)
