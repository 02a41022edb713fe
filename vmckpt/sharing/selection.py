"""Which pages a sample keeps: chosen by what they hold, so that all copies of a content are kept, or none.

    page hash ─▶ 64 bits that stand for it ─▶ kept if below fraction x 2^64

Two ways to those 64 bits. `Seeded` mixes: fast, and each seed gives another sample. `Keyed` is SipHash-2-4 (Aumasson and
Bernstein, 2012), a pseudo-random function of eight bytes under a secret key of 16: whoever sees its values and not the key
can neither tell a hash from them nor ask for one. A sketch holds such values and nothing else, and as they themselves say
what is kept, sketches of different fractions still merge. Pure, on numpy arrays, a chunk that fits the cache at a time.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vmckpt.errors import UsageError
from vmckpt.sharing.hashes import Hashes

__all__ = [
    "Keyed",
    "Seeded",
    "Selection",
    "check_fraction",
    "keep_below",
    "selection_key",
    "siphash",
    "threshold_of",
]

LEAST_FRACTION = 2.0**-32

_CHUNK = 1 << 14
_WORD = (1 << 64) - 1


class Selection(Protocol):
    """A rule for what a sample keeps."""

    @property
    def fraction(self) -> float:
        """Of all contents that is kept: more than 0, at most 1."""

    def values(self, hashes: Hashes) -> Hashes:
        """What stands for each page hash."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """Chosen by a seed. The values are the hashes themselves, mixed and told apart no less."""

    fraction: float
    seed: int = 0

    def values(self, hashes: Hashes) -> Hashes:
        """Mix: a bijection, so that different hashes stay different."""
        mixed = hashes ^ np.uint64(_finish((self.seed + 1) * 0x9E3779B97F4A7C15 & _WORD))
        for start in range(0, len(mixed), _CHUNK):
            _mix(mixed[start : start + _CHUNK])
        return mixed


@dataclass(frozen=True, slots=True)
class Keyed:
    """Chosen by a key of 16 bytes."""

    fraction: float
    key: bytes

    def values(self, hashes: Hashes) -> Hashes:
        """SipHash-2-4 of each hash."""
        return siphash(hashes, self.key)


def check_fraction(fraction: float) -> float:
    """Refuse what is no fraction.

    Raises:
        UsageError: less than 2^-32, or more than 1.
    """
    if not LEAST_FRACTION <= fraction <= 1:
        raise UsageError(f"{fraction} is no fraction to sample: expected 2^-32 to 1, such as 1/64")
    return fraction


def threshold_of(fraction: float) -> int:
    """Values below it are kept; 2^64 keeps all."""
    return int(fraction * 2.0**64)


def keep_below(values: Hashes, threshold: int) -> npt.NDArray[np.bool_]:
    """Which values are kept."""
    return values < np.uint64(threshold) if threshold <= _WORD else np.ones(len(values), np.bool_)


def selection_key(secret: bytes) -> bytes:
    """The 16 bytes that SipHash wants, of a key of any length."""
    return hashlib.blake2b(secret, digest_size=16, person=b"vmckpt sketch").digest()


def siphash(words: Hashes, key: bytes) -> Hashes:
    """SipHash-2-4 of each 64-bit word as eight little-endian bytes.

    Args:
        words: [n].
        key: 16 bytes.
    """
    out = np.empty(len(words), np.uint64)
    for start in range(0, len(words), _CHUNK):
        out[start : start + _CHUNK] = _siphash(words[start : start + _CHUNK], key)
    return out


def _siphash(words: Hashes, key: bytes) -> Hashes:
    keys = [int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")]
    initial = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    state = [np.full(len(words), word ^ keys[at % 2], np.uint64) for at, word in enumerate(initial)]
    spare = np.empty(len(words), np.uint64)
    for block in (words, np.uint64(8 << 56)):  # the second holds nothing but the length
        state[3] ^= block
        _rounds(state, spare, 2)
        state[0] ^= block
    state[2] ^= np.uint64(0xFF)
    _rounds(state, spare, 4)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _rounds(state: list[Hashes], spare: Hashes, count: int) -> None:
    a, b, c, d = state
    for _ in range(count):
        _half_round(a, b, 13, spare)
        _rotate(a, 32, spare)
        _half_round(c, d, 16, spare)
        _half_round(a, d, 21, spare)
        _half_round(c, b, 17, spare)
        _rotate(c, 32, spare)


def _half_round(left: Hashes, right: Hashes, bits: int, spare: Hashes) -> None:
    np.add(left, right, out=left)
    _rotate(right, bits, spare)
    np.bitwise_xor(right, left, out=right)


def _rotate(words: Hashes, bits: int, spare: Hashes) -> None:
    np.right_shift(words, np.uint64(64 - bits), out=spare)
    np.left_shift(words, np.uint64(bits), out=words)
    np.bitwise_or(words, spare, out=words)


def _mix(words: Hashes) -> None:
    # The finish of MurmurHash3, in place.
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        np.bitwise_xor(words, words >> np.uint64(33), out=words)
        np.multiply(words, np.uint64(multiplier), out=words)
    np.bitwise_xor(words, words >> np.uint64(33), out=words)


def _finish(word: int) -> int:
    # One 64-bit word mixed, so that neighbouring seeds have nothing in common.
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        word = (word ^ (word >> 30)) * multiplier & _WORD
    return word ^ (word >> 31)
