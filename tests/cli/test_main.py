"""The boundary: every ending becomes one sentence and an exit code."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import click
import pytest

from tests.cli.conftest import FakeEngine
from vmckpt.cli import COMMANDS, vmckpt
from vmckpt.errors import (
    ChangedError,
    CorruptionError,
    FeatureError,
    FormatError,
    IoError,
    SourceError,
    UsageError,
    VmckptError,
    WorkerError,
)
from vmckpt.version import __version__

Run = Callable[..., SimpleNamespace]

ERRORS = [
    (VmckptError("it broke"), 1),
    (IoError("cannot write"), 1),
    (ChangedError("it changed"), 1),
    (WorkerError("a worker is gone"), 1),
    (FeatureError("no zstd"), 1),
    (UsageError("that makes no sense"), 2),
    (SourceError("no image"), 3),
    (FormatError("no checkpoint"), 3),
    (CorruptionError("the checksum differs"), 4),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_error_is_one_sentence_and_its_exit_code(
    engine: FakeEngine, run: Run, error: VmckptError, code: int
) -> None:
    engine.failure = error
    result = run("info", "x.vmckpt")
    assert (result.code, result.out, result.err) == (code, "", f"vmckpt: {error}\n")


def test_an_error_says_where(engine: FakeEngine, run: Run) -> None:
    engine.failure = CorruptionError("the checksum differs", path="x.vmckpt", offset=4096, page=7)
    assert run("info", "x.vmckpt").err == "vmckpt: x.vmckpt: at offset 4096: page 7: the checksum differs\n"


@pytest.mark.parametrize(
    ("failure", "code", "sentence"),
    [
        (OSError(28, "No space left on device", "out.vmckpt"), 1, "out.vmckpt: No space left on device"),
        (MemoryError(), 1, "no memory left"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (ZeroDivisionError("division by zero"), 70, "this is a bug in vmckpt: ZeroDivisionError"),
        (BrokenPipeError(32, "Broken pipe"), 1, "Broken pipe"),
    ],
    ids=["os", "memory", "ctrl-c", "bug", "a pipe to somebody else than stdout"],
)
def test_what_the_engine_never_meant_to_raise_ends_in_a_sentence(
    engine: FakeEngine, run: Run, failure: BaseException, code: int, sentence: str
) -> None:
    engine.failure = failure
    result = run("info", "x.vmckpt")
    assert result.code == code
    assert sentence in result.err
    assert len(result.err.splitlines()) == 1


def test_an_error_that_is_its_own_cause_ends_in_a_sentence_too(engine: FakeEngine, run: Run) -> None:
    failure = FormatError("no checkpoint")
    failure.__cause__ = failure
    engine.failure = failure
    result = run("info", "x.vmckpt")
    assert (result.code, result.err) == (3, "vmckpt: no checkpoint\n")


def test_a_bug_tells_how_to_get_the_traceback(
    engine: FakeEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.failure = ZeroDivisionError("division by zero")
    assert "VMCKPT_DEBUG=1" in run("info", "x.vmckpt").err
    monkeypatch.setenv("VMCKPT_DEBUG", "1")
    result = run("info", "x.vmckpt")
    assert result.code == 70
    assert "Traceback (most recent call last)" in result.err


def test_a_name_cannot_send_commands_to_the_terminal(engine: FakeEngine, run: Run) -> None:
    engine.failure = SourceError("no image", path="evil\x1b[2J\n\udcff.raw")
    assert run("info", "x").err == "vmckpt: evil\\x1b[2J\\n\\xff.raw: no image\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sav"], "no such command 'sav'"),
        (["--nope"], "no such option"),
        (["save", "--nope"], "no such option"),
        (["save", "only-one"], "missing argument 'CHECKPOINT'"),
        (["save", "a", "b", "c"], "unexpected extra argument (c)"),
        (["save", "a", "b", "--codec", "gzip"], "'gzip' is not one of"),
        (["save", "a", "b", "--jobs", "0"], "0 is not in the range"),
        (["save", "a", "b", "--memory-block", "64Q"], "'64Q' is not a size"),
        (["restore", "a", "b", "--format", "vmdk"], "'vmdk' is not one of"),
        (["restore", "a", "-", "--json"], "cannot both go to standard output"),
        (["save", "a", "-", "--json"], "cannot both go to standard output"),
        (["convert", "a", "-", "--json"], "cannot both go to standard output"),
        (["verify", "a", "--force"], "--force"),
        (["verify", "a", "--rebuild-index", "-"], "a stream will not do as the NEW"),
        (["verify", "-", "--rebuild-index", "a"], "a stream will not do as the CHECKPOINT"),
        (["create", "-", "--size", "1M"], "a stream will not do as IMAGE"),
        (["digest"], "missing argument 'SOURCE...'"),
        (["convert", "a", "b", "--layout", "spiral"], "'spiral' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_2_with_one_sentence_and_where_to_look(
    engine: FakeEngine, run: Run, arguments: list[str], sentence: str
) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err
    assert result.err.startswith("vmckpt: ")
    assert "--help` shows what goes" in result.err
    assert len(result.err.splitlines()) == 1
    assert engine.calls == []


def test_no_command_shows_the_help_and_exits_2(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert all(f"  {name} " in result.out for name in COMMANDS)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_exits_0(run: Run, flag: str) -> None:
    assert run(flag).code == 0
    assert run("save", flag).code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_of_the_help_is_too_long_for_the_source(name: str) -> None:
    command = vmckpt.get_command(click.Context(vmckpt), name)
    assert command is not None
    assert [line for line in (command.help or "").splitlines() if len(line) > 120] == []


def test_version(run: Run) -> None:
    result = run("--version")
    assert (result.code, result.out) == (0, f"vmckpt {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_itself(name: str) -> None:
    command = vmckpt.get_command(click.Context(vmckpt), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_helps_with_each_option(name: str) -> None:
    command = vmckpt.get_command(click.Context(vmckpt), name)
    assert command is not None
    assert '\b\nExample:\n  cd "$(mktemp -d)"\n' in inspect.cleandoc(command.help or "")
    assert [
        option.name for option in command.params if isinstance(option, click.Option) and not option.help
    ] == []


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["save", "--help"], ["save", "--nope"]], ids=" ".join
)
def test_start_up_imports_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vmckpt", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "click" in imported
    heavy = {"numpy", "rich", "xxhash", "lz4", "json", "importlib.metadata", "multiprocessing", "asyncio"}
    assert imported & heavy == set()
