"""Eager restore: the whole memory into an image file, by worker processes.

    workers      storage block (one read, proved) ─▶ its memory blocks ─▶ stored and pattern pages into the image
    coordinator  meanwhile proves everything else: sections, both maps, the digest
    workers      then the duplicates, copied from where the image has their first page by now

Zero pages are never written: the image starts as one hole. Every byte of the checkpoint is proved by the time this
returns, also of the sections that a restore does not use.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.check import prove_metadata
from vmckpt.checkpoint.format import DUPLICATE, PATTERN, REFERENCE, STORED, ZERO
from vmckpt.checkpoint.reader import Checkpoint, Place
from vmckpt.errors import CorruptionError, IoError
from vmckpt.hashing import pack_hashes, page_hashes
from vmckpt.output import start_writeback
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.reports import Progress
from vmckpt.restoring.image import ImagePlan
from vmckpt.workers import Channel, Crew, affordable_workers

__all__ = ["restore_image", "stream_image"]


_WRITE, _COPY = range(2)
_AHEAD = 4  # storage blocks under way for each worker
_STREAM_BYTES = 4 << 20


class _Target(NamedTuple):
    """What every worker knows."""

    checkpoint: Checkpoint
    fd: int
    path: str
    offset: int
    """File offset of page 0; the others follow."""


def restore_image(
    checkpoint: Checkpoint,
    plan: ImagePlan,
    fd: int,
    path: str,
    *,
    jobs: int,
    progress: Progress | None = None,
) -> bytes:
    """Write the image to `fd`, an empty file, and return the memory's digest.

    Args:
        checkpoint: read by the workers after a fork.
        plan: where its pages go.
        fd: open for reading and writing.
        path: for messages.
        jobs: worker processes.
        progress: told after each storage block.

    Raises:
        CorruptionError: the checkpoint is not what was written, wherever that is.
        IoError: reading or writing failed.
        WorkerError: a worker was killed.
    """
    target = _Target(checkpoint, fd, path, plan.data_offset)
    try:
        os.ftruncate(fd, plan.file_bytes)
    except OSError as error:
        raise IoError.of(error, f"cannot make room for {plan.file_bytes} bytes", path=path) from error
    _write(target, [memoryview(plan.head)], 0)
    count = checkpoint.summary.storage_blocks
    total = 2 * checkpoint.file_bytes

    def report(done_blocks: int) -> None:
        if progress is not None:
            progress(total * done_blocks // (2 * count), total)

    # A storage block as read and as its parts, and what its memory blocks decompress to.
    workers = affordable_workers(min(jobs, count), 2 * checkpoint.header.storage_block_bytes)
    with Crew(workers, lambda channel: _work(target, channel)) as crew:
        run = _distribute(crew, _WRITE, range(count))
        next(run)  # hands out the first blocks; what follows here goes on beside the workers
        digest = prove_metadata(checkpoint)
        copies = []
        for done, (number, has_duplicates) in enumerate(run, 1):
            copies += [number] if has_duplicates else []
            report(done)
        done_copies = 0
        for done_copies, _ in enumerate(_distribute(crew, _COPY, sorted(copies))):
            report(count + done_copies)
    return digest


def _distribute(crew: Crew, what: int, numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Have the crew do `what` to each storage block; yields (-1, 0) when it is busy, then number and answer of each."""
    rest = iter(numbers)
    under_way = 0
    for worker in list(range(len(crew))) * _AHEAD:
        number = next(rest, None)
        if number is None:
            break
        crew.send(worker, bytes([what]) + number.to_bytes(4, "little"))
        under_way += 1
    yield -1, 0
    while under_way:
        for worker, answer in crew.receive():
            under_way -= 1
            number = next(rest, None)
            if number is not None:
                crew.send(worker, bytes([what]) + number.to_bytes(4, "little"))
                under_way += 1
            yield int.from_bytes(answer[:4], "little"), answer[4]


def _work(target: _Target, channel: Channel) -> None:
    for message in channel.messages():
        number = int.from_bytes(message[1:], "little")
        if message[0] == _WRITE:
            answer = _write_storage_block(target, number)
        else:
            answer = _copy_duplicates(target, number)
        channel.send(message[1:] + bytes([answer]))


def _write_storage_block(target: _Target, number: int) -> bool:
    """Write the stored and pattern pages of a storage block; whether it has duplicates as well."""
    storage, payload = target.checkpoint.storage_block(number)
    has_duplicates = False
    low, high, written_bytes = target.offset + target.checkpoint.layout.memory_bytes, 0, 0
    for slot, block in enumerate(storage.memory_blocks):
        if target.checkpoint.place_of(block.number) != (number, slot):
            continue  # written again later: what counts is there
        try:
            plain = block.stored_pages(payload) if block.stored_bytes else memoryview(b"")
        except CorruptionError as error:
            error.path = target.checkpoint.name
            raise
        pages = block.pages(target.checkpoint.header.block_pages)
        for run, parts in _written_runs(block, plain):
            start = target.offset + (pages.start + run.start) * PAGE_BYTES
            _write(target, parts, start)
            low, high = min(low, start), max(high, start + run.pages * PAGE_BYTES)
            written_bytes += run.pages * PAGE_BYTES
        has_duplicates = has_duplicates or DUPLICATE in block.kinds
    if high - low < 4 * written_bytes:  # else most of the range belongs to others
        start_writeback(target.fd, low, high - low)
    return has_duplicates


def _written_runs(block: MemoryBlock, plain: memoryview) -> Iterator[tuple[PageRange, list[memoryview]]]:
    """Runs of stored and pattern pages: page indexes within the block, and the bytes to write there."""
    stored = pattern = first = 0
    parts: list[memoryview] = []
    for kind, start, end in block.runs():
        if kind in {ZERO, DUPLICATE}:
            if parts:
                yield PageRange(first, start), parts
            first, parts = end, []
            continue
        if not parts:
            first = start
        if kind == STORED:
            parts.append(plain[stored * PAGE_BYTES : (stored + end - start) * PAGE_BYTES])
            stored += end - start
        elif kind == PATTERN:
            words = block.patterns[pattern * 8 : (pattern + end - start) * 8]
            parts += [memoryview(words[at : at + 8] * (PAGE_BYTES // 8)) for at in range(0, len(words), 8)]
            pattern += end - start
    if parts:
        yield PageRange(first, len(block.kinds)), parts


def _write(target: _Target, parts: list[memoryview], offset: int) -> None:
    try:
        written = os.pwritev(target.fd, parts[:1024], offset)
        total = sum(map(len, parts))
        if written < total:  # cut short by a signal, or more parts than one call takes
            rest = memoryview(b"".join(parts))[written:]
            while rest:
                written = os.pwrite(target.fd, rest, offset + total - len(rest))
                rest = rest[written:]
    except OSError as error:
        raise IoError.of(error, "cannot write the image", path=target.path, offset=offset) from error


def _copy_duplicates(target: _Target, number: int) -> bool:
    """Give the duplicates of a storage block their content, runs of them in one go."""
    checkpoint = target.checkpoint
    for slot, block in enumerate(checkpoint.head(number).memory_blocks):
        if DUPLICATE not in block.kinds or checkpoint.place_of(block.number) != (number, slot):
            continue
        start = block.pages(checkpoint.header.block_pages).start
        pages = [start + at for at, kind in enumerate(block.kinds) if kind == DUPLICATE]
        firsts = _first_pages(checkpoint, block)
        for low, high in _runs(pages, firsts):
            offset = target.offset + pages[low] * PAGE_BYTES
            if firsts[low] < 0:
                content = checkpoint.referenced_page(block, low)
            else:
                content = _read_back(target, block, low, high, firsts[low])
            _write(target, [content], offset)
    return False


def _first_pages(checkpoint: Checkpoint, block: MemoryBlock) -> list[int]:
    """The pages that a block's duplicates equal; -1 for one that was written again since.

    Only a stored page is in the image for sure by now; a reference to any other is none that a saver makes.
    """
    firsts = []
    known, start, kinds = Place(-1, -1), -1, b""
    for storage_block, slot, page in REFERENCE.iter_unpack(block.references):
        place = Place(storage_block, slot)
        if place != known:  # duplicates come in runs, and so do the pages that they equal
            first = checkpoint.memory_block(place)
            is_latest = checkpoint.place_of(first.number) == place
            known, start = place, first.number * checkpoint.header.block_pages if is_latest else -1
            kinds = first.kinds
        if page >= len(kinds) or kinds[page] != STORED:
            raise CorruptionError(
                f"a duplicate page of memory block {block.number} refers to a page that is not stored",
                path=checkpoint.name,
            )
        firsts.append(-1 if start < 0 else start + page)
    return firsts


def _runs(pages: list[int], firsts: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges of indexes over which both page numbers count up by one; a first page of -1 stands alone."""
    low = 0
    for high in range(1, len(pages) + 1):
        if (
            high == len(pages)
            or firsts[high - 1] < 0
            or pages[high] != pages[high - 1] + 1
            or firsts[high] != firsts[high - 1] + 1
        ):
            yield low, high
            low = high


def _read_back(target: _Target, block: MemoryBlock, low: int, high: int, first: int) -> memoryview:
    """Pages from `first` on, as written in the image, proved against the hashes of duplicates `low` to `high`."""
    offset = target.offset + first * PAGE_BYTES
    content = memoryview(bytearray((high - low) * PAGE_BYTES))
    missing = content
    try:
        while missing and (count := os.preadv(target.fd, [missing], offset + len(content) - len(missing))):
            missing = missing[count:]
    except OSError as error:
        raise IoError.of(error, "cannot read the image back", path=target.path, offset=offset) from error
    at = block.stored * 8
    if pack_hashes(page_hashes(content)) != block.hashes[at + low * 8 : at + high * 8]:
        raise CorruptionError(
            f"duplicate pages of memory block {block.number} refer to pages of other content",
            path=target.checkpoint.name,
        )
    return content


def stream_image(
    checkpoint: Checkpoint,
    plan: ImagePlan,
    write: Callable[[memoryview], None],
    progress: Progress | None = None,
) -> bytes:
    """Give the image to `write` from its first byte to its last, zeros included, and return the memory's digest.

    Raises:
        CorruptionError: the checkpoint is not what was written. What was given out until then is right.
    """
    digest = prove_metadata(checkpoint)
    write(memoryview(plan.head.ljust(plan.data_offset, b"\0")))
    total = checkpoint.header.page_count
    step = max(_STREAM_BYTES // PAGE_BYTES, checkpoint.header.block_pages)
    buffer = memoryview(bytearray(step * PAGE_BYTES))
    for start in range(0, total, step):
        pages = PageRange(start, min(start + step, total))
        part = buffer[: pages.pages * PAGE_BYTES]
        checkpoint.read(pages, part)
        write(part)
        if progress is not None:
            progress(pages.end * PAGE_BYTES, total * PAGE_BYTES)
    return digest
