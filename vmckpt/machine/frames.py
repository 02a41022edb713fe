"""Which frame holds which page of a machine, once pages share: pure, no memory is touched here.

    frames   0 .. page_count - 1        one for each page: its *home*
             page_count                 the zero frame: never written, so that all zero pages can share it
             ... + SPARE_FRAMES         for copies that are made before what was left may be used again

    left by its last page ─▶ limbo ─ a fence that began afterwards ─▶ free ─ take ─▶ (filled by the caller) ─ move ─▶ in use

A vCPU may have looked a page up just before it moved, and be about to read the old frame. So a frame that was left is in
*limbo* until every vCPU has passed between two operations (a *fence*), and a frame that one of its sharers has left
is not written in place before that either. `mappings` does what is decided here.
"""

# array[int] cannot be evaluated before Python 3.12.
from __future__ import annotations

from array import array
from collections.abc import Collection

__all__ = ["SPARE_FRAMES", "FrameTable"]

SPARE_FRAMES = 4096
"""Frames beyond those of the pages and the zero frame: more than come to be in limbo between two fences."""


class FrameTable:
    """The frames of all pages. Pages start at home.

    Attributes:
        page_count: pages of memory.
        zero_frame: number of the frame that stays zero.
        reserved: frames that are to be had by `take_home` only.
        shared_pages: pages whose frame is not theirs alone: it is the zero frame, or another page has it too.
        freed_pages: frames in use, less than pages: what sharing saves.
    """

    def __init__(self, page_count: int) -> None:
        """All pages at home, all spare frames free."""
        self.page_count = page_count
        self.zero_frame = page_count
        self.reserved = range(0)
        self.shared_pages = 0
        self.freed_pages = 0
        self._frame_of = array("Q", range(page_count))
        # Of each frame that is used otherwise than by its own page alone; but for the zero frame, which may have any number.
        self._users: dict[int, set[int]] = {}
        self._free: set[int] = set(range(page_count + 1, page_count + 1 + SPARE_FRAMES))
        self._clock = 0
        self._limbo: dict[int, int] = {}  # frame -> when it was left
        self._left: dict[int, int] = {}  # frame in use -> when a sharer left it

    # ---- what is where

    def frame_of(self, page: int) -> int:
        """The frame that holds a page."""
        return self._frame_of[page]

    def users_of(self, frame: int) -> Collection[int]:
        """The pages that a frame holds; not to be asked of the zero frame."""
        users = self._users.get(frame)
        if users is not None:
            return users
        is_home = frame < self.page_count and self._frame_of[frame] == frame
        return (frame,) if is_home else ()

    def is_alone(self, page: int) -> bool:
        """Whether the page's frame is its own; the zero frame is nobody's."""
        frame = self._frame_of[page]
        return frame != self.zero_frame and len(self.users_of(frame)) == 1

    def is_at_home(self, page: int) -> bool:
        """Whether the page is alone, and in its home."""
        return self._frame_of[page] == page and page not in self._users

    def may_write(self, page: int) -> bool:
        """Whether the page can be written where it is: it is alone there, and nobody can still read another page there."""
        return self.is_alone(page) and self._frame_of[page] not in self._left

    @property
    def limbo_frames(self) -> int:
        """How many frames wait for a fence."""
        return len(self._limbo)

    @property
    def wants_fence(self) -> bool:
        """Whether a fence would change anything."""
        return bool(self._limbo or self._left)

    # ---- what changes

    def take(self, page: int) -> int:
        """A free frame for `page`: its home, if that can be, for then nothing is left to move when it has to go home.

        Raises:
            LookupError: none is free before the next fence.
        """
        if page in self._free and page not in self.reserved:
            self._free.remove(page)
            return page
        aside: list[int] = []
        while self._free:
            frame = self._free.pop()
            if frame not in self.reserved:
                self._free.update(aside)
                return frame
            aside.append(frame)
        self._free.update(aside)
        raise LookupError("no frame is free")

    def take_home(self, page: int) -> int:
        """The home of `page`, which is free.

        Raises:
            LookupError: it is not free: others have to leave it, and a fence to follow.
        """
        if page not in self._free:
            raise LookupError(f"frame {page} is not free")
        self._free.remove(page)
        return page

    def put_back(self, frame: int) -> None:
        """Free a frame that was taken and, in the end, not used."""
        self._free.add(frame)

    def move(self, page: int, frame: int) -> None:
        """Have `page` use another frame from now on: one that was taken, one that holds the same bytes, or the zero frame."""
        self._leave(page)
        self._frame_of[page] = frame
        self._join(page, frame)

    def stamp(self) -> int:
        """What happened so far: taken before a fence, given to `fenced` after it."""
        self._clock += 1
        return self._clock - 1

    def fenced(self, stamp: int) -> list[int]:
        """Every vCPU has passed between two operations since `stamp`. The frames that are free since then, ascending.

        Nobody needs their content: the caller gives their memory back. A free frame is zero.
        """
        freed = sorted(frame for frame, left in self._limbo.items() if left <= stamp)
        for frame in freed:
            del self._limbo[frame]
        self._free.update(freed)
        self._left = {frame: left for frame, left in self._left.items() if left > stamp}
        return freed

    def _leave(self, page: int) -> None:
        frame = self._frame_of[page]
        if frame == self.zero_frame:
            self.shared_pages -= 1
            self.freed_pages -= 1
            return
        users = self._users.get(frame)
        if users is None or len(users) == 1:
            self._users.pop(frame, None)
            self._left.pop(frame, None)
            self._limbo[frame] = self._clock
            return
        users.remove(page)
        self._left[frame] = self._clock
        self.freed_pages -= 1
        self.shared_pages -= 2 if len(users) == 1 else 1
        if users == {frame}:
            del self._users[frame]

    def _join(self, page: int, frame: int) -> None:
        if frame == self.zero_frame:
            self.shared_pages += 1
            self.freed_pages += 1
            return
        if frame == page and frame not in self._users:
            return
        users = self._users.get(frame)
        if users is None:
            at_home = frame < self.page_count and self._frame_of[frame] == frame
            users = self._users[frame] = {frame} if at_home else set()
        users.add(page)
        if len(users) > 1:
            self.freed_pages += 1
            self.shared_pages += 2 if len(users) == 2 else 1
