"""The fault engine and its background, under a kernel that is played and a checkpoint that fails."""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.kernel.fake import FakeFaults
from tests.restoring.samples import checkpoint, damage, mixed_memory, page_of
from vmckpt.errors import CorruptionError, IoError
from vmckpt.kernel.faults import CopyOutcome, Stop
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import Buffer
from vmckpt.restoring.background import Background
from vmckpt.restoring.engine import Engine, Side
from vmckpt.restoring.log import Counter, FaultKind
from vmckpt.restoring.pending import Pending
from vmckpt.restoring.prefetch import trips_of
from vmckpt.restoring.residency import Origin, State
from vmckpt.restoring.shared import Shared
from vmckpt.restoring.store import Store

PAGES = 256
MEMORY = mixed_memory(PAGES)
ZERO = bytes(PAGE_BYTES)
STORED = next(page for page in range(40, PAGES) if page_of(MEMORY, page) not in {ZERO, MEMORY[:8] * 512})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return checkpoint(tmp_path_factory.mktemp("engine") / "guest.vmckpt", MEMORY)


class Bench:
    """An engine over a played kernel, with as many vCPUs as there are fakes."""

    def __init__(
        self, path: str, vcpus: int = 1, faults: Sequence[FakeFaults] | None = None, *, peeks: bool = False
    ) -> None:
        self.store = Store.open(path)
        self.store.peeks = peeks
        self.fakes = list(faults or [FakeFaults(PAGES) for _ in range(vcpus)])
        for fake in self.fakes[1:]:
            fake.content = self.fakes[0].content  # one file
        self.shared = Shared(PAGES, self.store.storage_blocks, len(self.fakes))
        self.log = self.shared.log
        self.filler = FakeFaults(PAGES, 1 << 40)
        self.filler.content = self.fakes[0].content
        self.begin()

    def begin(self) -> None:
        sides = [Side(fake, fake.address) for fake in self.fakes]
        filler = Side(self.filler, self.filler.address)
        self.engine = Engine(self.store, self.shared.residency, filler, sides, self.log)
        pending = Pending(self.shared.pending_fd)
        self.background = Background(self.engine, self.shared.progress, pending=pending)

    def touch(self, page: int, vcpu: int = 0, flags: int = 0) -> None:
        self.fakes[vcpu].touch(page, flags)
        self.engine.poll(vcpu)

    def finish(self) -> None:
        while self.background.step():
            pass

    @property
    def content(self) -> dict[int, bytes]:
        return self.fakes[0].content

    def check(self) -> None:
        """Every page that is in the file is right, and every page that is not is zero."""
        for page in range(PAGES):
            assert self.content.get(page, ZERO) == page_of(MEMORY, page), page


@pytest.fixture
def bench(path: str) -> Iterator[Bench]:
    bench = Bench(path)
    yield bench
    bench.store.close()


@pytest.fixture(params=["raw", "lz4"])
def peeking(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench whose checkpoint the kernel has in memory."""
    bench = Bench(checkpoint(tmp_path / "guest.vmckpt", MEMORY, codec=request.param), peeks=True)
    if not bench.store.read_cached(memoryview(bytearray(64)), 0):
        pytest.skip("this file system does not tell what the kernel has in memory")
    yield bench
    bench.store.close()
    bench.shared.close()


def test_what_the_kernel_has_in_memory_costs_no_read_of_a_storage_block(peeking: Bench) -> None:
    peeking.touch(STORED)
    assert peeking.content == {STORED: page_of(MEMORY, STORED)}
    assert peeking.store.reads == 0
    peeking.background.walks = False
    peeking.finish()  # the storage block follows
    assert peeking.store.reads == 1
    assert 4 < len(peeking.content) < 100
    peeking.background.walks = True
    peeking.finish()
    assert peeking.store.reads == peeking.store.storage_blocks
    peeking.check()


def test_every_page_is_brought_when_it_is_touched_by_peeking_too(peeking: Bench) -> None:
    for page in [*range(PAGES - 1, -1, -3), *range(PAGES)]:
        if not peeking.shared.residency.is_here(page):
            peeking.touch(page)
        assert peeking.content[page] == page_of(MEMORY, page)
    peeking.finish()
    peeking.check()


def test_the_second_fault_in_a_memory_block_brings_the_others_first(peeking: Bench) -> None:
    block = next(
        block
        for block in range(10, PAGES // 4)
        if all(page_of(MEMORY, page) != ZERO for page in range(block * 4, block * 4 + 4))
        and (place := peeking.store.place_of(block))
        and peeking.store.memory_block(place).kinds == bytes([1] * 4)
    )
    peeking.touch(block * 4)
    assert set(peeking.content) == {block * 4}
    peeking.touch(block * 4 + 1)
    assert set(peeking.content) == set(range(block * 4, block * 4 + 4))
    assert len(peeking.fakes[0].woken) == 2


def test_a_damaged_memory_block_is_an_error_by_peeking_too(peeking: Bench) -> None:
    place = peeking.store.place_of(STORED // 4)
    assert place is not None
    entry = peeking.store.storage_entry(place.storage_block)
    block = peeking.store.memory_block(place)
    head_bytes = peeking.store.head(place.storage_block).head_bytes
    with open(peeking.store.name, "r+b") as file:  # every byte of the memory block
        file.seek(entry.offset + head_bytes + block.payload_offset)
        content = file.read(block.stored_bytes)
        file.seek(-len(content), os.SEEK_CUR)
        file.write(bytes(byte ^ 0xFF for byte in content))
    with pytest.raises(CorruptionError, match=f"storage block {place.storage_block}: "):
        peeking.touch(STORED)
    assert not peeking.content


def test_what_was_opened_and_overwritten_meanwhile_is_brought_all_the_same(peeking: Bench) -> None:
    for page in range(0, PAGES, 4):  # one of each memory block: more than there are rooms
        if not peeking.shared.residency.is_here(page):
            peeking.touch(page)
    while peeking.engine.finish_block():
        pass
    assert all(content == page_of(MEMORY, page) for page, content in peeking.content.items())
    peeking.finish()
    peeking.check()


def test_every_page_is_brought_when_it_is_touched(bench: Bench) -> None:
    for page in [*range(PAGES - 1, -1, -3), *range(PAGES)]:
        if not bench.shared.residency.is_here(page):
            bench.touch(page)
        assert bench.content[page] == page_of(MEMORY, page)
    bench.check()


def test_the_background_brings_all_that_is_not_zero(bench: Bench) -> None:
    bench.finish()
    assert bench.background.finished
    bench.check()
    assert set(bench.content) == {page for page in range(PAGES) if page_of(MEMORY, page) != ZERO}
    assert bench.store.reads == bench.store.storage_blocks


def test_without_a_walk_only_what_a_fault_read_is_followed_up(bench: Bench) -> None:
    bench.background.walks = False
    assert not bench.background.step()
    bench.touch(STORED)
    bench.finish()
    assert bench.store.reads == 1
    assert 1 < len(bench.content) < 100
    bench.background.walks = True
    bench.finish()
    assert bench.store.reads == bench.store.storage_blocks
    bench.check()


def test_the_page_asked_for_comes_first_and_wakes(bench: Bench) -> None:
    bench.touch(STORED)
    fake = bench.fakes[0]
    assert fake.woken == [(fake.address + STORED * PAGE_BYTES, PAGE_BYTES)]
    assert set(bench.content) == {STORED}
    assert bench.background.step()
    assert len(bench.content) > 1


def test_one_read_serves_all_faults_of_a_storage_block(path: str) -> None:
    bench = Bench(path, vcpus=2)
    place = bench.store.place_of(STORED // 4)
    assert place is not None
    blocks = bench.store.memory_blocks(place.storage_block)
    bench.store.apart()
    for turn, block in enumerate(blocks):
        for run in bench.store.data_runs(block, place._replace(slot=blocks.index(block))):
            kinds = bench.store.memory_block(place._replace(slot=blocks.index(block))).kinds
            if kinds[run.start - block * 4] in {1, 2}:
                bench.touch(run.start, vcpu=turn % 2)
    assert bench.store.reads == 1
    assert [fault.kind for fault in bench.log.faults()].count(FaultKind.READ) == 1


def test_a_zero_page_of_a_zero_block_costs_no_read(bench: Bench) -> None:
    bench.touch(PAGES - 1)
    bench.engine.count()
    assert (bench.content[PAGES - 1], bench.store.reads) == (ZERO, 0)
    assert [fault.kind for fault in bench.log.faults()] == [FaultKind.ZERO]


def test_who_walks_through_zero_pages_gets_the_next_ones_too(bench: Bench) -> None:
    start = PAGES - 16
    bench.touch(start)
    assert start + 1 not in bench.content
    bench.touch(start + 1)
    assert start + 2 in bench.content


def test_a_page_brought_meanwhile_is_woken_and_not_filled_again(bench: Bench) -> None:
    bench.fakes[0].touch(STORED)
    bench.finish()
    bench.content[STORED] = b"w" * PAGE_BYTES  # another vCPU has written to it
    bench.engine.poll(0)
    assert bench.content[STORED] == b"w" * PAGE_BYTES
    assert bench.fakes[0].woken == [(bench.fakes[0].address + STORED * PAGE_BYTES, PAGE_BYTES)]
    assert [fault.kind for fault in bench.log.faults()] == [FaultKind.LATE]


def test_two_vcpus_that_wait_for_one_page_both_go_on(path: str) -> None:
    bench = Bench(path, vcpus=2)
    for fake in bench.fakes:
        fake.touch(STORED)
    bench.engine.poll(1)
    bench.engine.poll(0)
    assert all(fake.woken for fake in bench.fakes)
    assert bench.store.reads == 1


def test_a_page_that_the_kernel_has_already_is_left_alone_and_its_waiter_woken(bench: Bench) -> None:
    bench.content[STORED] = b"w" * PAGE_BYTES  # brought by a handler that died before it could say so
    bench.touch(STORED)
    assert bench.content[STORED] == b"w" * PAGE_BYTES
    assert bench.fakes[0].woken
    bench.finish()
    assert bench.content[STORED] == b"w" * PAGE_BYTES


def test_a_copy_that_stops_half_way_is_finished(bench: Bench) -> None:
    bench.filler.cut_after_pages = 1
    bench.finish()
    bench.check()


def test_removed_pages_are_zero_and_do_not_come_back(bench: Bench) -> None:
    bench.fakes[0].remove(STORED, 1)
    bench.engine.poll(0)
    bench.finish()
    assert STORED not in bench.content
    bench.touch(STORED)
    assert bench.content[STORED] == ZERO
    assert bench.shared.residency.state(STORED) == State.REMOVED


def test_a_remove_that_comes_between_does_not_block_the_answer(bench: Bench) -> None:
    other = 0 if STORED else 1

    class Interrupted(FakeFaults):
        def copy(
            self, dst: int, src: int | Buffer, length_bytes: int, *, wp: bool = False, wake: bool = True
        ) -> CopyOutcome:
            if not self.woken and other not in removed:
                removed.append(other)
                self.remove(other, 1)
            return super().copy(dst, src, length_bytes, wp=wp, wake=wake)

    removed: list[int] = []
    bench.fakes = [Interrupted(PAGES)]
    bench.filler.content = bench.fakes[0].content
    bench.begin()
    bench.touch(STORED)
    assert bench.content[STORED] == page_of(MEMORY, STORED)
    assert bench.shared.residency.state(other) == State.REMOVED


def test_a_vcpu_that_has_ended_is_forgotten(path: str) -> None:
    bench = Bench(path, vcpus=2)
    bench.fakes[1].ended = True
    bench.touch(STORED, vcpu=1)
    bench.touch(STORED, vcpu=0)
    bench.finish()
    bench.check()


def test_a_kernel_that_never_can_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmckpt.restoring.engine._PATIENCE_S", 0.02)
    monkeypatch.setattr(bench.filler, "copy", lambda *_, **__: CopyOutcome(0, Stop.AGAIN))
    with pytest.raises(IoError, match="refused to fill a page"):
        bench.finish()


def test_a_successor_finishes_what_was_claimed_and_has_waiters_ask_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0

    def dies(*_: object, **__: object) -> CopyOutcome:
        nonlocal count
        count += 1
        if count > 5:
            raise KeyboardInterrupt
        return FakeFaults.copy(bench.filler, *_, **__)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.filler, "copy", dies)
    bench.fakes[0].touch(STORED)
    bench.fakes[0].read_events()  # heard by the one that dies
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    monkeypatch.undo()
    assert bench.shared.residency.claimed()
    bench.begin()
    bench.engine.wake_all()
    assert bench.fakes[0].woken == [(bench.fakes[0].address, PAGES * PAGE_BYTES)]
    bench.finish()
    assert not bench.shared.residency.claimed()
    bench.check()


def test_prefetched_pages_are_told_from_their_neighbours(bench: Bench) -> None:
    wanted = [STORED, PAGES - 1]
    for _ in bench.background.prefetch(trips_of(wanted, 4, bench.store.place_of)):
        pass
    origins = {page: bench.shared.residency.origin(page) for page in bench.content}
    assert [page for page, origin in origins.items() if origin == Origin.PREFETCH] == wanted[::-1]
    assert bench.shared.residency.census().prefetched == 2


def test_a_damaged_block_is_an_error_that_names_it_and_reaches_no_guest(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "guest.vmckpt", MEMORY)
    with Store.open(path) as store:
        place = store.place_of(STORED // 4)
        assert place is not None
        entry = store.storage_entry(place.storage_block)
    damage(path, entry.offset + entry.size_bytes - 1)
    bench = Bench(path)
    with pytest.raises(
        CorruptionError, match=f"pages {STORED // 4 * 4} to .* storage block {place.storage_block}: "
    ):
        bench.touch(STORED)
    assert not bench.content
    with pytest.raises(CorruptionError, match=f"storage block {place.storage_block}"):
        bench.finish()


@pytest.mark.parametrize(("failures", "fails"), [(2, False), (3, True)])
def test_a_read_that_fails_is_tried_again_but_not_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failures: int, fails: bool
) -> None:
    real, left = os.preadv, [failures]

    def failing(fd: int, buffers: Sequence[Buffer], offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(errno.EAGAIN, "the kernel has it not in memory")
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", failing)
    if fails:
        with pytest.raises(IoError, match=r"storage block .* Input/output error"):
            bench.touch(STORED)
        assert not bench.content
    else:
        bench.touch(STORED)
        assert bench.content[STORED] == page_of(MEMORY, STORED)


@pytest.mark.parametrize("failures", [2, 3])
def test_the_same_holds_for_reads_of_maps_and_directories(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    real, left = os.pread, [failures]

    def failing(fd: int, size_bytes: int, offset: int) -> bytes:
        if fd == bench.store.fileno() and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, size_bytes, offset)

    monkeypatch.setattr(os, "pread", failing)
    if failures > 2:
        with pytest.raises(IoError, match="Input/output error") as caught:
            bench.touch(STORED)
        assert caught.value.path == bench.store.name
        assert not bench.content
    else:
        bench.touch(STORED)
        assert bench.content[STORED] == page_of(MEMORY, STORED)
    assert left == [0]


def test_a_damaged_piece_of_the_map_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "guest.vmckpt", MEMORY)
    with Store.open(path) as store:
        [(offset, _)] = store.map.spans()
    damage(path, offset)
    bench = Bench(path)
    with pytest.raises(CorruptionError, match="piece 0 of the memory map") as caught:
        bench.touch(STORED)
    assert (caught.value.path, caught.value.offset) == (path, offset)
    bench.store.close()
    bench.shared.close()


def test_the_counters_tell_what_was_done(bench: Bench) -> None:
    bench.touch(STORED, flags=1)
    bench.finish()
    counters = bench.log.counters
    assert counters[Counter.FAULTS] == 1
    assert counters[Counter.DEMAND_READS] >= 1
    assert counters[Counter.READS] == bench.store.reads
    assert counters[Counter.READ_BYTES] == bench.store.read_bytes
    [fault] = bench.log.faults()
    assert (fault.page, fault.is_write, fault.kind) == (STORED, True, FaultKind.READ)
