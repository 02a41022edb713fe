"""The table from a Dask cluster: a real scheduler, workers that are processes, and one of them killed."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.sharing.test_engine import same
from vmckpt import api
from vmckpt.errors import FeatureError, IoError, WorkerError
from vmckpt.machine.image import create_image
from vmckpt.sharing import shards
from vmckpt.sharing.cluster import cluster_samples, cluster_table
from vmckpt.sharing.hashes import hashes_of
from vmckpt.sharing.large import large_pages_of
from vmckpt.sharing.sample import sample_of
from vmckpt.sharing.scan import counted_large_pages
from vmckpt.sharing.selection import Seeded
from vmckpt.sharing.table import SharingTable, table_of

LARGE = 2 << 20


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("cluster")
    names = [str(directory / f"guest-{number}.raw") for number in range(3)]
    for number, name in enumerate(names):
        create_image(name, 16 << 20, seed=number)
    api.save(names[2], names[2] + ".vmckpt")
    return [*names[:2], names[2] + ".vmckpt"]


@pytest.fixture(scope="module")
def expected(paths: list[str]) -> SharingTable:
    images = []
    for path in paths:
        with api.open_source(path) as source:
            images.append(hashes_of(source, jobs=2))
    return table_of(images)


class Cluster:
    """`dask scheduler` and workers as one would start them, on loopback."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[subprocess.Popen[bytes]] = []
        log = self._start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.address = self._wait_for(log, r"Scheduler at:\s+(tcp://\S+)")

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        """One more worker: a process without a nanny, so that killing it is killing it."""
        arguments = (self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name)
        log = self._start(name, "worker", *arguments, "--local-directory", str(self._directory))
        self._wait_for(log, r"(Registered to)")
        return self._started[-1]

    def _start(self, name: str, *arguments: str) -> Path:
        log = self._directory / f"{name}.log"
        with log.open("wb") as file:
            self._started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *arguments],
                    stdout=file,
                    stderr=file,
                    env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                )
            )
        return log

    def _wait_for(self, log: Path, what: str) -> str:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if found := re.search(what, log.read_text()):
                return found[1]
            time.sleep(0.05)
        raise AssertionError(f"{what!r} is not in\n{log.read_text()}")

    def end(self) -> None:
        for process in reversed(self._started):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed", reason="the extra `fleet` is not installed")
    found = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        found.worker("one")
        found.worker("two")
        yield found
    finally:
        found.end()


def test_a_cluster_s_table_is_that_of_one_process(
    cluster: Cluster, paths: list[str], expected: SharingTable, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[int, int]] = []
    found = cluster_table(
        paths,
        scheduler=cluster.address,
        jobs=2,
        large_page_bytes=LARGE,
        shard_pages=2000,
        progress=lambda done, total: told.append((done, total)),
    )
    assert same(found.table, expected)
    images = []
    for path in paths:
        with api.open_source(path) as source:
            images.append(hashes_of(source, jobs=2))
    large = counted_large_pages(found.images, LARGE)
    assert np.array_equal(large.zero_pages, large_pages_of(images, LARGE).zero_pages)
    assert told[-1] == (48 << 20, 48 << 20)
    assert capfd.readouterr() == ("", "")


def test_a_cluster_s_samples_are_those_of_one_process(cluster: Cluster, paths: list[str]) -> None:
    selection = Seeded(0.25, 4)
    found = cluster_samples(paths, selection, scheduler=cluster.address, jobs=2, large_page_bytes=LARGE)
    for path, sample in zip(paths, found, strict=True):
        with api.open_source(path) as source:
            alone = sample_of(source, selection, jobs=2, large_page_bytes=LARGE)
        assert np.array_equal(sample.pages, alone.pages)
        assert np.array_equal(sample.values, alone.values)
        assert sample.scanned.zero_pages == alone.scanned.zero_pages
        assert sample.scanned.data_pages is not None
        assert alone.scanned.data_pages is not None
        assert np.array_equal(sample.scanned.data_pages, alone.scanned.data_pages)


def test_an_image_that_workers_cannot_open_is_our_error(cluster: Cluster) -> None:
    with pytest.raises(IoError, match=r"none\.raw: cannot open"):
        cluster_table(["/none.raw"], scheduler=cluster.address, jobs=1)


def test_a_killed_worker_costs_time_and_not_the_result(
    cluster: Cluster, paths: list[str], expected: SharingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = cluster.worker("doomed")
    monkeypatch.setattr(shards, "RANGE_PAGES", 64)  # many pieces: all three workers hold some
    killed = threading.Event()

    def progress(done: int, total: int) -> None:
        if done > total // 2 and not killed.is_set():
            os.kill(doomed.pid, signal.SIGKILL)
            doomed.wait()
            killed.set()

    found = cluster_table(paths, scheduler=cluster.address, jobs=1, shard_pages=2000, progress=progress)
    assert killed.is_set()
    assert same(found.table, expected)


def test_without_a_scheduler_processes_of_this_machine_do_it(
    paths: list[str], expected: SharingTable, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="the extra `fleet` is not installed")
    assert same(cluster_table(paths, jobs=2).table, expected)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "127.0.0.1:1", "tcp://127.0.0.1:none", "odd://x:1"])
def test_an_address_where_nobody_is_is_an_error(address: str) -> None:
    pytest.importorskip("distributed", reason="the extra `fleet` is not installed")
    with pytest.raises(IoError, match="cannot reach a Dask scheduler"):
        cluster_table(["any"], scheduler=address, jobs=1)


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(FeatureError, match=r"pip install 'vmckpt\[fleet\]'"):
        cluster_table(["any"], jobs=1)


def test_a_cluster_whose_workers_all_die_says_so(paths: list[str], tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `fleet` is not installed")
    lost = Cluster(tmp_path)
    try:
        worker = lost.worker("only")

        def progress(done: int, total: int) -> None:
            worker.kill()
            lost.end()

        with pytest.raises(WorkerError, match="the cluster gave up"):
            cluster_table(paths, scheduler=lost.address, jobs=1, progress=progress)
    finally:
        lost.end()
