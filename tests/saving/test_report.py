"""The page of a save, from a checkpoint that is really there."""

import os
import random
import re
from pathlib import Path

import pytest

from tests.checkpoint.files import KIB
from tests.restoring.samples import checkpoint, mixed_memory
from tests.support.webpage import WebPage
from vmckpt.checkpoint.file import CheckpointFile
from vmckpt.checkpoint.format import DUPLICATE, PATTERN, STORED, ZERO
from vmckpt.reports import LiveReport, SaveReport
from vmckpt.saving.figures import Contents, contents_of
from vmckpt.saving.report import page_of

FIGURES = ["Page map", "Compression along memory", "How well blocks compressed"]
LIVE = LiveReport(
    "suspend", "access", "userfaultfd", 0.003, (5, 6), 2e6, 5e5, 70, 26, 320, 3, "little left", 32
)


def saved(folder: Path, memory: bytes, active: list[int] | None = None) -> tuple[SaveReport, Contents]:
    path = checkpoint(folder / "guest.vmckpt", memory, active=active)
    with CheckpointFile.open(path) as opened:
        contents = contents_of(opened, "2026-01-02T03:04:05Z")
        report = SaveReport(
            memory_bytes=len(memory),
            file_bytes=os.path.getsize(path),
            elapsed_s=0.5,
            pages=opened.counts,
            active_pages=len(active or ()),
            digest=opened.digest.hex(),
            codec="lz4",
            memory_block_bytes=16 * KIB,
            storage_block_bytes=64 * KIB,
            storage_blocks=opened.summary.storage_blocks,
        )
    return report, contents


def whole(text: str) -> int:
    return int(re.sub(r"\s", "", text))


def test_contents_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    active = random.Random(1).sample(range(700), 90)
    report, contents = saved(tmp_path, mixed_memory(700), active)
    pages = report.pages
    kinds = {kind: contents.kinds.count(kind) for kind in (ZERO, PATTERN, DUPLICATE, STORED)}
    assert kinds == {
        ZERO: pages.zero,
        PATTERN: pages.pattern,
        DUPLICATE: pages.duplicate,
        STORED: pages.stored,
    }
    assert sum(block.plain_bytes for block in contents.blocks) == pages.stored * 4096
    assert 0 < sum(block.stored_bytes for block in contents.blocks) < report.file_bytes
    assert contents.active == active


def test_a_page_has_every_figure_and_every_page(tmp_path: Path) -> None:
    active = random.Random(1).sample(range(700), 90)
    report, contents = saved(tmp_path, mixed_memory(700), active)
    read = WebPage(page_of("guest.vmckpt", report, contents))
    read.check([*FIGURES, "Order of access"])
    keys = read.legend("Page map")
    assert whole(keys["stored"].partition("·")[0]) == report.pages.stored
    assert whole(keys["active"].partition("·")[0]) == 90
    rows = read.rows("Page map")
    assert sum(whole(cell) for row in rows for cell in row[1:-1]) == 700
    assert sum(whole(row[-1]) for row in rows) == 90
    assert sum(whole(row[1]) for row in read.rows("Order of access")) == 90
    assert sum(whole(row[1]) for row in read.rows("How well blocks compressed")) == len(contents.blocks)


def test_memory_of_zeros_has_nothing_to_compress(tmp_path: Path) -> None:
    report, contents = saved(tmp_path, bytes(64 * 4096))
    read = WebPage(page_of("guest.vmckpt", report, contents))
    read.check(FIGURES)
    assert "No page is stored" in "".join(read.figure("Compression along memory").itertext())
    assert read.tiles()["Compressed to"] == "–"


def test_a_live_save_says_how_the_machine_fared(tmp_path: Path) -> None:
    report, contents = saved(tmp_path, mixed_memory(64), [3, 1, 2])
    read = WebPage(page_of("guest.vmckpt", report._replace(live=LIVE), contents))
    read.check([*FIGURES, "Order of access"])
    tiles = read.tiles()
    assert (tiles["Pause"], tiles["Traps"], tiles["Saved again"]) == ("3.0 ms", "96", "320")
    assert tiles["Speed meanwhile"] == "25.0 %"
    assert "little left" in "".join(read.texts("section"))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "\udcff\x1b[31m\"'&"])
def test_a_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    report, contents = saved(tmp_path, mixed_memory(64))
    read = WebPage(page_of(name, report, contents))
    read.check(FIGURES)
    assert [tag for tag, _ in read.tags].count("script") == 1


def test_the_same_save_makes_the_same_page(tmp_path: Path) -> None:
    report, contents = saved(tmp_path, mixed_memory(64), [3, 1, 2])
    assert page_of("x", report, contents) == page_of("x", report, contents)


def test_active_pages_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    _, contents = saved(tmp_path, mixed_memory(64), [3, 1 << 40, 2])
    assert contents.active == [3, 2]
