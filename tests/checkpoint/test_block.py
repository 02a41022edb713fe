"""Storage blocks: records there and back, what they say of their pages, and records that cannot be."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.files import CHECKPOINT_ID, header_of
from tests.checkpoint.plans import page
from vmckpt.checkpoint.block import (
    MemoryBlock,
    Reference,
    check_payload,
    pack_head,
    pack_record,
    pattern_hash,
    unpack_head,
    unpack_storage_header,
)
from vmckpt.checkpoint.format import (
    DUPLICATE,
    PATTERN,
    RECORD,
    REFERENCE,
    STORAGE_HEADER,
    STORED,
    ZERO,
    BlockRecord,
    Limits,
)
from vmckpt.errors import CorruptionError
from vmckpt.hashing import page_hash
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.pages import ZERO_PAGE, PageRange

HEADER = header_of(Layout.flat(4 * 8 * PAGE_BYTES - PAGE_BYTES), memory_block_bytes=8 * PAGE_BYTES)
WORDS = [b"\xff" * 8, b"01234567", bytes(7) + b"\1"]


def packed_hash(content: bytes) -> bytes:
    return page_hash(content).to_bytes(8, "little")


def content_of(kind: int, index: int) -> bytes:
    """What a page of that kind holds in these tests."""
    return {ZERO: ZERO_PAGE, PATTERN: WORDS[index % 3] * 512}.get(kind, page(index + 1))


def block_of(kinds: bytes, *, number: int = 0, generation: int = 0, at: int = 0) -> tuple[MemoryBlock, bytes]:
    """A memory block of those kinds, raw, and its payload, which starts at `at`."""
    pages = [content_of(kind, index) for index, kind in enumerate(kinds)]
    chosen = {kind: [i for i, own in enumerate(kinds) if own == kind] for kind in range(4)}
    payload = b"".join(pages[i] for i in chosen[STORED])
    block = MemoryBlock(
        number,
        generation,
        0,
        kinds,
        b"".join(packed_hash(pages[i]) for kind in (STORED, DUPLICATE) for i in chosen[kind]),
        b"".join(WORDS[i % 3] for i in chosen[PATTERN]),
        b"".join(REFERENCE.pack(i, 2, 3) for i in chosen[DUPLICATE]),
        at,
        len(payload),
    )
    return block, payload


def record_of(block: MemoryBlock) -> bytes:
    return pack_record(block, block.payload_offset, block.stored_bytes)


def head_of(records: list[bytes], payload: bytes = b"") -> bytes:
    return pack_head(5, CHECKPOINT_ID, records, payload, stream=2, flags=1)


KINDS = st.lists(st.sampled_from([ZERO, STORED, PATTERN, DUPLICATE]), min_size=8, max_size=8).map(bytes)
MIXED = bytes([STORED, ZERO, PATTERN, DUPLICATE, STORED, STORED, DUPLICATE, PATTERN])


@settings(max_examples=60)
@given(all_kinds=st.lists(KINDS, max_size=2))  # more would not fit the storage block of this header
def test_a_directory_comes_back(all_kinds: list[bytes]) -> None:
    blocks, payload = [], b""
    for number, kinds in enumerate(all_kinds):
        block, own = block_of(kinds, number=number, generation=number, at=len(payload))
        blocks.append(block)
        payload += own
    head = head_of([record_of(block) for block in blocks], payload)
    storage = unpack_head(head, HEADER)
    assert storage.memory_blocks == tuple(blocks)
    assert (storage.header.number, storage.header.stream, storage.header.flags) == (5, 2, 1)
    assert (storage.head_bytes, storage.size_bytes) == (len(head), len(head) + len(payload))
    check_payload(storage.header, memoryview(payload))


@settings(max_examples=60)
@given(kinds=KINDS)
def test_a_block_knows_its_pages(kinds: bytes) -> None:
    block, payload = block_of(kinds, number=2)
    pages = [content_of(kind, index) for index, kind in enumerate(kinds)]
    assert block.page_hashes() == b"".join(map(packed_hash, pages))
    assert bytes(block.stored_pages(memoryview(payload))) == payload
    assert block.pages(8) == PageRange(16, 24)
    assert [kind for kind, start, end in block.runs() for _ in range(start, end)] == list(kinds)
    duplicates = [i for i, kind in enumerate(kinds) if kind == DUPLICATE]
    assert [block.reference(i) for i in range(len(duplicates))] == [Reference(i, 2, 3) for i in duplicates]


@pytest.mark.parametrize("word", [b"\xcc" * 8, bytes(8), b"01234567", bytes(7) + b"\1"], ids=bytes.hex)
def test_a_pattern_page_has_the_hash_of_its_content(word: bytes) -> None:
    assert pattern_hash(word) == packed_hash(word * 512)


def test_every_bit_flipped_in_a_head_is_found() -> None:
    block, payload = block_of(MIXED)
    head = head_of([record_of(block)], payload)
    for bit in range(8 * len(head)):
        flipped = bytearray(head)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            check_payload(unpack_head(bytes(flipped), HEADER).header, memoryview(payload))


def test_every_truncation_of_a_head_is_found() -> None:
    block, payload = block_of(MIXED)
    head = head_of([record_of(block)], payload)
    for length in range(len(head)):
        with pytest.raises(CorruptionError):
            unpack_head(head[:length], HEADER)


def test_a_flipped_or_shortened_payload_is_found() -> None:
    block, payload = block_of(MIXED)
    storage = unpack_head(head_of([record_of(block)], payload), HEADER)
    flipped = bytearray(payload)
    flipped[5000] ^= 4
    with pytest.raises(CorruptionError, match="checksum"):
        check_payload(storage.header, memoryview(flipped))
    with pytest.raises(CorruptionError, match="cut short"):
        check_payload(storage.header, memoryview(payload)[:-1])
    with pytest.raises(CorruptionError, match="differ from their hashes"):
        block.stored_pages(memoryview(flipped))


def test_a_storage_block_of_another_checkpoint_is_refused() -> None:
    head = pack_head(5, bytes(16), [], b"", stream=0, flags=0)
    with pytest.raises(CorruptionError, match="no storage block of this checkpoint"):
        unpack_storage_header(head, HEADER)


@pytest.mark.parametrize(
    ("directory_bytes", "payload_bytes"),
    [(Limits.DIRECTORY_BYTES + 1, 0), (0, HEADER.storage_block_bytes + 1), (0xFFFF_FFFF, 0xFFFF_FFFF)],
    ids=["directory", "payload", "both"],
)
def test_sizes_past_the_limits_are_refused_before_anything_is_read(
    directory_bytes: int, payload_bytes: int
) -> None:
    head = STORAGE_HEADER.pack(b"VMSB", 0, CHECKPOINT_ID[:8], directory_bytes, payload_bytes, 0, 0, 0, 0, 0)
    with pytest.raises(CorruptionError, match="at most"):
        unpack_storage_header(head, HEADER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory_block": 4}, "outside memory"),
        ({"memory_block": 3}, "does not add up"),
        ({"memory_block": 1 << 63}, "outside memory"),
        ({"pages": 7}, "does not add up"),
        ({"pages": 0xFFFF}, "does not add up"),
        ({"stored": 4}, "does not add up"),
        ({"pattern": 3}, "does not add up"),
        ({"duplicate": 1}, "does not add up"),
        ({"payload_offset": 1}, "past the end"),
        ({"payload_offset": 0xFFFF_FFFF}, "past the end"),
        ({"stored_bytes": 3 * PAGE_BYTES + 1}, "past the end"),
        ({"stored_bytes": 0}, "stores 3 pages in 0 bytes"),
        ({"reserved": 1}, "leaves zero"),
        ({"reserved_2": 1}, "leaves zero"),
    ],
    ids=str,
)
def test_a_record_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    block, payload = block_of(MIXED)
    record = record_of(block)
    fixed = BlockRecord._make(RECORD.unpack_from(record))._replace(**changes)
    head = head_of([RECORD.pack(*fixed) + record[RECORD.size :]], payload)
    with pytest.raises(CorruptionError, match=message):
        unpack_head(head, HEADER)


def test_more_bytes_than_the_pages_have_are_refused() -> None:
    block, payload = block_of(MIXED)
    head = head_of([record_of(block._replace(stored_bytes=len(payload) + 1))], payload + b"x")
    with pytest.raises(CorruptionError, match="stores 3 pages in 12289 bytes"):
        unpack_head(head, HEADER)


@pytest.mark.parametrize("kind", [4, 5, 255])
def test_a_page_of_an_unknown_kind_is_refused(kind: int) -> None:
    block, _ = block_of(bytes(8))
    with pytest.raises(CorruptionError, match="kind this vmckpt does not know"):
        unpack_head(head_of([record_of(block._replace(kinds=bytes([kind] + [0] * 7)))]), HEADER)


@pytest.mark.parametrize("extra", [b"x", bytes(31), bytes(32)], ids=len)
def test_a_directory_longer_than_its_records_is_refused(extra: bytes) -> None:
    block, payload = block_of(MIXED)
    with pytest.raises(CorruptionError):
        unpack_head(head_of([record_of(block) + extra], payload), HEADER)


def test_a_directory_shorter_than_its_count_is_refused() -> None:
    block, _ = block_of(bytes(8))
    with pytest.raises(CorruptionError, match="ends within a record"):
        unpack_head(head_of([record_of(block), b""]), HEADER)


def test_the_last_memory_block_is_as_short_as_memory_leaves_it() -> None:
    block, _ = block_of(bytes(7), number=3)
    assert len(unpack_head(head_of([record_of(block)]), HEADER).memory_blocks[0].kinds) == 7
