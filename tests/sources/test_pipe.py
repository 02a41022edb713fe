"""Streams: copied to a temporary file with holes, then opened as any other file."""

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.elfwriter import ElfCore, Load
from tests.support.memory import brute_ranges_hold, pages_of, read_all, write_sparse
from vmckpt.errors import IoError, SourceError
from vmckpt.pages import PAGE_BYTES
from vmckpt.sources import open_source, pipe

CHUNK_PAGES = pipe._CHUNK_BYTES // PAGE_BYTES
CONTENT = pages_of([1] + [0] * (3 * CHUNK_PAGES - 1) + [2, 3] + [0] * 5 * CHUNK_PAGES)


@contextlib.contextmanager
def fed(content: bytes, *, piece_bytes: int = 1 << 20) -> Iterator[str]:
    """The path of a pipe that somebody writes `content` to, a piece at a time."""
    read_end, write_end = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(write_end, "wb", buffering=0) as file:
            for start in range(0, len(content), piece_bytes):
                file.write(content[start : start + piece_bytes])

    writer = threading.Thread(target=feed)
    writer.start()
    try:
        yield f"/dev/fd/{read_end}"
    finally:
        os.close(read_end)
        writer.join()


@pytest.mark.parametrize("piece_bytes", [777, 4096, 1 << 20])
def test_a_piped_raw_image_is_read_whole_and_its_holes_are_kept(piece_bytes: int) -> None:
    with fed(CONTENT, piece_bytes=piece_bytes) as path:
        source = open_source(path)
    assert (source.kind, source.name) == ("raw", path)
    assert read_all(source) == CONTENT
    assert brute_ranges_hold(source, CONTENT)
    ranges = list(source.data_ranges())
    source.check_unchanged()
    source.close()
    if ranges == [(0, len(CONTENT) // PAGE_BYTES)]:
        pytest.skip("the file system of the temporary directory has no holes")
    assert (
        sum(end - start for start, end in ranges) <= 3 * CHUNK_PAGES
    )  # the last, which is not whole, is kept


def test_a_piped_elf_core_is_an_elf_core(tmp_path: Path) -> None:
    core = ElfCore([Load(1 << 20, CONTENT)]).write(tmp_path / "core")
    with open(core, "rb") as file, fed(file.read()) as path:
        source = open_source(path)
    assert source.kind == "elf"
    assert read_all(source) == CONTENT
    source.close()


def test_a_fifo_is_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(CONTENT,))
    writer.start()
    source = open_source(str(path))
    writer.join()
    assert (read_all(source), source.name) == (CONTENT, str(path))
    source.close()


def test_a_stream_has_an_identity_of_its_own_and_is_as_old_as_its_end() -> None:
    sources = []
    before = time.time_ns()
    for _ in range(2):
        with fed(CONTENT) as path:
            sources.append(open_source(path))
    after = time.time_ns()
    assert sources[0].identity != sources[1].identity
    assert [len(source.identity) for source in sources] == [16, 16]
    assert before <= sources[0].modified_ns <= sources[1].modified_ns <= after
    for source in sources:
        source.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it is empty"), (b"x" * 4097, "found 4097, 1 too many")],
    ids=["empty", "cut short"],
)
def test_a_stream_of_no_memory_is_refused_and_leaves_nothing_open(content: bytes, message: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with fed(content) as path, pytest.raises(SourceError, match=message):
        open_source(path)
    assert len(os.listdir("/proc/self/fd")) == before


@settings(max_examples=50, deadline=None)
@given(chunks=st.lists(st.sampled_from([0, 0, 1]), max_size=20), tail=st.integers(0, 5000))
def test_the_runs_of_data_are_all_but_the_zero_chunks(chunks: list[int], tail: int) -> None:
    block = b"".join(bytes([value]) * pipe._CHUNK_BYTES for value in chunks) + bytes(tail)
    covered = bytearray(len(block))
    for start, end in pipe._data_runs(memoryview(block)):
        assert start < end
        covered[start:end] = block[start:end]
        assert any(block[start:end]) or end == len(block)
    assert covered == block


def test_no_space_for_the_copy_names_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = len(os.listdir("/proc/self/fd"))
    with fed(CONTENT) as path:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(
            IoError, match="No space left on device; set TMPDIR to a directory with more space"
        ):
            open_source(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_temporary_directory_is_an_io_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with fed(b"x") as path, pytest.raises(IoError, match="TMPDIR says where"):
        open_source(path)


def test_a_stream_that_fails_is_an_io_error_with_its_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with fed(b"x") as path:
        monkeypatch.setattr(os, "readv", broken)
        with pytest.raises(IoError, match="cannot read the stream: Input/output error") as caught:
            open_source(path)
    assert caught.value.offset == 0


READ_STDIN = """
import sys
import tempfile
from vmckpt.sources import open_source
source = open_source("-")
print(source.kind, source.name, source.layout.page_count, len(source.identity))
"""


def from_stdin(stdin: int, script: str = READ_STDIN) -> list[str]:
    """What a process with `stdin` as standard input prints."""
    run = subprocess.run(
        [sys.executable, "-c", script], stdin=stdin, capture_output=True, check=True, text=True
    )
    return run.stdout.split()


def test_a_file_as_standard_input_is_read_in_place(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "image", CONTENT)
    with open(path, "rb") as file:
        assert from_stdin(file.fileno()) == ["raw", "-", str(len(CONTENT) // PAGE_BYTES), "32"]


def test_standard_input_that_was_partly_read_is_a_stream_of_the_rest(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "image", CONTENT)
    with open(path, "rb") as file:
        os.lseek(file.fileno(), PAGE_BYTES, os.SEEK_SET)
        assert from_stdin(file.fileno()) == ["raw", "-", str(len(CONTENT) // PAGE_BYTES - 1), "16"]


def test_a_pipe_as_standard_input_is_a_stream() -> None:
    with fed(CONTENT) as path:
        fd = int(path.rpartition("/")[2])
        assert from_stdin(fd) == ["raw", "-", str(len(CONTENT) // PAGE_BYTES), "16"]


def test_a_terminal_as_standard_input_is_wrong_usage() -> None:
    master, terminal = os.openpty()
    script = """
from vmckpt.errors import UsageError
from vmckpt.sources import open_source
try:
    open_source("-")
except UsageError as error:
    print(error.message.partition(":")[0].replace(" ", "_"))
"""
    assert from_stdin(terminal, script) == ["this_is_a_terminal"]
    os.close(master)
    os.close(terminal)
