"""Large pages put together again: every page goes home, and the large mapping is back. Takes the memory that sharing freed.

    pages of others in these homes ─▶ moved away ─▶ fence ─▶ pages come home ─▶ fence ─▶ promoted

So many pages at a time as `STEP_PAGES` says. Called by `breakups`, and by `saves`, whose traces are of pages in place.
"""

from collections.abc import Iterable

from vmckpt.machine.mappings import STEP_PAGES, Mappings
from vmckpt.pages import PageRange

__all__ = ["reform", "reform_all"]


def reform(mappings: Mappings, numbers: Iterable[int]) -> int:
    """Put large pages together again, those that are small; how many there were.

    Raises:
        UsageError: there is no such large page.
        IoError: there is no memory; those that are done stay done.
        WorkerError: a vCPU has ended.
    """
    ranges = [(number, mappings.large.pages_of(number)) for number in numbers]
    count = 0
    for number, pages in ranges:
        if number in mappings.small:
            _gather(mappings, pages)
            mappings.promote(number)
            count += 1
    mappings.leave()
    return count


def reform_all(mappings: Mappings) -> int:
    """The same for all."""
    return reform(mappings, sorted(mappings.small))


def _gather(mappings: Mappings, pages: PageRange) -> None:
    """Have all pages in place, and nobody read another page in one of their frames any more."""
    frames = mappings.frames
    assert frames is not None
    is_done = False
    while not is_done:
        for start in range(*pages, STEP_PAGES):
            _go_home(mappings, PageRange(start, min(start + STEP_PAGES, pages.end)))
        mappings.settle()
        # A page whose frame others had left just before may have been moved by a write meanwhile; but only once.
        is_done = all(map(frames.is_at_home, range(*pages)))


def _go_home(mappings: Mappings, pages: PageRange) -> None:
    frames = mappings.frames
    assert frames is not None
    away = [page for page in range(*pages) if not frames.is_at_home(page)]
    if not away:
        return
    guests = {home: [page for page in frames.users_of(home) if page != home] for home in away}
    frames.reserved = range(*pages)
    try:
        with mappings.busy({*away, *(page for others in guests.values() for page in others)}):
            for home, others in guests.items():
                if others:
                    mappings.move(others, home, frames.take(others[0]))
            mappings.fence()
            for page in away:
                if frames.frame_of(page) != page:
                    mappings.move((page,), frames.frame_of(page), frames.take_home(page))
    finally:
        frames.reserved = range(0)
