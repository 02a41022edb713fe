"""The Python API: what a caller who is not a command line uses; every name is re-exported by `vmckpt`.

Each function opens what it reads, does the whole job and closes it; each returns a report, a value with units in its
names. The command line adds words and tables to these and nothing else. Imports are late because every command pays
for them at its start.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from vmckpt.checkpoint.check import Problem
from vmckpt.checkpoint.codec import CODEC_NAMES, Choice, choose
from vmckpt.checkpoint.format import FORMAT_VERSION, SectionType
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.checkpoint.writer import CheckpointWriter, PageCounts, new_header
from vmckpt.digest import fingerprint
from vmckpt.errors import CorruptionError, IoError, UsageError
from vmckpt.layout import PAGE_BYTES, Region
from vmckpt.output import AtomicFile
from vmckpt.pages import Source
from vmckpt.sources import open_source
from vmckpt.version import __version__
from vmckpt.workers import usable_cores

__all__ = [
    "CheckpointInfo",
    "PageCounts",
    "Problem",
    "Progress",
    "RebuildReport",
    "RestoreReport",
    "SaveReport",
    "VerifyReport",
    "convert",
    "digest",
    "info",
    "open_checkpoint",
    "open_source",
    "rebuild_index",
    "restore",
    "save",
    "verify",
]

Progress = Callable[[int, int], None]
"""Told (done bytes, total bytes) as work goes on, from the calling thread."""

STORAGE_BLOCK_BYTES = 1 << 20


class SaveReport(NamedTuple):
    """What a save or a conversion wrote."""

    memory_bytes: int
    file_bytes: int
    elapsed_s: float
    pages: PageCounts
    active_pages: int
    digest: str
    """32 hex digits."""
    codec: str
    memory_block_bytes: int
    storage_block_bytes: int
    storage_blocks: int

    @property
    def ratio(self) -> float:
        """Bytes of memory for each byte of file."""
        return self.memory_bytes / self.file_bytes


class RestoreReport(NamedTuple):
    """What an eager restore wrote."""

    memory_bytes: int
    file_bytes: int
    elapsed_s: float
    digest: str
    format: str


class VerifyReport(NamedTuple):
    """What a verification found."""

    ok: bool
    problems: tuple[Problem, ...]
    memory_bytes: int
    """0 where the header itself is damaged."""
    storage_blocks: int
    elapsed_s: float


class RebuildReport(NamedTuple):
    """What making a new index came to."""

    memory_bytes: int
    file_bytes: int
    storage_blocks: int
    pages: PageCounts
    digest: str
    lost_sections: tuple[str, ...]
    """Sections of the old file that could not be kept."""
    elapsed_s: float


class CheckpointInfo(NamedTuple):
    """What a checkpoint says of itself."""

    format_version: int
    checkpoint_id: str
    memory_bytes: int
    page_bytes: int
    regions: tuple[Region, ...]
    pages: PageCounts
    active_pages: int
    codec: str
    memory_block_bytes: int
    storage_block_bytes: int
    storage_blocks: int
    file_bytes: int
    digest: str
    created: str
    """When the memory was taken: ISO 8601, UTC."""
    vcpu_state: bool
    metadata: dict[str, object]


def open_checkpoint(path: str) -> Checkpoint:
    """Open a checkpoint for reading; use it in a `with` statement.

    Raises:
        FormatError: it is no checkpoint, or one this version cannot read.
        CorruptionError: it was cut short or damaged.
    """
    return Checkpoint.open(path)


def _jobs(jobs: int | None) -> int:
    if jobs is None:
        return usable_cores()
    if jobs < 1:
        raise UsageError(f"{jobs} jobs cannot do any work: expected 1 or more")
    return jobs


def save(
    source: str,
    checkpoint: str,
    *,
    codec: str | None = None,
    memory_block_bytes: int | None = None,
    storage_block_bytes: int | None = None,
    jobs: int | None = None,
    dedup: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> SaveReport:
    """Save the memory of an image, an ELF core or a checkpoint into a new checkpoint.

    Args:
        source: path, or `-` for standard input.
        checkpoint: path, or `-` for standard output.
        codec: `lz4`, `zstd`, `raw`, or None for the best in about lz4's time.
        memory_block_bytes: unit of compression; a power of two.
        storage_block_bytes: unit of reading; a power of two, at least twice that.
        jobs: worker processes; None: one for each core.
        dedup: store equal pages once.
        force: replace an existing file.
        progress: told as it goes.

    Raises:
        SourceError: the source holds no memory that vmckpt reads.
        IoError: reading or writing failed, or the file exists.
        ChangedError: the source changed meanwhile.
    """
    started = time.perf_counter()
    choice = _choice(codec, memory_block_bytes)
    with open_source(source) as opened:
        return _save(
            opened,
            checkpoint,
            "physical",
            choice,
            storage_block_bytes or max(STORAGE_BLOCK_BYTES, 2 * choice.memory_block_bytes),
            jobs=_jobs(jobs),
            dedup=dedup,
            force=force,
            progress=progress,
            started=started,
        )


def _choice(codec: str | None, memory_block_bytes: int | None) -> Choice:
    choice = choose(codec)
    return choice._replace(memory_block_bytes=memory_block_bytes) if memory_block_bytes else choice


def _save(
    source: Source,
    path: str,
    layout: str,
    choice: Choice,
    storage_block_bytes: int,
    *,
    jobs: int,
    dedup: bool,
    force: bool,
    progress: Progress | None,
    started: float,
) -> SaveReport:
    """Write `source` in the block order of `layout`; a checkpoint as source keeps its sections and its time."""
    from vmckpt.save.order import block_numbers, ordered  # noqa: PLC0415
    from vmckpt.save.rest import save_at_rest  # noqa: PLC0415

    carried = source if isinstance(source, Checkpoint) else None
    sizes = (choice.memory_block_bytes, storage_block_bytes)
    header = new_header(
        source.layout,
        codec=choice.codec,
        memory_block_bytes=sizes[0],
        storage_block_bytes=sizes[1],
        checkpoint_id=fingerprint(source.identity + f"{choice}{sizes}{layout}{dedup}".encode()),
        created_ns=source.modified_ns,
    )
    ranges = list(source.data_ranges())
    active = carried.active_pages() if carried else []
    blocks = ordered(block_numbers(ranges, header.block_pages), layout, active, header.block_pages)
    with _output(path, force) as (fd, commit):
        writer = CheckpointWriter(fd, header, source.layout, path=path)
        saved = save_at_rest(
            source,
            writer,
            blocks,
            choice=choice,
            jobs=jobs,
            dedup=dedup,
            in_page_order=layout == "physical",
            data_pages=sum(pages.pages for pages in ranges),
            progress=progress,
        )
        source.check_unchanged()
        memory_digest = saved.digest or (carried.digest if carried else b"")
        sections = _carried_sections(carried)
        writer.finish(memory_digest, saved.counts, active_pages=len(active), sections=sections)
        commit()
    return SaveReport(
        memory_bytes=source.layout.memory_bytes,
        file_bytes=writer.file_bytes,
        elapsed_s=time.perf_counter() - started,
        pages=saved.counts,
        active_pages=len(active),
        digest=memory_digest.hex(),
        codec=CODEC_NAMES[choice.codec],
        memory_block_bytes=sizes[0],
        storage_block_bytes=sizes[1],
        storage_blocks=writer.storage_blocks,
    )


def _carried_sections(checkpoint: Checkpoint | None) -> list[tuple[int, bytes]]:
    """What a new checkpoint of the same memory keeps of an earlier one."""
    if checkpoint is None:
        return [(SectionType.METADATA, b'{"writer":"vmckpt %s"}' % __version__.encode())]
    kept = (
        SectionType.ACTIVE_PAGES,
        SectionType.VCPU_STATE,
        SectionType.DEVICE_STATE,
        SectionType.METADATA,
    )
    bodies = ((section_type, checkpoint.section(section_type)) for section_type in kept)
    return [(section_type, body) for section_type, body in bodies if body is not None]


@contextmanager
def _output(path: str, force: bool) -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor to write to, and what to call when all is written."""
    if path == "-":
        yield sys.stdout.fileno(), lambda: None
        return
    with AtomicFile(path, force=force) as out:
        yield out.fd, out.commit


def convert(
    checkpoint: str,
    new: str,
    *,
    layout: str = "physical",
    codec: str | None = None,
    memory_block_bytes: int | None = None,
    storage_block_bytes: int | None = None,
    jobs: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> SaveReport:
    """Write the memory of a checkpoint into another one: other block order, codec or block sizes.

    What is not given stays as it is. Active pages, vCPU and device state and metadata are kept.

    Args:
        checkpoint: path.
        new: path, or `-` for standard output.
        layout: order of memory blocks: `physical`, `random` or `access` (Halite, ATC'13, 4).
        codec: as in `save`; None: that of the checkpoint.
        memory_block_bytes: as in `save`.
        storage_block_bytes: as in `save`.
        jobs: as in `save`.
        force: as in `save`.
        progress: as in `save`.

    Raises:
        UsageError: `access` is asked for and the checkpoint has no active pages.
        CorruptionError: the checkpoint is damaged.
        IoError: reading or writing failed, or the file exists.
    """
    started = time.perf_counter()
    with open_checkpoint(checkpoint) as opened:
        header = opened.header
        choice = choose(codec or CODEC_NAMES[header.codec])
        memory = memory_block_bytes or header.memory_block_bytes
        return _save(
            opened,
            new,
            layout,
            choice._replace(memory_block_bytes=memory),
            storage_block_bytes or max(header.storage_block_bytes, 2 * memory),
            jobs=_jobs(jobs),
            dedup=True,
            force=force,
            progress=progress,
            started=started,
        )


def restore(
    checkpoint: str,
    output: str,
    *,
    format: str = "raw",  # noqa: A002 what the command line calls it
    jobs: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> RestoreReport:
    """Write the whole memory of a checkpoint into an image.

    Args:
        checkpoint: path.
        output: path, or `-` for standard output.
        format: `raw` (the regions side by side; zero pages are holes) or `elf` (a core with their addresses).
        jobs: worker processes; None: one for each core.
        force: replace an existing file.
        progress: told as it goes.

    Raises:
        CorruptionError: the checkpoint is damaged, anywhere; no output is left.
        IoError: reading or writing failed, or the file exists.
        UsageError: there is no such format.
    """
    from vmckpt.restore.eager import restore_image, stream_image  # noqa: PLC0415
    from vmckpt.restore.image import plan_elf, plan_raw  # noqa: PLC0415

    started = time.perf_counter()
    if format not in {"raw", "elf"}:
        raise UsageError(f"there is no image format {format!r}: expected raw or elf")
    with open_checkpoint(checkpoint) as opened:
        plan = (plan_raw if format == "raw" else plan_elf)(opened.layout)
        if output == "-":
            memory_digest = stream_image(opened, plan, _write_stdout, progress)
        else:
            with AtomicFile(output, force=force) as out:
                memory_digest = restore_image(
                    opened, plan, out.fd, output, jobs=_jobs(jobs), progress=progress
                )
                out.commit()
        memory_bytes = opened.layout.memory_bytes
    elapsed_s = time.perf_counter() - started
    return RestoreReport(memory_bytes, plan.file_bytes, elapsed_s, memory_digest.hex(), format)


def _write_stdout(data: memoryview) -> None:
    try:
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]
    except OSError as error:
        raise IoError.of(error, "cannot write to standard output") from error


def info(checkpoint: str) -> CheckpointInfo:
    """What a checkpoint says of itself; reads a few KiB, whatever the size of the memory.

    Raises:
        FormatError: it is no checkpoint, or one this version cannot read.
        CorruptionError: it was cut short or damaged where this looks.
    """
    import json  # noqa: PLC0415
    from datetime import UTC, datetime  # noqa: PLC0415

    with open_checkpoint(checkpoint) as opened:
        header = opened.header
        created = datetime.fromtimestamp(header.created_ns // 10**9, UTC)
        try:
            metadata = json.loads(opened.section(SectionType.METADATA) or b"{}")
        except ValueError as error:
            raise CorruptionError(f"the metadata is no JSON: {error}", path=checkpoint) from error
        return CheckpointInfo(
            format_version=FORMAT_VERSION,
            checkpoint_id=header.checkpoint_id.hex(),
            memory_bytes=opened.layout.memory_bytes,
            page_bytes=PAGE_BYTES,
            regions=opened.layout.regions,
            pages=opened.counts,
            active_pages=opened.summary.active_pages,
            codec=CODEC_NAMES[header.codec] if header.codec < len(CODEC_NAMES) else str(header.codec),
            memory_block_bytes=header.memory_block_bytes,
            storage_block_bytes=header.storage_block_bytes,
            storage_blocks=opened.summary.storage_blocks,
            file_bytes=opened.file_bytes,
            digest=opened.digest.hex(),
            created=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            vcpu_state=SectionType.VCPU_STATE in opened.sections,
            metadata=metadata,
        )


def verify(checkpoint: str, *, jobs: int | None = None, progress: Progress | None = None) -> VerifyReport:
    """Prove every byte of a checkpoint.

    Raises:
        FormatError: it is no checkpoint, or one this version cannot read.
        IoError: it could not be read.
    """
    from vmckpt.checkpoint.check import problems_of  # noqa: PLC0415

    started = time.perf_counter()
    try:
        with open_checkpoint(checkpoint) as opened:
            problems = tuple(problems_of(opened, jobs=_jobs(jobs), progress=progress))
            memory_bytes, storage_blocks = opened.layout.memory_bytes, opened.summary.storage_blocks
    except CorruptionError as error:
        problems = (Problem("file", error.offset, (), error.message),)
        memory_bytes = storage_blocks = 0
    return VerifyReport(not problems, problems, memory_bytes, storage_blocks, time.perf_counter() - started)


def rebuild_index(
    checkpoint: str, new: str, *, force: bool = False, progress: Progress | None = None
) -> RebuildReport:
    """Write a checkpoint anew from its storage blocks alone, as when its index or footer was lost.

    Raises:
        FormatError: not even its header is there.
        CorruptionError: a storage block is damaged or missing: memory would be wrong, so nothing is written.
        IoError: reading or writing failed, or the file exists.
    """
    from vmckpt.checkpoint.rebuild import rebuild  # noqa: PLC0415

    started = time.perf_counter()
    with AtomicFile(new, force=force) as out:
        rebuilt = rebuild(checkpoint, out.fd, new, progress=progress)
        out.commit()
    return RebuildReport(*rebuilt, elapsed_s=time.perf_counter() - started)


def digest(source: str, *, jobs: int | None = None, progress: Progress | None = None) -> str:
    """The digest of a source's memory, 32 hex digits; a checkpoint's follows from the page hashes that it keeps.

    Raises:
        SourceError: the source holds no memory that vmckpt reads.
        CorruptionError: it is a checkpoint, and damaged where this looks.
        IoError: reading failed.
    """
    from vmckpt.sources.hashes import digest_of  # noqa: PLC0415

    with open_source(source) as opened:
        if isinstance(opened, Checkpoint):
            return opened.computed_digest().hex()
        return digest_of(opened, jobs=_jobs(jobs), progress=progress).hex()
