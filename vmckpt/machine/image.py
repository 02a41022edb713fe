"""Raw memory images of emulated VMs: the same arguments make the same bytes, on any machine.

    seeds, profile ──▶ plan ──▶ content keys and kinds, a batch at a time ──▶ content ──▶ pwrite; zero pages stay holes

Memory use depends on the number of runs in the plan, a few bytes for each page in use, not on the size of the VM.
Called by the command `create` and by whoever needs a guest to try.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from vmckpt.checkpoint.format import Limits
from vmckpt.errors import IoError, UsageError
from vmckpt.machine.content import WORDS_PER_PAGE, PageMaker, Words
from vmckpt.machine.plan import ImagePlan, PageClasses, contents_of, pieces_of, plan_image
from vmckpt.machine.profile import DEFAULT_PROFILE
from vmckpt.output import AtomicFile
from vmckpt.pages import PAGE_BYTES
from vmckpt.units import format_size

__all__ = ["CreateReport", "PageClasses", "create_image"]

_BATCH_PAGES = 1024


@dataclass(frozen=True, slots=True)
class CreateReport:
    """What `create_image` made."""

    memory_bytes: int
    file_bytes: int
    """Bytes the file system set aside: holes take none."""
    elapsed_s: float
    profile: str
    seed: int
    common_seed: int
    pages: PageClasses


def create_image(
    path: str,
    size_bytes: int,
    *,
    profile: str = DEFAULT_PROFILE,
    seed: int = 0,
    common_seed: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CreateReport:
    """Write the raw memory image of an emulated VM; zero pages are holes, and the file appears whole or not at all.

    Args:
        path: the image.
        size_bytes: guest memory, a multiple of the page size.
        profile: what kind of guest, a key of `profile.PROFILES`.
        seed: what is this VM's own: its private contents, and where everything lies; 64 bits.
        common_seed: what it shares with VMs of the same system; 64 bits.
        force: replace an existing file.
        progress: called now and then with the pages written and the pages to write.

    Raises:
        UsageError: the size is not a positive multiple of the page size, or above 64 TiB; a seed is out of range; or
            there is no such profile.
        IoError: the file exists already, or writing failed.
    """
    started_s = time.monotonic()
    _check(size_bytes, seed=seed, common_seed=common_seed)
    plan = plan_image(size_bytes // PAGE_BYTES, profile=profile, seed=seed, common_seed=common_seed)
    with AtomicFile(path, force=force) as out:
        _write_image(out.fd, plan, path, progress)
        out.commit()
        file_bytes = os.fstat(out.fd).st_blocks * 512
    return CreateReport(
        memory_bytes=size_bytes,
        file_bytes=file_bytes,
        elapsed_s=time.monotonic() - started_s,
        profile=profile,
        seed=seed,
        common_seed=common_seed,
        pages=plan.pages,
    )


def _check(size_bytes: int, *, seed: int, common_seed: int) -> None:
    if size_bytes <= 0 or size_bytes % PAGE_BYTES:
        raise UsageError(
            f"a memory of {size_bytes} bytes cannot be made: expected a multiple of {PAGE_BYTES}, above zero"
        )
    if size_bytes > Limits.PAGES * PAGE_BYTES:
        raise UsageError(
            f"a memory of {size_bytes} bytes is more than vmckpt can save: "
            f"expected at most {format_size(Limits.PAGES * PAGE_BYTES)}"
        )
    for name, value in (("seed", seed), ("common seed", common_seed)):
        if not 0 <= value < 1 << 64:
            raise UsageError(f"the {name} {value} is out of range: expected 0 to {(1 << 64) - 1}")


def _write_image(fd: int, plan: ImagePlan, path: str, progress: Callable[[int, int], None] | None) -> None:
    try:
        os.ftruncate(fd, plan.pages.total * PAGE_BYTES)
    except OSError as error:
        raise IoError.of(error, f"cannot make a file of {plan.pages.total} pages", path=path) from error
    maker = PageMaker()
    batches = [np.empty((min(_BATCH_PAGES, plan.slots), WORDS_PER_PAGE), np.uint64) for _ in range(2)]
    # Taking in new pages costs the kernel as long as making them costs us: one batch is written as the next is made.
    with ThreadPoolExecutor(1, "vmckpt-write") as pool:
        writing: Future[None] | None = None
        for number, start in enumerate(range(0, plan.slots, _BATCH_PAGES)):
            end = min(start + _BATCH_PAGES, plan.slots)
            batch = batches[number % 2][: end - start]
            maker.fill(*contents_of(plan, start, end), batch)
            if writing is not None:
                writing.result()
            writing = pool.submit(_write_batch, fd, plan, start, batch, path)
            if progress is not None:
                progress(end, plan.slots)
        if writing is not None:
            writing.result()


def _write_batch(fd: int, plan: ImagePlan, start: int, batch: Words, path: str) -> None:
    pages = batch.data.cast("B")
    for page, low, high in pieces_of(plan, start, start + len(batch)):
        _write_pages(fd, pages[low * PAGE_BYTES : high * PAGE_BYTES], page, path)


def _write_pages(fd: int, pages: memoryview, first_page: int, path: str) -> None:
    offset = first_page * PAGE_BYTES
    try:
        while pages:
            written = os.pwrite(fd, pages, offset)
            pages, offset = pages[written:], offset + written
    except OSError as error:
        raise IoError.of(error, "cannot write", path=path, offset=offset) from error
