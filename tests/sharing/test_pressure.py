import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.sharing.pressure import (
    BORDERS,
    SHORT_PER_CENT,
    Pressure,
    State,
    actions_in,
    break_threshold,
    min_free_bytes,
    next_pressure,
    scan_rate,
)

MIB, GIB = 1 << 20, 1 << 30
MIN_FREE = 100 * MIB
CALM = Pressure(State.HIGH, is_short=False)
amounts = st.integers(-10 * MIN_FREE, 10 * MIN_FREE)


@pytest.mark.parametrize(
    ("memory", "expected_mib"),
    # The scale's own examples: 96 GB keeps 1597.36 MB free, of which 64 % is 1022.31; 100 GB keeps 1638.32 MB by it.
    [(GIB, 61.44), (4 * GIB, 245.76), (12 * GIB, 573.44), (28 * GIB, 901.12), (96 * GIB, 1597.44), (0, 0)],
)
def test_what_a_host_keeps_free_follows_the_sliding_scale(memory: int, expected_mib: float) -> None:
    assert min_free_bytes(memory) / MIB == pytest.approx(expected_mib, abs=0.01)


@given(memory=st.integers(0, 1 << 45), more=st.integers(0, 1 << 40))
def test_more_memory_keeps_more_free_but_less_of_each_byte(memory: int, more: int) -> None:
    assert min_free_bytes(memory) <= min_free_bytes(memory + more)
    assert 0.01 * memory - 1 <= min_free_bytes(memory) <= 0.06 * memory


@pytest.mark.parametrize(
    ("per_cent", "state", "is_short"),
    [
        (500, State.HIGH, False),
        (400, State.HIGH, False),
        (399, State.HIGH, True),
        (100, State.HIGH, True),
        (99, State.CLEAR, True),
        (64, State.CLEAR, True),
        (63, State.SOFT, True),
        (31, State.HARD, True),
        (15, State.LOW, True),
        (-50, State.LOW, True),
    ],
)
def test_a_host_that_was_calm_has_the_state_of_its_free_memory(
    per_cent: int, state: State, *, is_short: bool
) -> None:
    assert next_pressure(CALM, per_cent * MIN_FREE // 100, MIN_FREE) == Pressure(state, is_short)


@given(before=st.sampled_from(State), free=amounts)
def test_a_state_falls_at_once(before: State, free: int) -> None:
    assert next_pressure(Pressure(before, is_short=True), free, MIN_FREE).state <= max(
        next_pressure(CALM, free, MIN_FREE).state, State.LOW
    )


@given(before=st.sampled_from(State), free=amounts)
def test_a_state_climbs_only_where_its_border_is_clearly_exceeded(before: State, free: int) -> None:
    after = next_pressure(Pressure(before, is_short=True), free, MIN_FREE).state
    if after > before:
        for state in range(before, after):
            assert free >= 1.25 * BORDERS[State(state)] * MIN_FREE / 100


@given(before=st.sampled_from(State), is_short=st.booleans(), free=amounts)
def test_what_does_not_change_stays(before: State, free: int, *, is_short: bool) -> None:
    once = next_pressure(Pressure(before, is_short), free, MIN_FREE)
    assert next_pressure(once, free, MIN_FREE) == once


@given(border=st.sampled_from(sorted(BORDERS.values())), steps=st.lists(st.integers(-10, 10), max_size=30))
def test_trembling_about_a_border_changes_the_state_once_at_most(border: int, steps: list[int]) -> None:
    pressure, changes = CALM, 0
    for step in steps:
        after = next_pressure(pressure, (border * MIN_FREE + step * MIN_FREE) // 100, MIN_FREE)
        changes += after.state > pressure.state
        pressure = after
    assert changes == 0 or border * 1.25 < border + 10  # a border below 40 % is exceeded by 10


@given(frees=st.lists(amounts, max_size=30), other=st.lists(amounts, max_size=30))
def test_less_free_memory_never_means_a_better_state(frees: list[int], other: list[int]) -> None:
    pressure = worse = CALM
    for free, less in zip(frees, other, strict=False):
        pressure = next_pressure(pressure, free, MIN_FREE)
        worse = next_pressure(worse, min(free, less), MIN_FREE)
        assert worse.state <= pressure.state
        assert worse.is_short >= pressure.is_short


def test_what_is_short_is_so_until_the_margin_is_exceeded() -> None:
    short = next_pressure(CALM, SHORT_PER_CENT * MIN_FREE // 100 - 1, MIN_FREE)
    assert short.is_short
    assert next_pressure(short, SHORT_PER_CENT * MIN_FREE // 100, MIN_FREE).is_short
    assert not next_pressure(short, int(1.25 * SHORT_PER_CENT * MIN_FREE / 100), MIN_FREE).is_short


def test_sharing_comes_before_ballooning_and_that_before_swapping() -> None:
    worst_first = [actions_in(state) for state in State]
    for name in ("share_now", "break_all", "swap", "block"):
        done = [getattr(actions, name) for actions in worst_first]
        assert done == sorted(done, reverse=True), name
    assert actions_in(State.CLEAR).share_now
    assert not actions_in(State.CLEAR).balloon
    assert not actions_in(State.SOFT).swap
    assert not any(actions_in(State.HIGH))


@given(free=amounts, less=st.integers(0, MIN_FREE), pages=st.integers(2, 4096))
def test_the_threshold_falls_with_free_memory(free: int, less: int, pages: int) -> None:
    assert (
        1
        <= break_threshold(free - less, MIN_FREE, pages)
        <= break_threshold(free, MIN_FREE, pages)
        <= pages // 2
    )


def test_the_threshold_is_one_at_the_end_and_half_of_the_pages_at_first() -> None:
    assert break_threshold(0, MIN_FREE, 512) == 1
    assert break_threshold(4 * MIN_FREE, MIN_FREE, 512) == 256


@given(
    missing=st.integers(-10, 10**6),
    part=st.floats(0, 1),
    most=st.integers(200, 10**6),
    within=st.floats(0.1, 100),
)
def test_the_rate_brings_what_is_missing_in_time_as_far_as_it_may(
    missing: int, part: float, most: int, within: float
) -> None:
    short = Pressure(State.HIGH, is_short=True)
    rate = scan_rate(short, missing, part, slow=100, most=most, within_s=within)
    assert 100 <= rate <= most
    if 100 < rate < most:
        assert rate * within * part == pytest.approx(missing, rel=0.02, abs=within * part + 1)
    assert scan_rate(CALM, missing, part, slow=100, most=most, within_s=within) == 100
