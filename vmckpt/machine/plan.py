"""The plan of a memory image: what every page holds, from seeds and a profile alone.

Two layers are drawn apart, as they are apart in real guests, and laid over each other: which pages are zero, and what
follows what in the others.

    occupancy   [extent][gap][extent][ gap .......... ][extent]        gaps are holes of the file
                    │            │                        │
    runs        [files 17..60][private 0..3][files 0..16][poison]...   cut by ladders, shuffled

Then, run by run, each page's content key and kind follow from its part's stream and its number in the part. Common
parts take their stream from the common seed, so two VMs have the same pages in other places. A plan is a few bytes for
each run, not for each page. Called by `image`, which writes what is planned here; no I/O.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from vmckpt.machine.content import MIXES, PATTERNS, Words, mix_int, mix_words
from vmckpt.machine.profile import PartPages, profile_named

__all__ = ["LADDERS", "ImagePlan", "PageClasses", "contents_of", "pieces_of", "plan_image"]

_Lengths = npt.NDArray[np.int64]

LADDERS: MappingProxyType[str, tuple[int, ...]] = MappingProxyType(
    {
        "extent": (*[1] * 8, *[2] * 5, *[3] * 4, 4, 4, 5, 6, 7, 7, 8, 10, 15, 21, 30, 100, 400, 1500, 2600),
        "gap": (*[1] * 9, *[2] * 12, 3, 4, 5, 7, 10, 15, 20, 35, 80, 200, 400),
        "long": (*[1] * 14, *[2] * 5, 3, 3, 5, 8, 12, 30, 100, 200, 300, 600, 900, 1200, 1500),
        "short": (
            *[1] * 6,
            2,
            2,
            2,
            3,
            3,
            4,
            4,
            5,
            6,
            8,
            10,
            14,
            14,
            18,
            20,
            25,
            30,
            36,
            40,
            50,
            60,
            100,
            150,
            200,
            300,
            400,
        ),
        "shuffled": (*[1] * 14, *[2] * 6, *[3] * 4, 4, 4, 5, 5, 6, 8, 14, 40),
        "stretch": (
            *[1] * 4,
            *[2] * 3,
            *[4] * 2,
            7,
            7,
            8,
            15,
            16,
            32,
            32,
            *[128] * 2,
            *[256] * 6,
            *[490] * 4,
            *[508] * 3,
            650,
        ),
        "single": (1,),
        "whole": (1 << 40,),
    }
)
"""Run lengths, in pages, that are drawn with equal chances: quantiles of what was measured in real guests."""

# Neighbours in a part are alike: four contents in a row are of one kind, and resemble each other.
_GROUP_SHIFT = np.uint64(2)


@dataclass(frozen=True, slots=True)
class PageClasses:
    """The pages of an image by class; disjoint, and their sum is `total`."""

    total: int
    zero: int
    pattern: int
    """One byte other than zero, repeated throughout."""
    duplicate: int
    """Second and further copies of a content that is neither zero nor pattern."""
    unique: int
    """First copies."""


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """What stands where in an image. A *slot* counts the non-zero pages in page order."""

    pages: PageClasses
    extent_pages: _Lengths
    """First page of each stretch of non-zero pages, ascending."""
    extent_slots: _Lengths
    """First slot of each extent, and after them the number of slots: one longer than `extent_pages`."""
    run_slots: _Lengths
    """First slot of each run, and after them the number of slots."""
    run_parts: npt.NDArray[np.uint8]
    """Part of each run: an index of `streams` and `kinds`."""
    run_contents: _Lengths
    """Number, in its part, of each run's first content; those of its other pages follow on."""
    streams: Words
    """Stream of content keys of each part."""
    kinds: npt.NDArray[np.uint8]
    """The mix of each part: (parts, 256), a kind for each draw of eight bits."""

    @property
    def slots(self) -> int:
        """How many pages are not zero."""
        return int(self.run_slots[-1])


def plan_image(memory_pages: int, *, profile: str, seed: int, common_seed: int) -> ImagePlan:
    """Plan the memory of a VM.

    Raises:
        UsageError: there is no such profile.
    """
    sizes = [size for size in profile_named(profile).apportion(memory_pages) if size.contents]
    own = _stream(seed, "own", profile, str(memory_pages))
    slots = sum(size.pages for size in sizes)
    extent_pages, extent_slots = _plan_occupancy(slots, memory_pages - slots, own)
    run_slots, run_parts, run_contents = _plan_runs(sizes, own)
    return ImagePlan(
        pages=_count(sizes, memory_pages),
        extent_pages=extent_pages,
        extent_slots=extent_slots,
        run_slots=run_slots,
        run_parts=run_parts,
        run_contents=run_contents,
        streams=np.array(
            [
                _stream(_stream(common_seed, "common") if size.part.common else own, size.part.name)
                for size in sizes
            ],
            np.uint64,
        ),
        kinds=np.array([_kinds_by_draw(size.part.mix) for size in sizes], np.uint8).reshape(-1, 256),
    )


def _stream(seed: int, *names: str) -> int:
    """A stream of random words that belongs to `seed` and `names` alone."""
    stream = mix_int(seed)
    for name in names:
        for byte in name.encode() + b"\0":
            stream = mix_int(stream + 1 + byte)
    return stream


def _count(sizes: list[PartPages], memory_pages: int) -> PageClasses:
    pattern = sum(size.pages for size in sizes if size.part.mix in PATTERNS)
    unique = sum(size.contents for size in sizes if size.part.mix not in PATTERNS)
    used = sum(size.pages for size in sizes)
    return PageClasses(
        total=memory_pages,
        zero=memory_pages - used,
        pattern=pattern,
        duplicate=used - pattern - unique,
        unique=unique,
    )


def _kinds_by_draw(mix: str) -> list[int]:
    """The kind for each of 256 equally likely draws."""
    if mix in PATTERNS:
        return [PATTERNS[mix][0]] * 256
    by_weight = [kind for kind, weight in enumerate(MIXES[mix]) for _ in range(weight)]
    return [by_weight[draw * len(by_weight) // 256] for draw in range(256)]


def _draw(stream: int, count: int) -> Words:
    return mix_words(stream, np.arange(count, dtype=np.uint64))


def _cut(pages: int, ladder: str, stream: int) -> _Lengths:
    """Lengths of runs, drawn from a ladder, that add up to `pages`; the last one is cut short."""
    steps = np.array(LADDERS[ladder], np.int64)
    count = pages * len(steps) // int(steps.sum()) + 64
    while True:
        draws = _draw(stream, count)
        lengths: _Lengths = steps[(draws >> np.uint64(32)).astype(np.int64) * len(steps) >> 32]
        ends = lengths.cumsum()
        if ends[-1] >= pages:
            break
        count *= 2
    lengths = lengths[: int(np.searchsorted(ends, pages)) + 1] if pages else lengths[:0]
    if len(lengths):
        lengths[-1] -= ends[len(lengths) - 1] - pages
    return lengths


def _plan_occupancy(slots: int, zeros: int, stream: int) -> tuple[_Lengths, _Lengths]:
    """First page and first slot of each extent, as in ImagePlan: extents and gaps by turns.

    Free memory is one large piece or two; apart from those, gaps are as many as extents and follow a ladder.
    """
    extents = _cut(slots, "extent", _stream(stream, "extents"))
    if not len(extents):
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    gaps = np.zeros(len(extents), np.int64)
    drawn = _cut(zeros, "gap", _stream(stream, "gaps"))[: len(extents)]
    gaps[: len(drawn)] = drawn
    left = zeros - int(gaps.sum())
    for number, piece in enumerate((left * 2 // 3, left - left * 2 // 3)):
        gaps[_stream(stream, "free", str(number)) % len(gaps)] += piece
    extent_slots = np.concatenate(([0], extents.cumsum()))
    return extent_slots[:-1] + gaps.cumsum() - gaps, extent_slots


def _plan_runs(sizes: list[PartPages], stream: int) -> tuple[_Lengths, npt.NDArray[np.uint8], _Lengths]:
    """First slot, part and first content of each run, as in ImagePlan: every copy of every part, cut and shuffled."""
    lengths, parts, contents = [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)], [np.zeros(0, np.int64)]
    for number, size in enumerate(sizes):
        for copy in range(size.part.copies):
            cut = _cut(size.contents, size.part.runs, _stream(stream, "runs", size.part.name, str(copy)))
            lengths.append(cut)
            parts.append(np.full(len(cut), number, np.uint8))
            contents.append(cut.cumsum() - cut)
    all_lengths = np.concatenate(lengths)
    order = np.argsort(_draw(_stream(stream, "order"), len(all_lengths)), kind="stable")
    run_slots = np.concatenate(([0], all_lengths[order].cumsum()))
    return run_slots, np.concatenate(parts)[order], np.concatenate(contents)[order]


def pieces_of(plan: ImagePlan, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Where the slots `start` to `end` lie: first page, and range of slots counted from `start`, of each piece."""
    extent = int(np.searchsorted(plan.extent_slots, start, side="right")) - 1
    slot = start
    while slot < end:
        first_slot, end_slot = (int(bound) for bound in plan.extent_slots[extent : extent + 2])
        page = int(plan.extent_pages[extent]) + slot - first_slot
        until = min(end_slot, end)
        yield page, slot - start, until - start
        slot = until
        extent += 1


def contents_of(plan: ImagePlan, start: int, end: int) -> tuple[Words, Words, npt.NDArray[np.uint8]]:
    """Content keys and group keys (uint64), and kinds (uint8), of the slots `start` to `end`."""
    slots = np.arange(start, end)
    run = np.searchsorted(plan.run_slots, slots, side="right") - 1
    part = plan.run_parts[run]
    content = (plan.run_contents[run] + slots - plan.run_slots[run]).astype(np.uint64)
    stream = plan.streams[part]
    keys = mix_words(stream, content)
    # The complement is a stream of its own: kinds must not follow from the same words as contents.
    group_keys = mix_words(~stream, content >> _GROUP_SHIFT)
    return keys, group_keys, plan.kinds[part, (group_keys >> np.uint64(56)).astype(np.int64)]
