"""Page counts, as every report that has some shows them."""

from typing import TYPE_CHECKING

from vmckpt.cli.render import Line, Share
from vmckpt.units import format_count

if TYPE_CHECKING:
    from vmckpt.api import PageCounts

__all__ = ["JSON_KEYS", "count_rows", "count_values"]

JSON_KEYS = ("total", "zero", "pattern", "duplicate", "stored")
"""The counts, as a script sees them."""

_STYLES = {"zero": "bright_black", "pattern": "blue", "duplicate": "magenta", "stored": "cyan"}


def count_values(pages: "PageCounts") -> dict[str, int]:
    """The JSON object `pages`."""
    return {key: getattr(pages, key) for key in JSON_KEYS}


def count_rows(pages: "PageCounts") -> list[Line | Share]:
    """A bar for each class of pages."""
    rows: list[Line | Share] = [Line("pages", format_count(pages.total))]
    for key, count in count_values(pages).items():
        if key != "total":
            rows.append(Share(f"  {key}", count, pages.total, _STYLES[key]))
    return rows
