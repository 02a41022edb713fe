import os
from pathlib import Path

import pytest

from tests.benchmarks.cases import LIVE, QUANTITIES
from tests.benchmarks.emulated import running
from tests.benchmarks.images import Image
from tests.benchmarks.live import _MEASURES, Series, Way, measure_live, read_pause, read_speed
from tests.benchmarks.measure import CommandError, asked
from tests.benchmarks.results import Reading
from tests.benchmarks.trial import Bench

SAVE: dict[str, object] = {
    "pause_s": 0.002,
    "ops_per_s_before": 2e6,
    "ops_per_s_during": 1.5e6,
    "elapsed_s": 1,
}
WAY = Way("--trace access", ("--trace", "access"))


def test_every_live_experiment_can_be_measured() -> None:
    assert [experiment.id for experiment in LIVE] == list(_MEASURES)
    assert all(experiment.id.startswith("live-") for experiment in LIVE)


@pytest.mark.parametrize(
    ("runs", "full", "expected"), [(5, 9, 9), (10, 9, 18), (2, 9, 3), (1, 3, 1)], ids=str
)
def test_runs_asked_for_scale_what_a_full_run_measures(runs: int, full: int, expected: int) -> None:
    assert Bench((), "", runs).scaled(full) == expected


def test_a_save_tells_pause_and_speed() -> None:
    assert read_pause(SAVE, "") == {"pause": 0.002}
    speed = read_speed(SAVE, "")
    assert speed == {
        "speed meanwhile": 0.75,
        "operations before": 2e6,
        "operations meanwhile": 1.5e6,
        "save": 1.0,
    }
    assert {*speed, "pause"} <= QUANTITIES.keys()


@pytest.mark.parametrize(
    "value", [None, "0.002", True, [0.002]], ids=["absent", "text", "truth value", "list"]
)
def test_json_without_the_number_is_told(value: object) -> None:
    with pytest.raises(CommandError, match="pause_s"):
        read_pause(SAVE | {"pause_s": value}, "")


def test_a_machine_that_did_nothing_before_has_no_relative_speed() -> None:
    with pytest.raises(CommandError, match="did nothing"):
        read_speed(SAVE | {"ops_per_s_before": 0.0}, "")


def test_a_series_becomes_a_reading_for_each_quantity() -> None:
    series = Series(WAY, [{"pause": 0.001, "save": 1.0}, {"pause": 0.003, "save": 2.0}])
    assert list(series.readings("live-pause", "machine", "1 vCPU, ")) == [
        Reading("live-pause", "machine", "1 vCPU, --trace access", "pause", "s", (0.001, 0.003)),
        Reading("live-pause", "machine", "1 vCPU, --trace access", "save", "s", (1.0, 2.0)),
    ]


@pytest.mark.parametrize(
    ("series", "said"),
    [
        (Series(WAY, [{"pause": 0.001}], "no luck"), "no luck"),
        (Series(WAY), "there was no save"),
    ],
    ids=["failed later", "none"],
)
def test_a_series_that_failed_is_a_note_and_no_figures(series: Series, said: str) -> None:
    (reading,) = series.readings("live-pause", "machine")
    assert (reading.values, reading.note) == ((), said)


def test_the_json_that_a_command_prints_is_read(tmp_path: Path) -> None:
    assert asked(["echo", '{"pause_s": 1}'], str(tmp_path / "errors")) == {"pause_s": 1}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no luck >&2; exit 3", "status 3: no luck"),
        ("echo [1]", "no JSON object"),
        ("", "no JSON object"),
    ],
    ids=["failure", "another value", "nothing"],
)
def test_a_command_that_prints_no_object_is_told(script: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=said):
        asked(["sh", "-c", script], str(tmp_path / "errors"))


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="status -9"):
        asked(["sh", "-c", "sleep 60 & sleep 60"], str(tmp_path / "errors"), limit_s=0.1)


def test_a_machine_that_does_not_start_says_why(tmp_path: Path) -> None:
    bench = Bench(("sh", "-c", "echo no luck >&2; exit 1"), str(tmp_path), 1)
    with pytest.raises(CommandError, match="did not start: no luck"), running(bench, os.devnull):
        pytest.fail("it runs")


def test_an_experiment_that_fails_is_a_note(tmp_path: Path) -> None:
    bench = Bench(("sh", "-c", "exit 1"), str(tmp_path), 1)
    image = Image("machine of 8 MiB", "raw", "created", 8 << 20, os.devnull)
    (reading,) = measure_live(bench, LIVE[0], image)
    assert isinstance(reading, Reading)
    assert (reading.experiment, reading.image, reading.values) == ("live-pause", "machine of 8 MiB", ())
    assert "did not start" in reading.note
