"""Sketches: what a sample keeps of an image, told in a way that another machine can merge with its own.

    page hashes ─▶ SipHash under a key ─▶ those below the threshold, counted ─▶ `Sketch` ─▶ file (`sketchfile`)
    sketches of one key ─▶ `merge_sketches` (the smallest threshold counts) ─▶ sketch of all their images

A sketch holds pseudo-random values and no hash, so without the key nobody can ask it whether a page exists. What is kept
follows from the value itself: nothing more need be told, and a sketch of a greater fraction holds that of a smaller one.
Pure, on numpy arrays.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vmckpt.errors import UsageError
from vmckpt.sharing.hashes import Hashes, PageHashes
from vmckpt.sharing.large import large_pages_of
from vmckpt.sharing.sample import SampledPages
from vmckpt.sharing.scan import Scanned
from vmckpt.sharing.selection import Keyed, check_fraction, keep_below, selection_key, threshold_of
from vmckpt.sharing.table import Numbers
from vmckpt.sharing.tally import Tally, sum_of, tally_of, thinned

__all__ = [
    "PUBLIC_KEY",
    "Sketch",
    "check_keys",
    "key_id_of",
    "merge_sketches",
    "selection_of",
    "sketch_of_hashes",
    "sketch_of_sample",
    "thinned_sketch",
]

PUBLIC_KEY = b"vmckpt: the public key of sketches"
"""The key where none is given. Everybody has it: such a sketch tells of any page whether it is there."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a keyed selection keeps of an image, or of several together."""

    sources: tuple[str, ...]
    """The images, as they were given, ascending."""
    key_id: bytes
    """8 bytes that stand for the key."""
    threshold: int
    """Values below it are kept; 2^64 keeps all."""
    large_page_bytes: int
    """Size of a large page; 0: they were not counted, or differ among the images."""
    large_pages: int
    """Large pages of all images."""
    page_count: int
    """Small pages, zero ones included; exact."""
    zero_pages: int
    """Of these, zero ones; exact."""
    values: Hashes
    """What the key puts for each content that is kept, ascending, [n]."""
    counts: Numbers
    """Pages of each, [n]."""

    @property
    def fraction(self) -> float:
        """Of all contents that is kept."""
        return self.threshold / 2.0**64

    @property
    def name(self) -> str:
        """What to call it: its image, or the first of them and how many more."""
        first, *more = self.sources
        return f"{first} and {len(more)} more" if more else first

    @property
    def tally(self) -> Tally:
        """The same for estimates."""
        return Tally(self.name, self.page_count, self.zero_pages, self.values, self.counts)


def selection_of(secret: bytes, fraction: float) -> Keyed:
    """What a sketch under this key keeps.

    Raises:
        UsageError: `fraction` is none.
    """
    return Keyed(check_fraction(fraction), selection_key(secret))


def key_id_of(secret: bytes) -> bytes:
    """What stands for a key in a file: 8 bytes that do not lead back to it."""
    return hashlib.blake2b(secret, digest_size=8, person=b"vmckpt key id").digest()


def sketch_of_sample(
    sample: SampledPages, secret: bytes, fraction: float, large_page_bytes: int = 0
) -> Sketch:
    """The sketch of an image that was sampled by `selection_of(secret, fraction)`."""
    return _sketch(sample.scanned, sample.tally, secret, fraction, large_page_bytes)


def sketch_of_hashes(image: PageHashes, secret: bytes, fraction: float, large_page_bytes: int = 0) -> Sketch:
    """The sketch of an image whose page hashes are at hand.

    Raises:
        UsageError: `fraction` is none.
    """
    values = selection_of(secret, fraction).values(image.hashes)
    kept = values[keep_below(values, threshold_of(fraction))]
    tally = tally_of(image.source, image.page_count, image.zero_pages, kept)
    scanned = Scanned(image.source, image.layout, image.zero_pages)
    return _sketch(scanned, tally, secret, fraction, large_page_bytes)


def _sketch(scanned: Scanned, tally: Tally, secret: bytes, fraction: float, large_page_bytes: int) -> Sketch:
    nothing = PageHashes(scanned.source, scanned.layout, np.empty(0, np.uint32), np.empty(0, np.uint64))
    return Sketch(
        (scanned.source,),
        key_id_of(secret),
        threshold_of(fraction),
        large_page_bytes,
        len(large_pages_of([nothing], large_page_bytes)) if large_page_bytes else 0,
        tally.page_count,
        tally.zero_pages,
        tally.values,
        tally.counts,
    )


def thinned_sketch(sketch: Sketch, threshold: int) -> Sketch:
    """The sketch as it would be had it been made with a smaller threshold (a greater one changes nothing)."""
    if threshold >= sketch.threshold:
        return sketch
    tally = thinned(sketch.tally, threshold)
    return replace(sketch, threshold=threshold, values=tally.values, counts=tally.counts)


def merge_sketches(sketches: Sequence[Sketch]) -> Sketch:
    """The sketch of all their images together, in whatever order: that of one host which has them all.

    Raises:
        UsageError: there is none, or they were made with different keys.
    """
    if not sketches:
        raise UsageError("there are no sketches to merge: expected one or more")
    check_keys(sketches)
    threshold = min(sketch.threshold for sketch in sketches)
    tally = sum_of([thinned(sketch.tally, threshold) for sketch in sketches], "")
    sizes = {sketch.large_page_bytes for sketch in sketches}
    large_page_bytes = sizes.pop() if len(sizes) == 1 else 0
    return Sketch(
        tuple(sorted(source for sketch in sketches for source in sketch.sources)),
        sketches[0].key_id,
        threshold,
        large_page_bytes,
        sum(sketch.large_pages for sketch in sketches) if large_page_bytes else 0,
        tally.page_count,
        tally.zero_pages,
        tally.values,
        tally.counts,
    )


def check_keys(
    sketches: Sequence[Sketch], key_id: bytes | None = None, *, paths: Sequence[str] | None = None
) -> None:
    """See that what sketches hold can be compared.

    Args:
        sketches: of any images.
        key_id: which key they must have been made with; None: that of the first.
        paths: their files, for messages; None: they are called by their images.

    Raises:
        UsageError: they were made with different keys.
    """
    for sketch, path in zip(sketches, paths or [sketch.name for sketch in sketches], strict=True):
        expected = sketches[0].key_id if key_id is None else key_id
        if sketch.key_id != expected:
            raise UsageError(
                "this sketch was made with another key, so what it holds cannot be compared: expected key "
                f"{expected.hex()}, found {sketch.key_id.hex()}; make all sketches with one --key, and name it "
                "where memory is to join them",
                path=path,
            )
