"""The bytes of a page, from its content key: pages of many kinds, each as compressible as its like in a real guest.

A page is 512 words of 8 bytes. From its key each word gets 64 random bits; five of them choose one of 32 recipes of the
page's kind for that place (words repeat their places every 64 bytes, as fields of records do), and the recipe keeps some
of the bits and sets the others:

    key ──▶ 64 bits a word ──▶ recipe = RECIPES[kind, place in 64 bytes, 5 bits] ──▶ (bits & mask) ^ base

Mask 0 repeats a word exactly (zero, constant, hot), a small mask makes pointers and small numbers, a wide one makes text
and code, and a full one noise. How many recipes of each sort a kind has was fitted so that its pages compress, each
by itself, as the pages of one cluster of real ones do: see docs/profiles.md. The first word is the key, so two keys
never make one page; the last words follow from the key of a group of pages instead, for neighbours resemble each other.

Everything is integer arithmetic on unsigned 64-bit words, so that the same key makes the same bytes everywhere. Called
by `image`; nothing here knows of page numbers.
"""

import sys
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from vmckpt.pages import PAGE_BYTES

__all__ = [
    "CACHED_PAGES",
    "KINDS",
    "MIXES",
    "PATTERNS",
    "WORDS_PER_PAGE",
    "Kind",
    "Words",
    "mix_int",
    "mix_words",
]

Words = npt.NDArray[np.uint64]

WORDS_PER_PAGE = PAGE_BYTES // 8

CACHED_PAGES = 64
"""Pages made at a time: the arrays of that many stay in the processor's cache."""

_FIELDS = 8
_CHOICES = 32
_RECIPES = _FIELDS * _CHOICES
_MASK_64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of page: how many of its 256 recipes are of which sort; what is left makes literals."""

    name: str
    """What pages of such compressibility mostly are in a real guest."""
    zero: int = 0
    """The word 0."""
    const: int = 0
    """One word for each place in a record."""
    hot: int = 0
    """A word for each recipe: a vocabulary."""
    small: int = 0
    """Numbers below 256."""
    tag: int = 0
    """A constant but for three bits."""
    pointer: int = 0
    """Kernel addresses: 22 bits differ."""
    bits: int = 8
    """Random bits in each byte of a literal."""
    records: bool = False
    """Each place has its own sorts of word (a table of structs); otherwise all places have all sorts."""
    step_bytes: int = 0
    """With 12 or 64: a table of ascending addresses, or of records with pointers to themselves, this far apart."""


KINDS: tuple[Kind, ...] = (
    Kind("sparse", zero=252, small=2, pointer=1, tag=1, bits=4),
    Kind("light records", zero=199, const=23, small=13, tag=19, records=True),
    Kind("page tables", zero=153, const=58, small=23, tag=11, pointer=6, bits=5, records=True),
    Kind("inodes", zero=160, hot=1, tag=72, bits=5, records=True),
    Kind("free page records", step_bytes=64),
    Kind("used records", zero=102, const=21, hot=1, small=33, tag=79, pointer=16, bits=4, records=True),
    Kind("object tables", zero=93, const=107, tag=35, bits=4),
    Kind("address tables", step_bytes=12),
    Kind("bytecode", zero=3, const=75, hot=84, small=87, tag=3, pointer=1, bits=6, records=True),
    Kind("strings", zero=32, const=2, hot=12, small=5, tag=143, pointer=1, bits=4),
    Kind("relocations", zero=68, const=11, tag=20, pointer=82, bits=4, records=True),
    Kind("code, dense in calls", const=36, hot=66, small=27, tag=15, pointer=10, bits=6, records=True),
    Kind("code", zero=24, hot=31, small=14, tag=4, pointer=81, bits=5),
    Kind("code, straight", zero=15, const=3, hot=31, small=5, tag=17, pointer=26, bits=6, records=True),
    Kind("base text", hot=3, tag=7, pointer=32, bits=5),
    Kind("packed, weakly", zero=4, bits=7),
    Kind("packed", pointer=43, bits=8, records=True),
    Kind("noise", bits=8),
    Kind("poison 0xcc"),
    Kind("ones 0xff"),
)
"""All kinds; a kind's number, its place here, is what `PageMaker` takes."""

PATTERNS: MappingProxyType[str, tuple[int, int]] = MappingProxyType(
    {"pattern 0xcc": (18, 0xCC), "pattern 0xff": (19, 0xFF)}
)
"""Mix name -> the kind, and the byte that its pages repeat throughout."""

_FIRST_PACKED = 14  # from this kind on, pages have nothing in common with their neighbours
_TEMPLATE = len(KINDS) - len(PATTERNS)  # kinds from here on have no key in their first word


# What neighbours share, so that a block of pages compresses better than each of them: the words from here on.
_TAIL = WORDS_PER_PAGE - 52


def _blend(*parts: tuple[int, tuple[int, ...]]) -> tuple[int, ...]:
    total = sum(weight for weight, _ in parts)
    return tuple(sum(weight * mix[kind] for weight, mix in parts) // total for kind in range(_TEMPLATE))


_BOOT = (1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 2, 3, 53, 60, 130, 4)
_FILES = (6, 18, 8, 5, 0, 22, 39, 1, 72, 64, 19, 1, 1, 0, 0, 0, 0, 0)
_SYSTEM = (5, 2, 13, 23, 0, 4, 5, 1, 16, 44, 47, 18, 27, 18, 26, 4, 1, 2)
_PRIVATE = (14, 10, 13, 71, 1, 20, 27, 8, 3, 2, 3, 23, 34, 25, 0, 1, 1, 0)
_TEXT = (25, 12, 15, 8, 0, 18, 36, 13, 70, 39, 6, 0, 0, 0, 0, 0, 0, 14)

MIXES: MappingProxyType[str, tuple[int, ...]] = MappingProxyType(
    {
        "boot": _BOOT,
        "files": _FILES,
        "system": _SYSTEM,
        "private": _PRIVATE,
        "text": _TEXT,
        "cache": _blend((1, _BOOT), (2, _FILES), (1, _SYSTEM)),
        "anonymous": _blend((1, _PRIVATE), (1, _TEXT)),
        "sparse": (1,),
        "page records": (0, 0, 0, 0, 1),
        "noise": (*[0] * 17, 1),
    }
)
"""Mix name -> the weight of each kind; kinds past the end of a tuple have none."""


def mix_int(value: int) -> int:
    """The finisher of splitmix64 (Steele, Lea and Flood, OOPSLA'14): a bijection of 64-bit numbers."""
    value &= _MASK_64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK_64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK_64
    return value ^ value >> 31


def mix_words(stream: int | Words, counters: Words) -> Words:
    """64 random bits for each of `counters` in `stream` (a number, or one for each): splitmix64 at those places."""
    words = counters * np.uint64(_GOLDEN) + np.asarray(stream, np.uint64)
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    mixed: Words = words ^ words >> np.uint64(31)
    return mixed


def _recipe(sort: str, slot: int, salt: int, bits: int) -> tuple[int, int]:
    """Base and mask of one recipe; `slot` is place * 32 + choice."""
    choice = mix_int(salt << 16 | slot + 1)
    place = mix_int(salt << 16 | 0x8000 | slot >> 5)
    literal = int.from_bytes(bytes([(1 << bits) - 1]) * 8, "little")
    return {
        "zero": (0, 0),
        "const": (place, 0),
        "hot": (choice, 0),
        "small": (0, 0xFF),
        "tag": (place & ~0xFF0, 0x70),
        "pointer": (0xFFFF888000000000 | place & 0x30000000, 0x0FFFFFC0),
        # Six bits over a blank make printable text.
        "literal": (0x2020202020202020 if bits == 6 else 0, literal),
    }[sort]


def _recipes_of(kind: Kind, salt: int) -> list[tuple[int, int]]:
    """Base and mask of the 256 recipes of `kind`."""
    if kind.step_bytes == 64:  # flags, next, previous (both: itself), mapping, index, private, count, owner
        free = [0x000FFFFFC0000000, 0xFFF0C2CC80000008, 0xFFF0C2CC80000008, 0, 0, 0, 0xFFFFFFFF, 0]
        return [(word, 0) for word in free for _ in range(_CHOICES)]
    if kind.step_bytes == 12:
        return [(0xFFFFFFFF80000000, 0x4)] * _RECIPES
    counts = {sort: getattr(kind, sort) for sort in ("zero", "const", "hot", "small", "tag", "pointer")}
    sorts = [sort for sort, count in counts.items() for _ in range(count)]
    sorts += ["literal"] * (_RECIPES - len(sorts))
    recipes = [(0, 0)] * _RECIPES
    for turn, sort in enumerate(sorts):
        # 37 is odd, so that turn * 37 visits every slot, and spreads the sorts over all places.
        slot = turn if kind.records else turn * 37 % _RECIPES
        recipes[slot] = _recipe(sort, slot, salt, kind.bits)
    return recipes


def _tables() -> tuple[Words, Words]:
    """Base and mask of every recipe: uint64 arrays of len(KINDS) * 256."""
    patterns = dict(PATTERNS.values())
    recipes: list[tuple[int, int]] = []
    for number, kind in enumerate(KINDS):
        if number in patterns:
            recipes += [(patterns[number] * 0x0101010101010101, 0)] * _RECIPES
        else:
            recipes += _recipes_of(kind, number)
    base, mask = zip(*recipes, strict=True)
    return np.array(base, np.uint64), np.array(mask, np.uint64)


_BASE, _MASK = _tables()
_WORD = np.arange(WORDS_PER_PAGE, dtype=np.int64)
_PLACE = _WORD % _FIELDS * _CHOICES
_WORD_KEYS = mix_words(0, np.arange(1, WORDS_PER_PAGE + 1, dtype=np.uint64))


def _steps() -> dict[int, tuple[Words, Words]]:
    """Kind with steps -> what to add to each word of a page, and 1 where the page's own address goes on top."""
    steps: dict[int, tuple[Words, Words]] = {}
    for number, kind in enumerate(KINDS):
        if kind.step_bytes == 64:
            own = np.isin(_WORD % _FIELDS, (1, 2)).astype(np.uint64)
            steps[number] = (own * (_WORD // _FIELDS * 64).astype(np.uint64), own)
        elif kind.step_bytes:
            steps[number] = (
                (_WORD * kind.step_bytes).astype(np.uint64),
                np.ones_like(_BASE[:WORDS_PER_PAGE]),
            )
    return steps


_STEPS = _steps()


class PageMaker:
    """Makes pages of contents; keeps the arrays it works in, so one maker serves one thread."""

    __slots__ = ("_recipe", "_spare")

    def __init__(self) -> None:
        # New arrays for each batch would cost more, in page faults, than the arithmetic does.
        self._spare = np.empty((CACHED_PAGES, WORDS_PER_PAGE), np.uint64)
        self._recipe = np.empty((CACHED_PAGES, WORDS_PER_PAGE), np.int64)

    def fill(self, keys: Words, group_keys: Words, kinds: npt.NDArray[np.uint8], into: Words) -> None:
        """Make the pages of contents `keys` (uint64, n) and `kinds` (uint8, n): little-endian, `into` (n, WORDS_PER_PAGE).

        Pages of one `group_keys` (uint64, n) and kind end alike.
        """
        for low in range(0, len(keys), CACHED_PAGES):
            part = slice(low, low + CACHED_PAGES)
            self._fill(keys[part], group_keys[part], kinds[part], into[part])

    def _fill(self, keys: Words, group_keys: Words, kinds: npt.NDArray[np.uint8], words: Words) -> None:
        spare, recipe = self._spare[: len(keys)], self._recipe[: len(keys)]
        np.add(keys[:, None], _WORD_KEYS, out=words)
        tails = np.where(kinds < _FIRST_PACKED, group_keys, keys)
        np.add(tails[:, None], _WORD_KEYS[_TAIL:], out=words[:, _TAIL:])
        words ^= np.right_shift(words, np.uint64(32), out=spare)
        words *= np.uint64(0xBF58476D1CE4E5B9)
        words ^= np.right_shift(words, np.uint64(29), out=spare)
        np.right_shift(words, np.uint64(59), out=spare)
        np.add(spare.view(np.int64), _PLACE, out=recipe)
        recipe += (kinds.astype(np.int64) * _RECIPES)[:, None]
        words &= np.take(_MASK, recipe, out=spare, mode="clip")
        words ^= np.take(_BASE, recipe, out=spare, mode="clip")
        for kind, (step, own) in _STEPS.items():
            rows = np.flatnonzero(kinds == kind)
            if len(rows):
                address = (keys[rows] >> np.uint64(45)) << np.uint64(12)  # 19 bits: it stays within 31
                words[rows] += step + own * address[:, None]
        stamped = kinds < _TEMPLATE
        words[stamped, 0] = keys[stamped]
        if sys.byteorder == "big":
            words.byteswap(inplace=True)
