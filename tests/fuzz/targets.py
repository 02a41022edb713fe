"""What is fuzzed: opening, proving and reading a checkpoint; rebuilding its index; opening an ELF core.

    bytes ─▶ custom mutator: libFuzzer's mutations, or a field changed on purpose, then every checksum made right again
          ─▶ a memory file ─▶ the reader ─▶ fine, or a VmckptError; all else is a crash

`tests.fuzz.run` gives them to the fuzzer.
"""

import contextlib
import os
import random
import re
import tempfile
from collections.abc import Callable

from tests.faults.flips import memory_file
from tests.faults.inline import inline_crews
from tests.faults.samples import make_sample
from tests.support.elfwriter import ElfCore, Load
from vmckpt.errors import VmckptError
from vmckpt.pages import PAGE_BYTES, PageRange

__all__ = ["TARGETS", "checkpoint", "elf", "mutated", "rebuild", "seeds_of"]

UNTIDY = "marked as the last|overlap or leave a gap|bytes of no memory block"
"""What verify complains of and restore may pass over: no page is wrong for it."""

MOST_PAGES = 4096  # read no more of a memory that claims to be large


def checkpoint(data: bytes) -> None:
    """Open it, prove it, restore it and read it."""
    from vmckpt import api
    from vmckpt.checkpoint.reader import Checkpoint
    from vmckpt.restoring.eager import restore_image
    from vmckpt.restoring.image import plan_raw

    with memory_file(data) as (_, path), inline_crews():
        problems = api.verify(path, jobs=1).problems
        whole = not problems
        with contextlib.suppress(VmckptError):
            api.info(path)
        with Checkpoint.open(path) as opened:
            count = opened.layout.page_count
            if count > MOST_PAGES:
                return
            with memory_file(b"") as (image, _):
                try:
                    restore_image(opened, plan_raw(opened.layout), image, "image", jobs=1)
                    restored = True
                except VmckptError:
                    restored = False
                untidy = all(re.search(UNTIDY, problem.message) for problem in problems)
                assert restored == whole or (restored and untidy), f"restored: {restored}; {problems}"
                _compare(opened, image, count, whole)


def _compare(opened: object, image: int, count: int, whole: bool) -> None:
    """Read memory by pieces; of a whole checkpoint, it is what was restored."""
    from vmckpt.checkpoint.reader import Checkpoint

    assert isinstance(opened, Checkpoint)
    for start in range(0, count, 7):
        pages = PageRange(start, min(start + 7, count))
        into = bytearray(pages.pages * PAGE_BYTES)
        try:
            opened.read(pages, memoryview(into))
        except VmckptError:
            assert not whole, "a whole checkpoint cannot be read"
            continue
        if whole:
            assert os.pread(image, len(into), start * PAGE_BYTES) == into, "read and restore disagree"


def rebuild(data: bytes) -> None:
    """Make a new index; what comes out verifies."""
    from vmckpt import api
    from vmckpt.checkpoint.rebuild import rebuild as rebuild_index

    with memory_file(data) as (_, path), memory_file(b"") as (new, new_path), inline_crews():
        rebuild_index(path, new, "new")
        report = api.verify(new_path, jobs=1)
        bad = [problem for problem in report.problems if problem.kind not in {"storage block", "reference"}]
        assert not bad, bad


def elf(data: bytes) -> None:
    """Open a source, list its data and read some of it."""
    from vmckpt.sources import open_source

    with memory_file(data) as (_, path), open_source(path) as source:
        for number, (start, end) in enumerate(source.data_ranges()):
            if number > 64:
                break
            pages = PageRange(start, min(end, start + 16))
            source.read(pages, memoryview(bytearray(pages.pages * PAGE_BYTES)))
        source.check_unchanged()


def _checkpoint_seeds() -> list[bytes]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, codec in enumerate(("raw", "lz4", "zstd", "lz4", "zstd")):
            sample = make_sample(
                folder,
                seed=seed,
                pages=(6, 10, 14, 28, 28)[seed],
                codec=codec,
                random_bytes=64,
                storage_blocks=seed or 1,
            )
            found.append(sample.data)
    return found


def _elf_seeds() -> list[bytes]:
    found = []
    page = b"\x5a" * PAGE_BYTES
    with tempfile.TemporaryDirectory() as folder:
        for core in (
            ElfCore([Load(0, page)]),
            ElfCore([Load(0, page), Load(1 << 32, page)], note=b"n" * 20),
            ElfCore([Load(0, page, memory_bytes=1 << 30)], extended=True),
        ):
            with open(core.write(f"{folder}/core"), "rb") as file:
                found.append(file.read())
    return found


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]], bool]] = {
    "checkpoint": (checkpoint, _checkpoint_seeds, True),
    "rebuild": (rebuild, _checkpoint_seeds, True),
    "elf": (elf, _elf_seeds, False),
}
"""Name -> target, its seeds, and whether checksums are made right after each mutation."""


def seeds_of(name: str) -> list[bytes]:
    """What a target starts from."""
    return TARGETS[name][1]()


INTERESTING = (0, 1, 2, 4, 255, 4095, 4096, 4097, 0x7FFF, 0x8000, 0xFFFF, 1 << 20, 1 << 31, (1 << 32) - 1)
WIDE = (*INTERESTING, 1 << 32, 1 << 52, 1 << 63, (1 << 64) - 1)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One field or stretch changed: a number swapped for a tempting one, moved, or copied from elsewhere."""
    out = bytearray(data)
    if len(out) < 64:
        return data
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        width = rng.choice((1, 2, 4, 8))
        at = rng.randrange(0, len(out) - 8)
        at -= at % rng.choice((1, width))
        value = int.from_bytes(out[at : at + width], "little")
        choice = rng.randrange(4)
        if choice == 0:
            value = rng.choice(WIDE)
        elif choice == 1:
            value += rng.choice((-8, -4, -1, 1, 4, 8))
        elif choice == 2:
            other = rng.randrange(0, len(out) - 8)
            value = int.from_bytes(out[other : other + width], "little")
        else:
            value ^= 1 << rng.randrange(8 * width)
        out[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(out)
