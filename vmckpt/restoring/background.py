"""What the handler does while nobody waits: prefetch, the rest of storage blocks that faults brought, then all others.

    first   before the vCPUs start: the active pages, in one pass through the file
    then    1. the other pages of a memory block, then the other memory blocks of a storage block, that a fault
               brought, the latest first
            2. active pages that were left for later
            3. storage blocks, in stretches of some MiB from the end of the file to its start: so what a duplicate
               refers to comes after it, and brings it along (`pending`)
            4. duplicates that none brought along: in batches, in the order of where they lead

`step` does a piece of work of some tens of microseconds, so that a fault never waits long; whoever calls it looks for
faults in between. It is done when every stored page is in place: zero pages stay holes. Called by `handler`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Protocol

from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.file import Place
from vmckpt.checkpoint.format import STORED
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.restoring.engine import Engine
from vmckpt.restoring.expanded import Expanded
from vmckpt.restoring.pending import Pending, Referring
from vmckpt.restoring.prefetch import Trip, runs_of
from vmckpt.restoring.residency import Origin, State

__all__ = ["Background", "Crew"]

TODO, FAR_LEFT, DONE = range(3)
"""Of a storage block: pages are missing; only duplicates are, which are pending; none is."""
STRETCH = 8
"""Storage blocks that are brought in the order of the file, by one process: a disk reads on, and does not seek back."""
_BATCH = 1024  # memory blocks whose duplicates are brought together


class Crew(Protocol):
    """Other processes that bring storage blocks."""

    def begin(self, stretches: Sequence[int]) -> Iterator[int]:
        """Let them begin with these stretches; those that are left for the caller."""

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
        pending: Pending | None = None,
    ) -> None:
        """Go on from `progress`, a byte for each storage block, all zeros at first.

        Args:
            engine: carries it out.
            progress: how far each storage block has come; kept up to date.
            rest: tells, when its turn has come, what was active at the save and is not brought yet.
            crew: who shares the walk through the file; None: nobody.
            walks: see the attribute.
            pending: the duplicates that wait, of all processes; None: a list of its own.
        """
        self.walks = walks
        self._engine = engine
        self._storage = engine.storage
        self._residency = engine.residency
        self._block_pages = self._storage.block_pages
        self._progress = progress
        self._crew = crew
        self._pending = pending or Pending.new()
        self._walking: list[Iterator[None]] = [self._far(), self._walk()]
        self._stack: list[Iterator[None]] = [self._prefetch_rest(rest), self.finish_claims()]
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

    def do(self, steps: Iterator[None]) -> None:
        """Do all of a work, without a look at anything else."""
        for _ in steps:
            self._engine.count()

    def prefetch(self, trips: Iterable[Trip]) -> Iterator[None]:
        """Bring pages that were active; a piece of work for each memory block."""
        far: list[tuple[int, MemoryBlock, int]] = []
        for trip in trips:
            if len(trip.wanted) > 1 and trip.storage_block >= 0 and self._is_missing(trip):
                self._storage.memory_blocks(trip.storage_block)  # in one read
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

    def _is_missing(self, trip: Trip) -> bool:
        return any(self._residency.state(page) == State.MISSING for _, pages in trip.wanted for page in pages)

    def _prefetch_rest(self, rest: Callable[[], Sequence[Trip]]) -> Iterator[None]:
        yield from self.prefetch(rest())

    def _prefetch_block(self, place: Place, pages: Sequence[int]) -> list[tuple[int, MemoryBlock, int]]:
        """Bring a memory block for the sake of `pages`; duplicates among them are returned: they lie elsewhere."""
        residency = self._residency
        wanted = [page for page in pages if residency.state(page) == State.MISSING]
        if not wanted:
            return []
        expanded = self._storage.expanded(wanted[0] // self._block_pages, place)
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
            yield from self.bring_stretches(self._crew.begin(self._stretches_left()))
            self._crew.end()
            yield from self.finish_claims()  # what its members have taken and not finished is left to do
        yield from self.bring_stretches(self._stretches_left())

    def finish_claims(self) -> Iterator[None]:
        """Bring what somebody has claimed who is not there any more; called where nobody else is at work."""
        for run in self._residency.claimed():
            for page in range(*run):
                self._engine.finish_claim(page)
                yield

    def _stretches_left(self) -> list[int]:
        """The stretches in which something is to be brought, the last one first."""
        progress = bytes(self._progress)
        starts = range(0, len(progress), STRETCH)
        return [start // STRETCH for start in starts if TODO in progress[start : start + STRETCH]][::-1]

    def bring_stretches(self, stretches: Iterable[int]) -> Iterator[None]:
        """Bring storage blocks; a piece of work at a time."""
        for stretch in stretches:
            start = stretch * STRETCH
            for number in range(start, min(start + STRETCH, len(self._progress))):
                if self._progress[number] == TODO:
                    yield from self._bring(number, Origin.BACKGROUND)

    def _bring(self, number: int, origin: Origin, *, if_held: bool = False) -> Iterator[None]:
        """Bring a storage block, memory block by memory block; `if_held`: for as long as that takes no read."""
        storage = self._storage
        if if_held and not storage.is_near(number):
            return
        self._under_way.add(number)
        while not storage.load(number):
            yield
        blocks = storage.memory_blocks(number)
        referring = self._referring(number)
        yield
        far: list[Referring] = []
        for slot, block in enumerate(blocks):
            place = Place(number, slot)
            if if_held and not storage.holds(number):
                self._under_way.discard(number)
                return  # what was noted of it so far will be noted again
            # Where it was written again later, what counts is there; but duplicates may refer to it all the same.
            if storage.place_of(block) == place and self._is_wanted(block, place):
                expanded = storage.expanded(block, place)
                self._engine.install_pieces(expanded, origin)
                if expanded.duplicates:
                    far += self._bring_near(expanded, origin)
                yield
            if slot in referring:
                self._bring_referring(place, referring[slot], origin)
                yield
        if far:
            self._pending.add(far)
        self._progress[number] = FAR_LEFT if far else DONE
        storage.spend(number)
        self._under_way.discard(number)

    def _referring(self, number: int) -> dict[int, list[Referring]]:
        """Who waits for a storage block, by slot."""
        by_slot: dict[int, list[Referring]] = {}
        for each in self._pending.take(number):
            if self._residency.state(each.page) == State.MISSING:
                by_slot.setdefault(each.slot, []).append(each)
        return by_slot

    def _bring_referring(self, place: Place, waiting: list[Referring], origin: Origin) -> None:
        """Bring duplicates of the pages of a memory block that is at hand.

        A reference that leads to another content is left to the end, where it is an error.
        """
        block, plain = self._storage.stored(place)
        runs: list[list[int]] = []  # first page, its index among the stored, pages
        for page, expected, _, _, index in sorted(waiting):
            if index >= len(block.kinds) or block.kinds[index] != STORED:
                continue
            at = block.kinds.count(STORED, 0, index)
            if block.hashes[at * 8 : at * 8 + 8] != expected:
                continue
            if runs and runs[-1][0] + runs[-1][2] == page and runs[-1][1] + runs[-1][2] == at:
                runs[-1][2] += 1
            else:
                runs.append([page, at, 1])
        for page, at, count in runs:
            content = plain[at * PAGE_BYTES : (at + count) * PAGE_BYTES]
            self._engine.install(PageRange(page, page + count), content, origin)

    def _is_wanted(self, block: int, place: Place) -> bool:
        """Whether a page of a memory block that is not zero is missing."""
        first = block * self._block_pages
        if not any(self._residency.cells[first : first + self._block_pages]):
            return True  # as a rule; should all be zero, little is lost
        return any(map(self._residency.has_missing, self._storage.data_runs(block, place)))

    def _bring_near(self, expanded: Expanded, origin: Origin) -> list[Referring]:
        """Bring the duplicates of pages that are at hand; the others are returned."""
        block = expanded.block
        far: list[Referring] = []
        near: list[tuple[int, memoryview]] = []
        for page, index in expanded.duplicates:
            if self._residency.state(page) != State.MISSING:
                continue
            reference = block.reference(index)
            if self._storage.holds(reference.storage_block):
                near.append((page, self._storage.duplicate(block, index)))
            else:
                at = (block.stored + index) * 8
                far.append(Referring(page, block.hashes[at : at + 8], *reference))
        at = 0
        for run in runs_of([page for page, _ in near]):
            content = b"".join([content for _, content in near[at : at + run.pages]])
            self._engine.install(run, memoryview(content), origin)
            at += run.pages
        return far

    def _bring_duplicate(self, page: int, block: MemoryBlock, index: int, origin: Origin) -> None:
        if self._residency.state(page) == State.MISSING:
            content = self._storage.duplicate(block, index)
            assert len(content) == PAGE_BYTES
            self._engine.install(PageRange(page, page + 1), content, origin)

    def _far(self) -> Iterator[None]:
        """Bring the duplicates that are still missing, a batch of memory blocks at a time."""
        block_pages = self._block_pages
        missing = (page for page in self._pending.pages() if self._residency.state(page) == State.MISSING)
        groups = [
            (number, set(pages)) for number, pages in groupby(missing, lambda page: page // block_pages)
        ]
        for start in range(0, len(groups), _BATCH):
            far: list[tuple[int, MemoryBlock, int]] = []
            for number, pages in groups[start : start + _BATCH]:
                place = self._storage.place_of(number)
                assert place is not None  # or it would have no duplicates
                block, duplicates = self._storage.duplicates(number, place)
                far += [(page, block, index) for page, index in duplicates if page in pages]
                yield
            far.sort(key=lambda each: each[1].reference(each[2]))
            for page, block, index in far:
                self._bring_duplicate(page, block, index, Origin.BACKGROUND)
                yield
        for number, state in enumerate(bytes(self._progress)):
            if state == FAR_LEFT:
                self._progress[number] = DONE
