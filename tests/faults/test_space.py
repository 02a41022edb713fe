"""Full disks and failing devices: exit code 1, the earlier file as it was, and nothing under the final name."""

import errno
import functools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults.child import (
    READING_CALLS,
    WRITING_CALLS,
    Ended,
    Fault,
    cut_short,
    failing,
    no_tmpfile,
    run_in_child,
)
from tests.faults.samples import make_sample
from vmckpt import api
from vmckpt.pages import PAGE_BYTES

ACTIONS: dict[str, Callable[[str, str, bool], object]] = {
    "save": lambda folder, out, force: api.save(f"{folder}/sample.core", out, jobs=2, force=force),
    "convert": lambda folder, out, force: api.convert(f"{folder}/sample.vmckpt", out, jobs=2, force=force),
    "restore": lambda folder, out, force: api.restore(f"{folder}/sample.vmckpt", out, jobs=2, force=force),
    "restore elf": lambda folder, out, force: api.restore(
        f"{folder}/sample.vmckpt", out, format="elf", jobs=2, force=force
    ),
    "rebuild": lambda folder, out, force: api.rebuild_index(f"{folder}/sample.vmckpt", out, force=force),
}
PAGES = 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sample of pages that do not shrink: its checkpoint and its image are both far above the limits here."""
    folder = tmp_path_factory.mktemp("space")
    make_sample(str(folder), pages=PAGES, random_bytes=PAGE_BYTES)
    return str(folder)


@pytest.fixture(scope="module")
def whole(folder: str) -> dict[str, bytes]:
    found = {}
    for name, action in ACTIONS.items():
        action(folder, f"{folder}/whole.{name}", True)
        found[name] = Path(f"{folder}/whole.{name}").read_bytes()
    return found


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mountpoint = tmp_path_factory.mktemp("small")
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mountpoint)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {done.stderr.strip()}")
    yield mountpoint
    subprocess.run(["umount", str(mountpoint)], check=True)


def refused(ended: Ended) -> None:
    """An action ended by itself with an IoError."""
    assert (ended.signal, ended.error, ended.code, ended.outlived) == (0, "IoError", 1, False), ended


@pytest.mark.parametrize("fallback", [False, True], ids=["nameless", "named"])
@pytest.mark.parametrize("name", ACTIONS)
def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(
    name: str, fallback: bool, folder: str, small_disk: Path
) -> None:
    earlier = small_disk / "out"
    earlier.write_bytes(b"earlier")
    prepare = [no_tmpfile] if fallback else []
    ended = run_in_child(lambda: ACTIONS[name](folder, str(earlier), True), *prepare)
    refused(ended)
    assert "No space left" in ended.message
    assert os.listdir(small_disk) == ["out"]
    assert earlier.read_bytes() == b"earlier"
    earlier.unlink()
    refused(run_in_child(lambda: ACTIONS[name](folder, str(earlier), False), *prepare))
    assert os.listdir(small_disk) == []


def test_the_command_says_no_space_in_one_sentence(folder: str, small_disk: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vmckpt", "save", f"{folder}/sample.core", str(small_disk / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left" in done.stderr
    assert os.listdir(small_disk) == []


@pytest.mark.parametrize("name", ACTIONS)
def test_a_file_size_limit_leaves_the_earlier_file_and_nothing_else(
    name: str, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "out").write_bytes(b"earlier")
    ended = run_in_child(
        lambda: ACTIONS[name](folder, str(tmp_path / "out"), True),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)),
    )
    refused(ended)
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"earlier"


def fault_of(calls: Sequence[str], number: int, in_workers: bool, at: int) -> Fault:
    """The `at`-th of the calls fails."""
    return Fault(calls, at, failing(number), in_workers=in_workers)


def failures_of(
    name: str, folder: str, out: Path, fault: Callable[[int], Fault], expected: bytes
) -> Iterator[Ended]:
    """Let each call in turn fail; yields each ending that was an error, once the output was found untouched."""
    at = 0
    while True:
        out.write_bytes(b"earlier")
        made = fault(at)
        ended = run_in_child(lambda: ACTIONS[name](folder, str(out), True), made.install)
        if ended.error == "":
            assert out.read_bytes() == expected
            return
        yield ended
        assert os.listdir(out.parent) == ["out"]
        at += 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ACTIONS)
def test_a_failing_write_at_any_call_is_an_error_and_leaves_the_earlier_file(
    name: str, number: int, folder: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for in_workers in (False, True):
        failed = 0
        for ended in failures_of(
            name,
            folder,
            out,
            functools.partial(fault_of, WRITING_CALLS, number, in_workers),
            whole[name],
        ):
            refused(ended)
            assert os.strerror(number) in ended.message
            assert out.read_bytes() == b"earlier"
            failed += 1
        assert failed or in_workers


@pytest.mark.parametrize("name", ACTIONS)
def test_a_failing_read_at_any_call_is_an_error_and_leaves_the_earlier_file(
    name: str, folder: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    failed = 0
    for in_workers in (False, True):
        for ended in failures_of(
            name,
            folder,
            out,
            functools.partial(fault_of, READING_CALLS, errno.EIO, in_workers),
            whole[name],
        ):
            refused(ended)
            assert out.read_bytes() == b"earlier"
            failed += 1
    assert failed


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
@pytest.mark.parametrize("name", ACTIONS)
def test_a_failing_finish_is_an_error_and_what_is_there_is_the_earlier_or_the_whole_file(
    name: str, call: str, folder: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    endings = []
    for ended in failures_of(
        name, folder, out, lambda at: Fault([call], at, failing(errno.EIO)), whole[name]
    ):
        refused(ended)
        endings.append(out.read_bytes())
    # Past the rename only the directory's fsync can fail: then the new file is there, though perhaps not for good.
    assert endings == ([b"earlier", whole[name]] if call == "fsync" else [b"earlier"])


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_failing_finish_of_a_new_file_is_an_error(
    call: str, folder: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fault = Fault([call], 0, failing(errno.EIO))
    refused(run_in_child(lambda: ACTIONS["save"](folder, str(out), False), fault.install))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ACTIONS)
def test_short_reads_and_writes_change_nothing(
    name: str, folder: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    calls = ("writev", "pwritev", "pwrite", "pread", "preadv")
    faults = [Fault(calls, 0, cut_short, in_workers=where, always=True) for where in (False, True)]
    ended = run_in_child(lambda: ACTIONS[name](folder, str(out), False), *(fault.install for fault in faults))
    assert (ended.error, ended.message) == ("", "")
    assert out.read_bytes() == whole[name]


@pytest.mark.parametrize("name", ACTIONS)
def test_a_storm_of_signals_changes_nothing(
    name: str, folder: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def storm() -> None:
        signal.signal(signal.SIGALRM, lambda _number, _frame: None)
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)

    ended = run_in_child(lambda: ACTIONS[name](folder, str(out), False), storm)
    assert (ended.error, ended.message) == ("", "")
    assert out.read_bytes() == whole[name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [["save", "sample.core", "-"], ["convert", "sample.vmckpt", "-"], ["restore", "sample.vmckpt", "-"]],
    ids=lambda arguments: arguments[0],
)
def test_a_stream_to_a_full_device_ends_with_1_and_a_sentence(arguments: list[str], folder: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vmckpt", *arguments, "--quiet"],
            cwd=folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr


def test_the_whole_output_of_a_stream_survives_short_writes(folder: str, whole: dict[str, bytes]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vmckpt", "restore", "sample.vmckpt", "-", "--quiet"],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    assert done.stdout == whole["restore"]
