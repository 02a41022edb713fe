"""A bar on a terminal, once the work has gone on for a while; else nothing."""

import io
import subprocess
import sys

import pytest

from vmckpt.cli.progress import progress_bar


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in the place of stderr; not a fixture, for pytest puts stderr back between set-up and test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return stream


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `progress` sees, as a list of one."""
    now_s = [100.0]
    monkeypatch.setattr("vmckpt.cli.progress.time.monotonic", lambda: now_s[0])
    return now_s


def test_no_bar_in_a_pipe_nor_when_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    open_terminal(monkeypatch)
    with progress_bar("saving", quiet=True) as bar:
        assert bar is None
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar("saving", quiet=False) as bar:
        assert bar is None


def test_short_work_draws_nothing(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    terminal = open_terminal(monkeypatch)
    with progress_bar("saving", quiet=False) as bar:
        assert bar is not None
        for tenth in range(11):
            clock[0] = 100 + tenth * 0.03
            bar(tenth * 100, 1000)
    assert terminal.getvalue() == ""


def test_work_that_is_nearly_done_draws_nothing(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    terminal = open_terminal(monkeypatch)
    with progress_bar("saving", quiet=False) as bar:
        assert bar is not None
        clock[0] = 100.5
        bar(900, 1000)
    assert terminal.getvalue() == ""


def test_long_work_draws_a_bar_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    terminal = open_terminal(monkeypatch)
    with progress_bar("saving", quiet=False) as bar:
        assert bar is not None
        clock[0] = 101.0
        bar(100 << 20, 1 << 30)
        clock[0] = 102.0
        bar(200 << 20, 1 << 30)
    drawn = terminal.getvalue()
    assert "saving" in drawn
    assert "200 MiB of 1.00 GiB, 100 MiB/s" in drawn
    assert drawn.endswith("\x1b[2K")


def test_work_of_unknown_length_draws_a_bar_too(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    terminal = open_terminal(monkeypatch)
    with progress_bar("saving", quiet=False) as bar:
        assert bar is not None
        clock[0] = 101.0
        bar(100 << 20, 0)
    assert "saving" in terminal.getvalue()


def test_rich_is_imported_only_for_a_bar_that_shows() -> None:
    script = (
        "import sys, vmckpt.cli.progress as p\n"
        "sys.stderr.isatty = lambda: True\n"
        "with p.progress_bar('saving', quiet=False) as bar: bar(1, 2)\n"
        "assert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
