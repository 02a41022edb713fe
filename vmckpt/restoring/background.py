"""What the handler does while nobody waits: prefetch, the rest of storage blocks that faults brought, then all others.

    first   before the vCPUs start: the active pages, in one pass through the file
    then    1. the other pages of a memory block, then the other memory blocks of a storage block, that a fault
               brought, the latest first
            2. active pages that were left for later
            3. storage blocks in the order of the file
            4. duplicates whose page lies far off: in batches, in the order of where they lead

`step` does a piece of work of some tens of microseconds, so that a fault never waits long; whoever calls it looks for
faults in between. It is done when every stored page is in place: zero pages stay holes. Called by `handler`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.file import Place
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.restoring.engine import Engine
from vmckpt.restoring.prefetch import Trip, runs_of
from vmckpt.restoring.residency import Origin, State
from vmckpt.restoring.store import Expanded

__all__ = ["Background", "Crew"]

TODO, FAR_LEFT, DONE = range(3)
"""Of a storage block: pages are missing; only duplicates are; none is."""
_BATCH = 64  # storage blocks whose far duplicates are brought together


class Crew(Protocol):
    """Other processes that bring storage blocks."""

    def begin(self, numbers: Sequence[int]) -> Iterator[int]:
        """Let them begin with these; those that are left for the caller."""

    def end(self) -> None:
        """All are taken: stop whoever is not done."""


class Background:
    """The work of one restore, in pieces.

    Attributes:
        walks: go through the file, too; if not, only what faults brought is followed up.
        finished: every page that is not zero is in place.
    """

    def __init__(
        self,
        engine: Engine,
        progress: memoryview,
        rest: Callable[[], Sequence[Trip]] = tuple,
        crew: Crew | None = None,
        *,
        walks: bool = True,
    ) -> None:
        """Go on from `progress`, a byte for each storage block, all zeros at first.

        Args:
            engine: carries it out.
            progress: how far each storage block has come; kept up to date.
            rest: tells, when its turn has come, what was active at the save and is not brought yet.
            crew: who shares the walk through the file; None: nobody.
            walks: see the attribute.
        """
        self.walks = walks
        self._engine = engine
        self._storage = engine.storage
        self._residency = engine.residency
        self._progress = progress
        self._crew = crew
        self._walking: list[Iterator[None]] = [self._far(), self._walk()]
        self._stack: list[Iterator[None]] = [self._prefetch_rest(rest), self._finish_claims()]
        self._under_way: set[int] = set()
        self.finished = False

    def step(self) -> bool:
        """Do a piece of work; False where there is none left."""
        if self._engine.finish_block():
            return True
        follow = self._engine.follow
        if follow:
            number = follow.pop()
            if number not in self._under_way and self._progress[number] == TODO:
                self._stack.append(self._bring(number, Origin.NEIGHBOUR, if_held=True))
        while stack := self._stack or (self._walking if self.walks else []):
            try:
                next(stack[-1])
            except StopIteration:
                stack.pop()
                continue
            self._engine.count()
            return True
        self.finished = not self._walking
        return False

    def prefetch(self, trips: Sequence[Trip]) -> Iterator[None]:
        """Bring pages that were active; a piece of work for each memory block."""
        far: list[tuple[int, MemoryBlock, int]] = []
        for trip in trips:
            for place, pages in trip.wanted:
                if place is None:
                    for run in runs_of(pages):
                        self._engine.install_zeros(run, Origin.PREFETCH)
                else:
                    far += self._prefetch_block(place, pages)
                yield
        far.sort(key=lambda each: each[1].reference(each[2]))
        for page, block, index in far:
            self._bring_duplicate(page, block, index, Origin.PREFETCH)
            yield

    def _prefetch_rest(self, rest: Callable[[], Sequence[Trip]]) -> Iterator[None]:
        yield from self.prefetch(rest())

    def _prefetch_block(self, place: Place, pages: Sequence[int]) -> list[tuple[int, MemoryBlock, int]]:
        """Bring a memory block for the sake of `pages`; duplicates among them are returned: they lie elsewhere."""
        residency = self._residency
        wanted = [page for page in pages if residency.state(page) == State.MISSING]
        if not wanted:
            return []
        expanded = self._storage.expanded(wanted[0] // self._storage.block_pages, place)
        self._engine.install_pieces(expanded, Origin.NEIGHBOUR)
        duplicates = dict(expanded.duplicates)
        for page in wanted:
            if residency.is_here(page):
                residency.attribute(page, Origin.PREFETCH)
            elif page not in duplicates:
                self._engine.install_zeros(PageRange(page, page + 1), Origin.PREFETCH)
        return [(page, expanded.block, duplicates[page]) for page in wanted if page in duplicates]

    def _walk(self) -> Iterator[None]:
        if self._crew is not None:
            yield from self.bring_all(self._crew.begin(self.left()))
            self._crew.end()
            yield from self._finish_claims()  # what its members have taken and not finished is left to do
        yield from self.bring_all(self.left())

    def _finish_claims(self) -> Iterator[None]:
        for run in self._residency.claimed():
            for page in range(*run):
                self._engine.finish_claim(page)
                yield

    def left(self) -> list[int]:
        """The storage blocks that have not been brought, in order."""
        return [number for number, state in enumerate(bytes(self._progress)) if state == TODO]

    def bring_all(self, numbers: Iterable[int]) -> Iterator[None]:
        """Bring storage blocks; a piece of work at a time."""
        for number in numbers:
            if self._progress[number] == TODO:
                yield from self._bring(number, Origin.BACKGROUND)

    def _bring(self, number: int, origin: Origin, *, if_held: bool = False) -> Iterator[None]:
        """Bring a storage block, memory block by memory block; `if_held`: for as long as that takes no read."""
        storage = self._storage
        if if_held and not storage.holds(number):
            return
        self._under_way.add(number)
        blocks = storage.memory_blocks(number)
        yield
        has_far = False
        for slot, block in enumerate(blocks):
            place = Place(number, slot)
            if storage.place_of(block) != place:
                continue  # written again later: what counts is there
            if if_held and not storage.holds(number):
                self._under_way.discard(number)
                return
            if self._is_wanted(block, place):
                expanded = storage.expanded(block, place)
                self._engine.install_pieces(expanded, origin)
                has_far = self._bring_near(expanded, origin) or has_far
                yield
        self._progress[number] = FAR_LEFT if has_far else DONE
        storage.spend(number)
        self._under_way.discard(number)

    def _is_wanted(self, block: int, place: Place) -> bool:
        """Whether a page of a memory block that is not zero is missing."""
        first = block * self._storage.block_pages
        end = min(first + self._storage.block_pages, self._storage.page_count)
        if not any(bytes(self._residency.cells[first:end])):
            return True  # as a rule; should all be zero, little is lost
        return any(map(self._residency.has_missing, self._storage.data_runs(block, place)))

    def _bring_near(self, expanded: Expanded, origin: Origin) -> bool:
        """Bring the duplicates of pages that are at hand; whether others are left."""
        has_far = False
        near: list[tuple[int, memoryview]] = []
        for page, index in expanded.duplicates:
            if self._residency.state(page) != State.MISSING:
                continue
            if self._storage.holds(expanded.block.reference(index).storage_block):
                near.append((page, self._storage.duplicate(expanded.block, index)))
            else:
                has_far = True
        at = 0
        for run in runs_of([page for page, _ in near]):
            content = b"".join([content for _, content in near[at : at + run.pages]])
            self._engine.install(run, memoryview(content), origin)
            at += run.pages
        return has_far

    def _bring_duplicate(self, page: int, block: MemoryBlock, index: int, origin: Origin) -> None:
        if self._residency.state(page) == State.MISSING:
            content = self._storage.duplicate(block, index)
            assert len(content) == PAGE_BYTES
            self._engine.install(PageRange(page, page + 1), content, origin)

    def _far(self) -> Iterator[None]:
        left = [
            number for number in range(self._storage.storage_blocks) if self._progress[number] == FAR_LEFT
        ]
        for start in range(0, len(left), _BATCH):
            batch = left[start : start + _BATCH]
            far: list[tuple[int, MemoryBlock, int]] = []
            for number in batch:
                far += self._far_of(number)
                yield
            far.sort(key=lambda each: each[1].reference(each[2]))
            for page, block, index in far:
                self._bring_duplicate(page, block, index, Origin.BACKGROUND)
                yield
            for number in batch:
                self._progress[number] = DONE

    def _far_of(self, number: int) -> list[tuple[int, MemoryBlock, int]]:
        """The duplicates that are missing of a storage block."""
        storage = self._storage
        far = []
        for slot, number_of_block in enumerate(storage.memory_blocks(number, load=False)):
            place = Place(number, slot)
            if storage.place_of(number_of_block) == place:
                block, duplicates = storage.duplicates(number_of_block, place)
                far += [
                    (page, block, index)
                    for page, index in duplicates
                    if self._residency.state(page) == State.MISSING
                ]
        return far
