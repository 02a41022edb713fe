"""Whole sessions at the shell, with the real engine."""

import hashlib
import inspect
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from vmckpt.cli import COMMANDS, vmckpt

MIB = 1 << 20


@pytest.fixture(scope="session")
def shell_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH whose `vmckpt` is the one under test."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "vmckpt"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vmckpt "$@"\n')
    command.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image and its checkpoint; tests leave both as they are."""
    folder = tmp_path_factory.mktemp("session")
    assert call(folder, "create", "guest.raw", "--size", "16M").returncode == 0
    assert call(folder, "save", "guest.raw", "guest.vmckpt").returncode == 0
    return folder


def call(
    folder: Path, *arguments: str, text: str | None = None, code: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `vmckpt` in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "vmckpt", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        input=text,
        check=False,
        timeout=120,
    )
    if code is not None:
        assert done.returncode == code, done.stderr
    return done


def fails(folder: Path, arguments: Sequence[str], code: int) -> str:
    """The one sentence with which the command fails."""
    done = call(folder, *arguments, code=code)
    assert done.stderr.startswith("vmckpt: ")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_works_when_pasted(name: str, shell_path: str, tmp_path: Path) -> None:
    command = vmckpt.get_command(click.Context(vmckpt), name)
    assert command is not None
    found = re.search(r"Example:\n((?:  .*\n)+)", inspect.cleandoc(command.help or ""))
    assert found is not None
    script = inspect.cleandoc(found[1])
    # Whatever it makes, wherever it thinks it is, it makes in a folder of its own, and nothing has to be removed.
    environment = os.environ | {"PATH": shell_path, "TMPDIR": os.fspath(tmp_path)}
    done = subprocess.run(
        ["bash", "-euc", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"vmckpt {name}" in script


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "new.raw", "--size", "1M"],
        ["save", "guest.raw", "new.vmckpt"],
        ["restore", "guest.vmckpt", "new.raw"],
        ["convert", "guest.vmckpt", "new.vmckpt"],
        ["verify", "guest.vmckpt", "--rebuild-index", "new.vmckpt"],
        ["verify", "guest.vmckpt"],
        ["info", "guest.vmckpt"],
        ["digest", "guest.raw", "guest.vmckpt"],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[2:3]),
)
def test_json_is_one_object_and_every_output_is_private_and_new(folder: Path, arguments: list[str]) -> None:
    done = call(folder, *arguments, "--json", code=0)
    assert done.stderr == ""
    assert isinstance(json.loads(done.stdout), dict)
    output = next((folder / name for name in arguments if name.startswith("new.")), None)
    if output is None:
        return
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    output.write_bytes(b"precious")
    assert "exists" in fails(folder, arguments, 1)
    assert output.read_bytes() == b"precious"
    call(folder, *arguments, "--force", code=0)
    assert output.read_bytes() != b"precious"
    output.unlink()


def test_image_checkpoint_and_copy_have_one_digest(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.raw"
    call(folder, "restore", "guest.vmckpt", str(copy), code=0)
    assert copy.read_bytes() == (folder / "guest.raw").read_bytes()
    lines = call(folder, "digest", "guest.raw", "guest.vmckpt", str(copy), code=0).stdout.splitlines()
    assert len({line[:32] for line in lines}) == 1
    assert lines[1].endswith("  guest.vmckpt")


def test_a_pipe_in_and_a_pipe_out(folder: Path, tmp_path: Path, shell_path: str) -> None:
    script = 'cat guest.raw | vmckpt save - "$1/a.vmckpt" --quiet && vmckpt restore "$1/a.vmckpt" - | cmp - guest.raw'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script, "bash", str(tmp_path)],
        cwd=folder,
        env=os.environ | {"PATH": shell_path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"Restored {tmp_path}/a.vmckpt to standard output")


def test_a_reader_that_has_enough_is_no_failure_to_talk_about(folder: Path, shell_path: str) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            'vmckpt restore guest.vmckpt - --quiet | head -c 1 >/dev/null; echo "${PIPESTATUS[0]}"',
        ],
        cwd=folder,
        env=os.environ | {"PATH": shell_path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize(
    "command", ["save missing new.vmckpt", "restore missing new.raw", "info missing", "verify missing"]
)
def test_what_is_not_there_is_exit_1(folder: Path, command: str) -> None:
    assert "missing: " in fails(folder, command.split(), 1)


@pytest.mark.parametrize(
    "command", ["restore guest.raw new.raw", "info guest.raw", "verify guest.raw", "convert guest.raw n"]
)
def test_what_is_no_checkpoint_is_exit_3(folder: Path, command: str) -> None:
    assert "guest.raw: this is not a checkpoint: it is a raw image;" in fails(folder, command.split(), 3)


@pytest.mark.parametrize("command", ["save . n", "info .", "verify .", "restore . n", "convert . n"])
def test_a_directory_is_exit_3(folder: Path, command: str) -> None:
    assert ".: this is a directory: expected" in fails(folder, command.split(), 3)


@pytest.mark.parametrize(
    ("command", "name"), [("save '' n", "input"), ("info ''", "input"), ("save guest.raw ''", "output")]
)
def test_an_empty_name_is_exit_1(folder: Path, command: str, name: str) -> None:
    assert f"the {name}: its name is empty" in fails(folder, shlex.split(command), 1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            "--memory-block 0",
            "--memory-block cannot be 0 bytes: expected a power of two from 4096 B to 4.00 MiB",
        ),
        ("--memory-block 100", "--memory-block cannot be 100 bytes"),
        ("--memory-block 8M", "--memory-block cannot be 8388608 bytes"),
        ("--storage-block 0", "--storage-block cannot be 0 bytes"),
        ("--storage-block 128M", "--storage-block cannot be 134217728 bytes"),
        (
            "--memory-block 64K --storage-block 64K",
            "--storage-block cannot be 65536 bytes: expected a power of two from 128 KiB (twice the memory block) to",
        ),
    ],
)
@pytest.mark.parametrize("command", ["save guest.raw n", "convert guest.vmckpt n"])
def test_impossible_block_sizes_are_wrong_usage(
    folder: Path, command: str, options: str, sentence: str
) -> None:
    assert sentence in fails(folder, [*command.split(), *options.split()], 2)


@pytest.mark.parametrize(
    "command",
    [
        "save guest.raw guest.raw",
        "restore guest.vmckpt guest.vmckpt",
        "verify guest.vmckpt --rebuild-index guest.vmckpt",
    ],
)
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_an_output_that_is_the_input_is_wrong_usage(folder: Path, command: str, force: list[str]) -> None:
    before = [(folder / name).read_bytes() for name in ("guest.raw", "guest.vmckpt")]
    assert "the same file" in fails(folder, [*command.split(), *force], 2)
    assert before == [(folder / name).read_bytes() for name in ("guest.raw", "guest.vmckpt")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_table_that_does_not_fit_says_where_it_should_have_gone(folder: Path) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            'exec "$@" >/dev/full',
            "bash",
            sys.executable,
            "-m",
            "vmckpt",
            "info",
            "guest.vmckpt",
        ],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (1, "vmckpt: standard output: No space left on device\n")


@pytest.mark.parametrize("how", ["cat guest.vmckpt | vmckpt {}", "vmckpt {} < guest.vmckpt"])
@pytest.mark.parametrize("command", ["info -", "verify -", "restore - -", "convert - -"])
def test_a_checkpoint_comes_from_a_stream_as_well(
    folder: Path, shell_path: str, how: str, command: str
) -> None:
    environment = os.environ | {"PATH": shell_path}
    script = how.format(command)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if command.startswith("restore"):
        assert done.stdout == (folder / "guest.raw").read_bytes()


def test_a_damaged_checkpoint_stays_one(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "guest.vmckpt").read_bytes()
    for name, content, code in (
        ("magic", b"X" + whole[1:], 4),
        ("cut", whole[: len(whole) // 2], 4),
        ("both", b"X" + whole[1:-1], 3),
        ("stub", whole[:5], 3),
        ("empty", b"", 3),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        for command in ("info", "verify"):
            done = call(folder, command, str(path), code=code)
            assert len(done.stderr.splitlines()) == 1
            assert f"{path}: " in done.stderr
            assert ("not a checkpoint" in done.stderr) == (code == 3)


def test_an_image_of_no_whole_pages_is_exit_3(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.raw").write_bytes(b"x" * 5000)
    assert "odd.raw: " in fails(folder, ["save", str(tmp_path / "odd.raw"), str(tmp_path / "new.vmckpt")], 3)
    assert not (tmp_path / "new.vmckpt").exists()


def test_damage_is_exit_4_and_restores_nothing(folder: Path, tmp_path: Path) -> None:
    damaged = bytearray((folder / "guest.vmckpt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path, output = tmp_path / "damaged.vmckpt", tmp_path / "out.raw"
    path.write_bytes(damaged)
    assert "damaged.vmckpt: " in fails(folder, ["restore", str(path), str(output)], 4)
    assert not output.exists()
    done = call(folder, "verify", str(path), "--json", code=4)
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    assert answer["problems"][0]["pages"]
    assert len(done.stderr.splitlines()) == 1


def test_a_lost_index_is_rebuilt(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "guest.vmckpt").read_bytes()
    (tmp_path / "cut.vmckpt").write_bytes(whole[:-100])
    fails(folder, ["restore", str(tmp_path / "cut.vmckpt"), str(tmp_path / "out.raw")], 4)
    call(
        folder,
        "verify",
        str(tmp_path / "cut.vmckpt"),
        "--rebuild-index",
        str(tmp_path / "new.vmckpt"),
        code=0,
    )
    call(folder, "restore", str(tmp_path / "new.vmckpt"), str(tmp_path / "out.raw"), code=0)
    assert digest_of(tmp_path / "out.raw") == digest_of(folder / "guest.raw")


def digest_of(path: Path) -> str:
    """SHA-256 of a file: an independent judge."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_stopped_save_leaves_no_file_and_no_worker(
    folder: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    # It reads a pipe that stays open, so it cannot be done before the signal comes.
    with subprocess.Popen(
        [sys.executable, "-m", "vmckpt", "save", "-", str(tmp_path / "out.vmckpt")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write((folder / "guest.raw").read_bytes()[: 8 * MIB])
        process.stdin.flush()  # returns once the save has read nearly all of it
        process.send_signal(number)
        message = process.stderr.read()  # ends when no process, the workers included, holds stderr any more
        assert process.wait(timeout=60) == code
        process.stdin.close()
    assert message.decode().startswith("vmckpt: stopped by ")
    assert list(tmp_path.iterdir()) == []


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/run.sh"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.parent.name)
def test_the_examples_run(script: Path, shell_path: str) -> None:
    done = subprocess.run(
        ["bash", str(script)],
        env=os.environ | {"PATH": shell_path, "SIZE": "16M"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "run.sh:" not in done.stderr
