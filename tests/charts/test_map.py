"""The map of memory: every page is in it, and a large one is no longer than a small one."""

import random
import re
from xml.etree import ElementTree as ET

from vmckpt.charts.bins import Bins, counted, tallied
from vmckpt.charts.map import MOST_COLUMNS, Kind, Overlay, PageMap, page_map
from vmckpt.pages import PAGE_BYTES

KINDS = (Kind("stored", "blue"), Kind("zero", "pale"), Kind("<odd>", "green"))


def read(pages: PageMap) -> ET.Element:
    return ET.fromstring(page_map("a map", pages))


def made(cells: bytes, active: list[int] | None = None) -> PageMap:
    bins = Bins.at_most(len(cells), MOST_COLUMNS)
    overlay = None if active is None else Overlay("active", "orange", counted(active, bins))
    return PageMap(bins, KINDS, tallied(cells, len(KINDS), bins), PAGE_BYTES, overlay)


def numbers(row: ET.Element) -> list[int]:
    return [int(re.sub(r"\s", "", cell.text or "")) for cell in row.iterfind("td")]


def test_legend_and_table_have_every_page() -> None:
    rng = random.Random(3)
    cells = bytes(rng.choices([0, 1, 2], [5, 3, 1], k=70_001))
    active = rng.sample(range(70_001), 900)
    drawn = read(made(cells, active))
    rows = [numbers(row) for row in drawn.iterfind(".//tbody/tr")]
    assert [sum(column) for column in zip(*rows, strict=True)] == [
        *(cells.count(kind) for kind in range(3)),
        900,
    ]
    assert [entry.findtext("span") for entry in drawn.iter("li")] == ["stored", "zero", "<odd>", "active"]


def test_what_columns_say_adds_up_to_all_pages() -> None:
    cells = bytes(random.Random(4).choices([0, 0, 1], k=10_000))
    said = [title.text or "" for title in read(made(cells)).iter("title")]
    for kind, name in enumerate(("stored", "zero")):
        counts = [re.search(rf"^{name}: ([\d\s]+)$", text, flags=re.MULTILINE) for text in said]
        assert sum(int(re.sub(r"\s", "", found[1])) for found in counts if found) == cells.count(kind)


def test_columns_that_are_alike_are_drawn_as_one() -> None:
    drawn = page_map("zeros", made(bytes([1]) * (1 << 24)))
    assert len(drawn) < 8000
    assert len(list(ET.fromstring(drawn).iter("svg"))) == 16


def test_the_worst_map_of_64_gib_is_small() -> None:
    cells = random.Random(5).randbytes(1 << 20).translate(bytes(cell % 3 for cell in range(256))) * 16
    assert len(page_map("noise", made(cells, list(range(0, 1 << 24, 5))))) < 1 << 20


def test_few_pages_make_a_short_map() -> None:
    drawn = read(made(bytes([0, 1, 2])))
    (band,) = drawn.iter("svg")
    assert band.get("viewBox") == "0 0 3 100"
    assert [path.get("d") for path in band.iter("path")][:3] == [
        "M0 0h1v100h-1z",
        "M1 0h1v100h-1z",
        "M2 0h1v100h-1z",
    ]
