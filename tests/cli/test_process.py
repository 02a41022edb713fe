"""The command as a process: signals, pipes that break, disks that are full. The engine is a stand-in."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

# An engine that reports on stderr when it is in the middle of its work, and when it has unwound.
_STANDIN = """
import sys, types, signal, os
engine = types.ModuleType("vmckpt.api")
def save(*args, **kwargs):
    try:
        sys.stderr.write("at work\\n")
        sys.stderr.flush()
        while True:
            signal.pause()
    finally:
        if {clumsy}:
            os.kill(os.getpid(), signal.SIGINT)
        sys.stderr.write("unwound\\n")
        sys.stderr.flush()
engine.save = save
engine.digest = lambda source, **kwargs: "0" * 32
sys.modules["vmckpt.api"] = engine
import vmckpt
vmckpt.api = engine
from vmckpt.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(
    arguments: Sequence[str], *, clumsy: bool = False, ignoring: int | None = None
) -> subprocess.Popen[str]:
    """Run the stand-in; `clumsy` sends a second signal while the first unwinds."""

    def ignore() -> None:
        if ignoring is not None:
            signal.signal(ignoring, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-c", _STANDIN.format(clumsy=clumsy), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=ignore,  # noqa: PLW1509 - it is one system call
    )


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [
        (signal.SIGINT, 130, "Ctrl-C"),
        (signal.SIGTERM, 143, "SIGTERM"),
        (signal.SIGHUP, 129, "SIGHUP"),
    ],
)
@pytest.mark.parametrize("clumsy", [False, True], ids=["once", "twice"])
def test_a_stop_signal_unwinds_and_exits_with_its_code(
    number: signal.Signals, code: int, name: str, clumsy: bool
) -> None:
    with start(["save", "a", "b"], clumsy=clumsy) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "at work\n"
        process.send_signal(number)
        assert process.stderr.readline() == "unwound\n"
        assert process.stderr.read() == f"vmckpt: stopped by {name}; no half-written output is left\n"
        assert process.wait(timeout=30) == code


def test_an_ignored_signal_stays_ignored() -> None:
    with start(["save", "a", "b"], ignoring=signal.SIGHUP) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "at work\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143


def test_nobody_reading_stdout_is_a_quiet_end() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-c", _STANDIN.format(clumsy=False), "digest", "a", "b"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["digest", "a"], ["digest", "a", "--json"]], ids=" ".join)
def test_a_full_disk_under_stdout_is_one_sentence(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-c", _STANDIN.format(clumsy=False), *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "vmckpt: standard output: No space left on device\n")


def test_a_name_that_is_no_utf_8_comes_out_as_it_went_in() -> None:
    done = subprocess.run(
        [sys.executable.encode(), b"-c", _STANDIN.format(clumsy=False).encode(), b"digest", b"\xff.raw"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"0" * 32 + b"  \xff.raw\n")


@pytest.mark.parametrize("arguments", [["digest", "a"], ["digest", "a", "--json"]], ids=" ".join)
@pytest.mark.parametrize("closing", [">&-", ">&- 2>&-"])
def test_an_answer_that_a_closed_stdout_loses_is_a_failure(arguments: list[str], closing: str) -> None:
    standin = [sys.executable, "-c", _STANDIN.format(clumsy=False)]
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {closing}', "bash", *standin, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    said = "" if "2>" in closing else "vmckpt: standard output is closed: the answer has nowhere to go\n"
    assert (done.returncode, done.stderr) == (1, said)
