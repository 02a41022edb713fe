"""Saving a whole source at rest into a file: sizes and identity chosen, pipeline run, sections added, name given.

`api.save` and `api.convert` call it; the pages themselves go through `rest`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from vmckpt.checkpoint.codec import CODEC_NAMES
from vmckpt.checkpoint.format import Header, SectionType
from vmckpt.checkpoint.writer import CheckpointWriter, new_header
from vmckpt.errors import CorruptionError
from vmckpt.hashing import fingerprint
from vmckpt.output import AtomicFile
from vmckpt.pages import Source
from vmckpt.reports import Progress, SaveReport
from vmckpt.saving.order import block_numbers, ordered
from vmckpt.saving.request import Request
from vmckpt.saving.rest import Saved, save_at_rest
from vmckpt.version import __version__

__all__ = [
    "METADATA",
    "Carried",
    "Output",
    "open_output",
    "save_source",
]

_STDOUT = 1


class Carried(NamedTuple):
    """What a new checkpoint of the same memory keeps of an earlier one."""

    digest: bytes
    active_pages: list[int]
    """Page numbers in the order in which they were touched."""
    sections: list[tuple[int, bytes]]
    """Type and body."""


METADATA = b'{"writer":"vmckpt %s"}' % __version__.encode()
"""The body of the metadata section of a save."""

_NOTHING = Carried(b"", [], [(SectionType.METADATA, METADATA)])


def save_source(
    source: Source,
    path: str,
    request: Request,
    *,
    carried: Carried = _NOTHING,
    progress: Progress | None = None,
) -> SaveReport:
    """Write a checkpoint of `source` to `path` (`-`: standard output); `elapsed_s` is left for the caller to tell.

    The checkpoint's id follows from the source's identity and the request, its time from the source's, so the same
    request makes the same file, bit for bit.

    Raises:
        FormatError: the block sizes are not possible.
        UsageError: the layout is not possible.
        IoError, ChangedError, CorruptionError, WorkerError: as `rest.save_at_rest` says.
    """
    header = _header(source, request)
    ranges = list(source.data_ranges())
    numbers = block_numbers(ranges, header.block_pages)
    with open_output(path, request.force) as output:
        writer = CheckpointWriter(output.fd, header, source.layout, path=path)
        saved = save_at_rest(
            source,
            writer,
            ordered(numbers, request.layout, carried.active_pages, header.block_pages),
            choice=request.choice,
            jobs=request.jobs,
            dedup=request.dedup,
            in_page_order=request.layout == "physical",
            data_pages=sum(pages.pages for pages in ranges),
            progress=progress,
        )
        source.check_unchanged()
        digest = _digest(saved, carried, source)
        active_pages = len(carried.active_pages)
        writer.finish(digest, saved.counts, active_pages=active_pages, sections=carried.sections)
        output.commit()
    return SaveReport(
        memory_bytes=source.layout.memory_bytes,
        file_bytes=writer.file_bytes,
        elapsed_s=0.0,
        pages=saved.counts,
        active_pages=active_pages,
        digest=digest.hex(),
        codec=CODEC_NAMES[header.codec],
        memory_block_bytes=header.memory_block_bytes,
        storage_block_bytes=header.storage_block_bytes,
        storage_blocks=writer.storage_blocks,
    )


def _header(source: Source, request: Request) -> Header:
    # What changes nothing in the file must change nothing in its id either.
    what = repr(request._replace(jobs=0, force=False)).encode()
    return new_header(
        source.layout,
        codec=request.choice.codec,
        memory_block_bytes=request.choice.memory_block_bytes,
        storage_block_bytes=request.storage_block_bytes,
        checkpoint_id=fingerprint(source.identity + what),
        created_ns=source.modified_ns,
    )


def _digest(saved: Saved, carried: Carried, source: Source) -> bytes:
    """The digest computed on the way, which must be the one carried, if there is one; or that one."""
    digest = saved.digest or carried.digest
    if carried.digest and digest != carried.digest:
        raise CorruptionError(
            f"the memory's digest is {digest.hex()}, expected {carried.digest.hex()}", path=source.name
        )
    return digest


class Output(NamedTuple):
    """Where a checkpoint is written to."""

    fd: int
    sync: Callable[[], None]
    """Make what was written durable."""
    commit: Callable[[], None]
    """The same, and give it its name."""


@contextmanager
def open_output(path: str, force: bool) -> Iterator[Output]:
    """A new file, or standard output for `-`; without `commit` nothing is left of a file."""
    if path == "-":
        fd = os.dup(_STDOUT)
        try:
            yield Output(fd, lambda: None, lambda: None)
        finally:
            os.close(fd)
        return
    with AtomicFile(path, force=force) as out:
        yield Output(out.fd, out.sync, out.commit)
