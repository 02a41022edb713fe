"""Plans of restored images: pages lie where the plan says, and independent ELF readers agree."""

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory import page_bytes, read_all
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.restoring import image
from vmckpt.restoring.image import ImagePlan, plan_elf, plan_raw
from vmckpt.sources import open_source

PC = Layout([(0, 3 * PAGE_BYTES), (1 << 20, PAGE_BYTES), (4 << 30, 2 * PAGE_BYTES)])


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Layouts of a few small regions, some adjacent."""
    end, pieces = 0, []
    for gap, pages in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=8)):
        gpa = end + gap * PAGE_BYTES
        end = gpa + pages * PAGE_BYTES
        pieces.append((gpa, pages * PAGE_BYTES))
    return Layout(pieces)


def written(plan: ImagePlan, path: Path) -> str:
    """Carry a plan out in the plainest way, each page with its own number plus one."""
    content = bytearray(plan.file_bytes)
    content[: len(plan.head)] = plan.head
    for page, start in enumerate(range(plan.data_offset, plan.file_bytes, PAGE_BYTES)):
        content[start : start + PAGE_BYTES] = page_bytes(page + 1)
    path.write_bytes(content)
    return str(path)


def test_the_structs_have_the_sizes_of_the_specification() -> None:
    assert (image._HEADER.size, image._PROGRAM_HEADER.size, image._SECTION_HEADER.size) == (64, 56, 64)


@given(layout=layouts())
def test_a_raw_image_has_every_page_at_its_number(layout: Layout) -> None:
    plan = plan_raw(layout)
    assert plan == ImagePlan(b"", 0, layout.memory_bytes)


@pytest.mark.parametrize("planner", [plan_raw, plan_elf], ids=["raw", "elf"])
@given(layout=layouts())
def test_pages_lie_apart_behind_the_head_and_fill_the_file(planner: Any, layout: Layout) -> None:
    plan: ImagePlan = planner(layout)
    assert plan.data_offset % PAGE_BYTES == 0
    assert len(plan.head) <= plan.data_offset < len(plan.head) + PAGE_BYTES
    assert plan.file_bytes == plan.data_offset + layout.memory_bytes


@given(layout=layouts())
def test_pyelftools_reads_the_headers(layout: Layout) -> None:
    plan = plan_elf(layout)
    core = ELFFile(io.BytesIO(plan.head.ljust(plan.file_bytes, b"\0")))
    assert (core.elfclass, core.little_endian, core["e_type"], core["e_machine"]) == (
        64,
        True,
        "ET_CORE",
        "EM_X86_64",
    )
    segments: list[Any] = list(core.iter_segments())
    assert [segment["p_type"] for segment in segments] == ["PT_LOAD"] * len(layout.regions)
    for segment, region in zip(segments, layout.regions, strict=True):
        assert segment["p_paddr"] == segment["p_vaddr"] == region.gpa
        assert segment["p_filesz"] == segment["p_memsz"] == region.size_bytes
        assert segment["p_offset"] == plan.data_offset + region.first_page * PAGE_BYTES
        assert segment["p_offset"] % segment["p_align"] == segment["p_vaddr"] % segment["p_align"] == 0


def test_an_elf_core_comes_back_as_the_same_memory(tmp_path: Path) -> None:
    source = open_source(written(plan_elf(PC), tmp_path / "core"))
    assert (source.kind, source.layout) == ("elf", PC)
    assert read_all(source) == b"".join(page_bytes(page + 1) for page in range(PC.page_count))
    source.close()


@pytest.mark.parametrize("regions", [0xFFFE, 0xFFFF, 0x10000], ids=["below", "at", "above"])
def test_more_regions_than_the_elf_header_counts_come_back(tmp_path: Path, regions: int) -> None:
    layout = Layout([(index * 2 * PAGE_BYTES, PAGE_BYTES) for index in range(regions)])
    plan = plan_elf(layout)
    path = tmp_path / "core"
    with open(path, "wb") as file:
        file.write(plan.head)
        file.truncate(plan.file_bytes)
    source = open_source(str(path))
    assert source.layout == layout
    source.close()


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
@pytest.mark.parametrize("regions", [3, 0x10000])
def test_readelf_lists_every_segment_without_a_warning(tmp_path: Path, regions: int) -> None:
    layout = Layout([(index * 2 * PAGE_BYTES, PAGE_BYTES) for index in range(regions)])
    plan = plan_elf(layout)
    path = tmp_path / "core"
    with open(path, "wb") as file:
        file.write(plan.head)
        file.truncate(plan.file_bytes)
    run = subprocess.run(["readelf", "-hlW", str(path)], capture_output=True, check=True, text=True)
    assert run.stderr == ""
    assert run.stdout.count("\n  LOAD ") == regions
