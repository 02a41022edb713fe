"""The document: a headline, numbers, figures and facts as one HTML file that needs nothing but itself.

    Page (values and figures) ─▶ document ─▶ text of the file

It fetches nothing and may not: its Content-Security-Policy allows its own style and its own script, by hash, and no more.
The same values make the same text. Called by the reports.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from vmckpt.charts.markup import Markup, element, joined, unbroken
from vmckpt.charts.style import SCRIPT, STYLE

__all__ = ["Fact", "Figure", "Page", "Tile", "document"]


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that matters."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture, with what it shows."""

    title: str
    text: str
    """How to read it, in a sentence or two."""
    body: Markup
    half: bool = False
    """Two of these stand side by side where there is room."""
    kind: str = ""
    """What sort of figure it is, above a title that says what came of it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something else to know of the run."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Page:
    """All that there is to show."""

    title: str
    eyebrow: str
    """What it is about, above the title."""
    lead: str
    """What came of it, in a sentence or two; may be Markup."""
    tiles: Sequence[Tile]
    figures: Sequence[Figure]
    facts: Sequence[Fact]
    footer: str


def document(page: Page) -> str:
    """The text of the file, UTF-8 when written."""
    return f"<!DOCTYPE html>\n{element('html', _head(page), _body(page), lang='en')}\n"


def _head(page: Page) -> Markup:
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; img-src data:"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="referrer", content="no-referrer"),
        element("title", f"{page.title} – vmckpt"),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(STYLE)),
    )


def _body(page: Page) -> Markup:
    figures = [_figure(figure, index) for index, figure in enumerate(page.figures, 1)]
    return element(
        "body",
        element(
            "header",
            element("p", page.eyebrow, class_="eyebrow"),
            element("h1", unbroken(page.title)),
            element("p", unbroken(page.lead), class_="lead"),
            element("button", "Theme", id="theme", type="button", hidden="hidden"),
        ),
        element(
            "main",
            element("dl", *map(_tile, page.tiles), class_="tiles"),
            element("div", *figures, _facts(page.facts), class_="figures"),
        ),
        element("footer", page.footer),
        element("script", Markup(SCRIPT)),
    )


def _tile(tile: Tile) -> Markup:
    note = [element("dd", unbroken(tile.note), class_="note")] if tile.note else []
    return element(
        "div", element("dt", tile.name), element("dd", tile.value, class_="value"), *note, class_="tile"
    )


def _figure(figure: Figure, index: int) -> Markup:
    kind = [element("p", figure.kind, class_="kind")] if figure.kind else []
    caption = element(
        "figcaption",
        *kind,
        element("h2", unbroken(figure.title), id=f"figure-{index}"),
        element("p", unbroken(figure.text)),
    )
    return element(
        "figure",
        caption,
        figure.body,
        class_="half" if figure.half else None,
        aria_labelledby=f"figure-{index}",
    )


def _facts(facts: Sequence[Fact]) -> Markup:
    pairs = joined(
        joined([element("dt", fact.name), element("dd", fact.value)]) for fact in facts if fact.value
    )
    return element(
        "section", element("h2", "The run"), element("dl", pairs), class_="facts", aria_label="The run"
    )
