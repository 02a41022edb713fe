"""A plan in a file: what `vmckpt estimate-sharing --target SIZE --json` prints, read back for `vmckpt vm break-up`.

    {"large_page_bytes": ..., "images": [{"source", "pages"}, ...], "plan": {"breaks": [{"source", "large_page"}, ...]}}
    or the plan alone:  {"large_page_bytes": ..., "breaks": [...]}     ─▶ `PlanFile` ─▶ the large pages of one machine

The file may come from anywhere, so all that is used of it is checked.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vmckpt.errors import IoError, SourceError, UsageError
from vmckpt.machine.large import LARGE_PAGE_BYTES
from vmckpt.pages import PAGE_BYTES
from vmckpt.units import format_size

__all__ = ["PlanFile", "breaks_for", "read_plan"]

_MOST_BYTES = 1 << 28
_LARGE_PAGE_LIMIT = 1 << 48


class PlanFile(NamedTuple):
    """A plan as the file has it."""

    path: str
    large_page_bytes: int
    breaks: Mapping[str, Sequence[int]]
    """The large pages to break up of each source, ascending."""
    pages: Mapping[str, int]
    """Small pages of each source, where the file says."""


def read_plan(path: str) -> PlanFile:
    """Read a plan; `-` is standard input.

    Raises:
        IoError: the file cannot be read.
        SourceError: it is no plan.
    """
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            body = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise IoError.of(error, "cannot read the plan", path=path) from error
    if len(body) > _MOST_BYTES:
        raise SourceError(f"this is no plan: it has more than {_MOST_BYTES} bytes", path=path)
    try:
        return _plan_of(json.loads(body), path)
    except (ValueError, RecursionError) as error:  # bytes that are no text are a ValueError too
        what = str(error) if isinstance(error, _NoPlanError) else "it is no JSON"
        raise SourceError(
            f"this is no plan: {what}; `vmckpt estimate-sharing SOURCE --target SIZE --json` prints one",
            path=path,
        ) from error


class _NoPlanError(ValueError):
    """Why it is none."""


def _plan_of(values: object, path: str) -> PlanFile:
    if not isinstance(values, dict):
        raise _NoPlanError("expected an object")
    plan = values.get("plan", values)
    if not isinstance(plan, dict) or not isinstance(plan.get("breaks"), list):
        raise _NoPlanError("it has no list of breaks")
    large_page_bytes = plan.get("large_page_bytes", values.get("large_page_bytes", LARGE_PAGE_BYTES))
    if type(large_page_bytes) is not int:
        raise _NoPlanError(f"large_page_bytes is a number, and not {large_page_bytes!r:.40}")
    breaks: dict[str, set[int]] = {}
    for entry in plan["breaks"]:
        source, number = (
            (entry.get("source"), entry.get("large_page")) if isinstance(entry, dict) else (None, None)
        )
        if not isinstance(source, str) or type(number) is not int or not 0 <= number < _LARGE_PAGE_LIMIT:
            raise _NoPlanError(f"a break is a source and a large page, and not {entry!r:.60}")
        breaks.setdefault(source, set()).add(number)
    numbers = {source: sorted(found) for source, found in breaks.items()}
    return PlanFile(path, large_page_bytes, numbers, _pages_of(values.get("images")))


def _pages_of(images: object) -> dict[str, int]:
    entries = images if isinstance(images, list) else []
    known = ((entry.get("source"), entry.get("pages")) for entry in entries if isinstance(entry, dict))
    return {source: pages for source, pages in known if isinstance(source, str) and type(pages) is int}


def breaks_for(plan: PlanFile, *, names: Sequence[str], memory_bytes: int) -> Sequence[int]:
    """The large pages that the plan would break up in one machine.

    Args:
        plan: perhaps for several sources; if only for one, that is the machine, whatever it was called when it was planned.
        names: what the machine is called, in a plan for several.
        memory_bytes: of the machine.

    Raises:
        UsageError: the plan is for other sources, or for a memory of another size.
    """
    sources = (
        list(plan.breaks) if len({*plan.breaks, *plan.pages}) == 1 else [*filter(plan.breaks.get, names)]
    )
    if not plan.breaks:
        return ()
    if not sources:
        if set(names) & set(plan.pages):
            return ()  # it was looked at, and is to stay as it is
        known = ", ".join(sorted(plan.breaks))
        raise UsageError(
            f"the plan is for other sources: expected {' or '.join(names)}, found {known:.200}; --source NAME says which of "
            "them this machine is",
            path=plan.path,
        )
    source = sources[0]
    planned_bytes = plan.pages.get(source, memory_bytes // PAGE_BYTES) * PAGE_BYTES
    if planned_bytes != memory_bytes:
        raise UsageError(
            f"the plan for {source} is for a memory of {format_size(planned_bytes)}, and this machine has "
            f"{format_size(memory_bytes)}",
            path=plan.path,
        )
    return plan.breaks[source]
