"""docs/kernel.md: each test that it calls as a witness is there, and each behaviour of a trap is told."""

import re
from pathlib import Path

import pytest

from vmckpt.kernel.faults import Stop

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "kernel.md").read_text(encoding="utf-8")
TESTS = {
    name
    for module in HERE.glob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", module.read_text(encoding="utf-8"), flags=re.MULTILINE)
}


def test_every_witness_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named
    assert named - TESTS == set()


@pytest.mark.parametrize("stop", Stop, ids=str)
def test_every_answer_is_told(stop: Stop) -> None:
    assert stop.name in PAGE
