"""Any memory, any layout, any settings: what comes back is what was saved, and every way to ask agrees."""

import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.elfwriter import ElfCore, Load
from tests.support.memory import read_all
from vmckpt import api
from vmckpt.hashing import page_hash
from vmckpt.pages import PAGE_BYTES, PageRange

SETTINGS = settings(
    max_examples=int(os.environ.get("VMCKPT_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
FEWER = settings(SETTINGS, max_examples=max(SETTINGS.max_examples // 3, 10))
CODECS = ("raw", "lz4", "zstd", "auto")


# --- memory ---


def page_of(kind: str, seed: int) -> bytes:
    rng = random.Random(f"{kind}{seed}")
    if kind == "zero":
        return bytes(PAGE_BYTES)
    if kind == "pattern":
        return bytes([seed % 255 + 1]) * PAGE_BYTES
    if kind == "words":
        return rng.randbytes(8) * (PAGE_BYTES // 8)
    if kind == "sparse":
        page = bytearray(PAGE_BYTES)
        page[rng.randrange(PAGE_BYTES)] = seed % 255 + 1
        return bytes(page)
    if kind == "text":
        return (rng.randbytes(40) * (PAGE_BYTES // 40 + 1))[:PAGE_BYTES]
    return rng.randbytes(PAGE_BYTES)


RUNS = st.lists(
    st.tuples(
        # Few seeds: pages repeat near and far.
        st.sampled_from(["zero", "zero", "pattern", "words", "sparse", "text", "random"]),
        st.integers(0, 5),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=12,
)


@dataclass(frozen=True)
class Memory:
    """Regions: guest-physical address and content."""

    regions: tuple[tuple[int, bytes], ...]

    @property
    def content(self) -> bytes:
        return b"".join(content for _, content in self.regions)

    def write(self, folder: str) -> str:
        path = os.path.join(folder, "image")
        if len(self.regions) == 1 and self.regions[0][0] == 0:
            with open(path, "wb") as file:
                file.write(self.content)
            return path
        return ElfCore([Load(gpa, content) for gpa, content in self.regions]).write(path)


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    runs = draw(RUNS)
    pages = [page_of(kind, seed) for kind, seed, count in runs for _ in range(count)]
    cuts = sorted(draw(st.sets(st.integers(1, max(len(pages) - 1, 1)), max_size=3)) - {len(pages)})
    regions = []
    gpa = draw(st.sampled_from([0, 0, PAGE_BYTES, 1 << 20]))
    for start, end in zip([0, *cuts], [*cuts, len(pages)], strict=True):
        regions.append((gpa, b"".join(pages[start:end])))
        gpa += (end - start) * PAGE_BYTES + draw(st.sampled_from([0, PAGE_BYTES, 1 << 30]))
    return Memory(tuple(regions))


@dataclass(frozen=True)
class Choice:
    """How to save."""

    codec: str
    memory_block_bytes: int
    storage_block_bytes: int
    jobs: int
    dedup: bool


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    memory = draw(st.sampled_from([4096, 8192, 16384, 65536, 1 << 20]))
    storage = memory * draw(st.sampled_from([2, 4, 16]))
    return Choice(
        draw(st.sampled_from(CODECS)), memory, storage, draw(st.integers(1, 3)), draw(st.booleans())
    )


def save(image: str, out: str, choice: Choice, *, jobs: int | None = None) -> api.SaveReport:
    return api.save(
        image,
        out,
        codec=choice.codec,
        memory_block_bytes=choice.memory_block_bytes,
        storage_block_bytes=choice.storage_block_bytes,
        jobs=jobs or choice.jobs,
        dedup=choice.dedup,
        force=True,
    )


def read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# --- what must hold ---


@SETTINGS
@given(memory=memories(), choice=choices(), seed=st.integers(0, 1 << 32))
@example(Memory(((0, bytes(PAGE_BYTES)),)), Choice("lz4", 4096, 8192, 1, True), 0)
@example(Memory(((0, page_of("random", 1)),)), Choice("zstd", 1 << 20, 2 << 20, 3, True), 0)
def test_what_is_saved_comes_back_whatever_the_memory_and_the_settings(
    memory: Memory, choice: Choice, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image, made = memory.write(folder), f"{folder}/made"
        report = save(image, made, choice)
        assert sum(report.pages[1:]) == report.pages.total == len(memory.content) // PAGE_BYTES
        assert api.verify(made, jobs=choice.jobs).problems == ()
        comes_back(memory, made, folder, choice.jobs)
        digests_agree(image, made, report.digest)
        ranges_agree(memory.content, made, random.Random(seed))


def comes_back(memory: Memory, made: str, folder: str, jobs: int) -> None:
    api.restore(made, f"{folder}/raw", jobs=jobs, force=True)
    assert read_file(f"{folder}/raw") == memory.content
    api.restore(made, f"{folder}/elf", format="elf", jobs=jobs, force=True)
    with api.open_source(f"{folder}/elf") as core:
        assert [(region.gpa, region.size_bytes) for region in core.layout.regions] == [
            (gpa, len(content)) for gpa, content in memory.regions
        ]
        assert read_all(core) == memory.content


def digests_agree(image: str, made: str, digest: str) -> None:
    folder = os.path.dirname(made)
    assert {api.digest(path) for path in (image, made, f"{folder}/raw", f"{folder}/elf")} == {digest}
    assert api.info(made).digest == digest


def ranges_agree(content: bytes, made: str, rng: random.Random) -> None:
    count = len(content) // PAGE_BYTES
    with api.open_checkpoint(made) as checkpoint:
        for _ in range(12):
            start = rng.randrange(count)
            end = rng.randrange(start, count) + 1
            into = bytearray((end - start) * PAGE_BYTES)
            checkpoint.read(PageRange(start, end), memoryview(into))
            assert into == content[start * PAGE_BYTES : end * PAGE_BYTES]


@FEWER
@given(memory=memories(), choice=choices())
def test_the_file_is_the_same_for_any_number_of_workers(memory: Memory, choice: Choice) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = memory.write(folder)
        files = set()
        for jobs in (1, 2, 3):
            save(image, f"{folder}/made", choice, jobs=jobs)
            files.add(read_file(f"{folder}/made"))
        assert len(files) == 1


@FEWER
@given(
    memory=memories(),
    choice=choices(),
    layout=st.sampled_from(["physical", "random"]),
    codec=st.sampled_from([None, *CODECS]),
)
def test_a_conversion_holds_the_same_memory(
    memory: Memory, choice: Choice, layout: str, codec: str | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image, made, new = memory.write(folder), f"{folder}/made", f"{folder}/new"
        save(image, made, choice)
        report = api.convert(made, new, layout=layout, codec=codec, jobs=choice.jobs)
        assert api.verify(new, jobs=1).problems == ()
        assert report.digest == api.digest(made) == api.digest(new)
        comes_back(memory, new, folder, choice.jobs)
        ranges_agree(memory.content, new, random.Random(1))


@pytest.mark.parametrize("count", range(1, 24))
@pytest.mark.parametrize("layout", ["physical", "random"])
def test_a_conversion_stands_a_last_block_that_is_short_wherever_it_comes(
    count: int, layout: str, tmp_path: Path
) -> None:
    content = b"".join(page_of("text", seed) for seed in range(count))
    image, made, new = (str(tmp_path / name) for name in ("image", "made", "new"))
    Path(image).write_bytes(content)
    api.save(image, made, memory_block_bytes=2 * PAGE_BYTES, jobs=1)
    api.convert(made, new, layout=layout, memory_block_bytes=4 * PAGE_BYTES, jobs=1)
    assert api.verify(new, jobs=1).problems == ()
    api.restore(new, f"{image}.back", jobs=1)
    assert Path(f"{image}.back").read_bytes() == content


@pytest.mark.parametrize(("start", "end"), [(0, 4), (3, 4), (2, 1), (-1, 1)])
def test_pages_that_are_not_there_cannot_be_read(start: int, end: int, tmp_path: Path) -> None:
    image, made = tmp_path / "image", str(tmp_path / "made")
    image.write_bytes(bytes(PAGE_BYTES) + page_of("text", 1) * 2)
    api.save(str(image), made, memory_block_bytes=8192, jobs=1)
    with api.open_checkpoint(made) as checkpoint, pytest.raises(ValueError, match="cannot read pages"):
        checkpoint.read(PageRange(start, end), memoryview(bytearray(max(end - start, 0) * PAGE_BYTES)))


@FEWER
@given(memory=memories(), choice=choices())
def test_a_rebuilt_index_leads_to_the_same_memory(memory: Memory, choice: Choice) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image, made, new = memory.write(folder), f"{folder}/made", f"{folder}/new"
        save(image, made, choice)
        os.truncate(made, os.path.getsize(made) - 1)
        api.rebuild_index(made, new)
        assert api.verify(new, jobs=1).problems == ()
        comes_back(memory, new, folder, 1)


@pytest.mark.parametrize("bits", [0, 1, 4], ids=["all equal", "two values", "sixteen values"])
@FEWER
@given(memory=memories(), choice=choices())
def test_hashes_that_collide_never_make_pages_equal_that_differ(
    bits: int, memory: Memory, choice: Choice
) -> None:
    def weak(page: object) -> int:
        return page_hash(page) & ((1 << bits) - 1)  # type: ignore[arg-type]  # any buffer

    with (
        tempfile.TemporaryDirectory() as folder,
        patch("vmckpt.hashing.page_hash", weak),
        patch("vmckpt.saving.classify.page_hash", weak),
    ):
        image, made = memory.write(folder), f"{folder}/made"
        save(image, made, choice)
        assert api.verify(made, jobs=1).problems == ()
        comes_back(memory, made, folder, choice.jobs)
        ranges_agree(memory.content, made, random.Random(1))
