"""A page read back as a browser and as a strict XML parser read it."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

MOST_BYTES = 2 << 20


class WebPage(HTMLParser):
    """The parts of a page that tests ask for.

    Attributes:
        text: as written.
        tags: every element's name, with its attributes.
        root: the whole of it, as XML.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert text.startswith("<!DOCTYPE html>\n")
        self.root = ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def texts(self, tag: str) -> list[str]:
        """The whole text of every element of that name."""
        return ["".join(found.itertext()).replace("\N{NO-BREAK SPACE}", " ") for found in self.root.iter(tag)]

    def tiles(self) -> dict[str, str]:
        """The headline's numbers, by name."""
        tiles = (found for found in self.root.iter("div") if found.get("class") == "tile")
        return {str(tile[0].text): str(tile[1].text) for tile in tiles}

    def figure(self, title: str) -> ET.Element:
        """The figure of that title, or of that kind where its title says what came of it."""
        return next(
            found
            for found in self.root.iter("figure")
            if title in {found.findtext("figcaption/h2"), found.findtext("figcaption/p[@class='kind']")}
        )

    def kinds(self) -> list[str]:
        """The kind of each figure."""
        return [found.findtext("figcaption/p[@class='kind']", "") for found in self.root.iter("figure")]

    def title(self, kind: str) -> str:
        """What the figure of that kind says above all."""
        return "".join(self.figure(kind)[0][1].itertext()).replace("\N{NO-BREAK SPACE}", " ")

    def legend(self, title: str) -> dict[str, str]:
        """Names and values of a figure's legend."""
        entries = self.figure(title).iter("li")
        return {str(entry.findtext("span")): entry.findtext("b", "") for entry in entries}

    def rows(self, title: str) -> list[list[str]]:
        """The rows of a figure's table, without its head."""
        return [
            ["".join(cell.itertext()) for cell in row] for row in self.figure(title).iterfind(".//tbody/tr")
        ]

    def check(self, figures: list[str]) -> None:
        """Whatever holds for every page: it needs nothing but itself, and each figure has a name and numbers."""
        assert self.texts("h2")[: len(figures)] == figures
        assert len(self.text.encode()) < MOST_BYTES
        assert re.findall(r"(?:[a-z]:/|//[a-z])", self.text) == []
        assert "url(" not in self.text
        assert "@import" not in self.text
        loads = {"src", "srcset", "action", "data", "poster", "background"}
        assert [attributes for _, attributes in self.tags if loads & set(attributes)] == []
        assert [attributes["href"] for _, attributes in self.tags if "href" in attributes] == ["data:,"]
        assert len(self.texts("script")) == 1
        assert not any(name.startswith("on") for _, attributes in self.tags for name in attributes)
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for figure in self.root.iter("figure"):
            assert figure.get("aria-labelledby") in ids
        drawn = [found for found in self.root.iter("svg") if found.get("aria-hidden") != "true"]
        assert all(found.get("role") == "img" and found.get("aria-label") for found in drawn)
        assert "nan" not in " ".join(
            str(attributes.get("d")) for tag, attributes in self.tags if tag == "path"
        )
