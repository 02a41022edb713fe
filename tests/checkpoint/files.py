"""Small checkpoints for the tests: memory in a buffer as a source, and the shortest way to save it into a file."""

import os
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import pytest

from vmckpt.checkpoint.codec import choose
from vmckpt.checkpoint.format import Header
from vmckpt.checkpoint.writer import CheckpointWriter, new_header
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.pages import PageRange
from vmckpt.saving.order import block_numbers
from vmckpt.saving.rest import save_at_rest

__all__ = [
    "CHECKPOINT_ID",
    "CREATED_NS",
    "KIB",
    "Memory",
    "header_of",
    "need_zstd",
    "rewritten",
    "save_memory",
]

KIB = 1024
CHECKPOINT_ID = bytes(range(0x10, 0x20))
CREATED_NS = 1_700_000_000 * 10**9


class Memory:
    """Memory in a buffer; see `vmckpt.pages.Source`."""

    name = "memory"
    kind = "raw"
    identity = b"memory"
    modified_ns = CREATED_NS

    def __init__(self, content: bytes, layout: Layout | None = None) -> None:
        self._content = content
        self._layout = layout or Layout.flat(len(content))

    @property
    def layout(self) -> Layout:
        return self._layout

    def read(self, pages: PageRange, into: memoryview) -> None:
        into[:] = self._content[pages.start * PAGE_BYTES : pages.end * PAGE_BYTES]

    def data_ranges(self) -> Iterator[PageRange]:
        yield PageRange(0, self._layout.page_count)

    def check_unchanged(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def need_zstd() -> Any:
    """Python's own zstd or its backport; what asks for it is skipped where there is neither."""
    return pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def header_of(
    layout: Layout, *, codec: int = 0, memory_block_bytes: int = 16 * KIB, storage_block_bytes: int = 64 * KIB
) -> Header:
    """A header with the same id and time in every run."""
    return new_header(
        layout,
        codec=codec,
        memory_block_bytes=memory_block_bytes,
        storage_block_bytes=storage_block_bytes,
        checkpoint_id=CHECKPOINT_ID,
        created_ns=CREATED_NS,
    )


def save_memory(
    path: str | os.PathLike[str],
    content: bytes,
    *,
    layout: Layout | None = None,
    codec: str = "raw",
    memory_block_bytes: int = 16 * KIB,
    storage_block_bytes: int = 64 * KIB,
    jobs: int = 1,
    active_pages: int = 0,
    sections: Sequence[tuple[int, bytes]] = (),
) -> str:
    """Save `content` through the whole pipeline, and return the path; equal arguments make equal files."""
    source = Memory(content, layout)
    choice = choose(codec)._replace(memory_block_bytes=memory_block_bytes)
    header = header_of(
        source.layout,
        codec=choice.codec,
        memory_block_bytes=memory_block_bytes,
        storage_block_bytes=storage_block_bytes,
    )
    with open(path, "w+b", buffering=0) as file:
        writer = CheckpointWriter(file.fileno(), header, source.layout, path=os.fspath(path))
        saved = save_at_rest(
            source,
            writer,
            block_numbers(source.data_ranges(), header.block_pages),
            choice=choice,
            jobs=jobs,
            data_pages=source.layout.page_count,
        )
        assert saved.digest is not None
        writer.finish(saved.digest, saved.counts, active_pages=active_pages, sections=sections)
    return os.fspath(path)


def rewritten(path: str | os.PathLike[str], content: bytes) -> str:
    """Write a file and return its path."""
    with open(path, "wb") as file:
        file.write(content)
    return os.fspath(path)
