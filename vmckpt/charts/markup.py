"""HTML as text in which whatever is not markup already is escaped.

    name, children, attributes ─▶ element ─▶ Markup (a str that the next `element` takes as it is)

Names of files and what a checkpoint says of itself come from outside: they are plain `str`, and so are harmless here.
What comes out is XML as well, so that a strict parser can read it. Called by every other module of the room.
"""

import html
import re
from collections.abc import Iterable

from vmckpt.units import printable

__all__ = ["Markup", "element", "escaped", "joined", "number", "unbroken"]

_AMOUNT = re.compile(r"(?<=\d) (?=(?:\d{3}|[KMGT]?i?B|%|m?s|µs|min)\b|%)")
_VOID = frozenset({"br", "link", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """`text` as content or as the value of an attribute: control characters written out, nothing taken for markup."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape("\n".join(printable(line) for line in text.split("\n")), quote=True))


def number(value: float) -> str:
    """A coordinate, as short as it can be: two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """`<name attributes>children</name>`.

    Args:
        name: of the element; plain HTML names, never from outside.
        children: Markup is taken as it is, any other text escaped.
        attributes: `class_` stands for class, `aria_label` for aria-label; None leaves one out.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            text = value if isinstance(value, str) else number(value)
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escaped(text)}"')
    if name in _VOID:
        return Markup(f"<{' '.join(parts)}/>")
    return Markup(f"<{' '.join(parts)}>{joined(children)}</{name}>")


def joined(children: Iterable[str]) -> Markup:
    """All of them, side by side, escaped where they are not markup."""
    return Markup("".join(map(escaped, children)))


def unbroken(text: str) -> Markup:
    """`text` in which no line ends between a number and its unit, or within a number."""
    return Markup(_AMOUNT.sub("&#160;", escaped(text)))
