"""The document: whole, self-contained, and harmless whatever the names in it."""

import base64
import hashlib
import re

import pytest

from tests.charts.colours import contrast, palettes
from tests.support.webpage import WebPage
from vmckpt.charts.axes import count_axis, share_axis
from vmckpt.charts.markup import joined
from vmckpt.charts.page import Fact, Figure, Page, Tile, document
from vmckpt.charts.plots import (
    Key,
    Mark,
    bars,
    dot,
    heat,
    hits,
    legend,
    line,
    marks,
    outline,
    plot,
    shade,
    table,
)
from vmckpt.charts.style import SCRIPT, STYLE

HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x00\x1b\u202e\udcff"


def figure(name: str) -> Figure:
    edges = [0, 0.5, 1]
    drawn = plot(
        name,
        share_axis(name),
        count_axis(name, 5),
        shade(0, 0.2),
        bars(edges, [("blue", [0.5, 0.2]), ("sky", [0.5, 0])]),
        outline(edges, [None, 0.3], "green"),
        line([(0, 0), (1, 1)], "ink", 2),
        dot(0.5, 0.5, "ink"),
        heat([[0, 1], [4, 2]], "orange"),
        hits(edges, [name, ""]),
        marks([Mark(name, 0.5, name)]),
    )
    keys = legend([Key(name, "blue", name)])
    return Figure(name, name, joined([keys, drawn, table([name, name], [[name, name]])]))


def page(name: str) -> Page:
    return Page(name, name, name, [Tile(name, name, name)], [figure(name)], [Fact(name, name)], name)


@pytest.mark.parametrize("name", ["guest.vmckpt", HOSTILE], ids=["plain", "hostile"])
def test_a_page_needs_nothing_but_itself_and_names_are_only_text(name: str) -> None:
    read = WebPage(document(page(name)))
    (heading,) = read.texts("h1")
    read.check([heading])
    assert [tag for tag, _ in read.tags if tag == "img"] == []
    shown = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\\x00\\x1b\\u202e\\xff"
    assert heading == (shown if name is HOSTILE else name)


def test_a_figure_may_say_what_it_is_above_its_title() -> None:
    read = WebPage(
        document(Page("t", "", "", [], [Figure("it grew", "how", joined([]), kind="Growth <b>")], [], ""))
    )
    assert read.kinds() == ["Growth <b>"]
    assert read.title("Growth <b>") == "it grew"


def test_no_line_ends_between_a_number_and_its_unit() -> None:
    text = document(Page("Frees 1 234 MiB of 2 GiB", "", "", [], [], [], ""))
    assert "<h1>Frees 1&#160;234&#160;MiB of 2&#160;GiB</h1>" in text


def test_the_policy_lets_its_own_script_run_and_no_other() -> None:
    read = WebPage(document(page("x")))
    (policy,) = (attributes["content"] for _, attributes in read.tags if "http-equiv" in attributes)
    assert policy is not None
    (script,) = read.texts("script")
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{hashed}';" in policy
    assert policy.startswith("default-src 'none';")


def test_the_same_values_make_the_same_text() -> None:
    assert document(page("x")) == document(page("x"))


def test_every_colour_is_in_both_themes_and_every_class_has_a_colour() -> None:
    light, dark = re.findall(r"^--page:.*?color-scheme", STYLE, flags=re.MULTILINE | re.DOTALL)[:2]
    names = set(re.findall(r"--([a-z]+):", light))
    assert names == set(re.findall(r"--([a-z]+):", dark))
    assert set(re.findall(r"var\(--([a-z]+)\)", STYLE)) - {"c", "y", "n", "cell"} <= names


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_what_matters_stand_out(theme: int) -> None:
    colours = palettes()[theme]
    for ink in ("ink", "soft"):
        assert all(contrast(colours[ink], colours[ground]) >= 4.5 for ground in ("page", "card", "faint"))
    for shape in ("blue", "orange", "green", "purple"):
        assert contrast(colours[shape], colours["card"]) >= 3


def test_the_script_is_valid_where_xml_reads_it() -> None:
    assert not set("<&") & set(SCRIPT)
