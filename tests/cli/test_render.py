"""Tables: with colours on a terminal, without in a pipe, readable everywhere."""

import io
import re
import sys

import pytest

from vmckpt.cli.render import Line, Share, Table, answer, rate, times_smaller
from vmckpt.errors import IoError

TABLE = Table("Saved it", [Line("file", "1 MiB [bold]"), Share("zero", 3, 4), Share("stored", 1, 4)])


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_the_same_text_with_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", terminal)
    answer(TABLE, {}, as_json=False)
    monkeypatch.setattr(sys, "stdout", pipe)
    answer(TABLE, {}, as_json=False)
    pipe.seek(0)
    coloured = terminal.getvalue()
    assert "\x1b[" in coloured
    plain = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines()]
    assert plain == [line.rstrip() for line in pipe.read().splitlines()]


def test_a_stream_without_unicode_gets_bars_of_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", pipe)
    answer(TABLE, {}, as_json=False)
    pipe.seek(0)
    assert "  zero    3  ##################" in pipe.read()


def test_a_closed_stdout_loses_a_table_and_may_not_lose_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    answer(TABLE, {"file_bytes": 1}, as_json=False)
    with pytest.raises(IoError, match="standard output is closed"):
        answer(TABLE, {"file_bytes": 1}, as_json=True)


def test_rates_and_ratios() -> None:
    assert rate(1 << 30, 0.5) == "500 ms, 2.00 GiB/s"
    assert rate(1 << 30, 0.0) == "0 µs"
    assert times_smaller(1 << 20, 1 << 30) == "1.00 MiB, 1024 times smaller than the memory"
    assert times_smaller(5000, 4096) == "5000 B, 904 B more than the memory"
