"""A store that is read no faster than its disk allows, from however many processes."""

import os
import time
from pathlib import Path

from tests.restoring.samples import checkpoint, mixed_memory, page_of
from vmckpt.bench.disk import DISKS, REAL, Disk
from vmckpt.bench.pace import Clock, PacedStore, wait_until
from vmckpt.bench.peer import PageStore
from vmckpt.checkpoint.file import Place
from vmckpt.restoring.store import Store

SLOW = Disk("slow", 0.01, 1e8)
PAGES = 128


def clock_on(disk: Disk, folder: Path) -> Clock:
    return Clock(disk, os.fspath(folder / "disk"))


def test_a_read_takes_as_long_as_the_model_says(tmp_path: Path) -> None:
    clock = clock_on(SLOW, tmp_path)
    begin_s = time.monotonic()
    assert clock.begin(0, 1_000_000) - begin_s >= 0.02
    assert clock.begin(1_000_000, 1_000_000) - begin_s >= 0.03
    wait_until(begin_s + 0.005)
    assert time.monotonic() >= begin_s + 0.005
    clock.close()


def test_processes_queue_at_one_disk(tmp_path: Path) -> None:
    clock = clock_on(SLOW, tmp_path)
    begin_s = time.monotonic()
    children = []
    for child in range(3):
        pid = os.fork()
        if not pid:
            try:
                for turn in range(2):
                    clock.begin((child * 7 + turn * 3) << 30, 1)
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    assert clock.begin(1 << 50, 1) - begin_s >= 7 * SLOW.seek_s
    clock.close()


def test_the_real_disk_and_one_that_is_released_cost_nothing(tmp_path: Path) -> None:
    real = clock_on(REAL, tmp_path)
    assert real.begin(0, 1 << 30) == 0
    slow = Clock(SLOW, os.fspath(tmp_path / "other"))
    slow.release()
    assert slow.begin(0, 1 << 30) == 0
    for clock in (real, slow):
        clock.close()
        clock.close()


def test_a_paced_store_reads_what_the_store_reads(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "guest.vmckpt", mixed_memory(PAGES))
    clock = clock_on(DISKS["fast"], tmp_path)
    with PacedStore.on(path, clock) as paced, Store.open(path) as plain:
        plain.peeks = False  # a simulated disk knows nothing of what the kernel has in memory
        for number, place in plain.places():
            ours, theirs = paced.expanded(number, place), plain.expanded(number, place)
            assert ours.pages == theirs.pages
            assert [bytes(content or b"") for _, content in ours.pieces] == [
                bytes(content or b"") for _, content in theirs.pieces
            ]
        assert paced.reads == plain.reads
    assert clock.begin(0, 1) > 0
    clock.close()


def test_the_peer_reads_the_image_page_by_page(tmp_path: Path) -> None:
    memory = mixed_memory(PAGES)
    path = checkpoint(tmp_path / "guest.vmckpt", memory)
    image = tmp_path / "guest.raw"
    with image.open("wb") as file:
        for page in range(PAGES):
            if any(page_of(memory, page)):
                file.seek(page * 4096)
                file.write(page_of(memory, page))
        file.truncate(len(memory))
    clock = clock_on(REAL, tmp_path)
    with PageStore.beside(path, os.fspath(image), clock) as store:
        # The whole of memory as well as a page: the last one is far past the storage blocks of the checkpoint.
        assert store.load(store.storage_blocks - 1)
        assert not store.is_near(0)
        assert store.peeked_page(0, Place(0, 0), 0) is None
        assert (store.block_pages, store.storage_blocks) == (1, PAGES)
        there = 0
        for page in range(PAGES):
            place = store.place_of(page)
            if place is None:
                assert not any(page_of(memory, page))
                assert store.memory_blocks(page) == []
                continue
            there += 1
            assert store.memory_blocks(page) == [page]
            ((pages, content),) = store.expanded(page, place).pieces
            assert pages == (page, page + 1)
            assert content is not None
            assert bytes(content) == page_of(memory, page)
            assert not store.holds(page)
        assert store.reads == there
        assert store.read_bytes == there * 4096
