"""How the kernel's traps are answered: every refusal of the kernel against a fake, and its yes against the kernel."""

import os
import select
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernel.guest import page_of
from tests.trace.fake import FakeMapping
from tests.trace.vcpu import Machine
from vmckpt.errors import IoError
from vmckpt.kernel.faults import FaultFlag, Stop
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import PageRange
from vmckpt.trace import userfault
from vmckpt.trace.rules import Needs
from vmckpt.trace.tracer import Trap
from vmckpt.trace.userfault import UserfaultTracer

PAGES = 8
BLOCK = PageRange(0, PAGES)
ALL = set(range(PAGES))


class Fakes:
    """Some vCPUs' fresh mappings of one file, and their tracer."""

    def __init__(
        self, vcpus: int = 1, *, filled: str = "", first_touch: bool = True, writes: bool = True
    ) -> None:
        """`filled`: a letter for each page, `.` where the file has none."""
        self.mappings = [
            FakeMapping(PAGES, (vcpu + 1) << 32, first_touch=first_touch, writes=writes)
            for vcpu in range(vcpus)
        ]
        self.content = {page: page_of(ord(byte)) for page, byte in enumerate(filled) if byte != "."}
        for mapping in self.mappings:
            mapping.content = self.content
        bases = [mapping.address for mapping in self.mappings]
        self.tracer = UserfaultTracer(self.mappings, bases, PAGES)

    @property
    def one(self) -> FakeMapping:
        return self.mappings[0]

    def trap(self, page: int, *, write: bool = False, vcpu: int = 0) -> Trap:
        """The vCPU's touch, which traps, as the tracer tells it."""
        mapping = self.mappings[vcpu]
        flags = mapping.trap(page, write=write)
        assert flags is not None, f"a touch of page {page} passes"
        mapping.woken = []
        mapping.touch(page, flags)
        [trap] = self.tracer.traps(mapping.fileno())
        return trap

    def let(self, page: int, pages: PageRange = BLOCK, *, write: bool = False, writes: bool = True) -> None:
        self.tracer.let(self.trap(page, write=write), pages, writes=writes)

    def late(self) -> list[Trap]:
        """The traps on the descriptor that is no mapping's."""
        *_, fd = self.tracer.descriptors()
        return self.tracer.traps(fd)


@pytest.fixture
def fakes() -> Iterator[list[Fakes]]:
    made: list[Fakes] = []
    yield made
    for each in made:
        each.tracer.close()


@pytest.fixture
def full(fakes: list[Fakes]) -> Fakes:
    fakes.append(Fakes(filled="abcdefgh"))
    return fakes[0]


@pytest.fixture
def mixed(fakes: list[Fakes]) -> Fakes:
    fakes.append(Fakes(filled="ab..e.g."))
    return fakes[0]


def test_traps_tell_vcpu_page_and_kind(fakes: list[Fakes]) -> None:
    fakes.append(Fakes(2, filled="ab..e.g."))
    minor, write = int(FaultFlag.MINOR), int(FaultFlag.WRITE)
    assert fakes[0].trap(1) == Trap(0, 1, write=False, how=minor)
    assert fakes[0].trap(4, write=True, vcpu=1) == Trap(1, 4, write=True, how=minor | write)
    assert fakes[0].trap(2, vcpu=1) == Trap(1, 2, write=False, how=0)


def test_events_that_are_no_faults_are_read_and_forgotten(full: Fakes) -> None:
    full.one.remove(0, 2)
    full.one.touch(3, int(FaultFlag.MINOR))
    assert [trap.page for trap in full.tracer.traps(full.one.fileno())] == [3]


@pytest.mark.parametrize("page", [-1, PAGES])
def test_a_trap_outside_memory_is_an_error(full: Fakes, page: int) -> None:
    full.one.touch(page)
    with pytest.raises(IoError, match=r"vCPU 0 trapped at .*, outside its 8 pages"):
        full.tracer.traps(full.one.fileno())


# MINOR


@pytest.mark.parametrize("writes", [True, False], ids=["writes too", "reads only"])
def test_a_block_is_let_in_by_one_call(full: Fakes, writes: bool) -> None:
    full.let(5, writes=writes)
    assert full.one.calls == 1
    assert full.one.mapped == ALL
    assert full.one.protected == (set() if writes else ALL)
    assert full.one.woken == [(full.one.address, PAGES * PAGE_BYTES)]


@pytest.mark.parametrize("page", [0, 1, 4, 6])
def test_holes_are_stepped_over(mixed: Fakes, page: int) -> None:
    mixed.let(page)
    assert mixed.one.mapped == {0, 1, 4, 6}
    assert set(mixed.content) == {0, 1, 4, 6}
    assert mixed.one.was_woken(page)


@pytest.mark.parametrize("page", [0, 3, 7])
def test_mapped_pages_are_stepped_over(full: Fakes, page: int) -> None:
    for other in (1, 2, 6):
        full.let(other, PageRange(other, other + 1))
    full.let(page)
    assert full.one.mapped == ALL
    assert full.one.was_woken(page)


def test_who_waits_for_a_page_that_is_mapped_is_woken(full: Fakes) -> None:
    trap = full.trap(3)
    full.one.mapped.add(3)  # since it trapped
    full.tracer.let(trap, PageRange(3, 4), writes=True)
    assert full.one.was_woken(3)


def test_a_page_that_became_a_hole_since_it_trapped_is_filled(full: Fakes) -> None:
    trap = full.trap(3)
    del full.content[3]
    full.tracer.let(trap, BLOCK, writes=True)
    assert full.one.mapped == ALL
    assert full.one.was_woken(3)


def test_letting_writes_lifts_what_was_let_in_for_reads_only(mixed: Fakes) -> None:
    mixed.let(1, writes=False)
    assert mixed.one.protected == {0, 1, 4, 6}
    mixed.let(2, write=True)  # a hole: MISSING
    assert mixed.one.protected == set()
    assert mixed.one.mapped == {0, 1, 2, 4, 6}


def test_a_mapping_that_cannot_be_protected_needs_no_lifting(fakes: list[Fakes]) -> None:
    fakes.append(Fakes(filled="abcdefgh", writes=False))
    fakes[0].let(3, PageRange(3, 4))
    fakes[0].let(4)
    assert fakes[0].one.mapped == ALL


# MISSING


@pytest.mark.parametrize("writes", [True, False], ids=["writes too", "reads only"])
def test_the_first_hole_is_filled_alone_and_the_second_with_all_others(mixed: Fakes, writes: bool) -> None:
    mixed.let(3, writes=writes)
    assert mixed.content[3] == bytes(PAGE_BYTES)
    assert set(mixed.content) == mixed.one.mapped == {0, 1, 3, 4, 6}
    assert mixed.one.woken[0] == (
        mixed.one.address + 3 * PAGE_BYTES,
        PAGE_BYTES,
    )  # before the others are seen to
    mixed.let(7, writes=writes)
    assert set(mixed.content) == mixed.one.mapped == ALL
    assert mixed.one.protected == (set() if writes else ALL)
    assert mixed.one.woken[0] == (mixed.one.address + 7 * PAGE_BYTES, PAGE_BYTES)


def test_blocks_count_their_holes_apart(fakes: list[Fakes]) -> None:
    fakes.append(Fakes())
    fakes[0].let(1, PageRange(0, 4))
    fakes[0].let(5, PageRange(4, 8))
    assert set(fakes[0].content) == {1, 5}
    fakes[0].let(2, PageRange(0, 4))
    assert set(fakes[0].content) == {0, 1, 2, 3, 5}


def test_pages_alone_fill_no_others(fakes: list[Fakes]) -> None:
    fakes.append(Fakes())
    for page in (3, 4, 3):
        if page not in fakes[0].content:
            fakes[0].let(page, PageRange(page, page + 1))
    assert set(fakes[0].content) == {3, 4}


@pytest.mark.parametrize("writes", [True, False], ids=["writes too", "reads only"])
def test_a_hole_that_another_vcpu_filled_meanwhile_is_mapped(mixed: Fakes, writes: bool) -> None:
    trap = mixed.trap(2)
    mixed.content[2] = page_of(9)
    mixed.tracer.let(trap, BLOCK, writes=writes)
    assert mixed.content[2] == page_of(9)
    assert 2 in mixed.one.mapped
    assert mixed.one.was_woken(2)


# WP


def test_a_write_to_a_protected_block_lifts_all_of_it(full: Fakes) -> None:
    full.let(0, writes=False)
    full.let(3, write=True)
    assert full.one.protected == set()
    assert full.one.was_woken(3)


def test_a_write_to_a_protected_page_lifts_it_alone(full: Fakes) -> None:
    full.let(0, writes=False)
    full.let(3, PageRange(3, 4), write=True)
    assert full.one.protected == ALL - {3}


def test_arming_protects_every_vcpus_mapping(fakes: list[Fakes]) -> None:
    fakes.append(Fakes(2, filled="abcdefgh"))
    fakes[0].tracer.arm(PageRange(2, 5))
    assert [mapping.protected for mapping in fakes[0].mappings] == [{2, 3, 4}] * 2


def test_arming_what_cannot_be_protected_is_an_error(fakes: list[Fakes]) -> None:
    fakes.append(Fakes(filled="abcdefgh", writes=False))
    with pytest.raises(IoError, match="cannot trap writes of vCPU 0 to pages 2 to 5"):
        fakes[0].tracer.arm(PageRange(2, 5))


# Refusals


@pytest.mark.parametrize("after_pages", [0, 1, 5])
def test_a_kernel_that_stops_half_way_is_asked_for_the_rest(full: Fakes, after_pages: int) -> None:
    full.one.cut_after_pages = after_pages
    full.let(3)
    assert full.one.mapped == ALL
    assert full.one.was_woken(3)


@pytest.mark.parametrize("filled", ["abcdefgh", "ab..e.g.", ""], ids=["full", "mixed", "empty"])
@pytest.mark.parametrize("writes", [True, False], ids=["writes too", "reads only"])
@pytest.mark.parametrize("refused", range(6))
def test_again_at_any_call_ends_the_same(filled: str, writes: bool, refused: int) -> None:
    outcomes = []
    for refusals in ([], [Stop.AGAIN], [Stop.AGAIN] * 3):
        fakes = Fakes(filled=filled)

        def refuse(
            address: int, length_bytes: int, mapping: FakeMapping = fakes.one, refusals: list[Stop] = refusals
        ) -> Stop | None:
            if mapping.calls == refused:
                mapping.refusals, refusals = list(refusals), []
            return FakeMapping._refusal(mapping, address, length_bytes)

        fakes.one._refusal = refuse  # type: ignore[method-assign]  # this one object's
        fakes.let(2, writes=writes)
        assert fakes.one.was_woken(2)
        outcomes.append((fakes.one.mapped, fakes.one.protected, set(fakes.content)))
        fakes.tracer.close()
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_traps_that_stood_in_the_way_are_told_on_a_descriptor_of_their_own(full: Fakes) -> None:
    trap = full.trap(3)
    full.one.touch(7, int(FaultFlag.MINOR))
    full.one.remove(6, 1)  # until it is read, nothing can be filled
    assert full.late() == []
    full.tracer.let(trap, PageRange(0, 4), writes=True)
    *_, fd = full.tracer.descriptors()
    assert os.eventfd_read(fd) == 1
    assert [late.page for late in full.late()] == [7]
    assert full.late() == []


def test_a_kernel_that_always_says_again_is_an_error(full: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userfault, "_MOST_AGAIN", 20)
    trap = full.trap(3)
    full.one.refusals = [Stop.AGAIN] * 100
    with pytest.raises(IoError, match="20 times to try again to answer vCPU 0"):
        full.tracer.let(trap, BLOCK, writes=True)


@pytest.mark.parametrize("page", [2, 4])
@pytest.mark.parametrize("writes", [True, False], ids=["writes too", "reads only"])
def test_a_vcpu_that_has_ended_is_no_error(mixed: Fakes, page: int, writes: bool) -> None:
    trap = mixed.trap(page, write=writes)
    mixed.one.ended = True
    mixed.tracer.let(trap, BLOCK, writes=writes)
    mixed.tracer.let(trap._replace(how=int(FaultFlag.WP)), BLOCK, writes=writes)
    mixed.tracer.arm(BLOCK)
    assert page not in mixed.one.mapped


@pytest.mark.parametrize("seam", [2, 5])
@pytest.mark.parametrize("filled", ["abcdefgh", "ab..e.g.", "........"], ids=["full", "mixed", "empty"])
def test_where_a_range_crosses_a_seam_of_the_mapping_the_page_is_let_in(seam: int, filled: str) -> None:
    fakes = Fakes(filled=filled)
    fakes.one.seam = seam
    for page in (3, 4, 7):
        if fakes.one.trap(page, write=True) is not None:
            fakes.let(page, write=True)
            assert fakes.one.was_woken(page)
        assert fakes.one.trap(page, write=True) is None
    fakes.tracer.close()


@pytest.mark.parametrize("page", [2, 4])
def test_a_mapping_that_is_there_no_more_needs_no_answer(mixed: Fakes, page: int) -> None:
    trap = mixed.trap(page)
    mixed.one.unmapped = True
    mixed.tracer.let(trap, BLOCK, writes=True)
    assert mixed.one.mapped == set()


# Any order of touches


touches = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, PAGES - 1), st.booleans(), st.booleans(), st.booleans()),
    max_size=25,
)


@settings(deadline=None)
@given(touches, st.text("a.", min_size=PAGES, max_size=PAGES), st.booleans())
def test_whoever_touches_goes_on_after_three_traps_at_most(
    steps: list[tuple[int, int, bool, bool, bool]], filled: str, armed: bool
) -> None:
    fakes = Fakes(2, filled=filled)
    if armed:
        fakes.tracer.arm(BLOCK)
    for vcpu, page, write, lift_writes, by_block in steps:
        mapping = fakes.mappings[vcpu]
        pages = PageRange(page // 4 * 4, page // 4 * 4 + 4) if by_block else PageRange(page, page + 1)
        protected = set(mapping.protected)
        traps = 0
        while mapping.trap(page, write=write) is not None:
            trap = fakes.trap(page, write=write, vcpu=vcpu)
            fakes.tracer.let(trap, pages, writes=write or lift_writes)
            assert mapping.was_woken(page)
            traps += 1
        assert traps <= 3
        if not write and not lift_writes:
            assert mapping.protected >= protected
        elif traps and by_block:
            assert mapping.protected.isdisjoint(
                mapping.mapped & set(range(*pages)) - (mapping.protected - {page})
            )
        assert all(
            fakes.content[number] == page_of(ord("a")) for number, byte in enumerate(filled) if byte == "a"
        )
    fakes.tracer.close()


# The kernel


def wait(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(5000), "nothing trapped"


@pytest.mark.usefixtures("kernel_traces")
def test_the_kernel_lets_a_block_in_and_steps_over_its_holes() -> None:
    with Machine(PAGES) as machine:
        for page in (0, 1, 4, 6):
            machine.fill(page, page + 1)
        tracer = machine.tracer(Needs(first_touch=True, writes=True, protect=False))
        [fd, _] = tracer.descriptors()
        [vcpu] = machine.vcpus
        vcpu.start("read", 4)
        wait(fd)
        [trap] = tracer.traps(fd)
        assert trap == Trap(0, 4, write=False, how=int(FaultFlag.MINOR))
        tracer.let(trap, BLOCK, writes=False)
        assert vcpu.answer() == 5
        assert [vcpu.do("read", page) for page in (0, 1, 6)] == [1, 2, 7]
        assert machine.is_hole(2)
        vcpu.start("write", 6, 9)
        wait(fd)
        [trap] = tracer.traps(fd)
        assert trap == Trap(0, 6, write=True, how=int(FaultFlag.WRITE | FaultFlag.WP))
        tracer.let(trap, BLOCK, writes=True)
        vcpu.answer()
        for page in (0, 1, 4):
            vcpu.do("write", page, 9)
        for page in (2, 7):  # one hole, then all
            vcpu.start("write", page, 9)
            wait(fd)
            [trap] = tracer.traps(fd)
            assert trap == Trap(0, page, write=True, how=int(FaultFlag.WRITE))
            tracer.let(trap, BLOCK, writes=True)
            vcpu.answer()
        assert not any(machine.is_hole(page) for page in range(PAGES))
        vcpu.do("write", 5, 9)
        assert tracer.traps(fd) == []
        tracer.close()
