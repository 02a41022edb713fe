"""Open tables: text is text, and a bar takes the part of its cell that it stands for."""

from xml.etree import ElementTree as ET

from vmckpt.charts.listing import beam, listing


def test_a_table_has_its_cells_in_their_places() -> None:
    made = ET.fromstring(
        listing("a list", ["name", "<b>", "c"], [["<x>", "1", "2"], ["y", "3", "4"]], (0, 2))
    )
    assert made.get("aria-label") == "a list"
    assert [head.text for head in made.iterfind(".//thead//th")] == ["name", "<b>", "c"]
    assert [[cell.text for cell in row] for row in made.iterfind(".//tbody/tr")] == [
        ["<x>", "1", "2"],
        ["y", "3", "4"],
    ]
    assert [cell.get("class") for cell in made.iterfind(".//tbody/tr[1]/td")] == [None, "text"]


def test_parts_of_a_bar_lie_side_by_side_on_the_whole() -> None:
    paths = [path.get("d") for path in ET.fromstring(beam([("grey", 0.25), ("blue", 0), ("green", 0.5)]))]
    assert paths == ["M0 0h100v1h-100z", "M0 0h25v1h-25z", "M25 0h50v1h-50z"]


def test_markup_in_a_cell_is_not_escaped() -> None:
    made = ET.fromstring(listing("a list", ["name", "bar"], [["x", beam([("blue", 1)])]]))
    assert len(list(made.iter("svg"))) == 1
