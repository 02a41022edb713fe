"""What a sample keeps, and the pseudo-random function under a sketch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.errors import UsageError
from vmckpt.sharing.selection import Keyed, Seeded, check_fraction, keep_below, siphash, threshold_of

WORD = (1 << 64) - 1
WORDS = st.lists(st.integers(0, WORD), max_size=50)


def reference(word: int, key: bytes) -> int:
    """SipHash-2-4 of eight bytes, as the paper writes it down."""

    def turned(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & WORD

    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573

    def rounds(count: int) -> None:
        nonlocal v0, v1, v2, v3
        for _ in range(count):
            v0 = (v0 + v1) & WORD
            v1 = turned(v1, 13) ^ v0
            v0 = turned(v0, 32)
            v2 = (v2 + v3) & WORD
            v3 = turned(v3, 16) ^ v2
            v0 = (v0 + v3) & WORD
            v3 = turned(v3, 21) ^ v0
            v2 = (v2 + v1) & WORD
            v1 = turned(v1, 17) ^ v2
            v2 = turned(v2, 32)

    for block in (word, 8 << 56):
        v3 ^= block
        rounds(2)
        v0 ^= block
    v2 ^= 0xFF
    rounds(4)
    return v0 ^ v1 ^ v2 ^ v3


def test_siphash_gives_the_paper_s_vector() -> None:
    word = int.from_bytes(bytes(range(8)), "little")
    assert reference(word, bytes(range(16))) == 0x93F5F5799A932462
    assert siphash(np.array([word], np.uint64), bytes(range(16))).tolist() == [0x93F5F5799A932462]


@given(WORDS, st.binary(min_size=16, max_size=16))
def test_siphash_is_the_reference(words: list[int], key: bytes) -> None:
    assert siphash(np.array(words, np.uint64), key).tolist() == [reference(word, key) for word in words]


def test_more_words_than_a_chunk_are_each_hashed() -> None:
    words = np.arange(40_000, dtype=np.uint64)
    found = siphash(words, bytes(16))
    assert found[[0, 16_383, 16_384, 39_999]].tolist() == [
        reference(word, bytes(16)) for word in (0, 16_383, 16_384, 39_999)
    ]


@given(WORDS, st.integers(0, WORD))
def test_mixing_keeps_different_hashes_apart_and_leaves_them_alone(words: list[int], seed: int) -> None:
    hashes = np.array(words, np.uint64)
    values = Seeded(0.5, seed).values(hashes)
    assert len(set(values.tolist())) == len(set(words))
    assert hashes.tolist() == words


@pytest.mark.parametrize("fraction", [1, 1 / 4, 1 / 64, 0.3])
@pytest.mark.parametrize("kind", ["seed", "key"])
def test_about_the_fraction_is_kept_and_another_seed_keeps_others(fraction: float, kind: str) -> None:
    hashes = np.arange(100_000, dtype=np.uint64)  # hashes as unlike random ones as can be
    kept = []
    for number in (1, 2):
        selection = Seeded(fraction, number) if kind == "seed" else Keyed(fraction, bytes([number] * 16))
        kept.append(keep_below(selection.values(hashes), threshold_of(fraction)))
        assert abs(kept[-1].mean() - fraction) <= 5 * (fraction * (1 - fraction) / 1e5) ** 0.5
    both = float((kept[0] & kept[1]).mean())
    assert abs(both - fraction**2) <= 5 * (fraction**2 * (1 - fraction**2) / 1e5) ** 0.5


def test_a_smaller_fraction_keeps_a_part_of_a_greater_one() -> None:
    values = Seeded(1.0, 7).values(np.arange(10_000, dtype=np.uint64))
    small, great = (keep_below(values, threshold_of(fraction)) for fraction in (0.01, 0.3))
    assert (small <= great).all()
    assert small.sum() < great.sum()


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, float("nan"), float("inf"), 1e-12])
def test_what_is_no_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match="is no fraction"):
        check_fraction(fraction)
