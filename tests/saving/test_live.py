"""Live saves for real: a machine that works, its memory saved meanwhile, and both exact afterwards."""

from pathlib import Path

import pytest

from tests.saving.exactness import Case, case_of, check_booted, check_running
from vmckpt.kernel.features import probe

BOOTED = range(48)
RUNNING = range(100, 112)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with threads


def need_tracer(case: Case) -> None:
    reason = probe().reason
    if case.tracer == "userfaultfd" and reason:
        pytest.skip(f"no userfaultfd here: {reason}")


@pytest.mark.parametrize("seed", BOOTED, ids=lambda seed: case_of(seed).name)
def test_the_file_holds_memory_of_its_moment_and_a_machine_goes_on_from_it(seed: int, tmp_path: Path) -> None:
    case = case_of(seed)
    need_tracer(case)
    check_booted(case, tmp_path)


@pytest.mark.parametrize("seed", RUNNING, ids=lambda seed: case_of(seed).name)
def test_a_machine_that_is_saved_ends_as_if_it_had_not_been(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(seed)
    need_tracer(case)
    monkeypatch.chdir(tmp_path)  # a socket's path has few characters
    check_running(case, tmp_path)
