"""Proving a whole file: what is sound is found sound, and what is wrong is named with its place."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoint.files import need_zstd, rewritten
from tests.checkpoint.plans import page, plan_of, simple_plan
from tests.support import ckptreader
from tests.support.ckptwriter import Block, Plan, Storage, build, duplicate, memory_of, stored, zero
from vmckpt import api
from vmckpt.checkpoint.check import prove_metadata
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.errors import CorruptionError
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import PageRange

need_zstd()


def verified(path: Path, plan: Plan, jobs: int = 1) -> Any:
    return api.verify(rewritten(path, build(plan)), jobs=jobs)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_odd_but_valid_files_are_sound_and_restore(seed: int, tmp_path: Path) -> None:
    plan = plan_of(seed)
    report = verified(tmp_path / "x", plan)
    assert (report.ok, report.problems, report.storage_blocks) == (True, (), len(plan.storage))
    api.restore(str(tmp_path / "x"), str(tmp_path / "y"), jobs=2, force=True)
    assert (tmp_path / "y").read_bytes() == memory_of(plan)


@pytest.mark.parametrize(
    "order",
    [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (3, 4, 0, 1, 2), (1, 2, 3, 4, 0)],
    ids=lambda order: str(order[-1]),
)
def test_the_last_storage_block_may_have_any_number(order: tuple[int, ...], tmp_path: Path) -> None:
    storage = tuple(Storage((Block(n, (stored(page(n)),)),), stream=n) for n in range(5))
    report = verified(tmp_path / "x", Plan(storage, 5, memory_block_bytes=PAGE_BYTES, order=order))
    assert report.problems == ()


@pytest.mark.parametrize("last", [(), (0,)], ids=["none", "another"])
def test_a_missing_flag_last_is_found(last: tuple[int, ...], tmp_path: Path) -> None:
    plan = simple_plan(last=last)
    assert not verified(tmp_path / "x", plan).ok
    with pytest.raises(ckptreader.MalformedError, match="LAST"):
        ckptreader.read(build(plan))


def test_a_second_flag_last_is_found(tmp_path: Path) -> None:
    assert not verified(tmp_path / "x", simple_plan(last=(0, 1))).ok


def test_a_damaged_payload_costs_the_pages_of_its_storage_block(tmp_path: Path) -> None:
    data = bytearray(build(simple_plan()))
    part = next(p for p in ckptreader.parts_of(bytes(data)) if p.label == "storage block 1, slot 0: payload")
    data[part.offset + 3] ^= 1
    report = api.verify(rewritten(tmp_path / "x", bytes(data)))
    assert [(problem.kind, problem.pages) for problem in report.problems] == [
        ("storage block", (PageRange(4, 8), PageRange(12, 14)))
    ]


def test_a_byte_that_belongs_to_nothing_is_found(tmp_path: Path) -> None:
    gap = simple_plan(sections=((7, 0, b"{}"),))
    data = build(gap)
    # The same file with the metadata section left out of the table: its bytes are nobody's.
    table = [part for part in ckptreader.parts_of(data) if part.label.startswith("section table")]
    kept = data[table[0].offset : table[-1].offset]
    import struct

    end = table[0].offset + len(kept)
    footer = struct.pack(
        "<8sHHIQQ16sQ",
        b"VMCKEND\n",
        1,
        0,
        len(table) - 1,
        table[0].offset,
        end + 64,
        gap.checkpoint_id,
        ckptreader.xxh(kept),
    )
    footer += struct.pack("<Q", ckptreader.xxh(footer))
    report = api.verify(rewritten(tmp_path / "x", data[:end] + footer))
    assert [problem.kind for problem in report.problems] == ["coverage"]


def with_reference(reference: tuple[int, int, int], content: bytes) -> Plan:
    blocks = (
        Block(0, (duplicate(content, *reference), zero())),
        Block(1, (stored(page(1)), duplicate(page(1), 0, 1, 0))),
    )
    return Plan((Storage(blocks),), 4, memory_block_bytes=2 * PAGE_BYTES)


@pytest.mark.parametrize(
    ("reference", "content"),
    [
        ((0, 1, 1), page(1)),
        ((0, 0, 1), bytes(PAGE_BYTES)),
        ((0, 0, 0), page(1)),
        ((0, 1, 0), page(2)),
        ((7, 0, 0), page(1)),
    ],
    ids=["to-a-duplicate", "to-zero", "to-itself", "other-content", "nowhere"],
)
def test_a_reference_to_the_wrong_page_is_found_by_verify_and_restore(
    reference: tuple[int, int, int], content: bytes, tmp_path: Path
) -> None:
    assert not verified(tmp_path / "x", with_reference(reference, content)).ok
    with pytest.raises(CorruptionError):
        api.restore(str(tmp_path / "x"), str(tmp_path / "y"))
    assert not (tmp_path / "y").exists()


def test_a_block_of_an_older_generation_in_the_map_is_found(tmp_path: Path) -> None:
    blocks = (Block(0, (stored(page(1)),), 1), Block(0, (stored(page(2)),), 0))
    good = Plan((Storage(blocks),), 1, memory_block_bytes=PAGE_BYTES)
    assert verified(tmp_path / "x", good).ok


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_problems_are_told_in_order_whatever_the_jobs(jobs: int, tmp_path: Path) -> None:
    storage = tuple(Storage((Block(n, (stored(page(n)),)),)) for n in range(9))
    data = bytearray(build(Plan(storage, 9, memory_block_bytes=PAGE_BYTES)))
    for part in ckptreader.parts_of(bytes(data)):
        if part.label.endswith("payload") and int(part.label.split()[2].rstrip(",")) % 2:
            data[part.offset] ^= 1
    report = api.verify(rewritten(tmp_path / "x", bytes(data)), jobs=jobs)
    assert [problem.pages for problem in report.problems] == [(PageRange(n, n + 1),) for n in (1, 3, 5, 7)]


def test_metadata_alone_is_proved_without_the_payloads(tmp_path: Path) -> None:
    data = bytearray(build(simple_plan()))
    part = next(p for p in ckptreader.parts_of(bytes(data)) if p.label.endswith("payload"))
    data[part.offset] ^= 1
    with Checkpoint.open(rewritten(tmp_path / "x", bytes(data))) as checkpoint:
        assert prove_metadata(checkpoint) == checkpoint.digest


@pytest.mark.parametrize("wrong", [2, 16])
def test_a_wrong_count_of_active_pages_is_found(wrong: int, tmp_path: Path) -> None:
    report = verified(tmp_path / "x", simple_plan(sections=((4, 0, bytes(8)),), active_pages=wrong))
    assert [problem.kind for problem in report.problems] == ["section"]


def test_every_byte_matters(tmp_path: Path) -> None:
    # A flip in every byte (every bit: tests/faults) of a file with all that a file can have, found by both readers.
    plan = simple_plan(sections=((7, 0, b"{}"), (300, 0, b"?")), page_count=14)
    data = build(plan)
    for part in ckptreader.parts_of(data):
        for at in {part.offset, part.offset + part.length // 2, part.offset + part.length - 1}:
            flipped = bytearray(data)
            flipped[at] ^= 0x10
            assert not api.verify(rewritten(tmp_path / "x", bytes(flipped)), jobs=1).ok, part
            with pytest.raises((ckptreader.MalformedError, ckptreader.UnsupportedError)):
                ckptreader.read(bytes(flipped))
