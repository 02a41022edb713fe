"""An image that changes while it is read: an error, exit code 1, and nothing left."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vmckpt import api
from vmckpt.errors import ChangedError
from vmckpt.pages import PAGE_BYTES

PAGES = 2048
LONG_AGO_NS = 10**18  # a write after that changes the time for sure, whatever the clock's grain


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "guest.raw"
    path.write_bytes(b"".join(os.urandom(16) * (PAGE_BYTES // 16) for _ in range(PAGES)))
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return path


def rewrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek((PAGES - 1) * PAGE_BYTES)
        file.write(b"another")


def shrink(path: Path) -> None:
    os.truncate(path, PAGE_BYTES)


def shrink_a_little(path: Path) -> None:
    os.truncate(path, (PAGES - 1) * PAGE_BYTES + 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(bytes(PAGE_BYTES))


def touch(path: Path) -> None:
    os.utime(path)


def shrink_and_grow_back(path: Path) -> None:
    os.truncate(path, 0)
    os.truncate(path, PAGES * PAGE_BYTES)


CHANGES = [rewrite, shrink, shrink_a_little, empty, grow, touch, shrink_and_grow_back]


def after(calls: int, change: Callable[[], None]) -> Callable[[int, int], None]:
    """A progress callback that makes the change at its so many-th call."""
    seen = 0

    def progress(_done: int, _total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == calls:
            change()

    return progress


@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_it_is_saved_is_an_error_and_leaves_nothing(
    change: Callable[[Path], None], calls: int, force: bool, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if force:
        out.write_bytes(b"earlier")
    with pytest.raises(ChangedError) as caught:
        api.save(str(image), str(out), jobs=2, force=force, progress=after(calls, lambda: change(image)))
    assert caught.value.exit_code == 1
    assert caught.value.path == str(image)
    assert sorted(os.listdir(tmp_path)) == ["in", "out"][: 1 + force]
    if force:
        assert out.read_bytes() == b"earlier"


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_it_is_digested_is_an_error(change: Callable[[Path], None], image: Path) -> None:
    with pytest.raises(ChangedError):
        api.digest(str(image), jobs=1, progress=after(1, lambda: change(image)))


@pytest.mark.parametrize("change", [rewrite, shrink, grow])
def test_a_change_between_opening_and_reading_is_an_error(
    change: Callable[[Path], None], image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmckpt.sources.segments import SegmentSource

    real = SegmentSource.data_ranges

    def data_ranges(source: SegmentSource) -> object:
        change(image)
        return real(source)

    monkeypatch.setattr(SegmentSource, "data_ranges", data_ranges)
    with pytest.raises(ChangedError):
        api.save(str(image), str(tmp_path / "out"), jobs=1)
    assert os.listdir(tmp_path) == ["in"]


def test_a_page_that_stops_being_a_duplicate_while_it_is_saved_is_never_mistaken(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last page repeats the first when it is scanned, and no more when the two are compared."""
    from vmckpt.sources.segments import SegmentSource

    first = image.read_bytes()[:PAGE_BYTES]
    with open(image, "r+b") as file:
        file.seek((PAGES - 1) * PAGE_BYTES)
        file.write(first)
    monkeypatch.setattr(SegmentSource, "check_unchanged", lambda _source: None)

    def swap() -> None:
        with open(image, "r+b") as file:
            file.write(b"\x77" * PAGE_BYTES)

    out = tmp_path / "out"
    api.save(str(image), str(out), jobs=1, progress=after(1, swap))
    assert api.verify(str(out), jobs=1).ok
    api.restore(str(out), str(tmp_path / "back"), jobs=1)
    restored = (tmp_path / "back").read_bytes()
    assert restored[-PAGE_BYTES:] == first


def test_an_image_unlinked_while_it_is_saved_is_saved(image: Path, tmp_path: Path) -> None:
    content = image.read_bytes()
    api.save(str(image), str(tmp_path / "out"), jobs=2, progress=after(1, image.unlink))
    api.restore(str(tmp_path / "out"), str(tmp_path / "back"), jobs=1)
    assert (tmp_path / "back").read_bytes() == content


def test_a_checkpoint_unlinked_while_it_is_restored_is_restored(image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    api.save(str(image), str(out), jobs=2)
    api.restore(str(out), str(tmp_path / "back"), jobs=2, progress=after(1, out.unlink))
    assert (tmp_path / "back").read_bytes() == image.read_bytes()


def test_a_writer_that_races_the_command_ends_it_with_1_and_a_sentence(image: Path, tmp_path: Path) -> None:
    arguments = ["save", str(image), str(tmp_path / "out"), "--jobs", "2", "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-m", "vmckpt", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        page = 0
        with open(image, "r+b") as file:
            while process.poll() is None:  # until it ends, the image never stands still
                file.seek(page * PAGE_BYTES)
                file.write(os.urandom(64))
                file.flush()
                page = (page + 977) % PAGES
        assert process.stderr is not None
        errors = process.stderr.read()
    assert (process.returncode, errors.count("\n")) == (1, 1), errors
    assert "while it was read" in errors
    assert os.listdir(tmp_path) == ["in"]
