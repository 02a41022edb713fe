"""A checkpoint cut at every length, and with something behind its end: refused, with exit code 3 or 4."""

from collections.abc import Iterator

import pytest

from tests.faults.flips import READERS, found_by, memory_file
from tests.faults.inline import inline_crews
from tests.faults.samples import Sample, make_sample, quick_folder
from vmckpt import api
from vmckpt.errors import CorruptionError, FormatError, SourceError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with quick_folder(str(tmp_path_factory.mktemp("truncate"))) as folder:
        yield folder


@pytest.fixture(scope="module")
def sample(folder: str) -> Sample:
    return make_sample(folder, seed=3, pages=28, random_bytes=64, storage_blocks=3)


@pytest.mark.parametrize("name", READERS)
def test_every_truncation_is_refused(name: str, sample: Sample, folder: str) -> None:
    for length in range(len(sample.data)):
        with memory_file(sample.data[:length]) as (_, path), inline_crews():
            assert found_by(READERS[name], path, folder) is not None, f"cut at {length}"


def test_info_refuses_every_truncation(sample: Sample) -> None:
    for length in range(len(sample.data)):
        with memory_file(sample.data[:length]) as (_, path), pytest.raises((FormatError, CorruptionError)):
            api.info(path)


def test_no_truncation_is_taken_for_a_source(sample: Sample) -> None:
    for length in range(len(sample.data)):
        with memory_file(sample.data[:length]) as (_, path), pytest.raises((SourceError, CorruptionError)):
            api.open_source(path).close()


def test_the_index_can_be_rebuilt_from_every_truncation_behind_the_blocks_and_from_no_other(
    sample: Sample, folder: str
) -> None:
    from vmckpt.checkpoint.reader import Checkpoint

    with memory_file(sample.data) as (_, path), Checkpoint.open(path) as checkpoint:
        entry = checkpoint.storage_entry(checkpoint.summary.storage_blocks - 1)
        digest = checkpoint.digest.hex()
    blocks_end = entry.offset + entry.size_bytes
    new = f"{folder}/rebuilt"
    for length in range(len(sample.data)):
        with memory_file(sample.data[:length]) as (_, path):
            if length < blocks_end:
                with pytest.raises((FormatError, CorruptionError)):
                    api.rebuild_index(path, new, force=True)
            else:
                assert api.rebuild_index(path, new, force=True).digest == digest, f"cut at {length}"


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("count", [1, 7, 80, 4096])
def test_what_stands_behind_the_end_is_refused(name: str, count: int, sample: Sample, folder: str) -> None:
    for garbage in (bytes(count), b"\xa5" * count, sample.data[-count:]):
        with memory_file(sample.data + garbage) as (_, path), inline_crews():
            assert found_by(READERS[name], path, folder) is not None


def test_two_checkpoints_in_one_file_are_refused(sample: Sample, folder: str) -> None:
    with memory_file(sample.data * 2) as (_, path), inline_crews():
        assert all(found_by(reader, path, folder) for reader in READERS.values())
