"""A directory read record by record gives what one read as a whole gives."""

from pathlib import Path

import pytest

from tests.restoring.samples import checkpoint, mixed_memory
from vmckpt.checkpoint.block import unpack_head
from vmckpt.checkpoint.directory import skim_head
from vmckpt.checkpoint.file import CheckpointFile
from vmckpt.errors import CorruptionError
from vmckpt.hashing import checksum_of


def heads(folder: Path) -> list[tuple[CheckpointFile, bytes]]:
    path = checkpoint(folder / "guest.vmckpt", mixed_memory(200))
    file = CheckpointFile.open(path)
    return [
        (file, file._read_at(entry.offset, entry.size_bytes))
        for entry in map(file.storage_entry, range(file.summary.storage_blocks))
    ]


def test_records_are_the_same_one_by_one(tmp_path: Path) -> None:
    for file, data in heads(tmp_path):
        whole, skimmed = unpack_head(data, file.header), skim_head(data, file.header)
        assert skimmed.header == whole.header
        assert tuple(skimmed.memory_blocks) == tuple(whole.memory_blocks)
        assert tuple(skimmed.memory_blocks[1:]) == tuple(whole.memory_blocks[1:])
        with pytest.raises(IndexError):
            skimmed.memory_blocks[len(whole.memory_blocks)]


@pytest.mark.parametrize(("at", "value"), [(48 + 22, 9), (48 + 24, 9), (48 + 7, 255)])
def test_a_record_that_does_not_add_up_is_damage_at_the_latest_when_it_is_taken(
    tmp_path: Path, at: int, value: int
) -> None:
    file, data = heads(tmp_path)[0]
    size = 48 + int.from_bytes(data[16:20], "little")
    broken = bytearray(data)
    broken[at] = value
    broken[40:48] = checksum_of(bytes(broken[:40]), bytes(broken[48:size])).to_bytes(8, "little")
    with pytest.raises(CorruptionError):
        unpack_head(broken, file.header)
    with pytest.raises(CorruptionError):
        skim_head(broken, file.header).memory_blocks[0]


def test_a_flipped_bit_is_found_before_any_record_is_looked_at(tmp_path: Path) -> None:
    file, data = heads(tmp_path)[0]
    broken = bytearray(data)
    broken[60] ^= 1
    with pytest.raises(CorruptionError, match="checksum"):
        skim_head(broken, file.header)
