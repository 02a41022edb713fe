"""What a page is taken for."""

import random

import pytest

from vmckpt.checkpoint.format import PATTERN, STORED, ZERO
from vmckpt.hashing import ZERO_PAGE_HASH, page_hash
from vmckpt.pages import PAGE_BYTES
from vmckpt.saving import classify as module
from vmckpt.saving.classify import classify


def kinds_of(*pages: bytes) -> bytes:
    return classify([memoryview(page) for page in pages])[0]


@pytest.mark.parametrize("byte", range(256))
def test_a_page_of_one_repeated_byte_is_a_pattern_and_zero_is_zero(byte: int) -> None:
    assert kinds_of(bytes([byte]) * PAGE_BYTES) == bytes([PATTERN if byte else ZERO])


@pytest.mark.parametrize("at", [0, 1, 2047, 4095], ids="byte {}".format)
@pytest.mark.parametrize("byte", [0, 0xCC], ids=["zero", "pattern"])
def test_one_other_byte_makes_a_page_to_store(byte: int, at: int) -> None:
    page = bytearray([byte]) * PAGE_BYTES
    page[at] ^= 1
    assert kinds_of(bytes(page)) == bytes([STORED])


def test_hashes_are_those_of_the_pages_in_order() -> None:
    pages = [random.Random(seed).randbytes(PAGE_BYTES) for seed in range(3)] + [bytes(PAGE_BYTES)]
    kinds, hashes = classify([memoryview(page) for page in pages])
    assert kinds == bytes([STORED, STORED, STORED, ZERO])
    assert hashes == [page_hash(page) for page in pages]
    assert hashes[-1] == ZERO_PAGE_HASH


def test_a_page_with_the_hash_of_a_pattern_is_stored_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "page_hash", lambda _: ZERO_PAGE_HASH)
    page = random.Random(1).randbytes(PAGE_BYTES)
    assert kinds_of(page, bytes(PAGE_BYTES)) == bytes([STORED, ZERO])
