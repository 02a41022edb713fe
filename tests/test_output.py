"""Files that appear whole or not at all."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmckpt.errors import IoError, UsageError
from vmckpt.output import AtomicFile, refuse_input, start_writeback


@pytest.fixture(params=[False, True], ids=["nameless", "named"])
def named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With nameless temporary files, and on a file system that has none."""
    if request.param:
        without_tmpfile(monkeypatch)
    return bool(request.param)


def without_tmpfile(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", call)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


def write(path: Path, content: bytes, *, force: bool = False) -> None:
    with AtomicFile(str(path), force=force) as out:
        os.write(out.fd, content)
        out.commit()


def test_it_appears_at_commit_with_all_its_bytes_for_its_owner_alone(named: bool, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with AtomicFile(str(path)) as out:
        os.write(out.fd, b"content")
        assert not path.exists()
        assert len(os.listdir(tmp_path)) == int(named)
        out.commit()
        assert path.read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["out"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_nlink == 1


def test_a_name_without_a_directory_is_in_the_working_directory(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with AtomicFile("out") as out:
        out.commit()
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "name", ["with space", "-", "näme\udcff", "a" * 230, "b" * 255, "ü" * 127, ".hidden", "%s.{}"]
)
def test_any_name_will_do(name: str, named: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path, b"1")
    write(path, b"2", force=True)
    assert os.listdir(tmp_path) == [name]
    assert path.read_bytes() == b"2"


def test_without_commit_nothing_is_left(named: bool, tmp_path: Path) -> None:
    with AtomicFile(str(tmp_path / "out")) as out:
        os.write(out.fd, b"content")
    assert os.listdir(tmp_path) == []


def test_an_earlier_file_is_refused_and_stays(named: bool, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"earlier")
    with pytest.raises(IoError, match="exists already"):
        AtomicFile(str(path))
    assert path.read_bytes() == b"earlier"


def test_force_replaces_an_earlier_file_at_commit(named: bool, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"earlier")
    with AtomicFile(str(path), force=True) as out:
        os.write(out.fd, b"new")
        assert path.read_bytes() == b"earlier"
        out.commit()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


def test_force_leaves_an_earlier_file_where_there_is_no_commit(named: bool, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"earlier")
    with AtomicFile(str(path), force=True) as out:
        os.write(out.fd, b"new")
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_appeared_meanwhile_is_not_replaced(named: bool, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with AtomicFile(str(path)) as out:
        path.write_bytes(b"somebody else's")
        with pytest.raises(IoError, match="exists already"):
            out.commit()
    assert path.read_bytes() == b"somebody else's"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_no_regular_file_is_never_replaced(kind: str, force: bool, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(IoError, match="no regular file"):
        AtomicFile(str(path), force=force)
    assert os.listdir(tmp_path) == ["out"]


def test_force_replaces_a_link_and_not_what_it_leads_to(named: bool, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "out").symlink_to("elsewhere")
    write(tmp_path / "out", b"new", force=True)
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


@pytest.mark.parametrize("path", ["missing/out", "file/out", "missing/"])
def test_a_directory_that_is_not_there_is_an_error(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IoError):
        AtomicFile(f"{tmp_path}/{path}")


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_failing_finish_is_an_error_and_leaves_nothing(
    call: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with AtomicFile(str(tmp_path / "out")) as out, monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(IoError, match="Input/output error"):
            out.commit()
    assert os.listdir(tmp_path) == []


# --- parts of other runs ---


def part_of(path: Path, pid: int) -> Path:
    return path.parent / f".{path.name}.{pid}.part"


def test_parts_that_nobody_locks_are_swept_and_those_of_a_live_run_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    part_of(path, 1).write_bytes(b"of a run that was killed")
    live = part_of(path, 2)
    live.write_bytes(b"of a run that goes on")
    without_tmpfile(monkeypatch)
    with open(live, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write(path, b"new")
    assert sorted(os.listdir(tmp_path)) == [live.name, "out"]


def test_the_part_of_a_long_name_is_swept_and_that_of_a_similar_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_tmpfile(monkeypatch)
    left = []
    for name in ("n" * 254 + "1", "n" * 254 + "2"):
        out = AtomicFile(str(tmp_path / name))
        left.append(tmp_path / f"{out._stem}1.part")
        left[-1].write_bytes(b"of a run that was killed")
        out.close()
    write(tmp_path / ("n" * 254 + "1"), b"new")
    assert [path.exists() for path in left] == [False, True]


def test_an_empty_name_is_refused_before_any_work() -> None:
    with pytest.raises(IoError, match="name is empty"):
        AtomicFile("")


def test_an_input_is_no_output(tmp_path: Path) -> None:
    path, link, hard = tmp_path / "image", tmp_path / "link", tmp_path / "hard"
    path.write_bytes(b"precious")
    link.symlink_to("image")
    hard.hardlink_to(path)
    for source, output in ((path, path), (link, path), (path, hard)):
        with pytest.raises(UsageError, match="the same file"):
            refuse_input(str(source), str(output))
    refuse_input(str(path), str(link))  # the link is replaced, and not what it leads to
    refuse_input(str(path), str(tmp_path / "new"))
    refuse_input(str(tmp_path / "missing"), str(path))
    refuse_input("/dev/null", "/dev/null")


def test_a_live_run_and_another_for_the_same_output_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    without_tmpfile(monkeypatch)
    with AtomicFile(str(path), force=True) as first:
        os.write(first.fd, b"first")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)  # another process, as far as names go
            write(path, b"second", force=True)
        assert path.read_bytes() == b"second"
        first.commit()
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["out"]


def test_a_nameless_file_is_locked_for_the_moment_in_which_it_has_a_part_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    replace = os.replace

    def replace_late(source: str, target: str, **kwargs: Any) -> None:
        with AtomicFile(str(path), force=True) as other:
            other._sweep()  # a run for the same output comes by
        replace(source, target, **kwargs)

    monkeypatch.setattr(os, "replace", replace_late)
    write(path, b"new", force=True)
    assert path.read_bytes() == b"new"


def test_a_part_swept_before_it_was_locked_is_made_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    without_tmpfile(monkeypatch)
    flock = fcntl.flock
    swept: list[Path] = []

    def flock_late(fd: int, operation: int) -> None:
        if not swept:
            swept.append(part_of(path, os.getpid()))
            swept[0].unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "name",
    [
        ".out.notes.part",
        ".out.12.3.part",
        ".out.part",
        ".other.12.part",
        "out.12.part",
        ".out.12.parts",
        ".out..part",
    ],
)
def test_files_that_only_look_like_parts_are_never_swept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"precious")
    without_tmpfile(monkeypatch)
    write(tmp_path / "out", b"new")
    write(tmp_path / "out", b"newer", force=True)
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_part_that_is_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    part_of(tmp_path / "out", 1).symlink_to("precious")
    without_tmpfile(monkeypatch)
    write(tmp_path / "out", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_write_back_is_advice_that_nothing_depends_on(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"content")
        start_writeback(writing, 0, 4096)
        start_writeback(-1, 0, 4096)
        assert os.read(reading, 100) == b"content"
    finally:
        os.close(reading)
        os.close(writing)
