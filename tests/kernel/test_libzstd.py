"""The system's libzstd against Python's module: the same bytes, the same verdicts."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.files import need_zstd
from vmckpt.checkpoint import codec
from vmckpt.errors import CorruptionError
from vmckpt.kernel.libzstd import Decompressor, load

zstd = need_zstd()


@pytest.fixture(scope="module")
def decompressor() -> Decompressor:
    library = load()
    if library is None:
        pytest.skip("this system has no libzstd")
    return Decompressor(library)


def test_a_frame_goes_into_the_room_and_not_past_it(decompressor: Decompressor) -> None:
    room = bytearray(b"-" * 20)
    assert decompressor.decompress(zstd.compress(b"content"), memoryview(room)[:10]) == 7
    assert room[:7] == b"content"
    assert room[10:] == b"-" * 10
    with pytest.raises(ValueError, match="too small"):
        decompressor.decompress(zstd.compress(bytes(11)), memoryview(room)[:10])
    assert room[10:] == b"-" * 10


@settings(max_examples=200)
@given(
    plain=st.binary(min_size=1, max_size=300),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 7)), max_size=3),
)
def test_library_and_module_agree_on_what_a_frame_holds(plain: bytes, flips: list[tuple[int, int]]) -> None:
    if codec._contexts().zstd is None:
        pytest.skip("this system has no libzstd")
    frame = bytearray(zstd.compress(plain))
    for at, bit in flips:
        frame[at % len(frame)] ^= 1 << bit
    ours, theirs = _verdict(frame, len(plain)), _verdict(frame, len(plain), module=True)
    if ours is not None and theirs is not None:  # which damage is noticed first differs
        assert ours == theirs
    if not flips:
        assert ours == theirs == plain


def _verdict(frame: bytes | bytearray, size_bytes: int, *, module: bool = False) -> bytes | None:
    try:
        if module:
            found = codec._module_frame(bytes(frame), size_bytes)
        else:
            found = codec._zstd_frame(bytes(frame), size_bytes, None)
    except ValueError:
        return None
    return bytes(found) if len(found) == size_bytes else None


def test_without_the_library_the_module_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec._contexts(), "zstd", None)
    packed = zstd.compress(b"content")
    assert bytes(codec.decompress(codec.ZSTD, packed, 7)) == b"content"
    with pytest.raises(CorruptionError):
        codec.decompress(codec.ZSTD, packed, 6)


def test_a_thread_has_a_context_of_its_own() -> None:
    if codec._contexts().zstd is None:
        pytest.skip("this system has no libzstd")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: codec._contexts().zstd).result()
    assert other is not codec._contexts().zstd
