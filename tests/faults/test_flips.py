"""Every single bit of a small checkpoint, flipped: each reader finds each one."""

import os
import random
from collections.abc import Iterator

import pytest

from tests.faults.flips import READERS, count_flips, found_by, memory_file
from tests.faults.inline import inline_crews
from tests.faults.samples import Sample, make_sample, quick_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with quick_folder(str(tmp_path_factory.mktemp("flips"))) as folder:
        yield folder


@pytest.fixture(scope="module")
def sample(folder: str) -> Sample:
    return make_sample(folder, seed=3, pages=28, random_bytes=64, storage_blocks=3)


def test_the_sample_has_every_kind_of_page_in_several_storage_blocks(sample: Sample, folder: str) -> None:
    from vmckpt.checkpoint.reader import Checkpoint

    with memory_file(sample.data) as (_, path), Checkpoint.open(path) as checkpoint:
        assert all(checkpoint.counts)
        assert checkpoint.summary.storage_blocks > 1


def test_an_unharmed_file_is_accepted_by_every_reader(sample: Sample, folder: str) -> None:
    with memory_file(sample.data) as (_, path), inline_crews():
        assert [found_by(reader, path, folder) for reader in READERS.values()] == [None] * 3


def test_every_single_bit_flip_is_found(sample: Sample, folder: str) -> None:
    flips, unfound = count_flips(sample, folder, jobs=min(len(os.sched_getaffinity(0)), 4))
    assert unfound == []
    assert flips == len(sample.data) * 8


@pytest.mark.parametrize("name", READERS)
def test_real_workers_refuse_a_flip_as_the_inline_double_does(sample: Sample, folder: str, name: str) -> None:
    rng = random.Random(5)
    with memory_file(sample.data) as (fd, path):
        for offset in sorted(rng.sample(range(len(sample.data)), 40)):
            os.pwrite(fd, bytes([sample.data[offset] ^ 1 << rng.randrange(8)]), offset)
            real = found_by(READERS[name], path, folder)
            with inline_crews():
                assert found_by(READERS[name], path, folder) == real
            os.pwrite(fd, sample.data[offset : offset + 1], offset)
