import os
import shutil
from pathlib import Path

import pytest

from tests.benchmarks.measure import CommandError
from tests.benchmarks.touch import FIRST_TOUCHES, Toucher, word_at
from tests.benchmarks.traps import BLOCK_SIZES_BYTES, Cores, Round, compiled, minimal, ours, rounds_for
from vmckpt.kernel.features import probe
from vmckpt.trace import journal

BLOCK_BYTES, PAGE_WORDS = 16 << 10, 512
SMALL = Round(BLOCK_BYTES, 10 * BLOCK_BYTES, 2, ready=True, cores=Cores.ONE)


@pytest.fixture
def core() -> int:
    return min(os.sched_getaffinity(0))


@pytest.fixture
def first_touches() -> None:
    reason = probe().lacks(FIRST_TOUCHES)
    if reason:
        pytest.skip(reason)


@pytest.fixture
def program(tmp_path: Path) -> str:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    return compiled(str(tmp_path))


def test_each_block_is_touched_once_in_scattered_order() -> None:
    words = SMALL.words(3)
    blocks = [word // (BLOCK_BYTES // 8) for word in words]
    assert sorted(blocks) == list(range(SMALL.blocks))
    assert blocks != sorted(blocks)
    assert all(word % PAGE_WORDS == 0 for word in words)
    assert words == SMALL.words(3) != SMALL.words(4)


@pytest.mark.parametrize("block_bytes", BLOCK_SIZES_BYTES, ids=str)
def test_slots_are_ready_or_made_on_the_way_for_both_handlers(block_bytes: int) -> None:
    *ready, later = rounds_for(block_bytes)
    assert [each.cores for each in ready] == list(Cores)
    for each in ready:
        assert each.memory_bytes <= journal._AHEAD_BYTES
    assert later.warm_up * block_bytes == journal._AHEAD_BYTES
    for each in (*ready, later):
        assert 0 < each.warm_up < each.blocks
    assert len({each.quantity for each in rounds_for(block_bytes)}) == 3


def test_handler_and_guest_have_a_core_each_or_one() -> None:
    assert Cores.ONE.choose([3, 5]) == (3, 3)
    assert Cores.TWO.choose([3, 5]) == (3, 5)


@pytest.mark.usefixtures("first_touches")
def test_vmckpts_tracer_answers_every_touch(core: int) -> None:
    with Toucher(SMALL.memory_bytes, core) as toucher:
        for seed in (1, 2):  # a fresh mapping each time: all touches trap again
            words = SMALL.words(seed)
            touches = ours(toucher, SMALL, core, words)
            assert touches.words == [word_at(word) for word in words]
            assert all(duration_ns > 0 for duration_ns in touches.duration_ns)


@pytest.mark.usefixtures("first_touches")
@pytest.mark.parametrize("ready", [True, False], ids=["slots ready", "slots made on the way"])
def test_the_minimal_handler_copies_every_block_that_is_touched(
    ready: bool, program: str, core: int, tmp_path: Path
) -> None:
    round_ = Round(BLOCK_BYTES, SMALL.memory_bytes, 2, ready=ready, cores=Cores.ONE)
    words = round_.words(1)
    with Toucher(round_.memory_bytes, core) as toucher:
        touches = minimal(program, str(tmp_path), toucher, round_, core, words)  # it checks the copies
    assert touches.words == [word_at(word) for word in words]


@pytest.mark.usefixtures("first_touches")
def test_a_handler_that_gives_up_is_found_out(program: str, core: int, tmp_path: Path) -> None:
    wrong = Round(BLOCK_BYTES, 2 * BLOCK_BYTES, 0, ready=True, cores=Cores.ONE)  # the memory has more blocks
    with Toucher(SMALL.memory_bytes, core) as toucher, pytest.raises(CommandError, match="not expected"):
        minimal(program, str(tmp_path), toucher, wrong, core, SMALL.words(1))


def test_a_missing_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="not installed: cc"):
        compiled(str(tmp_path))


def test_a_compiler_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho no such header >&2\nexit 1\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="cannot be compiled: no such header"):
        compiled(str(tmp_path))
