"""What is made of the runs of an experiment."""

import pytest

from vmckpt.bench import halite, working_set
from vmckpt.bench.disk import DISKS
from vmckpt.bench.fetched import Fetched
from vmckpt.bench.outcome import Outcome, cut, percent, signed_duration, spread_of
from vmckpt.bench.restored import Restored

DISK = [DISKS["ssd"]]


def restored(elapsed_s: float = 1.0) -> Restored:
    return Restored(
        elapsed_s=elapsed_s,
        running_s=0.1,
        ttr_s=(0.1, 0.2, 0.3),
        stall_s=0.0,
        faults=10,
        storage_reads=10,
        read_bytes=40960,
        prefetched=0,
        avoided=0,
        on_demand=10,
        coverage=0.0,
        precision=None,
        fetched=None,
    )


def holding(outcome: Outcome) -> dict[str, bool]:
    return {target.what: target.holds for target in outcome.targets}


def test_a_spread_has_the_median_and_both_ends() -> None:
    assert spread_of([3, 1, 2]) == (2, 1, 3)
    assert spread_of([4, 1]) == (2.5, 1, 4)


def test_a_cut_is_the_part_that_is_saved() -> None:
    assert cut(1, 4) == 0.75
    assert cut(1, 0) == 0
    assert percent(0.9861) == "98.6 %"
    assert percent(None) == "-"
    assert signed_duration(-0.0021) == "-2.1 ms"


def halite_outcome(page_s: float, ours_s: float, share: int) -> Outcome:
    reads = {halite.RANDOM: 30, halite.PHYSICAL: 20, halite.ACCESS: 10}
    runs = {
        (DISK[0].name, cell): [
            restored(page_s if cell.layout is None else ours_s)._replace(
                storage_reads=reads.get(cell.name, 5),
                fetched=None if cell.layout is None else Fetched(1, 100, share),
            )
        ]
        for cell in halite.cells()
    }
    never_s = {"paper": [1.0, 0.5, 2.0], "ours": [1.0]}
    return halite.outcome_of(halite.Results(never_s, runs, dict.fromkeys(halite.cells(), 1)), DISK)


def test_halites_targets_hold_where_the_figures_do() -> None:
    outcome = halite_outcome(page_s=11.0, ours_s=1.5, share=81)
    assert all(holding(outcome).values())
    assert {target.found for target in outcome.targets} == {"10 < 20 < 30", "81.0 %", "95.0 %"}
    assert [grid.title.split(":")[0] for grid in outcome.grids] == ["ssd", "ssd"]
    assert all(len(row) == len(grid.header) for grid in outcome.grids for row in grid.rows)


def test_halites_targets_are_missed_where_the_figures_are_short() -> None:
    held = holding(halite_outcome(page_s=11.0, ours_s=2.0, share=79))
    assert [what for what, holds in held.items() if holds] == ["ssd: reads, access < physical < random"]


@pytest.mark.parametrize("eager_s", [2.0, 4.0])
def test_a_working_set_restore_is_held_against_the_eager_one(eager_s: float) -> None:
    runs = {(DISK[0].name, mode): [restored()] for mode in working_set.MODES}
    runs[DISK[0].name, working_set.EAGER] = [restored()._replace(ttr_s=(eager_s,) * 3)]
    estimates: dict[working_set.Estimate | None, Restored] = {None: restored()}
    for each in working_set.ESTIMATES:
        estimates[each] = restored()._replace(coverage=0.98 if each == working_set.TRACED else 0.995)
    outcome = working_set.outcome_of(working_set.Results(100, 1 << 30, [1.0], runs, estimates), DISK)
    assert holding(outcome) == {
        "ssd: TTR(1 s, 90 %) less than eager": eager_s > 3,
        "coverage, tracing, --trace working-set": False,
        "coverage, tracing, --trace access": True,
    }
    assert outcome.grids[-1].rows[0][0] == "lazy"
    assert all(len(row) == len(grid.header) for grid in outcome.grids for row in grid.rows)
