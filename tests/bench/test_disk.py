"""What reads cost on a disk that is not there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.bench.disk import DISKS, Disk, Queue, disk_named, served
from vmckpt.errors import UsageError

HDD, SSD = DISKS["hdd"], DISKS["ssd"]
DISK = st.builds(Disk, st.just("any"), st.floats(1e-6, 0.05), st.floats(1e6, 1e10))
OFFSET = st.integers(0, 1 << 40)
SIZE = st.integers(1, 1 << 24)
READS = st.lists(st.tuples(st.floats(0, 10), OFFSET, SIZE), min_size=1, max_size=20)


def test_a_first_read_costs_a_seek_and_the_transfer() -> None:
    assert HDD.cost_s(None, 1 << 30, 120_000_000) == pytest.approx(1.009)
    assert SSD.cost_s(None, 0, 4096) == pytest.approx(100e-6 + 4096 / 500e6)


@given(DISK, OFFSET, SIZE)
def test_a_read_that_goes_on_where_the_last_ended_costs_no_seek(disk: Disk, offset: int, size: int) -> None:
    assert disk.cost_s(offset, offset, size) == size / disk.bytes_per_s


@given(DISK, OFFSET, SIZE, st.integers(1, 64))
def test_a_file_in_pieces_costs_what_it_costs_in_one(disk: Disk, offset: int, size: int, parts: int) -> None:
    queue = Queue(head=offset)
    for part in range(parts):
        queue = served(disk, queue, 0.0, offset + part * size, size)
    assert queue.free_at_s == pytest.approx(disk.cost_s(offset, offset, parts * size))


@given(DISK, st.none() | OFFSET, OFFSET, SIZE)
def test_positioning_never_costs_more_than_a_seek(
    disk: Disk, head: int | None, offset: int, size: int
) -> None:
    cost_s = disk.cost_s(head, offset, size)
    assert size / disk.bytes_per_s <= cost_s <= disk.seek_s + size / disk.bytes_per_s


@given(DISK, OFFSET, OFFSET, OFFSET, SIZE)
def test_a_longer_way_ahead_is_never_cheaper(disk: Disk, head: int, one: int, other: int, size: int) -> None:
    near, far = sorted((one, other))
    assert disk.cost_s(head, head + near, size) <= disk.cost_s(head, head + far, size)


@given(DISK, st.none() | OFFSET, OFFSET, SIZE, SIZE)
def test_more_bytes_are_never_cheaper(
    disk: Disk, head: int | None, offset: int, one: int, other: int
) -> None:
    small, large = sorted((one, other))
    assert disk.cost_s(head, offset, small) <= disk.cost_s(head, offset, large)


@given(DISK, READS)
def test_reads_queue_on_the_one_disk(disk: Disk, reads: list[tuple[float, int, int]]) -> None:
    queue, busy_s = Queue(), 0.0
    for now_s, offset, size in sorted(reads):
        before, cost_s = queue, disk.cost_s(queue.head, offset, size)
        queue = served(disk, queue, now_s, offset, size)
        busy_s += cost_s
        assert queue.free_at_s == pytest.approx(max(before.free_at_s, now_s) + cost_s)
        assert queue.head == offset + size
    assert queue.free_at_s >= (min(reads)[0] + busy_s) * (1 - 1e-9)


@given(DISK, READS, st.floats(0, 5))
def test_asking_later_is_never_done_sooner(
    disk: Disk, reads: list[tuple[float, int, int]], later_s: float
) -> None:
    soon = late = Queue()
    for now_s, offset, size in sorted(reads):
        soon = served(disk, soon, now_s, offset, size)
        late = served(disk, late, now_s + later_s, offset, size)
        assert late.free_at_s >= soon.free_at_s - 1e-9


def test_a_disk_has_a_name() -> None:
    assert disk_named("ssd").seek_s == 100e-6
    assert [disk.name for disk in DISKS.values() if disk.is_real] == ["real"]
    with pytest.raises(UsageError, match="hdd, ssd"):
        disk_named("tape")
