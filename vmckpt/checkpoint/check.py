"""Proves a whole checkpoint: that every byte is covered, every checksum right, and the maps agree with the blocks.

`prove_metadata` raises at the first thing that is wrong, and is what a restore runs beside its workers. `problems_of`
goes on, and lists for people and scripts all that is wrong, where, and which pages it costs.
"""

from collections.abc import Iterator

from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.file import BadReferenceError
from vmckpt.checkpoint.format import (
    DUPLICATE,
    LAST,
    PATTERN,
    STORAGE_HEADER,
    STORED,
    SectionType,
)
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.errors import CorruptionError
from vmckpt.hashing import Digest
from vmckpt.pages import PageRange
from vmckpt.reports import Problem, Progress
from vmckpt.workers import Channel, Crew, affordable_workers

__all__ = ["problems_of", "prove_metadata"]


def prove_metadata(checkpoint: Checkpoint) -> bytes:
    """Prove all but the payloads, and return the digest.

    Raises:
        CorruptionError: something is wrong.
    """
    for prove in (_prove_sections, _prove_coverage, _prove_blocks):
        prove(checkpoint)
    return checkpoint.digest


def _prove_sections(checkpoint: Checkpoint) -> None:
    for section_type in checkpoint.sections:
        checkpoint.section(section_type)
    active = checkpoint.section(SectionType.ACTIVE_PAGES) or b""
    if len(active) != 8 * checkpoint.summary.active_pages:
        raise CorruptionError(
            f"the active pages section has {len(active)} bytes, expected {8 * checkpoint.summary.active_pages}",
            path=checkpoint.name,
        )


def _spans(checkpoint: Checkpoint) -> Iterator[tuple[int, int]]:
    """Offset and length of everything in the file."""
    yield 0, checkpoint.header.header_bytes
    for number in range(checkpoint.summary.storage_blocks):
        entry = checkpoint.storage_entry(number)
        yield entry.offset, entry.size_bytes
    yield from checkpoint.map.spans()
    yield from checkpoint.table.spans()
    for section in checkpoint.sections.values():
        yield section.offset, section.length
    table_offset = checkpoint.footer.section_table_offset
    yield table_offset, checkpoint.file_bytes - table_offset


def _prove_coverage(checkpoint: Checkpoint) -> None:
    """Everything lies side by side: no byte is left unproved, and none serves twice."""
    end = 0
    for offset, length in sorted(_spans(checkpoint)):
        if offset != end:
            raise CorruptionError(
                f"what should start at offset {end} starts at {offset}", path=checkpoint.name, offset=end
            )
        end = offset + length
    if end != checkpoint.file_bytes:
        raise CorruptionError(
            f"the parts of the file end at {end}, expected {checkpoint.file_bytes}", path=checkpoint.name
        )


def _prove_blocks(checkpoint: Checkpoint) -> None:
    """The summary says what the directories of the blocks that the map leads to say: counts, digest, the last block."""
    digest = Digest()
    found = dict.fromkeys((STORED, PATTERN, DUPLICATE), 0)
    for number, place in checkpoint.places():
        block = checkpoint.memory_block(place)
        if block.number != number:
            raise CorruptionError(
                f"the map puts memory block {number} where memory block {block.number} is",
                path=checkpoint.name,
            )
        for kind in found:
            found[kind] += block.kinds.count(kind)
        digest.add_zeros(number * checkpoint.header.block_pages - digest.pages)
        digest.add(block.page_hashes())
    digest.add_zeros(checkpoint.header.page_count - digest.pages)
    _compare_summary(checkpoint, tuple(found.values()), digest.bytes())


def _compare_summary(checkpoint: Checkpoint, counts: tuple[int, ...], digest: bytes) -> None:
    summary = checkpoint.summary
    numbers = range(summary.storage_blocks)
    memory_blocks = sum(checkpoint.storage_entry(number).memory_blocks for number in numbers)
    claimed = (summary.stored_pages, summary.pattern_pages, summary.duplicate_pages, summary.zero_pages)
    counted = (*counts, checkpoint.header.page_count - sum(counts))
    if (counted, memory_blocks) != (claimed, summary.memory_blocks) or summary.reserved:
        raise CorruptionError(
            f"the summary says {claimed} stored, pattern, duplicate and zero pages in {summary.memory_blocks} memory "
            f"blocks, the file has {counted} in {memory_blocks}",
            path=checkpoint.name,
        )
    last = _last_block(checkpoint)
    if last is None or not checkpoint.head(last).header.flags & LAST:
        raise CorruptionError("the last storage block is not marked as such", path=checkpoint.name)
    if digest != checkpoint.digest:
        raise CorruptionError(
            f"the memory's digest is {digest.hex()}, expected {checkpoint.digest.hex()}", path=checkpoint.name
        )


def _last_block(checkpoint: Checkpoint) -> int | None:
    """The storage block that lies last in the file; with several streams it need not have the highest number."""
    numbers = range(checkpoint.summary.storage_blocks)
    return max(numbers, key=lambda number: checkpoint.storage_entry(number).offset, default=None)


def problems_of(checkpoint: Checkpoint, *, jobs: int, progress: Progress | None = None) -> Iterator[Problem]:
    """Everything that is wrong with an open checkpoint, metadata first, then storage blocks in order.

    Args:
        checkpoint: read by workers after a fork.
        jobs: worker processes.
        progress: told the bytes proved so far and all of them.

    Raises:
        IoError: the file could not be read.
    """
    for kind, prove in (
        ("section", _prove_sections),
        ("coverage", _prove_coverage),
        ("blocks", _prove_blocks),
    ):
        try:
            prove(checkpoint)
        except CorruptionError as error:
            yield Problem(kind, error.offset, (), error.message)
    count = checkpoint.summary.storage_blocks
    damaged: list[tuple[int, str, int | None, str]] = []
    workers = affordable_workers(min(jobs, count), 2 * checkpoint.header.storage_block_bytes)
    with Crew(workers, lambda channel: _check_blocks(checkpoint, channel)) as crew:
        for worker in range(len(crew)):
            crew.send(worker, worker.to_bytes(4, "little") + len(crew).to_bytes(4, "little"))
        done = 0
        while done < count:
            for _, answer in crew.receive():
                done += 1
                damaged += _unpack_findings(answer)
                if progress is not None:
                    progress(checkpoint.file_bytes * done // count, checkpoint.file_bytes)
    pages = _pages_in(checkpoint, {number for number, *_ in damaged})
    for number, kind, offset, message in sorted(damaged):
        yield Problem(kind, offset, pages.get(number, ()), message)


def _pages_in(checkpoint: Checkpoint, numbers: set[int]) -> dict[int, tuple[PageRange, ...]]:
    """The pages whose memory blocks lie in the storage blocks `numbers`, as the memory map has it."""
    found: dict[int, list[PageRange]] = {number: [] for number in numbers}
    block_pages, page_count = checkpoint.header.block_pages, checkpoint.header.page_count
    if not numbers:
        return {}
    try:
        for block, place in checkpoint.places():
            if place.storage_block in found:
                ranges = found[place.storage_block]
                start, end = block * block_pages, min((block + 1) * block_pages, page_count)
                if ranges and ranges[-1].end == start:
                    ranges[-1] = PageRange(ranges[-1].start, end)
                else:
                    ranges.append(PageRange(start, end))
    except CorruptionError:
        pass  # the map is damaged itself, and reported
    return {number: tuple(ranges) for number, ranges in found.items()}


def _unpack_findings(answer: bytes) -> list[tuple[int, str, int | None, str]]:
    number = int.from_bytes(answer[:4], "little")
    if len(answer) == 4:
        return []
    offset, kind, message = answer[4:].decode().split("\0", 2)
    return [(number, kind, int(offset) if offset else None, message)]


def _check_blocks(checkpoint: Checkpoint, channel: Channel) -> None:
    """A worker: checks every so many-th storage block, and answers with its number and what is wrong, if anything."""
    for message in channel.messages():
        first, step = int.from_bytes(message[:4], "little"), int.from_bytes(message[4:], "little")
        for number in range(first, checkpoint.summary.storage_blocks, step):
            finding = b""
            try:
                _check_block(checkpoint, number)
            except CorruptionError as error:
                kind = "reference" if isinstance(error, BadReferenceError) else "storage block"
                offset = "" if error.offset is None else str(error.offset)
                finding = f"{offset}\0{kind}\0{error.message}".encode()
            channel.send(number.to_bytes(4, "little") + finding)


def _check_block(checkpoint: Checkpoint, number: int) -> None:
    storage, payload = checkpoint.storage_block(number)
    if storage.header.flags & LAST and number != _last_block(checkpoint):
        raise CorruptionError(f"storage block {number} is marked as the last, but others follow in the file")
    at = 0
    for block in storage.memory_blocks:
        if block.stored_bytes and block.payload_offset != at:
            raise CorruptionError(f"payloads of storage block {number} overlap or leave a gap")
        at += block.stored_bytes
        if block.stored_bytes:
            try:
                block.stored_pages(payload)
            except CorruptionError as error:
                error.offset = checkpoint.storage_entry(number).offset + STORAGE_HEADER.size
                raise
        _check_latest(checkpoint, block)
        for index in range(block.kinds.count(DUPLICATE)):
            checkpoint.referenced(block, index)
    if at != len(payload):
        raise CorruptionError(f"storage block {number} has {len(payload) - at} bytes of no memory block")


def _check_latest(checkpoint: Checkpoint, block: MemoryBlock) -> None:
    """The map leads to this version of the memory block, or to a later one."""
    place = checkpoint.place_of(block.number)
    if place is None or checkpoint.memory_block(place).generation < block.generation:
        raise CorruptionError(
            f"the memory map leads to an older version of memory block {block.number} than generation {block.generation}"
        )
