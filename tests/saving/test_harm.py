"""Live saves that come to a bad end: the machine goes on unharmed, and there is no half checkpoint."""

from pathlib import Path

import pytest

from tests.saving.harm import HARMS, Image, check_harm, harm_case_of, harm_image
from vmckpt.kernel.features import probe

CASES = [(seed, list(HARMS)[seed % len(HARMS)]) for seed in range(200, 224)]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return harm_image(tmp_path_factory.mktemp("harm"))


@pytest.mark.parametrize(
    ("seed", "harm"),
    CASES,
    ids=[f"{harm.replace(' ', '-')}-{harm_case_of(seed, harm).name}" for seed, harm in CASES],
)
def test_a_machine_survives_its_saver(
    seed: int, harm: str, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = probe().reason
    if harm_case_of(seed, harm).tracer == "userfaultfd" and reason:
        pytest.skip(f"no userfaultfd here: {reason}")
    monkeypatch.chdir(tmp_path)
    check_harm(seed, harm, image, tmp_path)
