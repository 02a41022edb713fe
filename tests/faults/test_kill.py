"""kill -9 at every step and at random moments: the output is whole or not there, and nothing is in the way after it."""

import functools
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.child import (
    NAMING_CALLS,
    PATIENCE_S,
    WRITING_CALLS,
    Fault,
    kill_after,
    kill_before,
    no_tmpfile,
    run_in_child,
)
from tests.faults.command import Run, killed_save, send_signal, time_of_a_save, whole_or_nothing
from tests.faults.samples import make_sample, write_image
from vmckpt import api

Action = Callable[[str, str, bool], object]

SAVE = "save"
ACTIONS: dict[str, Action] = {
    "save": lambda folder, out, force: api.save(f"{folder}/sample.core", out, jobs=2, force=force),
    "convert": lambda folder, out, force: api.convert(f"{folder}/sample.vmckpt", out, jobs=2, force=force),
    "restore": lambda folder, out, force: api.restore(f"{folder}/sample.vmckpt", out, jobs=2, force=force),
    "rebuild": lambda folder, out, force: api.rebuild_index(f"{folder}/sample.vmckpt", out, force=force),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("kill")
    make_sample(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def whole(folder: str) -> dict[str, bytes]:
    """What each action writes when nobody disturbs it."""
    found = {}
    for name, action in ACTIONS.items():
        action(folder, f"{folder}/whole.{name}", True)
        found[name] = Path(f"{folder}/whole.{name}").read_bytes()
    return found


def kills_of(
    name: str, folder: str, work: Path, *, earlier: bytes | None = None, fallback: bool = False
) -> Iterator[str]:
    """Kill the action before and after each of its calls in turn; yields after each death.

    With an `earlier` file, which stands there at each start, the action replaces it.
    """
    out = str(work / "out")
    force = earlier is not None
    for act in (kill_before, kill_after):
        at = 0
        while True:
            if earlier is not None:
                Path(out).write_bytes(earlier)
            fault = Fault((*WRITING_CALLS, *NAMING_CALLS), at, act)
            prepare = [no_tmpfile, fault.install] if fallback else [fault.install]
            ended = run_in_child(lambda: ACTIONS[name](folder, out, force), *prepare)
            assert not ended.outlived
            if ended.signal == 0:
                assert ended.error == ""
                break
            assert ended.signal == signal.SIGKILL
            yield out
            at += 1
        assert at > 4
        os.unlink(out)


@pytest.mark.parametrize("name", ACTIONS)
def test_a_kill_at_any_call_leaves_nothing_or_a_whole_output(
    name: str, folder: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for out in kills_of(name, folder, tmp_path):
        left = os.listdir(tmp_path)
        assert left in ([], ["out"])
        if left:
            assert Path(out).read_bytes() == whole[name]
            os.unlink(out)


@pytest.mark.parametrize("name", ACTIONS)
def test_an_earlier_file_survives_a_kill_at_any_call_or_is_replaced_whole(
    name: str, folder: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for out in kills_of(name, folder, tmp_path, earlier=b"earlier"):
        assert Path(out).read_bytes() in (b"earlier", whole[name])
        parts = [entry for entry in os.listdir(tmp_path) if entry != "out"]
        assert all(re.fullmatch(r"\.out\.\d+\.part", part) for part in parts)
        ACTIONS[name](folder, out, True)
        assert os.listdir(tmp_path) == ["out"]  # the next run swept what was left between link and rename


@pytest.mark.parametrize("earlier", [None, b"earlier"], ids=["new", "force"])
def test_without_nameless_files_the_next_run_sweeps_what_a_killed_one_left(
    earlier: bytes | None, folder: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    littered = 0
    for out in kills_of("save", folder, tmp_path, earlier=earlier, fallback=True):
        left = os.listdir(tmp_path)
        littered += any(entry.endswith(".part") for entry in left)
        if "out" in left:
            assert Path(out).read_bytes() in (earlier, whole["save"])
        ended = run_in_child(functools.partial(ACTIONS["save"], folder, out, True), no_tmpfile)
        assert ended.error == ""
        assert os.listdir(tmp_path) == ["out"]
        os.unlink(out)
    assert littered > 4


@pytest.mark.parametrize("name", ["save", "convert", "restore"])
def test_a_killed_worker_is_an_error_that_says_so_and_leaves_nothing(
    name: str, folder: str, tmp_path: Path
) -> None:
    killed = 0
    for at in range(3):
        fault = Fault(("pread", "preadv", "pwritev"), at, kill_before, in_workers=True)
        ended = run_in_child(
            lambda: ACTIONS[name](folder, str(tmp_path / "out"), False),
            fault.install,
        )
        assert not ended.outlived
        if ended.error == "":
            (tmp_path / "out").unlink()
            continue
        killed += 1
        assert (ended.error, ended.code) == ("WorkerError", 1)
        assert "killed by signal 9" in ended.message
        assert os.listdir(tmp_path) == []
    assert killed


# --- the command as a whole, at random moments ---


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that takes a moment to save."""
    folder = tmp_path_factory.mktemp("image")
    return write_image(folder, random.Random(7))


@pytest.fixture(scope="module")
def usual_s(image: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long an undisturbed save takes, more or less."""
    folder = tmp_path_factory.mktemp("usual")
    return time_of_a_save(image, folder)


def test_kills_at_random_moments_leave_nothing_or_a_whole_output(
    image: Path, usual_s: float, tmp_path: Path
) -> None:
    rng = random.Random(40)
    for _ in range(24):
        killed_save(image, tmp_path, rng.uniform(0.2, 1.1) * usual_s, api.digest(str(image)))
    code, errors = Run(tmp_path, "save", str(image), "out").end()
    assert (code, errors) == (0, "")


def test_an_earlier_file_survives_kills_at_random_moments(
    image: Path, usual_s: float, tmp_path: Path
) -> None:
    digest = api.digest(str(image))
    earlier = b"earlier " * 1000
    rng = random.Random(41)
    for _ in range(8):
        (tmp_path / "out").write_bytes(earlier)
        run = Run(tmp_path, "save", str(image), "out", "--force", "--jobs", "2")
        run.over_within(rng.uniform(0.2, 1.1) * usual_s)
        run.process.kill()
        run.end()
        if (tmp_path / "out").read_bytes() != earlier:
            assert whole_or_nothing(tmp_path, "out", digest)


def test_a_worker_killed_at_a_random_moment_ends_the_command_with_1_and_a_sentence(
    image: Path, usual_s: float, tmp_path: Path
) -> None:
    digest = api.digest(str(image))
    rng = random.Random(42)
    for _ in range(8):
        run = Run(tmp_path, "save", str(image), "out", "--jobs", "2")
        run.over_within(rng.uniform(0.4, 1.0) * usual_s)
        for worker in run.workers()[:1]:
            send_signal(worker, signal.SIGKILL)
        code, errors = run.end()
        if code:
            assert code == 1
            assert errors == ("vmckpt: a worker process ended before its work did: killed by signal 9\n")
        assert whole_or_nothing(tmp_path, "out", digest) == (code == 0)
        if code == 0:
            (tmp_path / "out").unlink()


_STOPPED = """
import functools, os, signal, sys
from vmckpt import api
number, at = int(sys.argv[1]), int(sys.argv[2])
calls = 0
def progress(done, total):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), number)
save = api.save
api.save = lambda *args, **kwargs: save(*args, **(kwargs | {"progress": progress}))
from vmckpt.cli import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("at", [1, 3, 8])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_stop_signal_in_the_middle_of_a_save_leaves_nothing(
    number: signal.Signals, code: int, at: int, image: Path, tmp_path: Path
) -> None:
    arguments = [str(int(number)), str(at), "save", str(image), "out", "--quiet", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_stop_signals_to_the_whole_group_at_random_moments_leave_nothing(
    number: signal.Signals, code: int, image: Path, usual_s: float, tmp_path: Path
) -> None:
    digest = api.digest(str(image))
    rng = random.Random(int(number))
    for _ in range(5):
        run = Run(tmp_path, "save", str(image), "out", "--jobs", "2")
        if not run.over_within(rng.uniform(0.5, 0.95) * usual_s):
            for pid in (*run.workers(), run.process.pid):
                send_signal(pid, number)
        ended, errors = run.end()
        assert ended in {0, code, -number, 1}, errors
        if not whole_or_nothing(tmp_path, "out", digest):
            assert ended != 0
        else:
            (tmp_path / "out").unlink()
