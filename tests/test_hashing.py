"""Page hashes and the digest of a memory, against xxhash used plainly."""

import struct

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory import page_bytes, pages_of
from vmckpt.hashing import PATTERN_HASHES, ZERO_PAGE_HASH, Digest, checksum, page_hash, page_hashes
from vmckpt.pages import PAGE_BYTES


def plain_digest(content: bytes) -> bytes:
    """The definition, word by word."""
    pages = [content[start : start + PAGE_BYTES] for start in range(0, len(content), PAGE_BYTES)]
    hashes = b"".join(xxhash.xxh3_64(page, seed=0).intdigest().to_bytes(8, "little") for page in pages)
    return xxhash.xxh3_128(hashes, seed=0).digest()


def packed(hashes: list[int]) -> bytes:
    return struct.pack(f"<{len(hashes)}Q", *hashes)


def test_known_hashes_stay_what_they_are() -> None:
    # The well-known values of the empty input, seed 0.
    assert checksum(b"") == 0x2D06800538D394C2
    assert Digest().bytes().hex() == "99aa06d3014798d86001c324468d497f"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview], ids=lambda kind: kind.__name__)
def test_any_buffer_hashes_the_same(kind: type) -> None:
    assert page_hash(kind(page_bytes(5))) == xxhash.xxh3_64(page_bytes(5)).intdigest()


def test_page_hashes_go_page_by_page() -> None:
    content = pages_of([1, 0, 3])
    assert list(page_hashes(memoryview(content))) == [page_hash(page_bytes(number)) for number in (1, 0, 3)]
    assert list(page_hashes(memoryview(b""))) == []


def test_patterns_are_found_by_their_hash() -> None:
    assert len(PATTERN_HASHES) == 256
    assert PATTERN_HASHES[ZERO_PAGE_HASH] == 0
    assert PATTERN_HASHES[page_hash(b"\xaa" * PAGE_BYTES)] == 0xAA


@settings(max_examples=30)
@given(numbers=st.lists(st.sampled_from([0, 0, 1, 2]), max_size=20), cut=st.integers(0, 20))
def test_the_digest_is_that_of_the_definition_however_it_is_fed(numbers: list[int], cut: int) -> None:
    hashes = list(page_hashes(memoryview(pages_of(numbers))))
    digest = Digest()
    digest.add(packed(hashes[:cut]))
    digest.add(packed(hashes[cut:]))
    assert digest.pages == len(numbers)
    assert digest.bytes() == plain_digest(pages_of(numbers))


@pytest.mark.parametrize("pages", [0, 1, 511, 512, 513, 65535, 65536, 65537, 200_000])
def test_zero_pages_may_be_fed_by_number(pages: int) -> None:
    fed, counted = Digest(), Digest()
    for digest in (fed, counted):
        digest.add(packed([7]))
    fed.add(packed([ZERO_PAGE_HASH]) * pages)
    counted.add_zeros(pages)
    assert (counted.bytes(), counted.pages) == (fed.bytes(), pages + 1)
