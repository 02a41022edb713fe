"""The worked example of docs/format.md: an annotated hex dump of a golden file, made by the independent reader.

`python -m tests.checkpoint.example` writes it into the page; test_format compares. Labels come from the field tables of
the page itself, so a field that the page gets wrong shows here.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.ckptreader import Part, parts_of

__all__ = ["FILE", "PAGE", "example_in", "example_of", "structs_in"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "format.md"
FILE = ROOT / "tests" / "golden" / "v1-example.ckpt"

_MARKED = re.compile(r"(?<=<!-- example -->\n).*(?=<!-- /example -->)", re.DOTALL)
_ROW = re.compile(r"^\| (\d+) \| (\d+) \| (\w+) \| `(\w+)` \| (.*) \|$", re.MULTILINE)

_SECTION_BODIES = {1: "summary", 2: "table root", 3: "table root"}


def structs_in(page: str) -> dict[str, list[tuple[int, int, str, str]]]:
    """The struct tables of the page: heading -> offset, size, type and name of each field."""
    found = {}
    for text in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        chapter = re.split(r"^## ", text, flags=re.MULTILINE)[0]
        rows = [(int(at), int(size), kind, name) for at, size, kind, name, _ in _ROW.findall(chapter)]
        if rows:
            found[chapter.splitlines()[0]] = rows
    return found


def _struct_of(label: str) -> str | None:
    """Which struct a part starts with."""
    if label in {"header", "footer"}:
        return label
    if label.startswith("region"):
        return "region"
    if label.startswith("section table"):
        return "section table entry"
    if label.startswith("section of type"):
        kind, what = re.findall(r"type (\d+): (\w+)", label)[0]
        return "section header" if what == "header" else _SECTION_BODIES.get(int(kind))
    if "record" in label:
        return "directory record"
    if label.endswith(": header"):
        return "storage block header"
    if "piece" in label:
        return f"{label.split(':', maxsplit=1)[0]} entry"
    return None


def _hex(data: bytes) -> Iterator[str]:
    for at in range(0, len(data), 16):
        yield data[at : at + 16].hex(" ")


def _lines(offset: int, data: bytes, label: str) -> Iterator[str]:
    for at, line in enumerate(_hex(data)):
        yield f"{offset + 16 * at:04x}  {line:<47}  {label if at == 0 else ''}".rstrip()


def _value(kind: str, data: bytes) -> str:
    if kind != "bytes":
        number = int.from_bytes(data, "little")
        return f" = {number}" if number < 1 << 48 else ""
    text = data.decode("ascii", "replace")
    return f" = {text!r}" if text.isprintable() and text.isascii() else ""


def _rest(
    label: str, body: bytes, structs: dict[str, list[tuple[int, int, str, str]]]
) -> list[tuple[int, str]]:
    """Lengths and names of what follows a struct in its part."""
    if "record" in label:
        pages, stored, pattern, duplicate = (
            int.from_bytes(body[at : at + 2], "little") for at in (22, 24, 26, 28)
        )
        parts = [
            (pages, "kinds"),
            (8 * stored, "hashes of the stored pages"),
            (8 * duplicate, "hashes of the duplicates"),
        ]
        return [*parts, (8 * pattern, "patterns"), (8 * duplicate, "references")]
    if _struct_of(label) == "table root":
        return [(8, "offset of piece 0"), (8, "checksum of piece 0")]
    if "piece" in label:
        size = sum(row[1] for row in structs[str(_struct_of(label))])
        return [(size, f"entry {index}") for index in range(1, len(body) // size)]
    return []


def _part(part: Part, data: bytes, structs: dict[str, list[tuple[int, int, str, str]]]) -> Iterator[str]:
    body = data[part.offset : part.offset + part.length]
    name = _struct_of(part.label)
    if name is None:
        yield from _lines(part.offset, body, part.label)
        return
    yield f"      -- {part.label}"
    at = 0
    for offset, size, kind, field in structs[name]:
        assert offset == at
        piece = body[at : at + size]
        yield from _lines(part.offset + at, piece, f"{field}{_value(kind, piece)}")
        at += size
    for size, label in _rest(part.label, body, structs):
        if size:
            yield from _lines(part.offset + at, body[at : at + size], label)
            at += size
    assert at == len(body), part


def example_of(data: bytes, page: str) -> str:
    """The annotated dump of a file, as it stands in the page."""
    structs = structs_in(page)
    lines = [line for part in parts_of(data) for line in _part(part, data, structs)]
    return "\n".join(["", "```text", *lines, "```", "", ""])


def example_in(page: str) -> str:
    """What the page has as its example."""
    found = _MARKED.search(page)
    assert found is not None
    return found.group()


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    example = example_of(FILE.read_bytes(), page)
    PAGE.write_text(_MARKED.sub(lambda _: example, page), encoding="utf-8")


if __name__ == "__main__":
    main()
