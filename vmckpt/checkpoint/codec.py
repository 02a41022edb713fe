"""Compressing one memory block, and getting it back: the one user of lz4 and zstd.

A codec is a number in the file. The stored pages of a memory block go in as one buffer and come out exactly as long;
a block that does not shrink is stored raw. Decompressing never allocates more than the size asked for, whatever the
bytes claim.

`auto` stands for the fast level of zstd where a zstd module is at hand, else lz4: on real guests it saves in the same
time as lz4, 20-30 % smaller (docs/performance.md). `zstd` by name asks for the smallest file.
"""

import functools
import threading
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from vmckpt.errors import CorruptionError, FeatureError, UsageError
from vmckpt.pages import Buffer

__all__ = ["CODEC_NAMES", "LZ4", "RAW", "ZSTD", "Choice", "choose", "compressor", "decompress"]

RAW, LZ4, ZSTD = range(3)
CODEC_NAMES = ("raw", "lz4", "zstd")

Compress = Callable[[Buffer], bytes]

_WINDOW_LOG_MAX = 22  # of the largest memory block; a frame that wants a larger window is not ours


class Choice(NamedTuple):
    """How a save compresses, and the memory block size that suits it."""

    codec: int
    level: int
    memory_block_bytes: int


_CHOICES = {
    "raw": Choice(RAW, 0, 128 << 10),
    "lz4": Choice(LZ4, 1, 128 << 10),
    "zstd": Choice(ZSTD, 3, 512 << 10),
}
_FAST_ZSTD = Choice(ZSTD, 1, 128 << 10)


@functools.cache
def _zstd() -> ModuleType | None:
    """Python's own zstd (from 3.14 on), or its backport, or None."""
    try:
        from compression import zstd  # noqa: PLC0415 costs start-up, and may be missing
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415 likewise
        except ImportError:
            return None
    return zstd  # type: ignore[no-any-return]  # a module without stubs


def _need_zstd() -> ModuleType:
    module = _zstd()
    if module is None:
        raise FeatureError(
            "zstd needs Python 3.14 or the package backports.zstd, which is not installed: "
            "install `vmckpt[zstd]`, or use --codec lz4"
        )
    return module


def choose(name: str | None) -> Choice:
    """The codec, level and memory block size for `raw`, `lz4`, `zstd`, or `auto` (None means the same).

    Raises:
        UsageError: there is no such codec.
        FeatureError: zstd is asked for by name and not installed.
    """
    if name is None or name == "auto":
        return _CHOICES["lz4"] if _zstd() is None else _FAST_ZSTD
    if name not in _CHOICES:
        raise UsageError(f"there is no codec {name!r}: expected one of auto, {', '.join(CODEC_NAMES)}")
    if name == "zstd":
        _need_zstd()
    return _CHOICES[name]


def compressor(codec: int, level: int) -> Compress:
    """A function that compresses one buffer; not to be shared between threads.

    What it returns may be longer than what it was given.
    """
    if codec == LZ4:
        from lz4 import block  # noqa: PLC0415 not every command compresses

        return functools.partial(block.compress, store_size=False)
    if codec == ZSTD:
        zstd = _need_zstd()
        context = zstd.ZstdCompressor(level=level)

        def compress(data: Buffer) -> bytes:
            context.set_pledged_input_size(len(data))
            return context.compress(data, context.FLUSH_FRAME)  # type: ignore[no-any-return]  # no stubs

        return compress
    return bytes


def decompress(codec: int, data: Buffer, size_bytes: int, room: memoryview | None = None) -> Buffer:
    """Exactly `size_bytes` bytes out of `data`; allocates no more than that.

    Args:
        codec: that it was compressed with.
        data: one memory block's compressed pages.
        size_bytes: what they come to.
        room: writable memory that may be used, if it is large enough; the answer may be a view of it.

    Raises:
        CorruptionError: the bytes are not what a compressor made of so many.
        FeatureError: the codec is not installed.
    """
    try:
        plain = _DECOMPRESS[codec](data, size_bytes, room)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CorruptionError(f"a memory block cannot be decompressed: {error}") from error
    if len(plain) != size_bytes:
        raise CorruptionError(f"a memory block decompresses to {len(plain)} bytes, expected {size_bytes}")
    return plain


def _raw(data: Buffer, size_bytes: int, room: memoryview | None) -> Buffer:  # noqa: ARG001 the length is checked by the caller
    return data


def _lz4(data: Buffer, size_bytes: int, room: memoryview | None) -> Buffer:  # noqa: ARG001 it makes its own
    from lz4 import block  # noqa: PLC0415 not every command decompresses

    try:
        plain: bytes = block.decompress(data, uncompressed_size=size_bytes)
    except block.LZ4BlockError as error:
        raise ValueError(str(error)) from error
    return plain


@functools.cache
def _zstd_options() -> tuple[Callable[..., object], dict[object, int], type[Exception]]:
    zstd = _need_zstd()
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    return zstd.ZstdDecompressor, options, zstd.ZstdError


class _Contexts(threading.local):
    # Of each thread its own, made when it is wanted; None: there is no libzstd.
    def __init__(self) -> None:
        from vmckpt.kernel.libzstd import Decompressor, load  # noqa: PLC0415 not every command decompresses

        library = load()
        self.zstd = None if library is None else Decompressor(library)


@functools.cache
def _contexts() -> _Contexts:
    return _Contexts()


def _zstd_frame(data: Buffer, size_bytes: int, room: memoryview | None) -> Buffer:
    context = _contexts().zstd
    if context is None:
        return _module_frame(data, size_bytes)
    if _window_of(data) > 1 << _WINDOW_LOG_MAX:
        raise ValueError("the zstd frame asks for a window larger than any memory block")
    if room is None or len(room) < size_bytes:
        room = memoryview(bytearray(size_bytes))
    into = room[:size_bytes]
    count = context.decompress(data, into)
    return into if count == size_bytes else into[:count]


def _window_of(frame: Buffer) -> int:
    # The window that a frame's header asks for, in bytes (RFC 8878, 3.1.1.1); 0 where it is as large as the content.
    # Here all of the content is in one buffer, and no window is allocated; but whoever reads the file otherwise needs it.
    if len(frame) < 6 or frame[4] & 0x20:
        return 0
    base = 1 << 10 + (frame[5] >> 3)
    return base + base // 8 * (frame[5] & 7)


def _module_frame(data: Buffer, size_bytes: int) -> Buffer:
    make, options, failure = _zstd_options()
    frame: object = make(options=options)
    try:
        plain: bytes = frame.decompress(data, max_length=size_bytes)  # type: ignore[attr-defined]  # no stubs
    except (failure, EOFError) as error:
        raise ValueError(str(error)) from error
    if not frame.eof or frame.unused_data:  # type: ignore[attr-defined]  # no stubs
        raise ValueError("the zstd frame is longer or shorter than it should be")
    return plain


_DECOMPRESS: dict[int, Callable[[Buffer, int, memoryview | None], Buffer]] = {
    RAW: _raw,
    LZ4: _lz4,
    ZSTD: _zstd_frame,
}
