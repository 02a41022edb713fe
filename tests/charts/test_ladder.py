"""The ladder: each step begins where the one above it ends, and what does not count looks so."""

import re
from xml.etree import ElementTree as ET

import pytest

from vmckpt.charts.axes import size_axis
from vmckpt.charts.ladder import Step, ladder

HOSTILE = "</b><script>alert(1)</script>"


def drawn(*steps: Step) -> ET.Element:
    return ET.fromstring(ladder("a ladder", size_axis("freed", 1000), steps))


def step(
    start: float, end: float, *, faint: bool = False, interval: tuple[float, float] | None = None
) -> Step:
    return Step("a", "note", start, end, "value", "share", "blue", faint=faint, interval=interval)


def box(row: ET.Element) -> tuple[float, float] | None:
    path = next((found for found in row.iter("path") if "c-blue" in str(found.get("class"))), None)
    found = None if path is None else re.match(r"M([\d.]+) \d+H([\d.]+)V", str(path.get("d")))
    return None if found is None else (float(found[1]), float(found[2]))


def rows(ladder: ET.Element) -> list[ET.Element]:
    return [found for found in ladder if found.get("class") == "step"]


def test_a_step_is_drawn_from_its_start_to_its_end() -> None:
    found = rows(drawn(step(0, 250), step(250, 400), step(400, 1000)))
    assert [box(row) for row in found] == [(0, 250), (250, 400), (400, 1000)]


def test_a_step_of_nothing_has_no_beam_and_one_of_little_has() -> None:
    nothing, little = rows(drawn(step(0, 0), step(0, 0.01)))
    assert box(nothing) is None
    assert box(little) == (0, 2)


def test_what_is_not_counted_is_dashed() -> None:
    counted, more = rows(drawn(step(0, 500), step(500, 700, faint=True)))
    classes = [{path.get("class") for path in row.iter("path")} for row in (counted, more)]
    assert "fill c-blue" in classes[0]
    assert "wash edged c-blue" in classes[1]


def test_an_interval_is_drawn_from_low_to_high() -> None:
    (row,) = rows(drawn(step(0, 500, interval=(450, 620))))
    whisker = next(path for path in row.iter("path") if path.get("class") == "whisker")
    assert str(whisker.get("d")).startswith("M450 50H620")


@pytest.mark.parametrize("count", [1, 4])
def test_only_steps_that_go_on_have_a_joint_below(count: int) -> None:
    found = rows(drawn(*(step(index, index + 1) for index in range(count))))
    joints = [
        str(path.get("d")) for row in found for path in row.iter("path") if path.get("class") == "joint"
    ]
    assert [text.endswith("V100") for text in joints] == [True] * (count - 1) + [False]


def test_names_are_only_text() -> None:
    found = drawn(Step(HOSTILE, HOSTILE, 0, 1, HOSTILE, HOSTILE, "blue"))
    assert [element.text for element in found.iter("b")] == [HOSTILE, HOSTILE]
    assert list(found.iter("script")) == []
