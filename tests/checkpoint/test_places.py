"""Pages stored in one place are equal; the reader knows without reading them."""

import random
from pathlib import Path

import vmckpt
from vmckpt.pages import PAGE_BYTES


def test_duplicates_are_where_their_first_page_is(tmp_path: Path) -> None:
    rng = random.Random(4)
    first, other = rng.randbytes(PAGE_BYTES), rng.randbytes(PAGE_BYTES)
    pages = [first, other, bytes(PAGE_BYTES), b"\x07" * PAGE_BYTES, first, other, first]
    image, made = str(tmp_path / "image"), str(tmp_path / "made")
    Path(image).write_bytes(b"".join(pages))
    vmckpt.save(image, made, jobs=1, memory_block_bytes=2 * PAGE_BYTES)
    with vmckpt.open_checkpoint(made) as checkpoint:
        places = [checkpoint.stored_place(page) for page in range(len(pages))]
    assert places == [(0, 0, 0), (0, 0, 1), None, None, (0, 0, 0), (0, 0, 1), (0, 0, 0)]


def test_a_conversion_reads_no_page_twice_to_confirm_what_the_checkpoint_says(tmp_path: Path) -> None:
    page = random.Random(4).randbytes(PAGE_BYTES)
    image, made, new = (str(tmp_path / name) for name in ("image", "made", "new"))
    Path(image).write_bytes(page * 64)
    vmckpt.save(image, made, jobs=1)
    report = vmckpt.convert(made, new, layout="random", jobs=1, memory_block_bytes=2 * PAGE_BYTES)
    assert (report.pages.stored, report.pages.duplicate) == (1, 63)
    assert vmckpt.verify(new, jobs=1).ok
