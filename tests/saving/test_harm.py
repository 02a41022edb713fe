"""Live saves that come to a bad end: the machine goes on unharmed, and there is no half checkpoint."""

from pathlib import Path

import pytest

from tests.saving.exactness import case_of
from tests.saving.harm import HARMS, check_harm
from vmckpt.kernel.features import probe

CASES = [(seed, HARMS[seed % len(HARMS)]) for seed in range(200, 224)]


@pytest.mark.parametrize(
    ("seed", "harm"), CASES, ids=[f"{harm.replace(' ', '-')}-{case_of(seed).name}" for seed, harm in CASES]
)
def test_a_machine_survives_its_saver(
    seed: int, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = probe().reason
    if case_of(seed).tracer == "userfaultfd" and reason:
        pytest.skip(f"no userfaultfd here: {reason}")
    monkeypatch.chdir(tmp_path)
    check_harm(seed, harm, tmp_path)
