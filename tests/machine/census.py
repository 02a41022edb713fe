"""Counts what is in memory images, sharing no code with what makes them: `python -m tests.machine.census IMAGE...`"""

import itertools
import sys
from dataclasses import dataclass, fields

import lz4.block
import numpy as np
import numpy.typing as npt

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PAGE = 4096
BLOCK = 65536


@dataclass(frozen=True, slots=True)
class Census:
    pages: int
    zero: int
    pattern: int
    duplicate: int
    unique: int
    lz4: float  # unique pages in 64 KiB blocks
    zstd: float  # likewise, level 1
    page_lz4: float  # each unique page by itself, the mean
    page_zstd: float
    page_lz4_deciles: tuple[float, ...]
    zero_bytes: float  # of unique pages
    extents: int  # runs of pages that are not zero
    extent_median: float
    extent_weighted_median: float  # half of these pages lie in runs at least this long
    duplicate_runs: int
    duplicate_run_mean: float


def load(path: str) -> npt.NDArray[np.uint8]:
    return np.memmap(path, np.uint8, "r").reshape(-1, PAGE)


def unpack(packed: bytes) -> npt.NDArray[np.uint8]:
    """An image out of a zstd file."""
    return np.frombuffer(zstd.decompress(packed), np.uint8).reshape(-1, PAGE)


def run_lengths(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    edges = np.diff(np.concatenate(([0], mask.astype(np.int8), [0])))
    lengths: npt.NDArray[np.int64] = np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)
    return lengths


def contents(image: npt.NDArray[np.uint8]) -> set[bytes]:
    """The distinct pages that are not one byte repeated."""
    varied = ~(image == image[:, :1]).all(axis=1)
    return {page.tobytes() for page in image[varied]}


def take(image: npt.NDArray[np.uint8]) -> Census:
    same = (image == image[:, :1]).all(axis=1)
    zero = same & (image[:, 0] == 0)
    seen: set[bytes] = set()
    first = np.zeros(len(image), np.bool_)
    for page in np.flatnonzero(~same):
        content = image[page].tobytes()
        first[page] = content not in seen
        seen.add(content)
    duplicate = ~same & ~first
    unique = image[first]
    flat = unique.tobytes()
    blocks = [flat[start : start + BLOCK] for start in range(0, len(flat), BLOCK)]
    pages = [flat[start : start + PAGE] for start in range(0, len(flat), PAGE)]
    by_page = np.array([_lz4(page) / PAGE for page in pages] or [0.0])
    extents = np.sort(run_lengths(~zero))
    half = int(np.searchsorted(extents.cumsum(), extents.sum() / 2)) if len(extents) else 0
    duplicate_runs = run_lengths(duplicate)
    size = max(len(flat), 1)
    return Census(
        pages=len(image),
        zero=int(zero.sum()),
        pattern=int((same & ~zero).sum()),
        duplicate=int(duplicate.sum()),
        unique=len(pages),
        lz4=sum(min(_lz4(block), len(block)) for block in blocks) / size,
        zstd=sum(min(_zstd(block), len(block)) for block in blocks) / size,
        page_lz4=float(by_page.mean()),
        page_zstd=sum(_zstd(page) for page in pages) / size,
        page_lz4_deciles=tuple(round(float(x), 3) for x in np.percentile(by_page, range(10, 100, 10))),
        zero_bytes=float((unique == 0).mean()) if len(unique) else 0.0,
        extents=len(extents),
        extent_median=float(np.median(extents)) if len(extents) else 0.0,
        extent_weighted_median=float(extents[half]) if len(extents) else 0.0,
        duplicate_runs=len(duplicate_runs),
        duplicate_run_mean=float(duplicate_runs.mean()) if len(duplicate_runs) else 0.0,
    )


def shared_fraction(image: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Of the distinct contents of `image`, those that `other` holds as well."""
    mine, theirs = contents(image), contents(other)
    return len(mine & theirs) / max(len(mine), 1)


def _lz4(piece: bytes) -> int:
    return len(lz4.block.compress(piece, store_size=False))


def _zstd(piece: bytes) -> int:
    return len(zstd.compress(piece, 1))


def main(paths: list[str]) -> None:
    taken = {path: take(load(path)) for path in paths}
    for field in fields(Census):
        print(
            f"{field.name:24}", *(_shown(getattr(census, field.name)) for census in taken.values()), sep=" | "
        )
    for path, other in itertools.permutations(paths, 2):
        print(f"{path} in {other}: {shared_fraction(load(path), load(other)):.3f} of the distinct contents")


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(sys.argv[1:])
