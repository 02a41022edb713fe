"""What a restore has touched, kept beside the checkpoint for the next one, which finds it by itself."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vmckpt
from tests.restoring.runs import Case, make
from vmckpt.errors import FormatError, IoError, UsageError
from vmckpt.kernel.features import probe
from vmckpt.restoring.lazy import LazyRestore
from vmckpt.restoring.record import (
    packed_order,
    read_order,
    recorded_order,
    recorded_path,
    unpacked_order,
)
from vmckpt.restoring.trap import MISSING, TELLING

ID = bytes(range(16))
CASE = Case("uniform", pages=1024, ops=4000)


@pytest.fixture(scope="module")
def told() -> None:
    reason = probe().lacks(MISSING) or probe().lacks(TELLING)
    if reason:
        pytest.skip(reason)


@pytest.fixture
def path(told: None, tmp_path: Path) -> str:
    return make(CASE, tmp_path)


def restored(path: str, **options: object) -> vmckpt.LazyReport:
    return vmckpt.restore_lazily(path, until_ops=CASE.ops, **options)  # type: ignore[arg-type]  # by name


@given(st.lists(st.integers(0, 999)))
def test_an_order_is_read_as_it_was_written(pages: list[int]) -> None:
    assert unpacked_order(packed_order(pages, ID), ID, 1000) == pages


@given(st.lists(st.integers(0, 999), min_size=1), st.data())
def test_a_damaged_order_is_refused(pages: list[int], data: st.DataObject) -> None:
    text = packed_order(pages, ID)
    at = data.draw(st.integers(0, len(text) - 2))  # the end of the line is no part of it
    what = data.draw(st.sampled_from(["cut", *"0129 ,]}x"]))
    damaged = text[:at] if what == "cut" else text[:at] + what + text[at + 1 :]
    try:
        assert unpacked_order(damaged, ID, 1000) == pages  # a space for a space
    except FormatError:
        assert damaged != text


def test_what_was_touched_comes_first_the_next_time(path: str) -> None:
    first = restored(path, record=True)
    assert (first.prefetch_from, first.pages.prefetched) == ("active", 0)
    assert os.stat(recorded_path(path)).st_mode & 0o777 == 0o600
    second = restored(path)
    assert second.prefetch_from == "recorded"
    assert (second.digest, second.faults) == (first.digest, 0)
    assert second.pages.prefetched == second.pages.prefetched_used > 0
    assert restored(path, prefetch="active").prefetch_from == "active"
    none = restored(path, prefetch="none")
    assert (none.prefetch_from, none.pages.prefetched) == ("none", 0)


def test_an_empty_name_is_no_wish_for_nothing(path: str) -> None:
    with pytest.raises(IoError, match="name is empty"):
        restored(path, record="")


def test_recording_again_forgets_what_is_no_longer_touched(path: str) -> None:
    with LazyRestore.open(path) as restore:
        checkpoint_id = restore._store.header.checkpoint_id
    Path(recorded_path(path)).write_text(packed_order(range(1024), checkpoint_id), encoding="ascii")
    report = restored(path, record=True)
    assert report.pages.prefetched_used < 1024
    assert len(read_order(recorded_path(path), checkpoint_id, 1024)) == report.pages.prefetched_used


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "no order of pages"),
        (packed_order([1, 2], bytes(16)), "belongs to the checkpoint 0000"),
        ("x" * 10_000, "too large"),
        ("\u00e9", "no order of pages"),
    ],
    ids=["empty", "deep", "another checkpoint's", "too large", "no ASCII"],
)
def test_an_order_beside_it_that_is_of_no_use_is_told_and_not_gone_by(
    path: str, content: str, said: str
) -> None:
    Path(recorded_path(path)).write_text(content, encoding="utf-8")
    warnings: list[str] = []
    assert restored(path, warn=warnings.append).prefetch_from == "active"
    (warning,) = warnings
    assert warning.startswith(recorded_path(path))
    assert said in warning or "too large" in warning
    assert "--record writes it anew" in warning
    with pytest.warns(UserWarning, match="order"):
        restored(path)
    assert restored(path, record=True, warn=warnings.append).faults > 0
    assert restored(path).prefetch_from == "recorded"


def test_what_is_no_file_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.order")
    (tmp_path / "folder.order").mkdir()
    warnings: list[str] = []
    for name in ("pipe", "folder", "nothing"):
        assert recorded_order(str(tmp_path / name), ID, 10, warnings.append) is None
    assert len(warnings) == 2


def test_where_nothing_can_be_written_it_says_so_before_the_machine_runs(path: str) -> None:
    with open(path, "rb") as file:
        beside_nothing = f"/proc/self/fd/{file.fileno()}"  # not even root writes there
        with pytest.raises(IoError, match=r"order: cannot create the file"):
            restored(beside_nothing, record=True)
        elsewhere = path + ".elsewhere"
        restored(beside_nothing, record=elsewhere)
    assert restored(path, order=elsewhere).faults == 0
    assert not os.path.exists(recorded_path(path))


def test_killed_while_it_writes_the_order_the_old_one_stays(path: str) -> None:
    restored(path, record=True)
    old = Path(recorded_path(path)).read_bytes()
    before = sorted(os.listdir(os.path.dirname(path)))
    for step in ("fsync", "link", "replace"):
        code = (
            "import os, signal, vmckpt\n"
            f"os.{step} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"vmckpt.restore_lazily({path!r}, until_ops=9000, record=True)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=50)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert Path(recorded_path(path)).read_bytes() == old
        assert restored(path).prefetch_from == "recorded"
    restored(path, record=True)  # what a killed run has left is swept away
    assert sorted(os.listdir(os.path.dirname(path))) == before


@pytest.mark.parametrize(
    "options",
    [
        {"record": "{path}"},
        {"fault_log": "{path}", "force": True},
        {"fault_log": "log", "page": "./log"},
        {"order": "{path}.order", "record": True},
        {"record": "-"},
        {"prefetch": "everything"},
        {"prefetch_pages": 1.5},
        {"prefetch_pages": -1},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_and_writes_nothing(path: str, options: dict[str, object]) -> None:
    Path(recorded_path(path)).touch()
    before = Path(path).read_bytes()
    filled = {
        name: value.format(path=path) if isinstance(value, str) else value for name, value in options.items()
    }
    with pytest.raises(UsageError):
        restored(path, **filled)
    assert Path(path).read_bytes() == before


def test_a_stop_signal_once_all_is_there_is_raised_after_the_report(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_run = LazyRestore.run

    def stopped(self: LazyRestore, **options: object) -> None:
        plain_run(self, until_resident=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(LazyRestore, "run", stopped)
    reports: list[vmckpt.LazyReport] = []
    with pytest.raises(KeyboardInterrupt):
        restored(path, told=reports.append, fault_log=path + ".log")
    assert len(reports) == 1
    assert os.path.exists(path + ".log")


def command(*arguments: str) -> tuple[dict[str, object], str]:
    done = subprocess.run(
        [sys.executable, "-m", "vmckpt", "restore", "--lazy", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_option_goes_with_a_file_and_without_one(path: str) -> None:
    ops = ("--until-ops", str(CASE.ops))
    named = path + ".named"
    for arguments in ((path, *ops, "--record"), (path, "--record", *ops), (*ops, "--record", path)):
        command(*arguments)
        os.rename(recorded_path(path), named)  # fails where nothing was recorded
    command("--record", recorded_path(path), path, *ops)
    answer, said = command(path, *ops)
    assert (answer["prefetch_from"], answer["faults"], said) == ("recorded", 0, "")
    answer, _ = command(path, *ops, "--order", named)
    assert (answer["prefetch_from"], answer["faults"]) == ("order", 0)


def test_the_command_warns_in_one_line_and_goes_on(path: str) -> None:
    Path(recorded_path(path)).write_text("{}", encoding="ascii")
    answer, said = command(path, "--until-ops", "100")
    assert answer["prefetch_from"] == "active"
    assert said.startswith(f"vmckpt: {recorded_path(path)}: ")
    assert said.count("\n") == 1
