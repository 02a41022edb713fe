import os
from pathlib import Path

import pytest

from tests.benchmarks import lazy
from tests.benchmarks.__main__ import default_vmckpt
from tests.benchmarks.bounds import ReadingTarget
from tests.benchmarks.cases import LiveExperiment
from tests.benchmarks.lazy import _MEASURES, measure_lazy, read_background
from tests.benchmarks.lazy_cases import LAZY, LAZY_QUANTITIES
from tests.benchmarks.lazy_experiments import divergence_readings, layout_readings, ttr_readings
from tests.benchmarks.lazy_targets import LAZY_TARGETS
from tests.benchmarks.measure import CommandError
from tests.benchmarks.results import Outcome
from tests.benchmarks.targets import judge
from tests.benchmarks.trial import Bench
from vmckpt.kernel.features import probe
from vmckpt.layout import PAGE_BYTES
from vmckpt.restoring.trap import MISSING

SPREAD = {"low": 1.0, "median": 2.0, "high": 4.0}
RESTORED: dict[str, object] = {
    "time_to_run_s": 0.5,
    "resident_s": 1.5,
    "pages": {"prefetched": 0, "on_demand": 1, "neighbours": 2, "background": 7},
}


def test_every_lazy_experiment_can_be_measured() -> None:
    assert [experiment.id for experiment in LAZY] == list(_MEASURES)
    assert all(experiment.id.startswith("lazy-") for experiment in LAZY)


@pytest.mark.parametrize("target", LAZY_TARGETS, ids=lambda target: f"{target.experiment}-{target.quantity}")
def test_every_lazy_target_names_what_is_measured(target: ReadingTarget) -> None:
    assert target.experiment in {experiment.id for experiment in LAZY}
    assert target.quantity in LAZY_QUANTITIES


def test_memory_brought_counts_pages_that_are_not_zero() -> None:
    assert read_background(RESTORED) == 10 * PAGE_BYTES / 1e9


@pytest.mark.parametrize(
    "changed",
    [
        {"pages": None},
        {"resident_s": 0.5},
        {"resident_s": "soon"},
        {"pages": {"prefetched": 0, "on_demand": 0, "neighbours": 0, "background": 0}},
    ],
    ids=["no pages", "no time", "no number", "nothing brought"],
)
def test_a_restore_that_tells_no_rate_is_told(changed: dict[str, object]) -> None:
    with pytest.raises(CommandError):
        read_background(RESTORED | changed)


def layout(name: str, reads: float, overhead: float, used: float | None) -> dict[str, object]:
    spread = {"low": overhead, "median": overhead, "high": overhead}
    return {
        "group": "paper",
        "disk": "ssd",
        "name": name,
        "overhead_s": spread,
        "storage_reads": {"low": reads, "median": reads, "high": reads},
        "other_pages_used": None if used is None else {"low": used, "median": used, "high": used},
    }


def test_layouts_become_readings_that_the_targets_judge() -> None:
    restores = [
        layout("page by page", 100, 1.0, None),
        layout("random", 40, 0.5, 0.1),
        layout("physical", 30, 0.4, 0.2),
        layout("access", 30, 0.3, 0.85),
        layout("access, compressed, prefetched", 5, 0.05, None),
    ]
    readings = list(layout_readings({"runs": 3, "values": {"restores": restores}}))
    assert [reading.ours for reading in readings[:3]] == [False, False, True]
    assert all(reading.runs == 3 for reading in readings)
    found = {
        (each.target.subject, each.target.quantity): each.met
        for each in judge(Outcome(readings=readings), {})
        if each.image == "ssd, 8 KiB in 64 KiB"
    }
    assert found == {
        ("access, compressed, prefetched", "overhead"): True,
        ("access", "storage reads"): False,  # no fewer than in physical order
        ("physical", "storage reads"): True,
        ("access", "other pages used"): True,
    }


def test_times_to_responsiveness_and_coverage_become_readings() -> None:
    values = {
        "runs": 2,
        "values": {
            "restores": [{"disk": "hdd", "mode": "eager", "ttr_s": {"0.5": {}, "0.9": SPREAD}}],
            "estimates": [
                {"estimator": None, "trace": None, "coverage": 0.0},
                {"estimator": "tracing", "trace": "access", "coverage": 0.995},
            ],
        },
    }
    ttr, coverage = ttr_readings(values)
    assert (ttr.image, ttr.contender, ttr.ours, ttr.values) == ("hdd", "eager", False, (1.0, 2.0, 4.0))
    assert (coverage.contender, coverage.values) == ("tracing, --trace access", (0.995,))


def test_what_divergence_costs_becomes_readings() -> None:
    values = {
        "runs": 2,
        "values": {
            "restores": [{"disk": "real", "machine": "zipf", "mode": "nothing", "elapsed_s": SPREAD}],
            "lost": [{"disk": "real", "machine": "zipf", **SPREAD}],
        },
    }
    time, lost = divergence_readings(values)
    assert (time.contender, time.quantity) == ("zipf, nothing", "time")
    assert (lost.contender, lost.unit, lost.spread and lost.spread.median) == ("zipf", "part", 2.0)


@pytest.mark.parametrize("values", [{}, {"values": {"restores": 3}}], ids=["nothing", "a number"])
def test_json_of_another_kind_is_told(values: dict[str, object]) -> None:
    with pytest.raises(CommandError, match="no list of restores"):
        list(layout_readings(values))


def test_an_experiment_that_fails_is_a_note(tmp_path: Path) -> None:
    bench = Bench(("sh", "-c", "echo no luck >&2; exit 1"), str(tmp_path), 1)
    (reading,) = measure_lazy(bench, LAZY[1])
    assert (reading.experiment, reading.values) == ("lazy-layout", ())
    assert "no luck" in reading.note


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    reason = probe().lacks(MISSING)
    if reason:
        pytest.skip(reason)
    monkeypatch.setattr(lazy, "KILLS", 10)
    monkeypatch.setitem(_MEASURES, "lazy-start", lambda bench: lazy._starts(bench, (8 << 20, 16 << 20)))
    monkeypatch.setitem(_MEASURES, "lazy-background", lambda bench: lazy._backgrounds(bench, 8 << 20))
    monkeypatch.setitem(_MEASURES, "lazy-kills", lambda bench: lazy._kills(bench, 16 << 20, 200_000))
    return Bench((default_vmckpt(),), str(tmp_path), 1)


@pytest.mark.parametrize("name", ["lazy-start", "lazy-background", "lazy-kills"])
def test_whole_commands_are_measured_and_leave_nothing(small: Bench, name: str) -> None:
    readings = list(measure_lazy(small, LiveExperiment(name, "", ())))
    assert [reading.note for reading in readings] == [""] * len(readings)
    assert all(reading.values for reading in readings)
    assert all(value > 0 for reading in readings for value in reading.values)
    if name == "lazy-kills":
        assert readings[0].values == (1.0, 1.0)
    assert set(os.listdir(small.work_dir)) <= {"errors"}
