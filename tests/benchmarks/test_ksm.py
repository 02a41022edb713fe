"""What is told of KSM, without asking the kernel."""

from pathlib import Path

import pytest

from tests.benchmarks.cases import KSM_CASES, SHARING
from tests.benchmarks.images import Image
from tests.benchmarks.ksm import MOST_BYTES, measure_ksm, off_by
from vmckpt.kernel import ksm


@pytest.mark.parametrize(
    ("expected", "found", "part"),
    [(100, 100, 0.0), (99, 100, 0.01), (101, 100, 0.01), (0, 0, 0.0), (3, 0, 1.0)],
)
def test_off_by_is_a_part_of_what_was_found(expected: int, found: int, part: float) -> None:
    assert off_by(expected, found) == pytest.approx(part)


def test_where_ksm_cannot_be_had_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ksm, "lacks", lambda: "only root may tell KSM what to do")
    (reading,) = measure_ksm(Image("guest", "raw", "real", 1 << 20, "guest"))
    assert not reading.values
    assert reading.note == "cannot try KSM out: only root may tell KSM what to do"


def test_an_image_too_large_for_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ksm, "lacks", lambda: "")
    (reading,) = measure_ksm(Image("guest", "raw", "real", MOST_BYTES + 1, str(tmp_path / "guest")))
    assert "do not fit" in reading.note


def test_rows_of_a_case_have_one_name_each() -> None:
    names = [case.of(contender) for case in KSM_CASES for contender in ("KSM", "forecast")]
    assert len(set(names)) == len(names)
    assert all(experiment.id.startswith("sharing-") for experiment in SHARING)
