"""What memory a sample of a whole fleet takes: python -m tests.sharing.stream --images 64 --fraction 1/64

In: synthetic page hashes, an eighth of them of zero pages and a fifth from a million contents that occur again and again,
through the stream that samples take. Out: one JSON object. 64 images of 16 GiB are a fleet of 1 TiB.
"""

import argparse
import json
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import patch

import numpy as np

from vmckpt.hashing import ZERO_PAGE_HASH
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.pages import PageRange, Source
from vmckpt.sharing import scan
from vmckpt.sharing.heavy import Heavy
from vmckpt.sharing.sample import SampledPages, sample_of
from vmckpt.sharing.sampled import estimate_of
from vmckpt.sharing.selection import Seeded

__all__ = ["main"]

_BATCH = 512
_AT_ONCE = 256 * _BATCH
_IMAGE_BYTES = 16 << 30


def _batches(source: SimpleNamespace, *, jobs: int) -> Iterator[tuple[PageRange, bytes]]:
    """In place of `hash_batches`."""
    chance = np.random.default_rng(source.number)
    for start in range(0, source.layout.page_count, _AT_ONCE):
        hashes = chance.integers(0, 1 << 63, _AT_ONCE, dtype=np.uint64)
        again = chance.integers(0, _AT_ONCE, _AT_ONCE // 5)
        hashes[again] = chance.integers(0, 1 << 20, len(again), dtype=np.uint64)
        hashes[: _AT_ONCE // 8] = ZERO_PAGE_HASH
        for first in range(0, _AT_ONCE, _BATCH):
            pages = PageRange(start + first, start + first + _BATCH)
            yield pages, hashes[first : first + _BATCH].tobytes()


def _image(number: int) -> Source:
    layout = Layout.flat(_IMAGE_BYTES)
    image = SimpleNamespace(
        name=f"image {number}", number=number, layout=layout, check_unchanged=lambda: None
    )
    return cast("Source", image)


def _peak_bytes() -> int:
    # Not `getrusage`: its peak is never less than that of the process this one was forked from.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--fraction", type=Fraction, default=Fraction(1, 64))
    options = parser.parse_args()
    fraction = float(options.fraction)
    started, heavy = time.process_time(), Heavy()
    with patch.object(scan, "hash_batches", _batches):
        samples: list[SampledPages] = [
            sample_of(_image(number), Seeded(fraction), jobs=1, look=heavy.add, large_page_bytes=2 << 20)
            for number in range(options.images)
        ]
    found = estimate_of(
        [sample.tally for sample in samples],
        [0] * options.images,
        fraction=fraction,
        confidence=0.95,
        heavy=heavy,
    )
    answer = {
        "memory_bytes": options.images * _IMAGE_BYTES,
        "pages": options.images * _IMAGE_BYTES // PAGE_BYTES,
        "kept_pages": sum(len(sample.pages) for sample in samples),
        "estimate": found.estimate._asdict(),
        "peak_bytes": _peak_bytes(),
        "cpu_s": time.process_time() - started,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
