"""Markup: nothing that comes from outside is taken for it."""

import html
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from vmckpt.charts.markup import Markup, element, escaped, joined, number, unbroken


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "<&>")
    assert element("p", "a < b", inner) == "<p>a &lt; b<b>&lt;&amp;&gt;</b></p>"


def test_attributes_are_escaped_and_named_as_html_names_them() -> None:
    made = element("i", class_='"><script>', aria_label="x", width=1.5, title=None)
    assert made == '<i class="&quot;&gt;&lt;script&gt;" aria-label="x" width="1.5"></i>'


def test_an_element_without_content_closes_itself() -> None:
    assert element("meta", charset="utf-8") == '<meta charset="utf-8"/>'


@given(st.text() | st.text(st.characters(categories=["Cs", "Cc", "Cf"])))
def test_any_text_is_one_text_of_valid_xml(text: str) -> None:
    made = element("p", text, title=text)
    made.encode("utf-8")
    read = ET.fromstring(made)
    assert len(read) == 0
    assert read.text in (html.unescape(escaped(text)), None)


def test_joined_is_side_by_side() -> None:
    assert joined([Markup("<b/>"), "<"]) == "<b/>&lt;"


@given(st.floats(-1e6, 1e6))
def test_a_number_is_short_and_close(value: float) -> None:
    text = number(value)
    assert abs(float(text) - value) <= 0.0051
    assert len(text.partition(".")[2]) <= 2


@given(st.text())
def test_unbroken_text_is_the_same_but_for_the_spaces(text: str) -> None:
    read = "".join(ET.fromstring(f"<p>{unbroken(text)}</p>").itertext())
    assert read.replace("\N{NO-BREAK SPACE}", " ") == "".join(
        ET.fromstring(f"<p>{escaped(text)}</p>").itertext()
    )


def test_only_numbers_and_units_are_kept_together() -> None:
    assert (
        unbroken("about 1 234 MiB & 5 % of 3 images")
        == "about 1&#160;234&#160;MiB &amp; 5&#160;% of 3 images"
    )
