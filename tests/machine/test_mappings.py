"""Large pages broken up and formed again under running vCPUs: memory ends up as if nothing had ever been done to it."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.machines import WORKLOADS, boot, children, content, image, load, open_fds
from tests.machine.test_machine import SOON_S, digest_of, until
from vmckpt.errors import IoError, UsageError, WorkerError
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine.activity import ActivityTest, Thresholds, level_of
from vmckpt.machine.forming import reform, reform_all
from vmckpt.machine.machine import Machine
from vmckpt.machine.merge import Merged, Merger
from vmckpt.machine.ram import Ram
from vmckpt.pages import PageRange
from vmckpt.sources import open_source

LARGE = 8 * PAGE_BYTES
OPS = 60_000
# Equal pages within a large page and across; zero pages; a large page of unique pages; a last one in part.
NUMBERS = [1, 1, 0, 2, 3, 0, 4, 1, 5, 2, 2, 2, 0, 0, 6, 1, *range(100, 108), 7, 0, 1, 107]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return image(tmp_path_factory.mktemp("guest") / "image.raw")


def machine_of(path: str, workload: str, vcpus: int, seed: int) -> Machine:
    with open_source(path) as source:
        return boot(Ram.load(source, jobs=1), workload, vcpus=vcpus, seed=seed)


def never_touched(path: str, workload: str, vcpus: int, seed: int, ops: int) -> str:
    with machine_of(path, workload, vcpus, seed) as machine:
        machine.start(until_ops=ops)
        assert machine.wait(SOON_S)
        return machine.digest()


def paused(folder: Path, numbers: list[int] = NUMBERS, *, vcpus: int = 2) -> tuple[Machine, Merger]:
    machine = boot(load(folder, content(numbers)), "uniform", vcpus=vcpus)
    machine.ram.populate()
    machine.mappings.use(LARGE)
    machine.start(paused=True)
    return machine, Merger(machine.ram, machine.mappings)


def freed_by(numbers: list[int], large_pages: list[int]) -> int:
    """Counted in plain Python: of each content all copies but one, and all zero pages."""
    inside = [
        numbers[page] for large in large_pages for page in range(large * 8, min(large * 8 + 8, len(numbers)))
    ]
    return len(inside) - len(set(inside) - {0})


class Harasser:
    """Breaks up, forms again and tests at random, until the machine is done."""

    def __init__(self, machine: Machine, seed: int) -> None:
        machine.mappings.use(random.Random(seed).choice([LARGE, 64 << 10, 512 << 10]))
        self.machine = machine
        self.random = random.Random(seed)
        self.merger = Merger(machine.ram, machine.mappings)
        self.test: ActivityTest | None = None
        self.freed = self.formed = 0

    def some(self) -> list[int]:
        numbers = self.machine.mappings.large.numbers
        return self.random.sample(numbers, self.random.randint(1, min(len(numbers), 48)))

    def step(self) -> None:
        what = self.random.random()
        if what < 0.5:
            self.freed += self.merger.break_up(self.some()).freed_pages
        elif what < 0.75:
            self.formed += reform(self.machine.mappings, self.some())
        elif what < 0.8:
            self.formed += reform_all(self.machine.mappings)
        elif self.test is None:
            self.test = ActivityTest(self.machine.mappings, self.some(), Thresholds(0.5, 0.1))
        elif what < 0.9:
            self.test.scan()
        else:
            self.test.end()
            self.test = None


@pytest.mark.parametrize("seed", range(36))
def test_whatever_is_done_to_mappings_the_guest_computes_the_same(guest: str, seed: int) -> None:
    workload = WORKLOADS[seed % len(WORKLOADS)]
    vcpus = 1 + seed // len(WORKLOADS) % 3
    if workload == "working-set":
        workload += f":write={[1, 30, 100][seed % 3]}"
    expected = never_touched(guest, workload, vcpus, seed, OPS)
    with machine_of(guest, workload, vcpus, seed) as machine:
        if seed % 2:
            machine.ram.populate()
        harasser = Harasser(machine, seed)
        machine.start(until_ops=OPS, paused=True)
        harasser.freed = harasser.merger.break_up(machine.mappings.large.numbers).freed_pages
        machine.resume()
        while not machine.wait(0.001):
            harasser.step()
        assert machine.digest() == expected
        harasser.step()  # at its last operation
        assert machine.digest() == expected
        machine.stop()
        assert machine.digest() == expected
        assert harasser.freed > 0


def test_what_is_freed_is_what_counting_says_and_memory_really_falls(tmp_path: Path) -> None:
    for large_pages in ([0], [0, 1], [2], [3], [0, 1, 2, 3]):
        machine, merger = paused(tmp_path)
        with machine:
            before, digest = machine.status(), machine.digest()
            merged = merger.break_up(large_pages)
            status = machine.status()
            assert merged == Merged(len(large_pages), freed_by(NUMBERS, large_pages), 0)
            assert status.freed_pages == merged.freed_pages
            assert status.large_pages == before.large_pages - len(large_pages)
            assert status.small_pages == sum(min(8, len(NUMBERS) - large * 8) for large in large_pages)
            assert before.resident_pages - status.resident_pages == merged.freed_pages
            assert machine.digest() == digest


def test_pages_broken_later_share_with_those_broken_before(tmp_path: Path) -> None:
    machine, merger = paused(tmp_path)
    with machine:
        freed = [merger.break_up([large]).freed_pages for large in (0, 1, 2, 3)]
        assert sum(freed) == freed_by(NUMBERS, [0, 1, 2, 3])
        assert merger.break_up([0, 1, 2, 3]) == Merged(0, 0, 0)


def test_formed_again_everything_is_where_it_was_and_has_its_memory_back(tmp_path: Path) -> None:
    machine, merger = paused(tmp_path)
    with machine:
        digest = machine.digest()
        merger.break_up([0, 1, 2, 3])
        assert reform(machine.mappings, [1, 3]) == 2
        assert machine.digest() == digest
        assert machine.status().small_pages == 16
        assert reform_all(machine.mappings) == 2
        assert machine.ram.table is None
        status = machine.status()
        assert (status.small_pages, status.shared_pages, status.freed_pages) == (0, 0, 0)
        assert machine.digest() == digest
        # Zero pages come back as holes: that is all the memory there may be less.
        assert status.resident_pages == len(NUMBERS) - NUMBERS.count(0)
        with open(f"/proc/self/fd/{machine.ram.fd}", "rb") as memory:
            assert memory.read(len(NUMBERS) * PAGE_BYTES) == content(NUMBERS)


@pytest.mark.parametrize("vcpus", [1, 3])
def test_a_write_brings_a_page_of_its_own_back(tmp_path: Path, vcpus: int) -> None:
    machine, merger = paused(tmp_path, vcpus=vcpus)
    with machine:
        merger.break_up([0, 1, 2, 3])
        shared = machine.status().shared_pages
        machine.resume(until_ops=20_000)
        assert machine.wait(SOON_S)
        status = machine.status()
        assert status.unshared_pages >= shared - 3  # one of each content may be written where it is
        assert status.freed_pages == 0
        assert status.small_ops == status.ops
        machine.mappings.settle()
        assert machine.status().resident_pages <= len(NUMBERS) + 1  # with the zero frame


def test_equal_hashes_never_make_pages_share(tmp_path: Path) -> None:
    numbers = list(range(1, 33))
    machine, merger = paused(tmp_path, numbers)
    with machine:
        merger.hash_of = lambda _: 7
        digest = machine.digest()
        merged = merger.break_up([0, 1, 2, 3])
        assert merged.freed_pages == 0
        assert merged.differed_pages > 0
        assert machine.digest() == digest
        assert machine.status().shared_pages == 0


def test_a_hash_that_takes_pages_for_zero_frees_only_those_that_are(tmp_path: Path) -> None:
    machine, merger = paused(tmp_path, [0, 1, 2, 0, 3, 4, 5, 6])
    with machine:
        zero = merger.hash_of(bytes(PAGE_BYTES))
        merger.hash_of = lambda _: zero
        assert merger.break_up([0]) == Merged(1, 2, 6)
        assert machine.digest() == digest_of(content([0, 1, 2, 0, 3, 4, 5, 6]))


def test_equal_pages_share_even_where_all_hashes_are_the_same(tmp_path: Path) -> None:
    machine, merger = paused(tmp_path, [1, 1, 1, 1, 1, 1, 1, 1])
    with machine:
        merger.hash_of = lambda _: 7
        assert merger.break_up([0]) == Merged(1, 7, 0)


def test_the_guest_goes_on_while_large_pages_are_broken(guest: str) -> None:
    with machine_of(guest, "working-set:write=5", 2, 1) as machine:
        merger = Merger(machine.ram, machine.mappings)
        machine.start()
        until(machine, 10_000)
        before = machine.status().ops
        for number in machine.mappings.large.numbers:
            merger.break_up([number])
        assert machine.status().ops > before
        until(machine, machine.status().ops + 10_000)
        assert machine.status().small_ops > 0


def test_operations_are_counted_by_the_mapping_they_met(tmp_path: Path) -> None:
    machine, _ = paused(tmp_path, list(range(1, 33)), vcpus=1)
    with machine:
        machine.resume(until_ops=4000)
        assert machine.wait(SOON_S)
        assert machine.status().small_ops == 0
        machine.mappings.demote(0)
        machine.mappings.demote(1)
        machine.resume(until_ops=24_000)
        assert machine.wait(SOON_S)
        assert machine.status().small_ops == pytest.approx(
            10_000, rel=0.1
        )  # of uniform accesses, those to half of memory
        machine.mappings.promote(0)
        machine.mappings.promote(1)
        machine.mappings.leave()
        small_ops = machine.status().small_ops
        machine.resume(until_ops=30_000)
        assert machine.wait(SOON_S)
        assert machine.status().small_ops == small_ops


def test_a_killed_vcpu_ends_a_machine_whose_pages_share(guest: str) -> None:
    before, others = open_fds(), children()
    with machine_of(guest, "uniform", 3, 5) as machine:
        merger = Merger(machine.ram, machine.mappings)
        machine.start()
        merger.break_up(machine.mappings.large.numbers)
        os.kill(machine._vcpus[1].pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"vCPU 1 .*SIGKILL"):
            machine.mappings.fence()
    assert open_fds() == before
    assert children() == others


def test_a_stopped_vcpu_keeps_neither_the_others_nor_the_supervisor(guest: str) -> None:
    with machine_of(guest, "uniform:write=100", 2, 5) as machine:
        merger = Merger(machine.ram, machine.mappings)
        machine.start(paused=True)
        merger.break_up(machine.mappings.large.numbers)
        machine.resume()
        pid, others = machine._vcpus[0].pid, machine._vcpus[1]
        os.kill(pid, signal.SIGSTOP)
        before, deadline_s = others.ops, time.monotonic() + SOON_S
        while others.ops < before + 20_000 or machine.mappings._fencing is None:
            assert time.monotonic() < deadline_s
            machine.wait(0.01)  # leaves no fence undone that it waits for
        frames = machine.mappings.frames
        assert frames is not None
        assert frames.limbo_frames + len(frames._left) > 0  # the one that is stopped may still read there
        os.kill(pid, signal.SIGCONT)
        while frames.wants_fence:
            assert time.monotonic() < deadline_s
            machine.wait(0.01)
        machine.stop()


def test_a_machine_that_stops_while_vcpus_write_to_shared_pages_is_exact(guest: str) -> None:
    for seed in range(6):
        with machine_of(guest, "uniform:write=100", 3, seed) as machine:
            merger = Merger(machine.ram, machine.mappings)
            machine.start()
            merger.break_up(machine.mappings.large.numbers)
            machine.stop()
            state, digest = machine.machine_state(), machine.digest()
        with machine_of(guest, "uniform:write=100", 3, seed) as machine:
            machine.start(until_ops=0)
            most = max(vcpu.ops for vcpu in state.vcpus)
            for vcpu, wanted in enumerate(state.vcpus):
                machine.call("resume", {"until_ops": wanted.ops}, vcpu=vcpu)
            assert machine.wait(SOON_S)
            assert most == max(vcpu.ops for vcpu in machine.machine_state().vcpus)
            assert machine.machine_state() == state
            assert machine.digest() == digest


def test_a_fault_that_finds_no_free_frame_gets_one_after_a_fence(
    guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmckpt.machine.frames.SPARE_FRAMES", 2)
    expected = never_touched(guest, "uniform:write=100", 3, 9, OPS)
    with machine_of(guest, "uniform:write=100", 3, 9) as machine:
        merger = Merger(machine.ram, machine.mappings)
        machine.start(until_ops=OPS)
        while not machine.wait(0.001):
            merger.break_up(machine.mappings.large.numbers)
        assert machine.digest() == expected


def test_a_vcpu_that_cannot_map_the_table_leaves_the_machine_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> object:
        raise IoError("cannot map 1 byte")

    monkeypatch.setattr("vmckpt.machine.translated.PageTable", refuse)  # what vCPUs inherit
    machine, _ = paused(tmp_path)
    with machine:
        before = open_fds()
        with pytest.raises(IoError, match="cannot map its memory by pages: cannot map 1 byte"):
            machine.mappings.demote(0)
        assert not machine.mappings.active
        assert machine.status().small_pages == 0
        assert open_fds() == before
        machine.resume(until_ops=1000)
        assert machine.wait(SOON_S)


def test_large_pages_keep_their_size_while_some_are_small(tmp_path: Path) -> None:
    machine, _ = paused(tmp_path)
    with machine:
        machine.mappings.demote(0)
        with pytest.raises(
            UsageError, match="have 32768 bytes until all of them are formed again, and not 65536"
        ):
            machine.mappings.use(65536)
        reform_all(machine.mappings)
        machine.mappings.use(65536)
        with pytest.raises(UsageError, match="no large page 4"):
            machine.mappings.demote(4)


def test_a_reader_follows_pages_to_their_frames(tmp_path: Path) -> None:
    machine, merger = paused(tmp_path)
    with machine:
        merger.break_up([0, 1, 3])
        with machine.ram.reader() as reader:
            data = list(reader.data_ranges())
            assert all(NUMBERS[page] for pages in data for page in range(*pages))
            assert {page for pages in data for page in range(*pages)} == {
                page for page, number in enumerate(NUMBERS) if number
            }
            for start in range(len(NUMBERS)):
                for end in range(start, len(NUMBERS) + 1):
                    into = bytearray((end - start) * PAGE_BYTES)
                    reader.read(PageRange(start, end), memoryview(into))
                    assert into == content(NUMBERS[start:end])
            with pytest.raises(ValueError, match="cannot read pages"):
                reader.read(PageRange(0, len(NUMBERS) + 1), memoryview(bytearray(PAGE_BYTES)))


@pytest.fixture
def tested(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose only vCPU touches three tenths of its memory."""
    memory = content(list(range(1, 161)))
    with boot(load(tmp_path, memory), "working-set:phase=0,set=30,cluster=8", vcpus=1) as machine:
        machine.mappings.use(LARGE)
        machine.start(until_ops=0)
        yield machine


def test_the_activity_test_tells_who_is_touched_and_moves_nothing(tested: Machine) -> None:
    everything = tested.mappings.large.numbers
    test = ActivityTest(tested.mappings, everything, Thresholds(hot=0.5, cold=0.1))
    assert tested.status().large_pages == 0
    resident = tested.status().resident_pages
    tested.resume(until_ops=20_000)
    assert tested.wait(SOON_S)
    found = test.scan()
    hot = {each.large_page for each in found if each.level == "hot"}
    assert sum(each.touched_pages for each in found) == 48  # three tenths of 160
    for each in found:
        assert each.level == ("hot" if each.touched_pages >= 4 else "warm" if each.touched_pages else "cold")
    assert {"hot", "cold"} <= {each.level for each in found}
    assert tested.status().large_pages == len(hot)  # promoted at once
    assert {each.large_page for each in test.scan()} == set(everything) - hot
    test.end()
    status = tested.status()
    assert (status.small_pages, status.large_pages) == (0, len(everything))
    assert status.resident_pages == resident
    assert not tested.mappings.active


def test_what_was_broken_up_during_a_test_stays_broken(tested: Machine) -> None:
    test = ActivityTest(tested.mappings, [0, 1, 2], Thresholds())
    Merger(tested.ram, tested.mappings).break_up([1])
    test.end()
    assert tested.mappings.small == {1}


def test_a_test_whose_large_pages_were_formed_by_others_finds_nothing(tested: Machine) -> None:
    test = ActivityTest(tested.mappings, [0, 1, 2], Thresholds())
    reform(tested.mappings, [1])
    assert {each.large_page for each in test.scan()} == {0, 2}
    reform_all(tested.mappings)
    assert test.scan() == []
    test.end()


def test_memory_in_two_regions_has_large_pages_by_address(tmp_path: Path) -> None:
    ram = Ram(Layout([(0, 5 * PAGE_BYTES), (100 * PAGE_BYTES, 7 * PAGE_BYTES)]))
    with boot(ram, "uniform") as machine:
        machine.mappings.use(LARGE)
        assert machine.mappings.large.numbers == [0, 12, 13]
        machine.start(paused=True)
        assert Merger(machine.ram, machine.mappings).break_up([13]) == Merged(1, 3, 0)
        assert machine.status().small_pages == 3


@pytest.mark.parametrize(
    ("scans", "level"),
    [
        ([0], "cold"),
        ([7, 7], "cold"),
        ([8], "warm"),
        ([0, 8, 0], "warm"),
        ([127], "warm"),
        ([0, 128, 0], "hot"),
        ([512], "hot"),
    ],
    ids=str,
)
def test_a_large_page_is_as_active_as_its_busiest_scan(scans: list[int], level: str) -> None:
    assert level_of(scans, 512, Thresholds()) == level


def test_a_large_page_that_nobody_touches_is_never_hot() -> None:
    assert level_of([0], 512, Thresholds(hot=0.0, cold=0.0)) == "warm"
