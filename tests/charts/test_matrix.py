"""The matrix: every pair has its cell, and its strength follows from its part of the most."""

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.charts.colours import blend, contrast, palettes
from vmckpt.charts.matrix import LEVELS, Cell, level_of, matrix


def drawn(count: int) -> ET.Element:
    cells = [
        [Cell((x * y) % (len(LEVELS) + 1), "green", f"{y}/{x}", f"row {y}\ncolumn {x}") for x in range(count)]
        for y in range(count)
    ]
    return ET.fromstring(matrix("all", [f"<{y}>" for y in range(count)], range(1, count + 1), cells))


@pytest.mark.parametrize("count", [1, 5, 24])
def test_every_pair_says_what_it_is_where_it_is(count: int) -> None:
    hits = {
        str(path.get("d")): path.findtext("title")
        for path in drawn(count).iter("path")
        if path.get("class") == "hit"
    }
    assert hits == {f"M{x} {y}h1v1h-1z": f"row {y}\ncolumn {x}" for x in range(count) for y in range(count)}


@pytest.mark.parametrize("count", [1, 5, 24])
def test_every_cell_is_drawn_once(count: int) -> None:
    shapes = [path for path in drawn(count).iter("path") if "cell" in str(path.get("class"))]
    boxes = [box for path in shapes for box in str(path.get("d")).split("z") if box]
    assert len(boxes) == len(set(boxes)) == count * count


def test_only_few_cells_have_their_text_inside() -> None:
    def texts(count: int) -> list[str | None]:
        square = next(found for found in drawn(count).iter("div") if found.get("class") == "square")
        return [found.text for found in square.iter("span")]

    assert texts(2) == ["0/0", "0/1", "1/0", "1/1"]
    assert texts(7) == []


def test_rows_are_named_as_text() -> None:
    rows = next(found for found in drawn(3).iter("div") if found.get("class") == "rows")
    assert [found.text for found in rows] == ["<0>", "<1>", "<2>"]


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_more_is_never_weaker(one: float, other: float) -> None:
    low, high = sorted([one, other])
    assert 0 <= level_of(low, 1e9) <= level_of(high, 1e9) <= len(LEVELS)
    assert (level_of(one, 1e9) == 0) == (one == 0)
    assert level_of(1e9, 1e9) == len(LEVELS)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("colour", ["blue", "green", "purple"])
def test_text_stands_out_in_every_cell(theme: int, colour: str) -> None:
    palette = palettes()[theme]
    for level in LEVELS[:-1]:
        ground = blend(palette[colour], palette["card"], level)
        assert contrast(palette["ink"], ground) >= 4.5
    assert contrast(palette["card"], palette[colour]) >= 4.5
