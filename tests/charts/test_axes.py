"""Axes: ticks lie on them, and say what is there."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.charts.axes import (
    Axis,
    count_axis,
    label_axis,
    memory_axis,
    memory_text,
    order_axis,
    share_axis,
    size_axis,
    time_axis,
)

GIB = 1 << 30
SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


def texts(axis: Axis) -> list[str]:
    return [tick.text for tick in axis.ticks]


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (time_axis("t", 0.33), ["0", "100 ms", "200 ms", "300 ms"]),
        (time_axis("t", 4.72), ["0", "1 s", "2 s", "3 s", "4 s"]),
        (time_axis("t", 2.6), ["0", "0.5 s", "1.0 s", "1.5 s", "2.0 s", "2.5 s"]),
        (
            time_axis("t", 0.23, low_s=0.17),
            ["170 ms", "180 ms", "190 ms", "200 ms", "210 ms", "220 ms", "230 ms"],
        ),
        (time_axis("t", 0.43, to_tick=True), ["0", "100 ms", "200 ms", "300 ms", "400 ms", "500 ms"]),
        (count_axis("n", 0), ["0", "1"]),
        (count_axis("n", 3), ["0", "1", "2", "3"]),
        (count_axis("n", 1100), ["0", "500", "1 000", "1 500"]),
        (size_axis("m", 0), ["0", "1 B"]),
        (size_axis("m", 5000), ["0", "1 KiB", "2 KiB", "3 KiB", "4 KiB", "5 KiB"]),
        (size_axis("m", 847 << 20), ["0", "200 MiB", "400 MiB", "600 MiB", "800 MiB", "1 000 MiB"]),
        (size_axis("m", 5 << 29), ["0", "0.5 GiB", "1.0 GiB", "1.5 GiB", "2.0 GiB", "2.5 GiB"]),
        (size_axis("m", 3 << 40), ["0", "1 TiB", "2 TiB", "3 TiB"]),
        (order_axis("n", 1536), ["0", "500", "1 000", "1 500"]),
        (share_axis("u"), ["0 %", "25 %", "50 %", "75 %", "100 %"]),
        (memory_axis("m", GIB), ["0", *(f"{at} MiB" for at in range(128, 1024, 128)), "1 GiB"]),
        (memory_axis("m", 5 * GIB), ["0", "1 GiB", "2 GiB", "3 GiB", "4 GiB", "5 GiB"]),
        (label_axis("l", ["a", "", "b"]), ["a", "b"]),
    ],
    ids=str,
)
def test_ticks_are_round_and_of_one_unit(axis: Axis, expected: list[str]) -> None:
    assert [re.sub(r"\s", " ", text) for text in texts(axis)] == expected


@given(st.floats(1e-5, 1e5), st.floats(0, 0.99), st.booleans())
def test_a_time_tick_is_where_it_says(high_s: float, low: float, to_tick: bool) -> None:
    axis = time_axis("t", high_s, low_s=low * high_s, to_tick=to_tick)
    assert axis.high >= high_s * (1 - 1e-9)
    assert 2 <= len(axis.ticks) <= 9
    for tick in axis.ticks:
        value, _, unit = tick.text.partition(" ")
        assert axis.at(float(value) * SECONDS.get(unit, 0)) == pytest.approx(tick.at, abs=1e-6)
        assert -1e-9 <= tick.at <= 1 + 1e-9
    assert len(set(texts(axis))) == len(axis.ticks)


@given(st.integers(1, 1 << 26))
def test_memory_has_a_handful_of_ticks(pages: int) -> None:
    axis = memory_axis("m", pages * 4096)
    assert 2 <= len(axis.ticks) <= 10
    assert all(0 <= tick.at <= 1 for tick in axis.ticks)


@given(st.integers(0, 10**9))
def test_a_count_is_below_the_top(count: int) -> None:
    axis = count_axis("n", count)
    assert axis.high >= count
    assert 2 <= len(axis.ticks) <= 6


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0"),
        (4096, "4 KiB"),
        (64 << 20, "64 MiB"),
        (3 * GIB, "3 GiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (74240 << 10, "72.5 MiB"),
        (4196 << 10, "4 196 KiB"),
    ],
)
def test_a_place_in_memory_is_exact(size_bytes: int, text: str) -> None:
    assert re.sub(r"\s", " ", memory_text(size_bytes)) == text


def test_what_is_outside_is_at_the_end() -> None:
    axis = time_axis("t", 2.0, low_s=1.0)
    assert [axis.at(value) for value in (0, 1, 1.5, 2, 9)] == [0, 0, 0.5, 1, 1]


@given(st.floats(0, 1e16))
def test_a_size_axis_reaches_as_far_as_it_must_and_not_much_further(size_bytes: float) -> None:
    axis = size_axis("m", size_bytes)
    assert size_bytes <= axis.high * (1 + 1e-9)
    assert axis.high <= max(2 * size_bytes, 1)
    assert 2 <= len(axis.ticks) <= 6
    assert len(set(texts(axis))) == len(axis.ticks)
