"""Codecs: what goes in comes out, exactly as long, and nothing else is taken."""

import contextlib
import os
import tracemalloc

import lz4.block
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.files import need_zstd
from tests.support.ckptreader import expand
from vmckpt.checkpoint.codec import CODEC_NAMES, LZ4, RAW, ZSTD, choose, compressor, decompress
from vmckpt.errors import CorruptionError, UsageError
from vmckpt.layout import PAGE_BYTES

zstd = need_zstd()

ALL = pytest.mark.parametrize("codec", [RAW, LZ4, ZSTD], ids=CODEC_NAMES)
PACKED = pytest.mark.parametrize("codec", [LZ4, ZSTD], ids=["lz4", "zstd"])
TEXT = (b"the quick brown fox jumps over the lazy dog; " * 400)[: 4 * PAGE_BYTES]


@ALL
@settings(max_examples=30)
@given(seed=st.binary(min_size=1, max_size=64), repeats=st.integers(1, 500), noise=st.booleans())
def test_what_goes_in_comes_out(codec: int, seed: bytes, repeats: int, noise: bool) -> None:
    plain = seed * repeats + (os.urandom(200) if noise else b"")
    packed = compressor(codec, 1)(plain)
    assert bytes(decompress(codec, packed, len(plain))) == plain
    assert expand(codec, packed, len(plain)) == plain


@ALL
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview], ids=lambda kind: kind.__name__)
def test_any_buffer_will_do(codec: int, kind: type) -> None:
    packed = compressor(codec, 1)(kind(TEXT))
    assert bytes(decompress(codec, kind(packed), len(TEXT))) == TEXT


@ALL
def test_a_compressor_is_the_same_every_time(codec: int) -> None:
    compress = compressor(codec, 1)
    assert compress(TEXT) == compress(TEXT) == compressor(codec, 1)(TEXT)


@PACKED
def test_text_shrinks_and_noise_hardly_grows(codec: int) -> None:
    noise = os.urandom(4 * PAGE_BYTES)
    assert len(compressor(codec, 1)(TEXT)) < len(TEXT) // 10
    assert len(compressor(codec, 1)(noise)) < len(noise) + 256


@ALL
@pytest.mark.parametrize("off", [-PAGE_BYTES, -1, 1, PAGE_BYTES])
def test_another_length_than_asked_for_is_refused(codec: int, off: int) -> None:
    packed = compressor(codec, 1)(TEXT)
    with pytest.raises(CorruptionError):
        decompress(codec, packed, len(TEXT) + off)


@PACKED
def test_every_truncation_is_refused(codec: int) -> None:
    packed = compressor(codec, 1)(TEXT)
    for length in range(len(packed)):
        with pytest.raises(CorruptionError):
            decompress(codec, packed[:length], len(TEXT))


@ALL
def test_bytes_behind_are_refused(codec: int) -> None:
    with pytest.raises(CorruptionError):
        decompress(codec, compressor(codec, 1)(TEXT) + b"\0", len(TEXT))


def test_a_second_frame_is_refused() -> None:
    half = len(TEXT) // 2
    with pytest.raises(CorruptionError):
        decompress(ZSTD, zstd.compress(TEXT[:half]) + zstd.compress(TEXT[half:]), len(TEXT))


def test_a_frame_without_its_size_is_read() -> None:
    context = zstd.ZstdCompressor()
    packed = context.compress(TEXT) + context.flush()
    assert bytes(decompress(ZSTD, packed, len(TEXT))) == TEXT


def test_a_frame_that_asks_for_a_large_window_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: 25, zstd.CompressionParameter.content_size_flag: 0}
    context = zstd.ZstdCompressor(options=options)
    packed = context.compress(TEXT) + context.flush()
    with pytest.raises(CorruptionError, match="cannot be decompressed"):
        decompress(ZSTD, packed, len(TEXT))


@PACKED
def test_a_bomb_takes_no_more_memory_than_asked_for(codec: int) -> None:
    size = 32 << 20
    bomb = zstd.compress(bytes(size)) if codec == ZSTD else lz4.block.compress(bytes(size), store_size=False)
    decompress(codec, compressor(codec, 1)(TEXT), len(TEXT))  # imports
    tracemalloc.start()
    try:
        with pytest.raises(CorruptionError):
            decompress(codec, bomb, PAGE_BYTES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("codec", [3, 77, 255])
def test_an_unknown_codec_is_refused(codec: int) -> None:
    with pytest.raises(CorruptionError, match="cannot be decompressed"):
        decompress(codec, TEXT, len(TEXT))


@settings(max_examples=100)
@given(codec=st.sampled_from([LZ4, ZSTD]), data=st.binary(max_size=200), pages=st.integers(1, 4))
def test_any_bytes_are_refused_or_of_the_length_asked_for(codec: int, data: bytes, pages: int) -> None:
    with contextlib.suppress(CorruptionError):
        assert len(decompress(codec, data, pages * PAGE_BYTES)) == pages * PAGE_BYTES


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_a_codec_is_chosen_by_its_name(name: str) -> None:
    assert CODEC_NAMES[choose(name).codec] == name


def test_without_a_name_the_choice_is_auto() -> None:
    assert choose(None) == choose("auto")


def test_an_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there is no codec 'gzip'"):
        choose("gzip")
