"""The staging buffer: blocks side by side, never straddling, sealed as one storage block."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoint.files import CHECKPOINT_ID, header_of
from vmckpt.checkpoint.block import MemoryBlock, check_payload, unpack_head
from vmckpt.checkpoint.format import LAST, STORED
from vmckpt.checkpoint.staging import MAX_BLOCKS, StagingBuffer
from vmckpt.layout import Layout

HEADER = header_of(Layout.flat(1 << 30), memory_block_bytes=4096, storage_block_bytes=8192)


def block_of(number: int, size: int) -> MemoryBlock:
    kinds = bytes([STORED if size else 0])
    return MemoryBlock(number, 0, 0, kinds, bytes(8) if size else b"", b"", b"", 0, 0)


@given(sizes=st.lists(st.integers(0, 4096), max_size=30))
def test_what_was_appended_is_what_the_storage_block_holds(sizes: list[int]) -> None:
    staging = StagingBuffer(7, 3, 8192)
    payloads: list[bytes] = []
    for number, size in enumerate(sizes):
        assert staging.fits(size) == (sum(map(len, payloads)) + size <= 8192)
        if staging.fits(size):
            payloads.append(bytes([number + 1]) * size)
            assert staging.append(block_of(number, size), payloads[-1]) == len(payloads) - 1
    head, payload = staging.seal(CHECKPOINT_ID, LAST)
    storage = unpack_head(head, HEADER)
    check_payload(storage.header, payload)
    assert bytes(payload) == b"".join(payloads)
    assert (storage.header.number, storage.header.stream, storage.header.flags) == (7, 3, LAST)
    assert len(storage.memory_blocks) == staging.memory_blocks == len(payloads)
    for block, expected in zip(storage.memory_blocks, payloads, strict=True):
        assert bytes(payload[block.payload_offset :][: block.stored_bytes]) == expected


def test_a_buffer_takes_exactly_its_capacity() -> None:
    staging = StagingBuffer(0, 0, 8192)
    staging.append(block_of(0, 4096), bytes(4096))
    assert staging.fits(4096)
    assert not staging.fits(4097)
    staging.append(block_of(1, 4096), bytes(4096))
    assert staging.fits(0)
    assert not staging.fits(1)


def test_the_directory_stays_small_when_blocks_store_nothing() -> None:
    staging = StagingBuffer(0, 0, 8192)
    while staging.fits(0):
        staging.append(block_of(staging.memory_blocks, 0), b"")
    assert staging.memory_blocks == MAX_BLOCKS


def test_a_buffer_starts_over_empty() -> None:
    staging = StagingBuffer(0, 5, 8192)
    staging.append(block_of(0, 100), b"x" * 100)
    staging.reopen(9)
    assert (staging.number, staging.stream, staging.memory_blocks) == (9, 5, 0)
    head, payload = staging.seal(CHECKPOINT_ID, 0)
    storage = unpack_head(head, HEADER)
    assert (len(payload), storage.memory_blocks, storage.header.number) == (0, (), 9)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview], ids=lambda kind: kind.__name__)
def test_payloads_are_copied(kind: type) -> None:
    source = bytearray(b"abcd")
    staging = StagingBuffer(0, 0, 8192)
    staging.append(block_of(0, 4), kind(source))
    source[:] = b"wxyz"
    assert bytes(staging.seal(CHECKPOINT_ID, 0)[1]) == b"abcd"
