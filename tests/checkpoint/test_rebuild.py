"""A new index from the blocks alone: what was lost, what is kept, and when nothing may be made."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoint.files import need_zstd, rewritten, save_memory
from tests.checkpoint.plans import page, plan_of, simple_plan
from tests.support import ckptreader
from tests.support.ckptwriter import Block, Plan, Storage, build, memory_of, stored, zero
from vmckpt import api
from vmckpt.checkpoint.rebuild import Rebuilt, rebuild
from vmckpt.errors import CorruptionError, FormatError, IoError
from vmckpt.layout import PAGE_BYTES

need_zstd()

SECTIONS = ((4, 0, bytes(8)), (5, 0, b"registers"), (6, 0, b"devices"), (7, 0, b"{}"))
FULL = simple_plan(sections=SECTIONS, active_pages=1)


def rebuilt_from(data: bytes, path: Path) -> tuple[Rebuilt, ckptreader.Dump]:
    """Rebuild a file of those bytes; what was said of it, and what another reader finds in the new file."""
    old = rewritten(path / "old", data)
    with open(path / "new", "w+b", buffering=0) as new:
        report = rebuild(old, new.fileno(), "new")
    return report, ckptreader.read((path / "new").read_bytes())


def part_of(data: bytes, label: str) -> ckptreader.Part:
    return next(part for part in ckptreader.parts_of(data) if part.label == label)


def flipped(data: bytes, label: str) -> bytes:
    """The file with a bit flipped in the middle of a part."""
    part = part_of(data, label)
    changed = bytearray(data)
    changed[part.offset + part.length // 2] ^= 8
    return bytes(changed)


@pytest.mark.parametrize("lost", ["nothing", "footer", "sections", "everything"])
def test_what_lies_behind_the_blocks_may_be_lost(lost: str, tmp_path: Path) -> None:
    data = build(FULL)
    ends = {
        "nothing": len(data),
        "footer": len(data) - 64,
        "sections": part_of(data, "section of type 1: header").offset,
        "everything": part_of(data, "memory map: piece 0").offset,
    }
    report, dump = rebuilt_from(data[: ends[lost]], tmp_path)
    assert dump.memory == memory_of(FULL)
    assert dump.digest.hex() == report.digest
    kept = lost in {"nothing", "footer"}
    assert report.lost_sections == (
        () if kept else ("active pages", "vCPU state", "device state", "metadata")
    )
    assert {kind: body for kind, body in dump.sections.items() if kind > 3} == (
        {kind: body for kind, _, body in SECTIONS} if kept else {}
    )
    assert api.verify(str(tmp_path / "new")).ok


@pytest.mark.parametrize(
    "label",
    [
        "memory map: piece 0",
        "storage table: piece 0",
        "section of type 1: body",
        "section of type 2: body",
        "section of type 3: header",
        "section table: type 2",
        "footer",
    ],
)
def test_a_damaged_index_is_made_anew(label: str, tmp_path: Path) -> None:
    data = build(FULL)
    report, dump = rebuilt_from(flipped(data, label), tmp_path)
    assert (dump.memory, report.lost_sections) == (memory_of(FULL), ())


@pytest.mark.parametrize(("kind", "name"), [(4, "active pages"), (5, "vCPU state"), (7, "metadata")])
def test_a_damaged_section_is_left_out_and_named(kind: int, name: str, tmp_path: Path) -> None:
    report, dump = rebuilt_from(flipped(build(FULL), f"section of type {kind}: body"), tmp_path)
    assert report.lost_sections == (name,)
    assert kind not in dump.sections
    assert dump.memory == memory_of(FULL)


def test_a_section_of_another_checkpoint_is_not_taken(tmp_path: Path) -> None:
    other = build(simple_plan(sections=SECTIONS, active_pages=1, checkpoint_id=bytes(16)))
    tail = other[part_of(other, "section of type 5: header").offset :]
    data = build(simple_plan())
    report, _ = rebuilt_from(data[: part_of(data, "memory map: piece 0").offset] + tail, tmp_path)
    assert len(report.lost_sections) == 4


STORAGE = tuple(Storage((Block(n, (stored(page(n)),)),)) for n in range(5))
FIVE = Plan(STORAGE, 5, memory_block_bytes=PAGE_BYTES)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("where", ["header", "slot 0: payload"])
def test_a_damaged_storage_block_is_refused_with_its_number(number: int, where: str, tmp_path: Path) -> None:
    label = f"storage block {number}{':' if where == 'header' else ','} {where}"
    said = "the last storage block is missing" if number == 4 else rf"storage blocks \[{number}\] are damaged"
    with pytest.raises(CorruptionError, match=said):
        rebuilt_from(flipped(build(FIVE), label), tmp_path)


@pytest.mark.parametrize("number", range(5))
def test_a_storage_block_that_was_cut_out_is_refused_with_its_number(number: int, tmp_path: Path) -> None:
    data = build(FIVE)
    start = part_of(data, f"storage block {number}: header").offset
    payload = part_of(data, f"storage block {number}, slot 0: payload")
    said = "the last storage block is missing" if number == 4 else rf"storage blocks \[{number}\] are"
    with pytest.raises(CorruptionError, match=said):
        rebuilt_from(data[:start] + data[payload.offset + payload.length :], tmp_path)


def test_bytes_between_the_blocks_are_passed_over(tmp_path: Path) -> None:
    data = build(FIVE)
    at = part_of(data, "storage block 3: header").offset
    _, dump = rebuilt_from(data[:at] + b"VMSB, but no storage block" + data[at:], tmp_path)
    assert dump.memory == memory_of(FIVE)


def test_of_stale_generations_the_latest_wins_wherever_it_lies(tmp_path: Path) -> None:
    plan = Plan(
        (
            Storage((Block(0, (stored(page(1)),), 0), Block(1, (stored(page(11)),), 2))),
            Storage((Block(0, (stored(page(2)),), 2), Block(1, (stored(page(12)),), 0)), stream=1),
            Storage((Block(0, (stored(page(3)),), 1), Block(2, (stored(page(20)),), 0))),
            Storage((Block(2, (zero(),), 1),)),
        ),
        3,
        memory_block_bytes=PAGE_BYTES,
        order=(1, 0, 3, 2),
    )
    _, dump = rebuilt_from(build(plan)[:-64], tmp_path)
    assert dump.memory == page(2) + page(11) + bytes(PAGE_BYTES) == memory_of(plan)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_the_new_file_stands_for_the_same_memory(seed: int, tmp_path: Path) -> None:
    plan = plan_of(seed)
    data = build(plan)
    before = ckptreader.read(data)
    _, dump = rebuilt_from(data[: -random.Random(seed).randint(1, 300)], tmp_path)
    assert (dump.memory, dump.digest, dump.regions) == (before.memory, before.digest, before.regions)
    assert (dump.places, dump.checkpoint_id) == (before.places, before.checkpoint_id)
    assert [block.blocks for block in dump.storage] == [block.blocks for block in before.storage]


def test_of_a_sound_file_the_same_file_is_made(tmp_path: Path) -> None:
    path = save_memory(tmp_path / "x", page(1) + page(2) * 8 + bytes(9 * PAGE_BYTES), sections=((7, b"{}"),))
    rebuilt_from(Path(path).read_bytes(), tmp_path)
    assert (tmp_path / "new").read_bytes() == Path(path).read_bytes()


def test_memory_of_zeros_is_rebuilt(tmp_path: Path) -> None:
    path = save_memory(tmp_path / "x", bytes(50 * PAGE_BYTES))
    report, dump = rebuilt_from(Path(path).read_bytes()[:-64], tmp_path)
    assert (dump.memory, report.pages.zero) == (bytes(50 * PAGE_BYTES), 50)


def test_a_block_of_an_enormous_number_is_refused_in_no_time(tmp_path: Path) -> None:
    import struct

    data = bytearray(build(FIVE))
    at = part_of(bytes(data), "storage block 4: header").offset
    end = part_of(bytes(data), "storage block 4, slot 0: payload").offset
    data[at + 4 : at + 8] = struct.pack("<I", 0xFFFF_FFFE)
    data[at + 40 : at + 48] = struct.pack(
        "<Q", ckptreader.xxh(bytes(data[at : at + 40]), bytes(data[at + 48 : end]))
    )
    started = time.monotonic()
    with pytest.raises(CorruptionError, match=r"storage blocks \[4, 5, 6, 7, 8, 9, 10, 11\] are"):
        rebuilt_from(bytes(data), tmp_path)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", FormatError), (b"no checkpoint", FormatError), (build(FIVE)[:119], CorruptionError)],
    ids=["empty", "other", "half-a-header"],
)
def test_without_a_header_nothing_can_be_made(data: bytes, error: Any, tmp_path: Path) -> None:
    with pytest.raises(error):
        rebuilt_from(data, tmp_path)


def test_a_file_that_is_not_there_is_an_io_error(tmp_path: Path) -> None:
    with open(tmp_path / "new", "wb", buffering=0) as new, pytest.raises(IoError, match="cannot open"):
        rebuild(str(tmp_path / "nothing"), new.fileno(), "new")


def test_progress_goes_up_to_the_last_block(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    old = rewritten(tmp_path / "old", build(FIVE))
    with open(tmp_path / "new", "w+b", buffering=0) as new:
        rebuild(old, new.fileno(), "new", progress=lambda done, total: told.append((done, total)))
    assert len(told) == 5
    assert told == sorted(told)
