"""Measures of a restore, against their definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.restoring import measures
from vmckpt.restoring.log import Fault, FaultKind
from vmckpt.restoring.measures import Stall, mmu, ttr, utilisation

MS = st.integers(0, 5000).map(lambda ms: ms / 1000)
STALLS = st.lists(st.tuples(MS, st.integers(1, 800)), max_size=12).map(
    lambda pairs: [Stall(start, start + ms / 1000) for start, ms in pairs]
)
LEAST = st.sampled_from([0.1, 0.5, 0.7, 0.9, 1.0])


def brute_utilisation(stalls: list[Stall], vcpus: int, start: float, window: float) -> float:
    waited = sum(max(0.0, min(s.end_s, start + window) - max(s.start_s, start)) for s in stalls)
    return 1 - waited / vcpus / window


@given(STALLS, MS, st.sampled_from([0.1, 1.0, 10.0]), st.integers(1, 4))
def test_utilisation_is_the_part_of_a_window_without_stalls(
    stalls: list[Stall], start: float, window: float, vcpus: int
) -> None:
    expected = brute_utilisation(stalls, vcpus, start, window)
    assert utilisation(stalls, vcpus, start, window) == pytest.approx(expected, abs=1e-9)


@given(STALLS, MS, st.integers(1, 4))
def test_mmu_is_the_worst_window(stalls: list[Stall], start: float, vcpus: int) -> None:
    worst = mmu(stalls, vcpus, start, 1.0)
    for at in range(60):
        assert brute_utilisation(stalls, vcpus, start + at / 10, 1.0) >= worst - 1e-9


@given(STALLS, MS, LEAST, st.sampled_from([0.1, 1.0]))
def test_from_ttr_on_no_window_is_worse_and_just_before_one_is(
    stalls: list[Stall], running: float, least: float, window: float
) -> None:
    found = ttr(stalls, 1, running_s=running, window_s=window, least=least)
    assert found >= running
    assert mmu(stalls, 1, found + 1e-7, window) >= least - 1e-5
    if found > running + 1e-5:
        assert utilisation(stalls, 1, found - 1e-6, window) < least + 1e-5


@given(STALLS, MS)
def test_ttr_never_falls_as_more_is_asked_for(stalls: list[Stall], running: float) -> None:
    asked = [ttr(stalls, 1, running_s=running, window_s=1.0, least=u / 10) for u in range(11)]
    assert asked == sorted(asked)
    assert asked[0] == 0


def test_ttr_of_all_is_the_end_of_the_last_stall() -> None:
    stalls = [Stall(1.0, 1.5), Stall(3.0, 3.25)]
    assert ttr(stalls, 1, running_s=0.5, window_s=1.0, least=1.0) == pytest.approx(3.25)


def test_an_eager_restore_is_responsive_when_it_runs_whatever_is_asked() -> None:
    assert {ttr([], 2, running_s=32.0, window_s=1.0, least=u) for u in (0.1, 0.5, 1.0)} == {32.0}


def test_measures_of_a_log() -> None:
    faults = [
        Fault(1_000_000, 500_000, 7, 0, FaultKind.READ, 3, 65536, is_write=False),
        Fault(2_000_000, 100_000, 7, 1, FaultKind.HELD, 3, 0, is_write=True),
        Fault(3_000_000, 10_000, 8, 0, FaultKind.ZERO, None, 0, is_write=True),
    ]
    assert measures.stall_s(faults) == pytest.approx(610e-6)
    assert measures.demand_pages(faults) == 1
    assert measures.stalls_of(faults, 1_000_000)[1] == pytest.approx((0.001, 0.0011))
    assert measures.coverage(99, 1) == 0.99
    assert measures.coverage(0, 0) == 0
    assert measures.precision(5, 10) == 0.5
    assert measures.precision(0, 0) is None
