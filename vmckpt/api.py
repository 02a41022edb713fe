"""The Python API: what a caller who is not a command line uses; every name is re-exported by `vmckpt`.

Each function opens what it reads, does the whole job and closes it; each returns a report, a value with units in its
names. The command line adds words and tables to these and nothing else. Imports are late because every command pays
for them at its start. Longer than most modules: it is a list of functions, and one place to look for them.
"""

# Annotations name classes that are imported late.
from __future__ import annotations

import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vmckpt.errors import CorruptionError, FormatError, IoError, UsageError
from vmckpt.layout import PAGE_BYTES
from vmckpt.reports import (
    CheckpointInfo,
    LiveReport,
    PageCounts,
    Problem,
    Progress,
    RebuildReport,
    RestoreReport,
    SaveReport,
    VerifyReport,
)
from vmckpt.workers import worker_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from vmckpt.checkpoint.reader import Checkpoint
    from vmckpt.machine.client import Conversation
    from vmckpt.pages import Source
    from vmckpt.restoring.outcome import LazyReport
    from vmckpt.restoring.prefetch import Amount
    from vmckpt.saving.source import Carried
    from vmckpt.sharing.forecast import Forecast
    from vmckpt.sharing.outcome import SharingReport

__all__ = [
    "CheckpointInfo",
    "LiveReport",
    "PageCounts",
    "Problem",
    "Progress",
    "RebuildReport",
    "RestoreReport",
    "SaveReport",
    "VerifyReport",
    "convert",
    "digest",
    "estimate_sharing",
    "forecast_sharing",
    "info",
    "open_checkpoint",
    "open_source",
    "rebuild_index",
    "restore",
    "restore_lazily",
    "save",
    "save_page",
    "sharing_page",
    "verify",
]

_STDOUT = 1


def open_source(path: str) -> Source:
    """Open anything that holds guest memory, by its content; `-` is standard input. Use it in a `with` statement.

    Raises:
        SourceError: it holds no memory that vmckpt reads.
        IoError: it cannot be opened.
    """
    from vmckpt.sources import open_source as open_any

    return open_any(path)


def open_checkpoint(path: str) -> Checkpoint:
    """Open a checkpoint for reading; `-` is standard input. Use it in a `with` statement.

    Raises:
        FormatError: it is no checkpoint, or one this version cannot read.
        SourceError: it is a directory or a socket.
        CorruptionError: it was cut short or damaged.
        IoError: it cannot be opened.
    """
    from vmckpt.sources import open_checkpoint as open_only

    return open_only(path)


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
    mode: str | None = None,
    trace: str | None = None,
    tracer: str | None = None,
    estimator: str | None = None,
    workload: str | None = None,
    vcpus: int | None = None,
    seed: int | None = None,
    warmup_ops: int | None = None,
    progress: Progress | None = None,
) -> SaveReport:
    """Save the memory of an image, an ELF core, a checkpoint or a running machine into a new checkpoint.

    Args:
        source: path, or `-` for standard input; a machine's control socket. A checkpoint's sections (active pages,
            vCPU state) are kept.
        checkpoint: path, or `-` for standard output.
        codec: `lz4`, `zstd`, `raw`, or None for the best in about lz4's time.
        memory_block_bytes: unit of compression; a power of two.
        storage_block_bytes: unit of reading; a power of two, at least twice that.
        jobs: worker processes; None: one for each core.
        dedup: store equal pages once.
        force: replace an existing file.
        mode: of a running machine: `checkpoint` (memory as it is now; the machine goes on) or `suspend` (memory goes
            out while the machine works on; then it ends, and the file holds memory as it was at its end).
        trace: of a running machine: `access`, `write`, `working-set`, or `off`: no traces, the machine stands still.
        tracer: of a running machine: `auto`, `userfaultfd` or `software`.
        estimator: of a running machine: `tracing` (what trapped is active) or `scanning` (what a hand that goes through
            memory with the saver finds touched).
        workload: boot an emulated machine in `source` first, to do this, and save that.
        vcpus: of a machine booted for this.
        seed: of a machine booted for this.
        warmup_ops: how many operations each of its vCPUs does before it is saved.
        progress: told as it goes.

    Raises:
        UsageError: the block sizes are not possible, source and checkpoint are one file, or what is asked of a running
            machine is asked of something else.
        SourceError: the source holds no memory that vmckpt reads.
        IoError: reading or writing failed, or the file exists, or the machine has ended.
        ChangedError: the source changed meanwhile.
        FeatureError: this tracer cannot be had.
    """
    from vmckpt.checkpoint.codec import choose
    from vmckpt.output import refuse_input
    from vmckpt.saving.request import STORAGE_BLOCK_BYTES, Request, check_blocks
    from vmckpt.saving.source import save_source

    started = time.perf_counter()
    choice = choose(codec)
    if memory_block_bytes is not None:
        choice = choice._replace(memory_block_bytes=memory_block_bytes)
    if storage_block_bytes is None:
        storage_block_bytes = max(STORAGE_BLOCK_BYTES, 2 * choice.memory_block_bytes)
    request = Request(choice, storage_block_bytes, "physical", worker_count(jobs), dedup, force)
    check_blocks(request)
    tracing = {"mode": mode, "trace": trace, "tracer": tracer, "estimator": estimator}
    machine = {"workload": workload, "vcpus": vcpus, "seed": seed, "warmup-ops": warmup_ops}
    runs = _is_socket(source)
    if runs or workload is not None:
        from vmckpt.saving.live import save_live
        from vmckpt.saving.live_request import live_request

        live = live_request(**tracing)
        if runs:
            _refuse(
                machine, "is for a machine that is booted, and this one runs already: leave it out", source
            )
        else:
            refuse_input(source, checkpoint)
        with _machine(source, None if runs else workload, vcpus, seed, warmup_ops or 0) as conversation:
            started = time.perf_counter()  # booting is no part of the save
            report = save_live(conversation, checkpoint, request, live, progress=progress)
        return report._replace(elapsed_s=time.perf_counter() - started)
    _refuse(
        {**tracing, **machine},
        "is for a running machine, and this is memory at rest: give the machine's control socket, or boot a machine in "
        "this memory with --workload",
        source,
    )
    refuse_input(source, checkpoint)
    with open_source(source) as opened:
        kept = {"carried": _carried(opened)} if opened.kind == "checkpoint" else {}
        report = save_source(opened, checkpoint, request, progress=progress, **kept)
    return report._replace(elapsed_s=time.perf_counter() - started)


def save_page(checkpoint: str, report: SaveReport) -> str:
    """One HTML page that shows a save: what was stored, how well it compressed, where the active pages lie.

    Args:
        checkpoint: that was written.
        report: what `save` answered.

    Raises:
        FormatError: this is no checkpoint.
        CorruptionError: it is damaged where the page looks.
        IoError: it cannot be read.
    """
    from vmckpt.checkpoint.file import CheckpointFile
    from vmckpt.saving.figures import contents_of
    from vmckpt.saving.report import page_of

    with CheckpointFile.open(checkpoint) as opened:
        contents = contents_of(opened, info(checkpoint).created)
    return page_of(os.path.basename(checkpoint), report, contents)


def _is_socket(path: str) -> bool:
    if path in {"", "-"}:
        return False
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError as error:
        raise IoError.of(error, "cannot open", path=path) from error
    except OSError:
        return False  # whoever opens it says what is wrong


def _refuse(options: Mapping[str, object], why: str, path: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"--{option} {why}", path=path)


@contextmanager
def _machine(
    source: str, workload: str | None, vcpus: int | None, seed: int | None, warmup_ops: int
) -> Iterator[Conversation]:
    """A conversation with the machine that listens at a socket, or with one that is booted for it."""
    from vmckpt.machine.boot import boot
    from vmckpt.machine.client import Conversation
    from vmckpt.machine.session import Wishes

    if workload is None:
        with Conversation(source) as conversation:
            yield conversation
        return
    with boot(source, Wishes(workload, vcpus, seed), warmup_ops=warmup_ops) as booted:
        yield booted.conversation


def _carried(source: Source) -> Carried:
    """What a new checkpoint of the same memory keeps of `source`, a checkpoint."""
    from vmckpt.checkpoint.format import SectionType
    from vmckpt.checkpoint.reader import Checkpoint
    from vmckpt.saving.source import Carried

    assert isinstance(source, Checkpoint)
    kept = (
        SectionType.ACTIVE_PAGES,
        SectionType.VCPU_STATE,
        SectionType.DEVICE_STATE,
        SectionType.METADATA,
    )
    bodies = ((section_type, source.section(section_type)) for section_type in kept)
    sections = [(section_type, body) for section_type, body in bodies if body is not None]
    return Carried(source.digest, source.active_pages(), sections)


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
        checkpoint: path, or `-` for standard input.
        new: path, or `-` for standard output.
        layout: order of memory blocks: `physical`, `random` or `access` (Halite, ATC'13, 4).
        codec: as in `save`; None: that of the checkpoint.
        memory_block_bytes: as in `save`.
        storage_block_bytes: as in `save`.
        jobs: as in `save`.
        force: as in `save`.
        progress: as in `save`.

    Raises:
        UsageError: `access` is asked for and the checkpoint has no active pages, or the block sizes are not possible.
        CorruptionError: the checkpoint is damaged.
        IoError: reading or writing failed, or the file exists.
    """
    from vmckpt.checkpoint.check import prove_metadata
    from vmckpt.checkpoint.codec import CODEC_NAMES, choose
    from vmckpt.saving.request import Request, check_blocks
    from vmckpt.saving.source import save_source

    started = time.perf_counter()
    with open_checkpoint(checkpoint) as opened:
        header = opened.header
        memory_bytes = header.memory_block_bytes if memory_block_bytes is None else memory_block_bytes
        if codec is None and header.codec >= len(CODEC_NAMES):
            raise FormatError(
                f"the checkpoint's codec is number {header.codec}, which this vmckpt does not know: name one to use",
                path=checkpoint,
            )
        choice = choose(codec or CODEC_NAMES[header.codec])._replace(memory_block_bytes=memory_bytes)
        storage_bytes = storage_block_bytes
        if storage_bytes is None:
            storage_bytes = max(header.storage_block_bytes, 2 * memory_bytes)
        request = Request(choice, storage_bytes, layout, worker_count(jobs), dedup=True, force=force)
        check_blocks(request)
        if layout != "physical":
            prove_metadata(opened)  # out of page order, the digest is not computed anew on the way
        report = save_source(opened, new, request, carried=_carried(opened), progress=progress)
    return report._replace(elapsed_s=time.perf_counter() - started)


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
        checkpoint: path, or `-` for standard input.
        output: path, or `-` for standard output.
        format: `raw` (the regions side by side; zero pages are holes) or `elf` (a core with their addresses).
        jobs: worker processes; None: one for each core.
        force: replace an existing file.
        progress: told as it goes.

    Raises:
        CorruptionError: the checkpoint is damaged, anywhere; no output is left.
        IoError: reading or writing failed, or the file exists.
        UsageError: there is no such format, or checkpoint and output are one file.
    """
    from vmckpt.output import AtomicFile, refuse_input
    from vmckpt.restoring.eager import restore_image, stream_image
    from vmckpt.restoring.image import plan_elf, plan_raw

    started = time.perf_counter()
    if format not in {"raw", "elf"}:
        raise UsageError(f"there is no image format {format!r}: expected raw or elf")
    refuse_input(checkpoint, output)
    with open_checkpoint(checkpoint) as opened:
        plan = (plan_raw if format == "raw" else plan_elf)(opened.layout)
        if output == "-":
            memory_digest = stream_image(opened, plan, _write_stdout, progress)
        else:
            with AtomicFile(output, force=force) as out:
                memory_digest = restore_image(
                    opened, plan, out.fd, output, jobs=worker_count(jobs), progress=progress
                )
                out.commit()
        memory_bytes = opened.layout.memory_bytes
    elapsed_s = time.perf_counter() - started
    return RestoreReport(memory_bytes, plan.file_bytes, elapsed_s, memory_digest.hex(), format)


def restore_lazily(
    checkpoint: str,
    *,
    prefetch: str | None = None,
    prefetch_pages: int | float | None = None,  # noqa: PYI041 - the two mean different things here
    halo_pages: int = 0,
    until_ops: int | None = None,
    workload: str | None = None,
    vcpus: int | None = None,
    seed: int | None = None,
    socket_path: str | None = None,
    mechanism: str | None = None,
    record: str | bool = False,
    order: str | None = None,
    fault_log: str | None = None,
    page: str | None = None,
    force: bool = False,
    warn: Callable[[str], None] | None = None,
    told: Callable[[LazyReport], None] | None = None,
) -> LazyReport:
    """Run the machine of a checkpoint at once, its memory brought as it is touched, until its end.

    Without `until_ops` and `socket_path`, that is when all memory is there. Times of the report count from the start of
    this process. It forks: call it from the only thread, or where no other one holds a lock.

    Args:
        checkpoint: path.
        prefetch: what to bring before the machine runs: `active` (what was active at the save), `none`; None: what an
            earlier restore has recorded beside the checkpoint, else the same as `active`.
        prefetch_pages: of that, so many pages (an int), or this part (a float up to 1.0), and the rest while it runs.
        halo_pages: take as many neighbours on both sides of each such page as well.
        until_ops: end when each vCPU has done so many operations since boot.
        workload: what to run, where the checkpoint does not say; `vcpus` and `seed` likewise.
        vcpus: how many.
        seed: of the workload.
        socket_path: listen there for `vmckpt vm`.
        mechanism: `userfaultfd` or `software`; None: the first where it is to be had.
        record: write which pages were touched: True for CHECKPOINT.order, which the next restore finds; or a path.
        order: path of such a file, to be gone by.
        fault_log: where to write a line for each fault.
        page: where to write an HTML page that shows the run.
        force: replace files that are there.
        warn: told what is not as it should be, but stops nothing; None: Python's `warnings`.
        told: given the report when all is written. A Ctrl-C, or an exit that a signal's handler asked for, ends a
            machine whose memory is all there as any other end does, and is raised again after that.

    Raises:
        UsageError: what is asked for makes no sense, or contradicts the checkpoint.
        FormatError: this is no checkpoint, or not one of an emulated machine; or `order` is none for it.
        CorruptionError: the checkpoint is damaged: the machine has been stopped.
        IoError: reading or writing failed, or a file exists, or somebody else listens at the socket.
        FeatureError: this mechanism is not to be had.
        WorkerError: a process of the machine or of the restore was killed, and could not be replaced.
    """
    from vmckpt.machine.session import Wishes
    from vmckpt.restoring.files import FileNames, LazyFiles
    from vmckpt.restoring.handler import Wanted
    from vmckpt.restoring.lazy import LazyRestore
    from vmckpt.restoring.record import recorded_path

    if checkpoint == "-":
        raise UsageError("a stream cannot be restored lazily: its pages are needed in any order")
    if prefetch not in {None, "active", "none"}:
        raise UsageError(f"there is nothing called {prefetch!r} to prefetch: expected active or none")
    if prefetch == "none" and order is not None:
        raise UsageError("an order says what to prefetch, and nothing is to be: leave one of the two out")
    wanted = Wanted(() if prefetch == "none" else None, _amount(prefetch_pages), halo_pages)
    recorded = recorded_path(checkpoint) if record is True else None if record is False else record
    names = FileNames(fault_log, recorded, page)
    inputs = [] if order is None else [order]
    stopped: BaseException | None = None
    with (
        LazyFiles(checkpoint, names, inputs=inputs, force=force) as files,
        LazyRestore.open(
            checkpoint,
            Wishes(workload, vcpus, seed),
            wanted,
            socket_path=socket_path,
            mechanism=mechanism,
            order=order,
            warn=(warn or _warn) if prefetch is None else None,
        ) as restore,
    ):
        try:
            restore.run(until_ops=until_ops, until_resident=until_ops is None and socket_path is None)
        except (SystemExit, KeyboardInterrupt) as request:
            if not restore.is_resident:
                raise
            stopped = request
        report = restore.finish()
        files.write(restore, report)
    if told is not None:
        told(report)
    if stopped is not None:
        raise stopped
    return report


def _amount(pages: int | float | None) -> Amount:  # noqa: PYI041 - the two mean different things here
    from vmckpt.restoring.prefetch import Amount

    if pages is None:
        return Amount()
    if pages >= 0 and isinstance(pages, int):
        return Amount(pages=pages)
    if not 0 <= pages <= 1:
        raise UsageError(
            f"cannot prefetch {pages} pages: expected a number of them, or a part from 0.0 to 1.0"
        )
    return Amount(fraction=pages)


def _warn(text: str) -> None:
    import warnings

    warnings.warn(text, stacklevel=4)


def _write_stdout(data: memoryview) -> None:
    try:
        while data:
            data = data[os.write(_STDOUT, data) :]
    except OSError as error:
        raise IoError.of(error, "cannot write to standard output") from error


def info(checkpoint: str) -> CheckpointInfo:
    """What a checkpoint says of itself; reads a few KiB, whatever the size of the memory.

    Raises:
        FormatError: it is no checkpoint, or one this version cannot read.
        CorruptionError: it was cut short or damaged where this looks.
    """
    from datetime import UTC, datetime

    from vmckpt.checkpoint.codec import CODEC_NAMES
    from vmckpt.checkpoint.format import FORMAT_VERSION, SectionType

    with open_checkpoint(checkpoint) as opened:
        header = opened.header
        created = datetime.fromtimestamp(header.created_ns // 10**9, UTC)
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
            metadata=_metadata(opened.section(SectionType.METADATA) or b"{}", checkpoint),
        )


def _metadata(body: bytes, path: str) -> dict[str, object]:
    """The free-form metadata: anybody's bytes, taken for no more than they are."""
    import json
    import math

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is no number")
        return value

    try:
        found = json.loads(body, parse_float=number, parse_constant=number)
        if not isinstance(found, dict):
            raise ValueError("expected an object")  # noqa: TRY004 said as any other bad metadata
        json.dumps(found, ensure_ascii=False).encode()  # half a character cannot be shown
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"the metadata is no JSON object: {error}", path=path) from error
    return found


def verify(checkpoint: str, *, jobs: int | None = None, progress: Progress | None = None) -> VerifyReport:
    """Prove every byte of a checkpoint.

    Raises:
        FormatError: it is no checkpoint, or one this version cannot read.
        IoError: it could not be read.
    """
    from vmckpt.checkpoint.check import problems_of

    started = time.perf_counter()
    try:
        with open_checkpoint(checkpoint) as opened:
            problems = tuple(problems_of(opened, jobs=worker_count(jobs), progress=progress))
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
        UsageError: checkpoint and new are one file.
    """
    from vmckpt.checkpoint.rebuild import rebuild
    from vmckpt.output import AtomicFile, refuse_input

    started = time.perf_counter()
    refuse_input(checkpoint, new)
    with AtomicFile(new, force=force) as out:
        rebuilt = rebuild(checkpoint, out.fd, new, progress=progress)
        out.commit()
    return RebuildReport(*rebuilt, elapsed_s=time.perf_counter() - started)


def digest(source: str, *, jobs: int | None = None, progress: Progress | None = None) -> str:
    """The digest of a source's memory, 32 hex digits; a checkpoint's follows from the page hashes that it keeps.

    A running machine (`source` is its control socket) stands still meanwhile.

    Raises:
        SourceError: the source holds no memory that vmckpt reads.
        CorruptionError: it is a checkpoint, and damaged where this looks.
        IoError: reading failed.
    """
    from vmckpt.sources.hashes import digest_of

    if _is_socket(source):
        from vmckpt.saving.guest import held_memory

        with _machine(source, None, None, None, 0) as conversation, held_memory(conversation) as memory:
            return digest_of(memory, jobs=worker_count(jobs), progress=progress).hex()
    with open_source(source) as opened:
        return digest_of(opened, jobs=worker_count(jobs), progress=progress).hex()


def estimate_sharing(
    sources: Sequence[str],
    *,
    trust: str = "each",
    large_page_bytes: int = 2 << 20,
    confidence: float = 0.95,
    target_bytes: int | None = None,
    top: int = 10,
    share_cap: int = 256,
    sample: float | None = None,
    key: str | None = None,
    sketch_out: str | None = None,
    co_locate: int | None = None,
    engine: str = "local",
    scheduler: str | None = None,
    memory_limit_bytes: int | None = None,
    jobs: int | None = None,
    force: bool = False,
    detailed: bool = False,
    progress: Progress | None = None,
) -> SharingReport:
    """What sharing equal small pages would free, which large pages hold them, and which of these to break up.

    No source is written to, and no machine is stopped: of one that runs, pages are read while it works.

    Args:
        sources: images, ELF cores, checkpoints, control sockets, sketches; `-` for standard input.
        trust: whose pages may be shared: `each` image's own, `all`, or a file that names groups.
        large_page_bytes: a power of two, at least two pages.
        confidence: of the interval, between 0 and 1.
        target_bytes: how much a plan is to free; None: no plan.
        top: how many large pages to name.
        share_cap: how many pages may share a frame of KSM, at least 2.
        sample: part of the contents to look at, up to 1; None: all, or what sketches among the sources keep.
        key: file with the key of sketches; None: the public one.
        sketch_out: where to keep a sketch of the sources; of several the merged one, as of a host that has them all.
        co_locate: images that one host holds, to group them by what they would share; None: nobody asked.
        engine: `local`, or `dask`.
        scheduler: of a Dask cluster; None: processes on this machine.
        memory_limit_bytes: of page hashes to hold, more is spilled to disk; None: all are held.
        jobs: worker processes; None: one for each core.
        force: replace a sketch that is there.
        detailed: have the report hold what `sharing_page` shows.
        progress: told (done bytes, total bytes) of each source.

    Raises:
        UsageError: there is no source, an argument is out of range, or two do not fit each other.
        SourceError: a source holds no memory that vmckpt reads.
        CorruptionError: it is a checkpoint or a sketch, and damaged where this looks.
        IoError: reading failed, or the sketch cannot be written.
        FeatureError: Dask is not installed.
    """
    started = time.perf_counter()
    from vmckpt.sharing.inquiry import Inquiry
    from vmckpt.sharing.means import Means
    from vmckpt.sharing.survey import Question
    from vmckpt.sharing.trust import trust_groups

    if not sources:
        raise UsageError("there is no memory to look at: name at least one source")
    target_pages = None if target_bytes is None else -(-target_bytes // PAGE_BYTES)
    question = Question(trust, large_page_bytes, confidence, top, share_cap, target_pages, detailed)
    question.check()
    means = Means(
        sample, key, sketch_out, force, co_locate, engine, scheduler, memory_limit_bytes, worker_count(jobs)
    )
    groups = trust_groups(trust, sources)
    report = Inquiry(sources, groups, question, means, _opened_memory, progress).answer()
    return report._replace(elapsed_s=time.perf_counter() - started)


@contextmanager
def _opened_memory(path: str) -> Iterator[Source]:
    """Any memory, be it that of a machine that runs."""
    if _is_socket(path):
        from vmckpt.saving.guest import running_memory

        with (
            _machine(path, None, None, None, 0) as conversation,
            running_memory(conversation, path) as memory,
        ):
            yield memory
        return
    with open_source(path) as opened:
        yield opened


def forecast_sharing(
    sources: Sequence[str],
    *,
    sample: float | None = None,
    memory_limit_bytes: int | None = None,
    jobs: int | None = None,
) -> Forecast:
    """What `estimate_sharing` would take, told from how large the sources are; no page is read.

    Raises:
        UsageError: a source is a stream, whose length nobody knows.
        SourceError, CorruptionError, IoError: as opening the sources says.
    """
    from vmckpt.sharing.forecast import forecast_of
    from vmckpt.sharing.sketchfile import is_sketch

    pages: dict[bool, list[int]] = {True: [], False: []}
    for path in sources:
        if path == "-":
            raise UsageError("how long a stream will be is not known before: name files")
        if not is_sketch(path):
            with _opened_memory(path) as opened:
                held = sum(each.pages for each in opened.data_ranges())
                pages[opened.kind == "checkpoint"].append(held)
    return forecast_of(
        pages[False],
        pages[True],
        fraction=1.0 if sample is None else sample,
        jobs=worker_count(jobs),
        memory_limit_bytes=memory_limit_bytes,
    )


def sharing_page(report: SharingReport) -> str:
    """One HTML page that shows an estimate: what sharing would free, of whom, and in which large pages.

    Args:
        report: what `estimate_sharing` answered; `detailed`, or it shows no maps.
    """
    from vmckpt.sharing.report import page_of

    return page_of(report)
