"""How the page of an estimate says things: sizes of so many pages, and what images are called.

Names come from outside and may be of any length: they are cut to the room there is. Pure. Called by the page's modules.
"""

import os
from collections.abc import Sequence

from vmckpt.pages import PAGE_BYTES
from vmckpt.units import format_count, format_size

__all__ = ["large_text", "names_of", "percent_text", "shortened", "size_text"]

_MOST_CHARACTERS = 28


def size_text(pages: float) -> str:
    """The size of so many small pages: `1.25 GiB`."""
    return format_size(pages * PAGE_BYTES)


def large_text(count: int) -> str:
    """So many large pages: `1 large page`, `2 048 large pages`."""
    return f"{format_count(count)} large page{'' if count == 1 else 's'}"


def percent_text(part: float) -> str:
    """A confidence or a fraction, as short as it can be: `95 %`."""
    return f"{100 * part:.3g} %"


def shortened(name: str, most: int) -> str:
    """The end of a name that is too long, as that tells more of a path than its start."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def names_of(sources: Sequence[str], most: int = _MOST_CHARACTERS) -> list[str]:
    """A number and a name for each: the last part of its path, if these differ, else the end of the whole."""
    bases = [os.path.basename(source) or source for source in sources]
    names = bases if len(set(bases)) == len(bases) else list(sources)
    if len(names) == 1:
        return [shortened(names[0], most)]
    return [f"{number} · {shortened(name, most)}" for number, name in enumerate(names, 1)]
