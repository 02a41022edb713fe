"""The columns of page hashes, from every kind of source."""

from pathlib import Path

import numpy as np
import pytest

from vmckpt import api
from vmckpt.hashing import page_hash
from vmckpt.machine.image import create_image
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.hashes import PageHashes, hashes_of

JOBS = 2


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hashes") / "guest.raw"
    create_image(str(path), 8 << 20, seed=3)
    return path


def columns(path: Path) -> PageHashes:
    with api.open_source(str(path)) as source:
        return hashes_of(source, jobs=JOBS)


def test_an_image_gives_the_hash_of_each_page_that_is_not_zero(image: Path) -> None:
    memory = image.read_bytes()
    pages = [memory[at : at + PAGE_BYTES] for at in range(0, len(memory), PAGE_BYTES)]
    expected = [(number, page_hash(page)) for number, page in enumerate(pages) if any(page)]
    found = columns(image)
    assert list(zip(found.pages.tolist(), found.hashes.tolist(), strict=True)) == expected
    assert found.zero_pages == len(pages) - len(expected) > 0
    assert found.active is None


@pytest.mark.parametrize("codec", ["lz4", "raw"])
def test_a_checkpoint_brings_the_same_without_a_page_being_read(
    image: Path, tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "guest.vmckpt"
    api.save(str(image), str(saved), codec=codec)
    monkeypatch.setattr("vmckpt.checkpoint.reader.Checkpoint.expand", None)
    found, expected = columns(saved), columns(image)
    assert np.array_equal(found.pages, expected.pages)
    assert np.array_equal(found.hashes, expected.hashes)
    assert found.layout == expected.layout


def test_a_live_checkpoint_tells_what_was_active(image: Path, tmp_path: Path) -> None:
    saved = tmp_path / "live.vmckpt"
    report = api.save(str(image), str(saved), workload="zipf", warmup_ops=1000)
    found = columns(saved)
    assert found.active is not None
    assert len(found.active) == report.active_pages


def test_progress_ends_at_the_last_page_that_is_not_in_a_hole(image: Path) -> None:
    told: list[tuple[int, int]] = []
    with api.open_source(str(image)) as source:
        hashes_of(source, jobs=JOBS, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] <= told[-1][1] == image.stat().st_size
    assert sorted(told) == told
