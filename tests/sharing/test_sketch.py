"""Sketches: that they merge, that their file comes back as it went, and that no damage passes for content."""

import os
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoint.example import structs_in
from tests.checkpoint.test_format import fields_of
from tests.sharing.memories import Memory, fleets, hashes_of_memory, memories
from vmckpt import api
from vmckpt.errors import CorruptionError, FormatError, IoError, SourceError, UsageError
from vmckpt.hashing import checksum
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine.image import create_image
from vmckpt.sharing.hashes import PageHashes, hashes_of
from vmckpt.sharing.sample import sample_of
from vmckpt.sharing.sketch import (
    PUBLIC_KEY,
    Sketch,
    key_id_of,
    merge_sketches,
    selection_of,
    sketch_of_hashes,
    sketch_of_sample,
    thinned_sketch,
)
from vmckpt.sharing.sketchfile import (
    HEADER,
    MAGIC,
    Header,
    is_sketch,
    pack_sketch,
    read_key,
    read_sketch,
    unpack_sketch,
    write_sketch,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "v1-example.vmsketch"
DOCS = Path(__file__).parents[2] / "docs" / "fleets.md"
FRACTIONS = st.sampled_from([1.0, 0.5, 0.3, 1 / 16])
KEY = b"the key of a test"


def sketch_of(memory: Memory, fraction: float = 1.0, source: str = "image", key: bytes = KEY) -> Sketch:
    return sketch_of_hashes(hashes_of_memory(memory, source), key, fraction, 2 * PAGE_BYTES)


def same(one: Sketch, other: Sketch) -> bool:
    return pack_sketch(one) == pack_sketch(other)


def sketches(fleet: Sequence[tuple[Memory, int]], fractions: Sequence[float]) -> list[Sketch]:
    return [
        sketch_of(memory, fraction, f"image {number}")
        for number, ((memory, _), fraction) in enumerate(zip(fleet, fractions, strict=False))
    ]


THREE = st.tuples(
    st.lists(st.tuples(memories(), st.just(0)), min_size=3, max_size=3), st.tuples(*[FRACTIONS] * 3)
)


@given(THREE)
def test_merging_is_associative_and_commutative(
    drawn: tuple[list[tuple[Memory, int]], tuple[float, ...]],
) -> None:
    a, b, c = sketches(*drawn)
    whole = merge_sketches([a, b, c])
    assert same(whole, merge_sketches([merge_sketches([c, b]), a]))
    assert same(whole, merge_sketches([b, merge_sketches([a, c])]))


@given(fleets(), FRACTIONS)
def test_merged_sketches_are_the_sketch_of_one_image_with_all_their_pages(
    fleet: list[tuple[Memory, int]], fraction: float
) -> None:
    content = [page for memory, _ in fleet for page in memory.content]
    whole = sketch_of(Memory(content, Layout.flat(len(content) * PAGE_BYTES)), fraction)
    merged = merge_sketches(sketches(fleet, [fraction] * len(fleet)))
    assert np.array_equal(merged.values, whole.values)
    assert np.array_equal(merged.counts, whole.counts)
    assert (merged.page_count, merged.zero_pages) == (whole.page_count, whole.zero_pages)


@given(memories(), FRACTIONS, FRACTIONS)
def test_a_sketch_holds_that_of_every_smaller_fraction(memory: Memory, one: float, other: float) -> None:
    great, small = sketch_of(memory, max(one, other)), sketch_of(memory, min(one, other))
    assert same(thinned_sketch(great, small.threshold), small)
    assert same(thinned_sketch(small, great.threshold), small)
    assert merge_sketches([great, small]).threshold == small.threshold


@given(memories(), FRACTIONS, st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
def test_a_file_gives_the_sketch_that_was_written(memory: Memory, fraction: float, source: str) -> None:
    sketch = sketch_of(memory, fraction, source)
    found = unpack_sketch(pack_sketch(sketch), "file")
    assert same(found, sketch)
    assert found.sources == (source,)
    assert found.fraction == fraction


def test_a_scan_and_columns_give_one_sketch(tmp_path: Path) -> None:
    path = str(tmp_path / "guest.raw")
    create_image(path, 8 << 20, seed=5)
    with api.open_source(path) as source:
        sample = sample_of(source, selection_of(KEY, 0.5), jobs=2)
        columns = hashes_of(source, jobs=2)
    assert same(sketch_of_sample(sample, KEY, 0.5, 2 << 20), sketch_of_hashes(columns, KEY, 0.5, 2 << 20))


def test_the_file_holds_no_page_hash_and_another_key_has_nothing_in_common() -> None:
    image = PageHashes(
        "image",
        Layout.flat(4000 * PAGE_BYTES),
        np.arange(4000, dtype=np.uint32),
        np.random.default_rng(1).integers(0, 1 << 63, 4000, dtype=np.uint64),
    )
    one, other = (sketch_of_hashes(image, key, 0.5) for key in (KEY, PUBLIC_KEY))
    assert not np.isin(one.values, image.hashes).any()
    assert not np.isin(one.values, other.values).any()
    assert 1800 < len(one.values) < 2200


def test_another_key_is_refused_and_not_merged() -> None:
    memory = Memory([1, 2, 3], Layout.flat(3 * PAGE_BYTES))
    with pytest.raises(UsageError, match="another key"):
        merge_sketches([sketch_of(memory), sketch_of(memory, key=b"else")])
    with pytest.raises(UsageError, match="no sketches"):
        merge_sketches([])


EXAMPLE = Sketch(
    ("guest-1.raw", "guest-2.raw"),
    key_id_of(PUBLIC_KEY),
    1 << 62,
    2 << 20,
    3,
    1536,
    100,
    np.array([1, 0x0123456789ABCDEF, (1 << 62) - 1], np.uint64),
    np.array([7, 1, 300], np.int64),
)


def test_the_golden_file_stays() -> None:
    assert GOLDEN.read_bytes() == pack_sketch(EXAMPLE)
    assert same(read_sketch(str(GOLDEN)), EXAMPLE)


def test_the_page_has_the_header() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert structs_in(text)["sketch header"] == fields_of(HEADER, Header._fields)


def sealed(data: bytes) -> bytes:
    """With the checksum that the changed bytes would have."""
    return data[:-8] + checksum(data[:-8]).to_bytes(8, "little")


def boundaries() -> list[int]:
    sizes = [struct.calcsize(f"<{code}") for code in ("8s", *"HHIII", "8s", *"QQQQQ")]
    ends = np.cumsum(sizes).tolist()
    names = ends[-1] + sum(len(source) + 1 for source in EXAMPLE.sources)
    return [0, 1, *ends, ends[-1] + 1, names, names + 8, names + 24, names + 28, names + 36, names + 37]


@pytest.mark.parametrize("size", boundaries())
def test_a_file_that_was_cut_short_is_refused(size: int, tmp_path: Path) -> None:
    data = pack_sketch(EXAMPLE)[:size]
    (tmp_path / "cut").write_bytes(data)
    with pytest.raises((CorruptionError, FormatError)):
        unpack_sketch(data, "cut")
    with pytest.raises((CorruptionError, FormatError)):
        read_sketch(str(tmp_path / "cut"))


def test_a_byte_too_many_is_refused() -> None:
    with pytest.raises(CorruptionError, match="bytes long"):
        unpack_sketch(pack_sketch(EXAMPLE) + b"\0", "long")


@pytest.mark.parametrize("bit", range(0, len(pack_sketch(EXAMPLE)) * 8, 5))
def test_no_flipped_bit_passes(bit: int) -> None:
    data = bytearray(pack_sketch(EXAMPLE))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises((CorruptionError, FormatError)):
        unpack_sketch(bytes(data), "flipped")


LIES = {
    "version": ({"version": 2}, FormatError, "format version is 2"),
    "hash": ({"hash": 2}, FormatError, "hash is 2"),
    "page size": ({"page_bytes": 16384}, FormatError, "page size is 16384"),
    "threshold": ({"threshold": 5}, CorruptionError, "not below its threshold"),
    "all": ({"threshold": 0}, CorruptionError, "keeps all and lacks some"),
    "pages": ({"page_count": 407}, CorruptionError, "more pages than there are"),
    "zero pages": ({"zero_pages": 1537}, CorruptionError, "claims 3 values"),
    "too many pages": ({"page_count": 1 << 60}, CorruptionError, "at most"),
    "large page": ({"large_page_bytes": 5000}, CorruptionError, "no power of two"),
    "large pages": ({"large_pages": 5000}, CorruptionError, "more large pages than pages"),
    "sources": ({"sources_bytes": 25}, CorruptionError, "bytes long"),
    "values": ({"values": 1 << 60}, CorruptionError, "bytes long"),
}


@pytest.mark.parametrize(("fields", "error", "said"), LIES.values(), ids=LIES)
def test_a_header_that_lies_under_a_right_checksum_is_refused(
    fields: dict[str, int], error: type[Exception], said: str
) -> None:
    data = pack_sketch(EXAMPLE)
    header = Header._make(HEADER.unpack_from(data))._asdict() | fields
    with pytest.raises(error, match=said):
        unpack_sketch(sealed(HEADER.pack(*header.values()) + data[HEADER.size :]), "lying")


CONTENT = {
    "descending": replace(EXAMPLE, values=EXAMPLE.values[::-1].copy()),
    "twice": replace(EXAMPLE, values=np.array([1, 1, 2], np.uint64)),
    "no pages": replace(EXAMPLE, counts=np.array([1, 0, 2])),
    "no names": replace(EXAMPLE, sources=()),
    "empty name": replace(EXAMPLE, sources=("", "a")),
    "names in no order": replace(EXAMPLE, sources=("b", "a")),
}


@pytest.mark.parametrize("sketch", CONTENT.values(), ids=CONTENT)
def test_content_that_contradicts_itself_is_refused(sketch: Sketch) -> None:
    with pytest.raises(CorruptionError, match="contradicts itself"):
        unpack_sketch(pack_sketch(sketch), "odd")


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    with pytest.raises((CorruptionError, FormatError)):
        unpack_sketch(MAGIC + data, "any")


def test_larger_pages_than_the_file_tells_are_refused() -> None:
    largest = replace(EXAMPLE, large_page_bytes=1 << 31)
    assert unpack_sketch(pack_sketch(largest), "a").large_page_bytes == 1 << 31
    with pytest.raises(UsageError, match="large pages of up to 2147483648 bytes"):
        pack_sketch(replace(EXAMPLE, large_page_bytes=1 << 32))


def test_more_copies_than_the_file_counts_are_refused() -> None:
    with pytest.raises(UsageError, match="counts to"):
        pack_sketch(replace(EXAMPLE, counts=np.array([1, 1 << 32, 1])))


def test_a_file_is_its_owner_s_and_no_other_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "image.vmsketch"
    assert write_sketch(EXAMPLE, str(path)) == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    assert is_sketch(str(path))
    with pytest.raises(IoError, match="exists already"):
        write_sketch(EXAMPLE, str(path))
    write_sketch(replace(EXAMPLE, zero_pages=0), str(path), force=True)
    assert read_sketch(str(path)).zero_pages == 0


def test_what_is_no_sketch_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(4096))
    assert not is_sketch(str(tmp_path / "raw"))
    assert not is_sketch(str(tmp_path / "none"))
    assert not is_sketch(str(tmp_path))
    with pytest.raises(FormatError, match="no sketch"):
        read_sketch(str(tmp_path / "raw"))
    with pytest.raises(IoError, match="No such file"):
        read_sketch(str(tmp_path / "none"))


def test_who_wants_memory_is_told_that_a_sketch_has_none() -> None:
    with pytest.raises(SourceError, match="a sketch of one"):
        api.open_source(str(GOLDEN))


def test_a_key_is_any_bytes_that_nobody_else_may_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\0any\n")
    path.chmod(0o600)
    assert read_key(str(path)) == b"\0any\n"
    path.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        read_key(str(path))
    path.write_bytes(b"")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="has none"):
        read_key(str(path))
    with pytest.raises(IoError, match="No such file"):
        read_key(str(tmp_path / "none"))


def test_a_key_may_come_through_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"secret")
    os.close(writing)
    try:
        assert read_key(f"/dev/fd/{reading}") == b"secret"
    finally:
        os.close(reading)
