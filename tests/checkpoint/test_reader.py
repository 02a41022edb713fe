"""The reader: files of the independent writer, random reads, what opening costs, and files it must refuse."""

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoint.files import KIB, need_zstd, rewritten, save_memory
from tests.checkpoint.plans import page, plan_of, simple_plan
from tests.support import ckptreader
from tests.support.ckptwriter import ABSENT, Block, Plan, Storage, build, duplicate, memory_of, stored, zero
from tests.support.memory import brute_ranges_hold, pages_of, read_all
from vmckpt.checkpoint.format import SectionType
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.checkpoint.writer import CheckpointWriter, new_header
from vmckpt.errors import CorruptionError, FormatError, IoError
from vmckpt.hashing import Digest
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.pages import PageRange
from vmckpt.reports import PageCounts

zstd = need_zstd()

FILES = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
SEEDS = st.integers(0, 1 << 32)


def opened(path: Path, plan: Plan) -> Checkpoint:
    return Checkpoint.open(rewritten(path, build(plan)))


def read_pages(checkpoint: Checkpoint, start: int, end: int) -> bytes:
    buffer = bytearray((end - start) * PAGE_BYTES)
    checkpoint.read(PageRange(start, end), memoryview(buffer))
    return bytes(buffer)


@FILES
@given(seed=SEEDS)
def test_what_another_writer_wrote_reads_as_it_was_meant(seed: int, tmp_path: Path) -> None:
    plan = plan_of(seed)
    memory = memory_of(plan)
    with opened(tmp_path / "x", plan) as checkpoint:
        assert read_all(checkpoint) == memory
        assert checkpoint.computed_digest() == checkpoint.digest
        assert brute_ranges_hold(checkpoint, memory)
        assert checkpoint.counts.total == plan.page_count
    assert ckptreader.read(build(plan)).memory == memory


@FILES
@given(seed=SEEDS, reads=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 40)), max_size=12))
def test_any_read_equals_that_part_of_memory(seed: int, reads: list[tuple[int, int]], tmp_path: Path) -> None:
    plan = plan_of(seed)
    memory = memory_of(plan)
    with opened(tmp_path / "x", plan) as checkpoint:
        for wanted, length in reads:
            start = min(wanted, plan.page_count)
            end = min(start + length, plan.page_count)
            assert read_pages(checkpoint, start, end) == memory[start * PAGE_BYTES : end * PAGE_BYTES]


@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd"])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(numbers=st.lists(st.integers(0, 9), min_size=1, max_size=80), noise=st.booleans())
def test_what_vmckpt_saves_another_reader_reads(
    codec: str, numbers: list[int], noise: bool, tmp_path: Path
) -> None:
    memory = pages_of(numbers) + (os.urandom(3 * PAGE_BYTES) * 2 if noise else b"")
    path = save_memory(tmp_path / "x", memory, codec=codec)
    dump = ckptreader.read(Path(path).read_bytes())
    assert dump.memory == memory
    with Checkpoint.open(path) as checkpoint:
        assert read_all(checkpoint) == memory
        assert checkpoint.digest == dump.digest


def test_more_storage_blocks_than_are_kept_read_right_in_any_order(tmp_path: Path) -> None:
    rng = random.Random(1)
    pages = [rng.randbytes(PAGE_BYTES) for _ in range(300)]
    memory = b"".join(rng.choice(pages) for _ in range(700))
    path = save_memory(
        tmp_path / "x", memory, memory_block_bytes=8 * KIB, storage_block_bytes=16 * KIB, codec="lz4"
    )
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.summary.storage_blocks > 10
        for _ in range(300):
            start = rng.randint(0, 699)
            end = min(700, start + rng.randint(1, 9))
            assert read_pages(checkpoint, start, end) == memory[start * PAGE_BYTES : end * PAGE_BYTES]


@pytest.mark.parametrize("how", ["renamed", "unlinked", "replaced"])
def test_an_open_checkpoint_outlives_its_name(how: str, tmp_path: Path) -> None:
    plan = simple_plan()
    with opened(tmp_path / "x", plan) as checkpoint:
        if how == "renamed":
            os.rename(tmp_path / "x", tmp_path / "y")
        else:
            os.unlink(tmp_path / "x")
        if how == "replaced":
            rewritten(tmp_path / "x", b"another file")
        assert read_all(checkpoint) == memory_of(plan)


def test_processes_after_a_fork_read_side_by_side(tmp_path: Path) -> None:
    memory = b"".join(page(n) for n in range(256))
    path = save_memory(
        tmp_path / "x", memory, codec="lz4", memory_block_bytes=8 * KIB, storage_block_bytes=16 * KIB
    )
    with Checkpoint.open(path) as checkpoint:
        read_pages(checkpoint, 0, 3)
        children = []
        for seed in range(4):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    order = list(range(256))
                    random.Random(seed).shuffle(order)
                    code = int(any(read_pages(checkpoint, n, n + 1) != page(n) for n in order))
                finally:
                    os._exit(code)
            children.append(pid)
        assert read_all(checkpoint) == memory
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4


def bytes_read() -> int:
    """What this process has asked read calls for so far, as the kernel counts it."""
    with open("/proc/self/io", encoding="ascii") as file:
        return int(dict(line.split(": ") for line in file)["rchar"])


def counts_reads() -> bool:
    try:
        before = bytes_read()
        os.pread(fd := os.open("/dev/zero", os.O_RDONLY), 100_000, 0)
        os.close(fd)
        return bytes_read() - before >= 100_000
    except OSError:
        return False


def sparse_checkpoint(path: Path, memory_bytes: int) -> str:
    """A checkpoint of zeros but for one page in every GiB."""
    layout = Layout.flat(memory_bytes)
    header = new_header(
        layout,
        codec=0,
        memory_block_bytes=64 * KIB,
        storage_block_bytes=1024 * KIB,
        checkpoint_id=bytes(16),
        created_ns=0,
    )
    places = range(0, layout.page_count, 1 << 18)
    with open(path, "w+b", buffering=0) as file:
        writer = CheckpointWriter(file.fileno(), header, layout)
        digest = Digest()
        for first in places:
            block = _lone_page(first // 16)
            writer.reserve(first // 16, PAGE_BYTES)
            writer.append(block, page(1))
            digest.add_zeros(first - digest.pages)
            digest.add(block.page_hashes())
        digest.add_zeros(layout.page_count - digest.pages)
        writer.finish(
            digest.bytes(), PageCounts(layout.page_count, layout.page_count - len(places), 0, 0, len(places))
        )
    return os.fspath(path)


def _lone_page(number: int) -> Any:
    from vmckpt.checkpoint.block import MemoryBlock
    from vmckpt.hashing import pack_hashes, page_hashes

    hashes = pack_hashes(page_hashes(memoryview(page(1))))
    return MemoryBlock(number, 0, 0, bytes([1] + [0] * 15), hashes, b"", b"", 0, 0)


@pytest.mark.skipif(not counts_reads(), reason="/proc/self/io does not count what is read here")
def test_opening_costs_no_more_for_more_memory(tmp_path: Path) -> None:
    cost = {}
    for gib in (1, 64):
        path = sparse_checkpoint(tmp_path / f"{gib}", gib << 30)
        before = bytes_read()
        with Checkpoint.open(path) as checkpoint:
            cost[gib] = bytes_read() - before
            buffer = bytearray(PAGE_BYTES)
            checkpoint.read(PageRange((gib - 1) << 18, ((gib - 1) << 18) + 1), memoryview(buffer))
            assert bytes(buffer) == page(1)
            # A piece of each table, and one storage block.
            assert bytes_read() - before - cost[gib] < 2 * 65536 + 1200 * KIB
    assert cost[64] < 100 * KIB
    assert cost[64] - cost[1] <= 64 * KIB + 63 * 2 * 16


def test_absent_memory_reads_as_zeros_without_a_storage_block(tmp_path: Path) -> None:
    with Checkpoint.open(sparse_checkpoint(tmp_path / "x", 3 << 30)) as checkpoint:
        assert read_pages(checkpoint, 100, 200) == bytes(100 * PAGE_BYTES)
        assert checkpoint.place_of(5) is None
        assert list(checkpoint.data_ranges()) == [PageRange(n << 18, (n << 18) + 16) for n in range(3)]


@pytest.mark.parametrize("flags", [0, 1], ids=["optional", "required"])
@pytest.mark.parametrize("kind", [8, 9, 10, 500, 0, 0xFFFF])
def test_an_unknown_section_is_ignored_unless_it_is_required(kind: int, flags: int, tmp_path: Path) -> None:
    path = rewritten(tmp_path / "x", build(simple_plan(sections=((kind, flags, b"what it may be"),))))
    if flags:
        with pytest.raises(FormatError, match=f"section of type {kind}"):
            Checkpoint.open(path)
    else:
        with Checkpoint.open(path) as checkpoint:
            assert read_all(checkpoint) == memory_of(simple_plan())
            assert checkpoint.section(kind) == b"what it may be"


@pytest.mark.parametrize("bits", [1, 2, 4, 1 << 31], ids=hex)
def test_an_unknown_incompatible_feature_is_refused(bits: int, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="which this vmckpt does not know"):
        opened(tmp_path / "x", simple_plan(incompatible=bits))


def test_an_unknown_compatible_feature_is_ignored(tmp_path: Path) -> None:
    plan = simple_plan(compatible=0xFFFF_FFFF, reserved_ones=True)
    with opened(tmp_path / "x", plan) as checkpoint:
        assert read_all(checkpoint) == memory_of(plan)


@pytest.mark.parametrize("version", [0, 2, 3, 0xFFFF])
def test_another_version_is_named(version: int, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=f"format version {version}; this vmckpt reads version 1"):
        opened(tmp_path / "x", simple_plan(version=version))


def test_a_damaged_version_in_a_file_of_version_1_is_corruption(tmp_path: Path) -> None:
    with pytest.raises(CorruptionError, match="header is damaged"):
        opened(tmp_path / "x", simple_plan(version=3, footer_version=1))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (((7, 0, b"{}"), (7, 0, b"{}")), "twice"),
        (((1, 0, b"{}"),), "twice"),
        (((7, 2, b"{}"),), "unknown fields"),
    ],
    ids=["twice", "two-summaries", "unknown-flag"],
)
def test_a_section_table_that_cannot_be_is_refused(sections: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptionError, match=message):
        opened(tmp_path / "x", simple_plan(sections=sections))


def test_sections_come_back(tmp_path: Path) -> None:
    pages = b"".join(n.to_bytes(8, "little") for n in (5, 0, 13))
    sections = ((SectionType.ACTIVE_PAGES, 0, pages), (SectionType.METADATA, 1, b'{"a":1}'), (5, 0, b""))
    with opened(tmp_path / "x", simple_plan(sections=sections, active_pages=3)) as checkpoint:
        assert checkpoint.active_pages() == [5, 0, 13]
        assert checkpoint.section(SectionType.METADATA) == b'{"a":1}'
        assert checkpoint.section(SectionType.VCPU_STATE) == b""
        assert checkpoint.section(SectionType.DEVICE_STATE) is None


def test_active_pages_that_are_no_page_numbers_are_corruption(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "x", simple_plan(sections=((4, 0, bytes(7)),))) as checkpoint,
        pytest.raises(CorruptionError, match="active pages"),
    ):
        checkpoint.active_pages()


@pytest.mark.parametrize(
    "places",
    [{0: (1, 0), 1: (0, 0)}, {3: (1, 0)}, {2: (0, 0)}],
    ids=["swapped", "longer-than-the-last", "zero-as-another"],
)
def test_a_map_that_leads_to_another_memory_block_is_corruption(places: Any, tmp_path: Path) -> None:
    with opened(tmp_path / "x", simple_plan(places=places)) as checkpoint, pytest.raises(CorruptionError):
        read_all(checkpoint)


@pytest.mark.parametrize(
    "places", [{0: (0, 1)}, {0: (2, 0)}, {0: (ABSENT - 1, 0)}], ids=["slot", "block", "far"]
)
def test_a_map_that_leads_nowhere_is_corruption(places: Any, tmp_path: Path) -> None:
    plan = simple_plan()
    data = build(plan)
    # The map's entry is changed behind the writer's back: a place that does not exist has no memory.
    path = rewritten(tmp_path / "x", _with_map_entry(data, places[0]))
    with Checkpoint.open(path) as checkpoint, pytest.raises(CorruptionError):
        read_pages(checkpoint, 0, 1)


def _with_map_entry(data: bytes, place: tuple[int, int]) -> bytes:
    """The file with another place of memory block 0, and right checksums around it."""
    parts = {part.label: part for part in ckptreader.parts_of(data)}

    def put(at: int, new: bytes) -> None:
        nonlocal data
        data = data[:at] + new + data[at + len(new) :]

    def seal(at: int, start: int, end: int) -> bytes:
        own = ckptreader.xxh(data[start:at], data[at + 8 : end] if end > at else b"").to_bytes(8, "little")
        put(at, own)
        return own

    piece = parts["memory map: piece 0"]
    put(piece.offset, place[0].to_bytes(4, "little") + place[1].to_bytes(2, "little"))
    body = parts["section of type 2: body"]
    piece_sum = ckptreader.xxh(data[piece.offset : piece.offset + piece.length])
    put(body.offset + 24, piece_sum.to_bytes(8, "little"))
    head = parts["section of type 2: header"]
    own = seal(head.offset + 24, head.offset, body.offset + body.length)
    entry = parts["section table: type 2"]
    put(entry.offset + 24, own)
    first, footer = parts["section table: type 1"], parts["footer"]
    put(footer.offset + 48, ckptreader.xxh(data[first.offset : footer.offset]).to_bytes(8, "little"))
    seal(footer.offset + 56, footer.offset, footer.offset + 56)
    return data


def with_duplicate(reference: tuple[int, int, int], content: bytes) -> Plan:
    """Memory block 0 has a duplicate with that reference; block 1 is stored, zero, duplicate, stored."""
    return Plan(
        storage=(
            Storage(
                (
                    Block(0, (duplicate(content, *reference), zero())),
                    Block(1, (stored(page(1)), zero())),
                    Block(2, (duplicate(page(1), 0, 1, 0), stored(page(2)))),
                )
            ),
        ),
        page_count=6,
        memory_block_bytes=2 * PAGE_BYTES,
    )


def test_a_reference_may_lead_forward(tmp_path: Path) -> None:
    plan = with_duplicate((0, 2, 1), page(2))
    with opened(tmp_path / "x", plan) as checkpoint:
        assert read_all(checkpoint) == memory_of(plan)


@pytest.mark.parametrize(
    ("reference", "content"),
    [
        ((0, 1, 1), bytes(PAGE_BYTES)),
        ((0, 2, 0), page(1)),
        ((0, 0, 0), page(1)),
        ((0, 1, 0), page(2)),
        ((0, 1, 2), page(1)),
        ((0, 3, 0), page(1)),
        ((1, 0, 0), page(1)),
        ((ABSENT, 0xFFFF, 0xFFFF), page(1)),
    ],
    ids=["to-zero", "to-a-duplicate", "to-itself", "other-content", "page", "slot", "storage-block", "far"],
)
def test_a_reference_that_does_not_lead_to_such_a_page_is_corruption(
    reference: tuple[int, int, int], content: bytes, tmp_path: Path
) -> None:
    with (
        opened(tmp_path / "x", with_duplicate(reference, content)) as checkpoint,
        pytest.raises(CorruptionError),
    ):
        read_pages(checkpoint, 0, 1)


def test_what_is_stale_is_not_read_but_may_be_referred_to(tmp_path: Path) -> None:
    plan = Plan(
        storage=(
            Storage((Block(0, (stored(page(1)), stored(page(2)))),)),
            Storage(
                (Block(1, (duplicate(page(1), 0, 0, 0), zero())), Block(0, (zero(), stored(page(3))), 1))
            ),
        ),
        page_count=4,
        memory_block_bytes=2 * PAGE_BYTES,
    )
    with opened(tmp_path / "x", plan) as checkpoint:
        assert read_all(checkpoint) == bytes(PAGE_BYTES) + page(3) + page(1) + bytes(PAGE_BYTES)


def test_a_checkpoint_with_a_footer_of_another_is_refused(tmp_path: Path) -> None:
    one, other = build(simple_plan()), build(simple_plan(checkpoint_id=bytes(16)))
    assert len(one) == len(other)
    with pytest.raises(CorruptionError, match="two different checkpoints"):
        Checkpoint.open(rewritten(tmp_path / "x", one[:-64] + other[-64:]))


@pytest.mark.parametrize("size", [0, 1, 8, 63, 64, 95, 96, 119, 120])
def test_a_stub_of_a_file_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises((FormatError, CorruptionError)):
        Checkpoint.open(rewritten(tmp_path / "x", build(simple_plan())[:size]))


def test_a_file_that_ends_at_or_around_any_boundary_is_refused(tmp_path: Path) -> None:
    data = build(simple_plan(sections=((7, 0, b"{}"),)))
    for part in ckptreader.parts_of(data):
        for size in {part.offset - 1, part.offset, part.offset + 1} & set(range(len(data))):
            with pytest.raises((FormatError, CorruptionError)):
                Checkpoint.open(rewritten(tmp_path / "x", data[:size]))
            with pytest.raises(ckptreader.MalformedError):
                ckptreader.read(data[:size])


@pytest.mark.parametrize("codec", [3, 77])
def test_an_unknown_codec_counts_only_where_a_block_uses_it(codec: int, tmp_path: Path) -> None:
    plan = simple_plan(codec=codec)
    with opened(tmp_path / "x", plan) as checkpoint:
        assert read_all(checkpoint) == memory_of(plan)
    block = Block(0, (stored(page(1)), zero()), codec=codec)
    used = Plan((Storage((block,)),), 2, memory_block_bytes=2 * PAGE_BYTES)
    with opened(tmp_path / "y", used) as checkpoint, pytest.raises(CorruptionError, match="decompress"):
        read_all(checkpoint)


def test_a_file_that_is_cut_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path / "x", simple_plan()) as checkpoint:
        os.truncate(tmp_path / "x", 200)
        with pytest.raises(CorruptionError, match="cut short"):
            read_all(checkpoint)


def test_a_file_that_is_not_there_is_an_io_error(tmp_path: Path) -> None:
    with pytest.raises(IoError, match="cannot open"):
        Checkpoint.open(str(tmp_path / "nothing"))


def test_a_refused_file_leaves_no_descriptor_open(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "x", b"no checkpoint")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(FormatError):
            Checkpoint.open(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_large_header_is_read_whole(tmp_path: Path) -> None:
    regions = tuple((n * 2 * PAGE_BYTES, 1) for n in range(5000))
    plan = replace(simple_plan(), page_count=5000, regions=regions, storage=(Storage(()),), places={})
    with opened(tmp_path / "x", plan) as checkpoint:
        assert len(checkpoint.layout.regions) == 5000
