import os
from pathlib import Path

import pytest
from hypothesis import given, settings

import vmckpt
from tests.machine.machines import content, image, load, open_fds
from tests.support.memory import page_maps, read_all, write_sparse
from vmckpt.errors import SourceError
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine import ram as ram_module
from vmckpt.machine.ram import Ram, machine_layout
from vmckpt.pages import PageRange
from vmckpt.sources import open_source

GIB = 1 << 30


@settings(max_examples=30, deadline=None)
@given(numbers=page_maps(200))
def test_memory_holds_what_the_image_holds_and_zero_pages_take_no_room(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int]
) -> None:
    memory = content(numbers)
    with load(tmp_path_factory.mktemp("ram"), memory) as ram:
        with ram.reader() as reader:
            assert read_all(reader) == memory
        assert ram.resident_pages == sum(number != 0 for number in numbers)
        assert ram.memory_bytes == len(memory)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_large_image_is_loaded_by_workers_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.setattr(ram_module, "_ALONE_PAGES", 0)
    monkeypatch.setattr(ram_module, "_BATCH_PAGES", 32)
    path = image(tmp_path / "image.raw")
    told: list[tuple[int, int]] = []
    with (
        open_source(path) as source,
        Ram.load(source, jobs=jobs, progress=lambda *args: told.append(args)) as ram,
    ):
        assert ram.digest(jobs=1).hex() == vmckpt.digest(path)
        assert told == sorted(told)
        assert told[-1][0] <= told[-1][1] == ram.memory_bytes


def test_an_image_a_core_and_a_checkpoint_make_the_same_memory(tmp_path: Path) -> None:
    raw = image(tmp_path / "image.raw")
    checkpoint, core = str(tmp_path / "image.ckpt"), str(tmp_path / "image.elf")
    vmckpt.save(raw, checkpoint)
    vmckpt.restore(checkpoint, core, format="elf")
    digests = set()
    for path in (raw, checkpoint, core):
        with open_source(path) as source, Ram.load(source) as ram:
            digests.add(ram.digest())
            assert ram.layout == Layout.flat(4 << 20)
    assert digests == {bytes.fromhex(vmckpt.digest(raw))}


@pytest.mark.parametrize(
    ("size_bytes", "regions"),
    [
        (PAGE_BYTES, [(0, 1)]),
        (3 * GIB, [(0, 3 << 18)]),
        (3 * GIB + PAGE_BYTES, [(0, 3 << 18), (4 * GIB, 1)]),
        (64 * GIB, [(0, 3 << 18), (4 * GIB, 61 << 18)]),
    ],
)
def test_large_memory_has_a_hole_below_4_gib(size_bytes: int, regions: list[tuple[int, int]]) -> None:
    layout = machine_layout(Layout.flat(size_bytes))
    assert [(region.gpa, region.pages) for region in layout.regions] == regions
    assert layout.memory_bytes == size_bytes


@pytest.mark.parametrize("pieces", [[(0, 5 * GIB), (8 * GIB, GIB)], [(GIB, 5 * GIB)]])
def test_a_layout_that_was_given_is_kept(pieces: list[tuple[int, int]]) -> None:
    assert machine_layout(Layout(pieces)) == Layout(pieces)


def test_pages_on_both_sides_of_the_hole_are_where_they_belong(tmp_path: Path) -> None:
    path = tmp_path / "large.raw"
    with open(path, "wb") as file:
        file.truncate(64 * GIB)
        for page, number in ((0, 1), (786431, 2), (786432, 3), ((16 << 20) - 1, 4)):
            file.seek(page * PAGE_BYTES)
            file.write(content([number]))
    with open_source(str(path)) as source, Ram.load(source) as ram, ram.reader() as reader:
        assert ram.layout.gpa_of(786432) == 4 * GIB
        assert ram.resident_pages == 4
        into = bytearray(2 * PAGE_BYTES)
        reader.read(PageRange(786431, 786433), memoryview(into))
        assert bytes(into) == content([2, 3])
        assert list(reader.data_ranges()) == [(0, 1), (786431, 786433), ((16 << 20) - 1, 16 << 20)]
        with ram.map() as mapping:
            view = mapping.view
            assert view[-PAGE_BYTES:] == content([4])
            view.release()


def test_what_a_mapping_writes_the_reader_and_other_mappings_see() -> None:
    with Ram(Layout.flat(8 * PAGE_BYTES)) as ram, ram.map() as one, ram.map() as two, ram.reader() as reader:
        first, second = one.view, two.view
        first[5 * PAGE_BYTES] = 7
        assert second[5 * PAGE_BYTES] == 7
        assert read_all(reader)[5 * PAGE_BYTES] == 7
        assert ram.resident_pages == 1
        first.release()
        second.release()


def test_the_length_of_memory_is_sealed() -> None:
    with Ram(Layout.flat(PAGE_BYTES)) as ram, pytest.raises(PermissionError):
        os.ftruncate(ram.fd, 0)


def test_a_load_that_fails_leaves_no_descriptor(tmp_path: Path) -> None:
    raw = image(tmp_path / "image.raw")
    checkpoint = tmp_path / "image.ckpt"
    vmckpt.save(raw, str(checkpoint))
    damaged = bytearray(checkpoint.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    checkpoint.write_bytes(damaged)
    before = open_fds()
    with open_source(str(checkpoint)) as source, pytest.raises(vmckpt.VmckptError):
        Ram.load(source)
    assert open_fds() == before


def test_what_is_no_memory_is_refused(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "odd.raw", b"x" * 100)
    with pytest.raises(SourceError):
        open_source(path)
