"""The writer: what goes out in which order and in how many writes, streams, generations, and what a crash leaves."""

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoint.files import CHECKPOINT_ID, KIB, header_of, need_zstd, rewritten, save_memory
from tests.checkpoint.plans import page
from tests.support import ckptreader
from tests.support.memory import pages_of, read_all
from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.format import LAST, REFERENCE, STORED, ZERO, SectionType
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.checkpoint.rebuild import rebuild
from vmckpt.checkpoint.writer import CheckpointWriter, new_header
from vmckpt.errors import CorruptionError, FormatError, IoError, VmckptError
from vmckpt.hashing import Digest, pack_hashes, page_hashes
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.reports import PageCounts


class Recorder:
    """A descriptor that keeps each write apart: one end of a socket that preserves records."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.writes: list[bytes] = []
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        while received := self._theirs.recv(1 << 20):
            self.writes.append(received)

    def stop(self) -> list[bytes]:
        self.ours.close()
        self._thread.join()
        self._theirs.close()
        return self.writes


def recorded(write: Callable[[int], object]) -> list[bytes]:
    """Each write that `write` makes to the descriptor it is given."""
    recorder = Recorder()
    try:
        write(recorder.ours.fileno())
    finally:
        writes = recorder.stop()
    return writes


def stored_block(number: int, content: bytes, generation: int = 0) -> MemoryBlock:
    """A memory block of stored and zero pages."""
    pages = [content[at : at + PAGE_BYTES] for at in range(0, len(content), PAGE_BYTES)]
    kinds = bytes(STORED if any(p) else ZERO for p in pages)
    hashes = pack_hashes(page_hashes(memoryview(b"".join(p for p in pages if any(p)))))
    return MemoryBlock(number, generation, 0, kinds, hashes, b"", b"", 0, 0)


def digest_of(memory: bytes | bytearray) -> bytes:
    digest = Digest()
    digest.add(pack_hashes(page_hashes(memoryview(memory))))
    return digest.bytes()


def counts_of(memory: bytes | bytearray) -> PageCounts:
    total = len(memory) // PAGE_BYTES
    stored = sum(any(memory[at : at + PAGE_BYTES]) for at in range(0, len(memory), PAGE_BYTES))
    return PageCounts(total, total - stored, 0, 0, stored)


BLOCK = 2 * PAGE_BYTES
LAYOUT = Layout.flat(12 * BLOCK)
HEADER = header_of(LAYOUT, memory_block_bytes=BLOCK, storage_block_bytes=4 * BLOCK)


def write_blocks(
    fd: int,
    blocks: list[tuple[int, int, int, bytes]],
    *,
    layout: Layout = LAYOUT,
    sections: tuple[tuple[int, bytes], ...] = (),
) -> bytes:
    """Write (stream, number, generation, content) in order, and return the memory that this comes to."""
    writer = CheckpointWriter(
        fd, header_of(layout, memory_block_bytes=BLOCK, storage_block_bytes=4 * BLOCK), layout
    )
    memory = bytearray(layout.memory_bytes)
    for stream, number, generation, content in blocks:
        block = stored_block(number, content, generation)
        payload = b"".join(
            content[at : at + PAGE_BYTES]
            for at in range(0, len(content), PAGE_BYTES)
            if any(content[at : at + PAGE_BYTES])
        )
        place = writer.reserve(number, len(payload), stream=stream)
        writer.append(block, payload, stream=stream)
        assert writer.place_of(number) == place
        memory[number * BLOCK : number * BLOCK + len(content)] = content
    writer.finish(digest_of(memory), counts_of(memory), sections=sections)
    return bytes(memory)


def content(seed: int) -> bytes:
    return page(seed) + page(seed + 1000)


PLAIN = [(0, number, 0, content(number)) for number in range(10)]
SECTIONS = ((SectionType.VCPU_STATE, b"registers"), (SectionType.METADATA, b"{}"))


def test_parts_go_out_in_the_order_of_the_specification() -> None:
    writes = recorded(lambda fd: write_blocks(fd, PLAIN, sections=SECTIONS))
    assert [write[:4] for write in writes[:4]] == [b"VMCK", b"VMSB", b"VMSB", b"VMSB"]
    labels = [part.label for part in ckptreader.parts_of(b"".join(writes))]
    order = [
        "header",
        *(f"storage block {n}: header" for n in range(3)),
        "memory map: piece 0",
        "storage table: piece 0",
    ]
    order += [f"section of type {kind}: header" for kind in (1, 2, 3, 5, 7)]
    order += [f"section table: type {kind}" for kind in (1, 2, 3, 5, 7)] + ["footer"]
    assert [label for label in labels if label in order] == order


def test_each_part_is_one_write() -> None:
    writes = recorded(lambda fd: write_blocks(fd, PLAIN, sections=SECTIONS))
    # Header, three storage blocks, two pieces, five sections, section table, footer.
    assert len(writes) == 1 + 3 + 2 + 5 + 1 + 1
    assert [int.from_bytes(write[24:26], "little") for write in writes[1:4]] == [4, 4, 2]
    assert all(len(write) > 4 * BLOCK for write in writes[1:3])


def test_memory_goes_out_in_storage_blocks_and_not_in_pages(tmp_path: Path) -> None:
    memory = b"".join(page(n) for n in range(256))
    path = save_memory(tmp_path / "x", memory, memory_block_bytes=16 * KIB, storage_block_bytes=256 * KIB)
    storage = ckptreader.read(Path(path).read_bytes()).storage
    assert [len(block.blocks) for block in storage] == [16, 16, 16, 16]


def test_the_flag_last_is_on_the_last_storage_block_alone() -> None:
    writes = recorded(lambda fd: write_blocks(fd, PLAIN))
    blocks = [write for write in writes if write.startswith(b"VMSB")]
    assert [int.from_bytes(block[28:32], "little") for block in blocks] == [0, 0, LAST]


def test_memory_of_zeros_is_one_empty_storage_block() -> None:
    writes = recorded(lambda fd: write_blocks(fd, []))
    blocks = [write for write in writes if write.startswith(b"VMSB")]
    assert [(len(block), block[28]) for block in blocks] == [(48, LAST)]
    assert ckptreader.read(b"".join(writes)).memory == bytes(LAYOUT.memory_bytes)


@pytest.mark.parametrize("streams", [1, 2, 3, 5])
def test_streams_never_mix_in_a_storage_block(streams: int, tmp_path: Path) -> None:
    # The first stream is the busiest, so that the buffers that are open at the end have numbers of all sizes.
    blocks = [((n % streams) * (n % 3 > 0), n, 0, content(n)) for n in range(12)]
    writes = recorded(lambda fd: write_blocks(fd, blocks))
    dump = ckptreader.read(b"".join(writes))
    for storage in dump.storage:
        assert {blocks[block.number][0] for block in storage.blocks} == {storage.stream}
    assert dump.memory == b"".join(content(n) for n in range(12))
    with Checkpoint.open(rewritten(tmp_path / "x", b"".join(writes))) as checkpoint:
        assert read_all(checkpoint) == dump.memory


def test_blocks_of_a_stream_keep_their_order() -> None:
    blocks = [(n % 2, n, 0, content(n)) for n in (3, 8, 1, 0, 7, 6, 9, 4, 5, 2, 11, 10)]
    dump = ckptreader.read(b"".join(recorded(lambda fd: write_blocks(fd, blocks))))
    for stream in (0, 1):
        order = [
            block.number for storage in dump.storage if storage.stream == stream for block in storage.blocks
        ]
        assert order == [number for own, number, *_ in blocks if own == stream]


def test_of_a_block_written_again_the_latest_counts() -> None:
    blocks = [*PLAIN, (0, 3, 1, content(77)), (1, 0, 1, content(88)), (0, 3, 2, bytes(BLOCK))]
    memory = b""

    def write(fd: int) -> None:
        nonlocal memory
        memory = write_blocks(fd, blocks)

    dump = ckptreader.read(b"".join(recorded(write)))
    assert dump.memory == memory
    generations = {
        (b.number, b.generation) for storage in dump.storage for b in storage.blocks if b.number in {0, 3}
    }
    assert generations == {(0, 0), (0, 1), (3, 0), (3, 1), (3, 2)}


def test_a_place_is_known_before_the_block_is_written() -> None:
    memory = page(1) * 2

    def write(fd: int) -> None:
        layout = Layout.flat(BLOCK)
        writer = CheckpointWriter(
            fd, header_of(layout, memory_block_bytes=BLOCK, storage_block_bytes=4 * BLOCK), layout
        )
        place = writer.reserve(0, PAGE_BYTES)
        hashes = pack_hashes(page_hashes(memoryview(memory)))
        block = MemoryBlock(0, 0, 0, bytes([STORED, 3]), hashes, b"", REFERENCE.pack(*place, 0), 0, 0)
        writer.append(block, page(1))
        writer.finish(digest_of(memory), PageCounts(2, 0, 0, 1, 1))

    assert ckptreader.read(b"".join(recorded(write))).memory == memory


STEPS = [
    "header",
    "storage-0",
    "storage-1",
    "last",
    "map",
    "table",
    "s1",
    "s2",
    "s3",
    "s5",
    "s7",
    "entries",
    "footer",
]


@pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS)
@pytest.mark.parametrize("part", [0, 1], ids=["whole", "in-part"])
def test_what_a_crash_leaves_is_what_the_specification_says(step: int, part: int, tmp_path: Path) -> None:
    writes = recorded(lambda fd: write_blocks(fd, PLAIN, sections=SECTIONS))
    assert len(writes) == len(STEPS)
    left = b"".join(writes[:step]) + (writes[step][: len(writes[step]) // 2] if part else writes[step])
    path = rewritten(tmp_path / "left", left)
    complete = step == len(STEPS) - 1 and not part
    if complete:
        Checkpoint.open(path).close()
    else:
        with pytest.raises(VmckptError) as caught:
            Checkpoint.open(path)
        assert isinstance(caught.value, FormatError if step == 0 and part else CorruptionError)
        assert part or "footer is missing" in caught.value.message
    with open(tmp_path / "new", "w+b", buffering=0) as new:
        if step > STEPS.index("last") or (step == STEPS.index("last") and not part):
            rebuilt = rebuild(path, new.fileno(), "new")
            kept = {"vCPU state": STEPS.index("s5"), "metadata": STEPS.index("s7")}
            whole = {name for name, at in kept.items() if step > at or (step == at and not part)}
            # Where the section table is lost as well, nobody knows which sections there were.
            possible = set() if complete else {"active pages", "device state", *kept} - whole
            assert set(rebuilt.lost_sections) == possible
            assert ckptreader.read((tmp_path / "new").read_bytes()).memory[: 10 * BLOCK] == b"".join(
                content(n) for n in range(10)
            )
        else:
            with pytest.raises(VmckptError):
                rebuild(path, new.fileno(), "new")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full to stand for a full disk")
def test_a_write_that_fails_says_where() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(IoError) as caught:
        CheckpointWriter(full.fileno(), HEADER, LAYOUT, path="/dev/full")
    assert (caught.value.path, caught.value.offset) == ("/dev/full", 0)
    assert os.strerror(errno.ENOSPC) in caught.value.message


def test_a_pipe_will_do(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    received = b""

    def drain() -> None:
        nonlocal received
        with open(reading, "rb") as pipe:
            received = pipe.read()

    thread = threading.Thread(target=drain)
    thread.start()
    memory = write_blocks(writing, PLAIN)
    os.close(writing)
    thread.join()
    assert ckptreader.read(received).memory == memory


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd"])
def test_equal_saves_make_equal_files_whatever_the_jobs(codec: str, jobs: int, tmp_path: Path) -> None:
    if codec == "zstd":
        need_zstd()
    memory = pages_of([1, 2, 0, 1, 0, 0, 5, 5]) * 60 + b"".join(page(n % 70) for n in range(200))
    one = save_memory(tmp_path / "one", memory, codec=codec, jobs=1)
    other = save_memory(tmp_path / "other", memory, codec=codec, jobs=jobs)
    assert Path(one).read_bytes() == Path(other).read_bytes()


def test_impossible_block_sizes_are_refused() -> None:
    with pytest.raises(FormatError, match="is not possible"):
        new_header(
            LAYOUT,
            codec=0,
            memory_block_bytes=5000,
            storage_block_bytes=1 << 20,
            checkpoint_id=CHECKPOINT_ID,
            created_ns=0,
        )
