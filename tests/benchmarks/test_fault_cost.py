"""The benchmark of a fault's cost: both handlers answer, and what they bring is looked at."""

import os
import shutil
from pathlib import Path

import pytest

from tests.benchmarks.fault_cost import MINIMAL, OURS, Setting, compiled, measure_faults
from tests.benchmarks.measure import CommandError
from vmckpt.kernel.features import probe
from vmckpt.restoring.trap import MISSING

SMALL = Setting(block_bytes=16 << 10, storage_block_bytes=64 << 10, memory_bytes=1 << 20)


def test_every_memory_block_is_touched_once_in_another_order_each_round() -> None:
    words = SMALL.words(1)
    assert sorted(word * 8 // SMALL.block_bytes for word in words) == list(range(64))
    assert words != SMALL.words(2)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is only one core")
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("codec", ["raw", "lz4"])
def test_both_handlers_bring_what_is_touched(codec: str, tmp_path: Path) -> None:
    if reason := probe().lacks(MISSING):
        pytest.skip(reason)
    setting = Setting(codec, SMALL.block_bytes, SMALL.storage_block_bytes, SMALL.memory_bytes)
    found = measure_faults(setting, 2, os.fspath(tmp_path))
    for name in (OURS, MINIMAL):
        assert all(0 < median_s < 1 for median_s in found[name].median_s)
        assert len(found[name].mean_s) == 2
    assert all(stall_s > 0 for stall_s in found[OURS].stall_s)


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="a C compiler"):
        compiled(os.fspath(tmp_path))
