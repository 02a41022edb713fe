"""The memory images that are measured: real ones, given ones, created ones.

Finding them is pure planning (`found`); `ready` makes a planned image exist in the work directory, and `warm` brings
it into the page cache.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from vmckpt.errors import IoError
from vmckpt.units import format_size

__all__ = ["BIG_SPARSE", "NO_IMAGE", "Image", "created", "found", "ready", "warm"]

SHARED_DIR = os.path.join("..", "shared", "data")
_BLOCK_BYTES = 1 << 20
_FULL_BYTES = 4 << 30
_BIG_SPARSE_BYTES = 64 << 30
_BIG_SPARSE_DATA_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """A memory image, which may still have to be made."""

    name: str
    """What its tables are headed with."""
    kind: Literal["raw", "elf"]
    """What the file is, by its suffix."""
    origin: Literal["real", "created", "sparse"]
    """A real guest's memory, `vmckpt create`'s, or a file that is almost all hole."""
    size_bytes: int
    """Length of the file; 0 while it is packed and not known."""
    path: str = ""
    """Where the file is; empty when it has to be made."""
    packed_path: str = ""
    """What to unpack it from."""
    profile: str = ""
    """What `vmckpt create` is to make; empty for its own choice."""

    @property
    def real(self) -> bool:
        """Whether a real guest's memory is in it."""
        return self.origin == "real"

    def about(self, size_bytes: int) -> bool:
        """Whether it holds `size_bytes` of memory; an ELF core is longer by its headers and video memory."""
        return abs(self.size_bytes - size_bytes) <= size_bytes // 64


BIG_SPARSE = Image("64 GiB sparse", "raw", "sparse", _BIG_SPARSE_BYTES)
"""What a checkpoint of a very large machine is made of."""

NO_IMAGE = Image("-", "raw", "sparse", 0, path=os.devnull)
"""Stands where a command needs no image."""


def found(directory: str | None, shared_dir: str = SHARED_DIR) -> list[Image]:
    """The images of `directory` (`*.raw`, `*.elf`) and the packed ones of `shared_dir`, smallest first.

    Raises:
        IoError: `directory` cannot be listed.
    """
    given = []
    if directory is not None:
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            raise IoError.of(error, "cannot list the images", path=directory) from error
        for name in names:
            path = os.path.realpath(os.path.join(directory, name))  # zstd refuses symbolic links
            if name.endswith(".raw") and os.path.isfile(path):
                given.append(Image(name, "raw", "real", os.path.getsize(path), path))
            elif name.endswith(".elf") and os.path.isfile(path):
                given.append(Image(name, "elf", "real", os.path.getsize(path), path))
    given.sort(key=lambda image: image.size_bytes)
    have = {image.name for image in given}
    return [image for image in _shared(shared_dir) if image.name not in have] + given


def created(size_bytes: int, profile: str = "") -> Image:
    """The image that `vmckpt create` makes with this size; above 4 GiB mostly zero unless a profile is asked for."""
    chosen = profile or ("idle" if size_bytes > _FULL_BYTES else "")
    name = f"created {format_size(size_bytes)}" + (f" ({chosen})" if chosen else "")
    return Image(name, "raw", "created", size_bytes, profile=chosen)


@contextmanager
def ready(image: Image, work_dir: str, vmckpt: Sequence[str]) -> Iterator[Image]:
    """The image with its path, made in `work_dir` where it must be, and removed after.

    Raises:
        IoError: it cannot be made.
    """
    if image.path:
        yield image
        return
    path = os.path.join(work_dir, image.name.replace(" ", "-"))
    try:
        if image.packed_path:
            _unpack(image.packed_path, path)
        elif image.origin == "sparse":
            _write_sparse(path, image.size_bytes)
        else:
            size = f"{image.size_bytes >> 20}M"
            options = ["--profile", image.profile] if image.profile else []
            _make([*vmckpt, "create", path, "--size", size, *options], path)
        yield replace(image, path=path, size_bytes=os.path.getsize(path))
    finally:
        if os.path.exists(path):
            os.unlink(path)


def warm(path: str) -> None:
    """Bring a file into the page cache.

    Raises:
        IoError: it cannot be read.
    """
    buffer = bytearray(_BLOCK_BYTES)
    try:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    except OSError as error:
        raise IoError.of(error, "cannot read the image", path=path) from error


def _shared(directory: str) -> list[Image]:
    if not os.path.isdir(directory):
        return []
    return [
        Image(name.removesuffix(".zst"), "raw", "real", 0, packed_path=os.path.join(directory, name))
        for name in sorted(os.listdir(directory))
        if name.endswith(".raw.zst")
    ]


def _unpack(packed_path: str, path: str) -> None:
    # With the zstd tool, else with a small program in another process, so that this one stays small: its peak is
    # the floor of every peak that is measured (see `measure`).
    if shutil.which("zstd"):
        _make(["zstd", "-d", "-q", "-f", "--long=27", packed_path, "-o", path], path)
    else:
        _make([sys.executable, "-c", _UNPACK, packed_path, path], path)


_UNPACK = """
import shutil, sys
try:
    from compression import zstd
except ImportError:
    from backports import zstd
with zstd.open(sys.argv[1]) as packed, open(sys.argv[2], "wb") as image:
    shutil.copyfileobj(packed, image, 1 << 20)
"""


def _make(argv: Sequence[str], path: str) -> None:
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise IoError(f"`{' '.join(argv)}` ended with status {done.returncode}: {complaint}", path=path)


def _write_sparse(path: str, size_bytes: int) -> None:
    # A few MiB of incompressible data at the start, in the middle and near the end of nothing.
    with open(path, "wb") as file:
        file.truncate(size_bytes)
        for offset in (0, size_bytes // 2, size_bytes - 2 * _BIG_SPARSE_DATA_BYTES):
            file.seek(offset)
            file.write(os.urandom(_BIG_SPARSE_DATA_BYTES))
