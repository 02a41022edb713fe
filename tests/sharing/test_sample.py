"""Samples of sources, and large pages as a sample sees them."""

import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from vmckpt import api
from vmckpt.machine.image import create_image
from vmckpt.pages import PAGE_BYTES, Source
from vmckpt.sharing.forecast import forecast_of
from vmckpt.sharing.hashes import PageHashes, hashes_of
from vmckpt.sharing.heavy import Heavy
from vmckpt.sharing.large import large_pages_of, potential_of
from vmckpt.sharing.sample import SampledPages, sample_of, sampled_potential
from vmckpt.sharing.scan import counted_large_pages
from vmckpt.sharing.selection import Seeded, keep_below, threshold_of
from vmckpt.sharing.table import table_of

LARGE = 64 * PAGE_BYTES


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two images, and a checkpoint of a third."""
    directory = tmp_path_factory.mktemp("sample")
    names = [str(directory / f"guest-{number}.raw") for number in range(3)]
    for number, name in enumerate(names):
        create_image(name, 16 << 20, seed=number)
    api.save(names[2], names[2] + ".vmckpt")
    return [*names[:2], names[2] + ".vmckpt"]


def opened(paths: list[str]) -> Iterator[Source]:
    for path in paths:
        with api.open_source(path) as source:
            yield source


@pytest.fixture(scope="module")
def columns(paths: list[str]) -> list[PageHashes]:
    return [hashes_of(source, jobs=2) for source in opened(paths)]


def sampled(paths: list[str], selection: Seeded) -> list[SampledPages]:
    return [sample_of(source, selection, jobs=2, large_page_bytes=LARGE) for source in opened(paths)]


def test_a_sample_is_the_columns_that_the_selection_keeps(
    paths: list[str], columns: list[PageHashes]
) -> None:
    selection = Seeded(0.2, 3)
    for image, sample in zip(columns, sampled(paths, selection), strict=True):
        values = selection.values(image.hashes)
        kept = keep_below(values, threshold_of(0.2))
        assert np.array_equal(sample.pages, image.pages[kept])
        assert np.array_equal(sample.values, values[kept])
        assert sample.scanned.zero_pages == image.zero_pages
        assert sample.tally.data_pages == len(image.pages)
        assert 0.1 < len(sample.pages) / len(image.pages) < 0.3


def test_every_page_that_is_not_zero_is_shown(paths: list[str], columns: list[PageHashes]) -> None:
    heavy = Heavy(1 << 16, 1000)
    selection = Seeded(1 / 64)
    for source in opened(paths):
        sample_of(source, selection, jobs=2, look=heavy.add)
    heavy.fold()
    values = selection.values(np.concatenate([image.hashes for image in columns]))
    found, counts = np.unique(values, return_counts=True)
    assert np.array_equal(heavy.hashes, found)
    assert np.array_equal(heavy.counted, counts)


def test_zero_pages_of_large_pages_are_exact(paths: list[str], columns: list[PageHashes]) -> None:
    samples = sampled(paths, Seeded(1 / 64))
    found = counted_large_pages([sample.scanned for sample in samples], LARGE)
    expected = large_pages_of(columns, LARGE)
    assert np.array_equal(found.zero_pages, expected.zero_pages)
    assert np.array_equal(found.small_pages, expected.small_pages)
    assert np.array_equal(found.numbers, expected.numbers)


def test_a_fraction_of_one_ranks_exactly(paths: list[str], columns: list[PageHashes]) -> None:
    groups = [0, 0, 1]
    _, found = sampled_potential(sampled(paths, Seeded(1.0)), groups, 1.0, LARGE)
    expected = potential_of(table_of(columns).within(groups), large_pages_of(columns, LARGE))
    assert np.array_equal(found.shareable, expected.shareable)
    assert found.gain == pytest.approx(expected.gain)


def test_gains_of_a_sample_are_right_in_the_mean(paths: list[str], columns: list[PageHashes]) -> None:
    groups = [0, 0, 0]
    expected = potential_of(table_of(columns), large_pages_of(columns, LARGE)).gain
    whole = sampled(paths, Seeded(1.0))  # by now the values are mixed: other seeds mix them once more
    gains = []
    for seed in range(200):
        values = [Seeded(0.25, seed).values(sample.values) for sample in whole]
        kept = [keep_below(own, threshold_of(0.25)) for own in values]
        samples = [
            SampledPages(sample.scanned, sample.pages[rows], own[rows])
            for sample, own, rows in zip(whole, values, kept, strict=True)
        ]
        gains.append(sampled_potential(samples, groups, 0.25, LARGE)[1].gain)
    error = np.array(gains).std(axis=0) / 200**0.5
    assert (abs(np.mean(gains, axis=0) - expected) <= 5 * error + 1e-6).all()


def test_a_sample_of_a_great_fleet_takes_little_memory() -> None:
    # 64 GiB; `--images 64` is the whole TiB, half a minute.
    command = [sys.executable, "-m", "tests.sharing.stream", "--images", "4"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert found["pages"] == 1 << 24
    assert found["kept_pages"] == pytest.approx(found["pages"] * 7 / 8 / 64, rel=0.02)
    rest_of_a_tib = 15 * found["kept_pages"] * 36  # number, value, and both once more in the tally
    assert found["peak_bytes"] + rest_of_a_tib < 300 << 20


def test_a_forecast_grows_with_the_work_and_shrinks_with_the_fraction() -> None:
    tib = (1 << 40) // PAGE_BYTES
    exact = forecast_of([tib])
    assert exact.read_bytes == 1 << 40
    assert exact.memory_bytes < 40 * tib + (100 << 20)
    assert forecast_of([tib], fraction=1 / 64).memory_bytes < 400 << 20
    assert forecast_of([tib], jobs=4).duration_s < exact.duration_s
    assert forecast_of([], [tib]).duration_s < exact.duration_s / 2
    spilled = forecast_of([tib], memory_limit_bytes=256 << 20).memory_bytes
    assert (
        tib * 16 + (256 << 20) < spilled < exact.memory_bytes / 2
    )  # the table may have a row for every page
    measured_bytes = 252 << 20  # docs/fleets.md, more memory than fits
    assert measured_bytes < forecast_of([33_600_000], memory_limit_bytes=64 << 20).memory_bytes
    assert forecast_of([tib], bytes_per_s=1 << 40, fraction=1 / 1024).duration_s == pytest.approx(1, rel=0.1)
