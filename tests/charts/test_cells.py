"""Maps of cells: all memories at one scale, every cell in them, neighbours that are alike drawn as one."""

import re
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from vmckpt.charts.cells import BAND_CELLS, STRENGTHS, MapCell, Ramp, Strip, cell_maps, ramps

MIB = 1 << 20


def cell(at: int, level: int = 1, colour: str = "blue", marked: float = 0.0) -> MapCell:
    return MapCell(at * MIB, (at + 1) * MIB, colour, level, marked, f"level {level}, {colour}, {marked}")


def drawn(*strips: list[MapCell]) -> ET.Element:
    made = [Strip(f"<{index}>", "note", cells) for index, cells in enumerate(strips)]
    return ET.fromstring(cell_maps("maps", made))


def widths(svg: ET.Element, kind: str) -> int:
    paths = [str(path.get("d")) for path in svg.iter("path") if re.search(kind, str(path.get("class")))]
    return sum(int(width) for path in paths for width in re.findall(r" \d+h(\d+)v", path))


CELLS = st.lists(
    st.tuples(
        st.integers(0, len(STRENGTHS)), st.sampled_from(["blue", "orange"]), st.sampled_from([0.0, 0.1, 1.0])
    ),
    min_size=1,
    max_size=300,
)


@given(CELLS)
def test_every_cell_is_drawn_once_and_says_what_it_is(kinds: list[tuple[int, str, float]]) -> None:
    cells = [cell(at, level, colour, marked) for at, (level, colour, marked) in enumerate(kinds)]
    svgs = list(drawn(cells).iter("svg"))
    assert len(svgs) == -(-len(cells) // min(BAND_CELLS, len(cells)))
    assert sum(widths(svg, "c-(blue|orange|pale)") for svg in svgs) == len(cells)
    assert sum(widths(svg, "hit") for svg in svgs) == len(cells)
    assert sum(widths(svg, "c-ink") for svg in svgs) == sum(marked > 0 for *_, marked in kinds)
    there = {
        found.rpartition("\n")[2] for svg in svgs for found in map(str, (t.text for t in svg.iter("title")))
    }
    assert there == {found.text for found in cells}


def test_memories_of_different_sizes_have_one_scale() -> None:
    boxes = {svg.get("viewBox") for svg in drawn([cell(0)], [cell(at) for at in range(40)]).iter("svg")}
    assert boxes == {"0 0 40 100"}


def test_neighbours_that_are_alike_are_one_shape_with_the_addresses_of_both_ends() -> None:
    (title,) = drawn([cell(at) for at in range(64)]).iter("title")
    assert str(title.text).startswith("0 – 64 MiB\n64 cells, each:\n")


def test_a_band_begins_with_the_address_of_its_first_cell() -> None:
    rows = [
        found for found in drawn([cell(at) for at in range(300)]).iter("div") if found.get("class") == "row"
    ]
    assert [row.findtext("span") for row in rows] == ["0", "128 MiB", "256 MiB"]


def test_names_are_only_text() -> None:
    assert [found.text for found in drawn([cell(0)], [cell(1)]).iter("b")] == ["<0>", "<1>"]


def test_the_legend_has_every_hue_in_every_strength() -> None:
    keys = ET.fromstring(
        ramps("freed", [Ramp("cold", "blue"), Ramp("hot", "orange")], "none", list("abcd"), "in it")
    )
    shown = [found.get("class") for found in keys[0].iter("i")]
    assert shown == ["c-blue"] * 4 + ["c-orange"] * 4
    assert [entry.findtext("span") for entry in keys.iter("li")] == ["none", "in it"]
