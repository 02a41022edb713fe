"""The system's libzstd, where there is one: a frame into memory that is there already.

    frame, room ─▶ Decompressor ─▶ the room's first bytes

Python's zstd module makes a context for each frame, and new memory for what comes out, in parts that it joins: more than half of
the time that a frame of 8 KiB takes, and a fifth of one of 128 KiB. libzstd needs neither. Its library is part of
every Linux distribution's base system; where it cannot be loaded, `load` says so and the module does the work.
Called by `checkpoint.codec`.
"""

import ctypes
import functools
from collections.abc import Callable

from vmckpt.kernel.memory import pinned
from vmckpt.pages import Buffer

__all__ = ["Decompressor", "load"]

_NAME = "libzstd.so.1"  # the 1 is the ABI's: functions that are in it keep their form
_size, _address = ctypes.c_size_t, ctypes.c_void_p
_PROTOTYPES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "ZSTD_createDCtx": (_address, ()),
    "ZSTD_freeDCtx": (_size, (_address,)),
    "ZSTD_decompressDCtx": (_size, (_address, _address, _size, _address, _size)),
    "ZSTD_findFrameCompressedSize": (_size, (_address, _size)),
    "ZSTD_isError": (ctypes.c_uint, (_size,)),
    "ZSTD_getErrorName": (ctypes.c_char_p, (_size,)),
}


class Decompressor:
    """One context. For one thread; a process that is forked may go on with its copy."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Make the context.

        Raises:
            MemoryError: there is none for it.
        """
        self._decompress = library.ZSTD_decompressDCtx
        self._frame_bytes = library.ZSTD_findFrameCompressedSize
        self._is_error = library.ZSTD_isError
        self._name_of = library.ZSTD_getErrorName
        self._free: Callable[[int], object] = library.ZSTD_freeDCtx
        self._context: int = library.ZSTD_createDCtx() or 0
        if not self._context:
            raise MemoryError

    def decompress(self, frame: Buffer, room: memoryview) -> int:
        """Decompress one frame, all of `frame`, into `room`, and tell how many bytes it came to; never writes past it.

        Raises:
            ValueError: it is no frame, it is damaged, it does not fit, or something follows it.
        """
        with pinned(frame) as (source, source_bytes), pinned(room) as (target, target_bytes):
            count: int = self._decompress(self._context, target, target_bytes, source, source_bytes)
            if not self._is_error(count):
                frame_bytes: int = self._frame_bytes(source, source_bytes)
                if frame_bytes != source_bytes:
                    raise ValueError(f"a zstd frame of {frame_bytes} bytes in {source_bytes}")
                return count
        raise ValueError(self._name_of(count).decode("ascii", "replace"))

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._free(self._context)
            self._context = 0


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library; None where there is none, or it lacks something."""
    try:
        library = ctypes.CDLL(_NAME)
        for name, (result, arguments) in _PROTOTYPES.items():
            function = library[name]
            function.restype = result
            function.argtypes = arguments
            setattr(library, name, function)
    except (OSError, AttributeError):
        return None
    return library
