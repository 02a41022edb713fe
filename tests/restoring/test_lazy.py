"""Machines that run while their memory is restored, with the real kernel: the digest is that of an uninterrupted run."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.checkpoint.files import KIB
from tests.machine.machines import children, open_fds
from tests.restoring.runs import Case, Killer, make, named, restored, uninterrupted
from tests.restoring.samples import checkpoint, damage, mixed_memory, state_json
from vmckpt.errors import CorruptionError, FormatError, IoError, UsageError, WorkerError
from vmckpt.kernel.features import probe
from vmckpt.kernel.memory import Mapping
from vmckpt.machine.client import ask
from vmckpt.machine.session import Wishes
from vmckpt.pages import PAGE_BYTES, Buffer, PageRange
from vmckpt.restoring.handler import Service, Wanted, _helping
from vmckpt.restoring.lazy import LazyRestore
from vmckpt.restoring.log import Counter
from vmckpt.restoring.prefetch import Trip
from vmckpt.restoring.store import Store
from vmckpt.restoring.trap import MISSING, TELLING

CASES = [
    Case(),
    Case("uniform", vcpus=2, codec="raw", active="right", seed=1),
    Case("sequential", vcpus=3, memory_block_bytes=4 * KIB, storage_block_bytes=8 * KIB, seed=2),
    Case("pointer-chase", vcpus=2, active="all", first=0.3, halo_pages=2, seed=3),
    Case("working-set", vcpus=4, memory_block_bytes=64 * KIB, storage_block_bytes=1024 * KIB, seed=4),
    Case("uniform", vcpus=2, background=False, seed=5),
    Case("zipf", vcpus=2, active="wrong", helpers=False, ops=0, seed=6),
    Case("zipf", vcpus=2, active="right", kills=0.7, ops=60_000, seed=7),
    Case("uniform", vcpus=3, kills=0.5, codec="raw", pages=4096, seed=8),
    Case("uniform", vcpus=2, mechanism="software", active="right", seed=9),
    Case("pointer-chase", vcpus=2, mechanism="software", kills=0.5, seed=10),
]


def need_userfaultfd() -> None:
    reason = probe().lacks(MISSING)
    if reason:
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = open_fds()
    yield
    assert children() == []
    assert open_fds() == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.workload}-{case.mechanism}-{case.seed}")
def test_the_digest_is_that_of_an_uninterrupted_run(case: Case, tmp_path: Path) -> None:
    if case.mechanism == "userfaultfd":
        need_userfaultfd()
    path = make(case, tmp_path)
    report = restored(path, case)
    assert report.digest == uninterrupted(path, case.ops)
    assert report.ops == case.ops * case.vcpus
    assert report.ended_by == "until-ops"
    pages = report.pages
    brought = pages.prefetched + pages.on_demand + pages.neighbours + pages.background + pages.zero
    assert brought <= pages.total == case.pages
    assert 0 < report.time_to_run_s <= report.elapsed_s
    assert report.resident_s >= report.time_to_run_s
    assert list(report.ttr_s.values()) == sorted(report.ttr_s.values())


def test_memory_of_zeros_is_there_as_soon_as_the_machine_runs(tmp_path: Path) -> None:
    need_userfaultfd()
    path = checkpoint(tmp_path / "zeros.vmckpt", bytes(256 * PAGE_BYTES))
    with LazyRestore.open(path, Wishes("uniform")) as restore:
        restore.run(until_ops=1000)
        report = restore.finish()
    assert report.pages.zero > report.pages.on_demand == 0
    assert report.time_to_run_s <= report.resident_s <= report.elapsed_s


def test_many_kills_lose_nothing(tmp_path: Path) -> None:
    need_userfaultfd()
    case = Case("uniform", vcpus=2, pages=8192, ops=100_000, codec="raw", seed=11)
    path = make(case, tmp_path)
    with LazyRestore.open(path) as restore:
        killer = Killer(restore, 1, 11)
        restore.run(until_ops=case.ops, on_tick=killer)
        report = restore.finish()
    assert killer.kills
    assert report.digest == uninterrupted(path, case.ops)


def test_what_was_active_at_the_save_is_there_before_it_runs(tmp_path: Path) -> None:
    need_userfaultfd()
    if probe().lacks(TELLING):
        pytest.skip("page tables do not tell what was touched")
    case = Case("uniform", active="all", pages=512, ops=5000)
    report = restored(make(case, tmp_path), case)
    assert (report.faults, report.stall_s) == (0, 0)
    assert report.coverage == 1
    assert report.pages.prefetched == 512
    assert 0 < report.pages.prefetched_used <= 512
    assert report.precision == report.pages.prefetched_used / 512
    assert set(report.ttr_s.values()) == {report.time_to_run_s}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on one core nobody helps")
def test_what_a_helper_leaves_undone_is_prefetched_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_userfaultfd()
    case = Case("uniform", active="all", pages=2048, ops=5000)
    taken = Mapping.anonymous(1, shared=True)

    def dies(service: Service, trips: Sequence[Trip], index: int, numbers: Iterator[int]) -> None:
        next(numbers)
        helper = _helping(service, index)
        next(helper.prefetch(trips))  # somebody else's piece, too
        service.shared.residency.claim(PageRange(1000, 1010))
        taken.view[0] = 1
        os._exit(3)

    monkeypatch.setattr("vmckpt.restoring.handler._help_prefetch", dies)
    path = make(case, tmp_path)
    report = restored(path, case)
    assert taken.view[0] == 1
    assert report.digest == uninterrupted(path, case.ops)
    assert report.faults == 0


@pytest.mark.parametrize("mechanism", ["userfaultfd", "software"])
def test_a_restore_knows_exactly_which_pages_were_used(mechanism: str, tmp_path: Path) -> None:
    if mechanism == "userfaultfd":
        need_userfaultfd()
        if probe().lacks(TELLING):
            pytest.skip("page tables do not tell what was touched")
    memory = mixed_memory(512, 3)
    path = checkpoint(
        tmp_path / "guest.vmckpt", memory, active=range(512), state=state_json(512, "sequential")
    )
    with LazyRestore.open(path, mechanism=mechanism) as restore:
        restore.run(until_ops=64 * 100)  # a touch for each cache line
        report = restore.finish()
        order = json.loads(restore.touched_order())
    assert report.pages.prefetched_used == 100
    assert order["pages"] == list(range(100))


def test_what_was_touched_is_prefetched_the_next_time(tmp_path: Path) -> None:
    need_userfaultfd()
    case = Case("zipf", pages=2048, ops=8000)
    path = make(case, tmp_path)
    with LazyRestore.open(path) as restore:
        restore.run(until_ops=case.ops)
        first = restore.finish()
        order = tmp_path / "order"
        order.write_text(restore.touched_order(), encoding="ascii")
        log = list(restore.fault_log())
    assert len(log) == first.faults + 1
    with LazyRestore.open(path, order=str(order)) as restore:
        restore.run(until_ops=case.ops)
        report = restore.finish()
    assert (report.digest, report.faults, report.prefetch_from) == (first.digest, 0, "order")
    order.write_text("{}", encoding="ascii")
    with pytest.raises(FormatError):
        LazyRestore.open(path, order=str(order))
    with pytest.raises(IoError, match="nowhere"):
        LazyRestore.open(path, order=str(tmp_path / "nowhere"))


def test_it_ends_by_itself_when_all_memory_is_there(tmp_path: Path) -> None:
    need_userfaultfd()
    path = make(Case(pages=512), tmp_path)
    with LazyRestore.open(path) as restore:
        restore.run(until_resident=True)
        report = restore.finish()
    assert report.ended_by == "resident"
    assert report.digest == uninterrupted(path, report.ops)


def test_the_checkpoint_may_be_unlinked_once_it_is_open(tmp_path: Path) -> None:
    need_userfaultfd()
    case = Case()
    path = make(case, tmp_path)
    expected = uninterrupted(path, case.ops)
    with LazyRestore.open(path) as restore:
        os.unlink(path)
        restore.run(until_ops=case.ops)
        assert restore.finish().digest == expected


@pytest.mark.parametrize("mechanism", ["userfaultfd", "software"])
def test_a_damaged_block_stops_the_machine_and_is_named(tmp_path: Path, mechanism: str) -> None:
    if mechanism == "userfaultfd":
        need_userfaultfd()
    path = make(Case(vcpus=2), tmp_path)
    with Store.open(path) as store:
        entry = store.storage_entry(5)
    damage(path, entry.offset + entry.size_bytes - 9)
    with LazyRestore.open(path, mechanism=mechanism) as restore:
        with pytest.raises(CorruptionError, match="storage block 5") as caught:
            restore.run(until_ops=10_000_000)
        assert (caught.value.path, caught.value.offset) == (path, entry.offset)
        with pytest.raises(Exception, match=r"storage block 5|ended after|while the machine runs"):
            restore.machine.digest()


def test_a_disk_that_fails_for_good_stops_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_userfaultfd()
    path = make(Case(), tmp_path)
    with Store.open(path) as store:
        offset = store.storage_entry(3).offset
    real = os.preadv

    def failing(fd: int, buffers: Sequence[Buffer], at: int, flags: int = 0) -> int:
        if at == offset:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, buffers, at, flags)

    monkeypatch.setattr(os, "preadv", failing)
    with (
        LazyRestore.open(path) as restore,
        pytest.raises(IoError, match=r"storage block 3: .*Input/output error"),
    ):
        restore.run(until_ops=10_000_000)


def test_a_bug_in_the_handler_ends_the_machine_instead_of_hanging_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    need_userfaultfd()
    path = make(Case(), tmp_path)
    monkeypatch.setattr("vmckpt.restoring.engine.Engine.poll", lambda *_: 1 // 0)
    with LazyRestore.open(path) as restore, pytest.raises(Exception, match="ZeroDivisionError"):
        restore.run(until_ops=10_000_000)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_checkpoint_of_an_image_is_told_what_to_run(tmp_path: Path) -> None:
    need_userfaultfd()
    path = checkpoint(tmp_path / "guest.vmckpt", mixed_memory(256))
    with LazyRestore.open(path, Wishes("uniform", 2, 3), Wanted()) as restore:
        restore.run(until_ops=100)
        report = restore.finish()
    assert (report.workload, report.vcpus, report.seed, report.ops) == ("uniform", 2, 3, 200)
    with pytest.raises(UsageError):
        LazyRestore.open(path, Wishes("nothing"))


def run(*arguments: str, code: int = 0) -> dict[str, object] | str:
    done = subprocess.run(
        [sys.executable, "-m", "vmckpt", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert len(done.stderr.splitlines()) == 1
        return done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


KEYS = {
    "time_to_run_s",
    "elapsed_s",
    "ops",
    "digest",
    "faults",
    "storage_reads",
    "bytes_read",
    "stall_s",
    "pages",
    "coverage",
    "precision",
    "ttr_s",
    "resident_s",
}


def test_the_command_answers_with_what_was_promised(tmp_path: Path) -> None:
    need_userfaultfd()
    case = Case(active="right")
    path = make(case, tmp_path)
    answer = run(
        "restore", "--lazy", path, "--until-ops", str(case.ops), "--prefetch-pages", "0.5", "--halo", "1"
    )
    assert isinstance(answer, dict)
    assert set(answer) >= KEYS
    assert answer["digest"] == uninterrupted(path, case.ops)
    pages, ttr = answer["pages"], answer["ttr_s"]
    assert isinstance(pages, dict)
    assert isinstance(ttr, dict)
    assert set(pages) >= {"prefetched", "prefetched_used", "on_demand", "background", "zero"}
    assert set(ttr) == {"0.5", "0.7", "0.9"}


def test_the_command_names_damage_with_exit_code_4(tmp_path: Path) -> None:
    need_userfaultfd()
    path = make(Case(), tmp_path)
    with Store.open(path) as store:
        entry = store.storage_entry(2)
    damage(path, entry.offset + entry.size_bytes - 1)
    assert "storage block 2" in run("restore", "--lazy", path, "--until-ops", "10000000", code=4)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--lazy", "x", "y"], "no output"),
        (["x"], "OUTPUT"),
        (["x", "y", "--halo", "1"], "without --lazy"),
        (["--lazy", "-"], "stream"),
        (["--lazy", "x", "--prefetch-pages", "2.5"], "no amount"),
        (["--lazy", "x", "--jobs", "2"], "--jobs"),
        (["--lazy", "x", "--prefetch", "none", "--order", "y"], "leave one of the two out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_contradict_each_other_are_refused(arguments: list[str], what: str) -> None:
    assert what in run("restore", *arguments, code=2)


def test_a_restored_machine_listens_to_its_socket(tmp_path: Path) -> None:
    need_userfaultfd()
    path = make(Case(vcpus=2), tmp_path)
    socket_path = os.path.relpath(tmp_path / "vm.sock")
    command = [sys.executable, "-m", "vmckpt", "restore", "--lazy", path, "--json", "--socket", socket_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert ask(socket_path, "pause", wait_s=30)["state"] in {"paused", "restoring"}
        ask(socket_path, "resume")
        ask(socket_path, "stop")
        out, _ = process.communicate(timeout=30)
    answer = json.loads(out)
    assert answer["ended_by"] == "socket"


def test_a_keeper_that_is_killed_again_and_again_does_not_end_the_restore(tmp_path: Path) -> None:
    need_userfaultfd()
    case = Case("uniform", vcpus=2, pages=4096, ops=30_000, codec="raw", helpers=False, seed=12)
    path = make(case, tmp_path)
    killed = 0

    def on_tick(_: object) -> None:
        nonlocal killed
        for pid in named(os.getpid(), "vmckpt-keeper"):
            os.kill(pid, signal.SIGKILL)
            killed += 1

    with LazyRestore.open(path) as restore:
        restore.run(until_ops=case.ops, on_tick=on_tick)
        assert restore.finish().digest == uninterrupted(path, case.ops)
    assert killed


def test_a_keeper_that_is_killed_while_a_vcpu_owes_an_answer_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_userfaultfd()
    monkeypatch.setattr("vmckpt.machine.machine._ANSWER_S", 10.0)
    case = Case("uniform", pages=4096, ops=30_000, codec="raw", background=False, seed=13)
    path = make(case, tmp_path)
    paused: list[int] = []

    def on_tick(_: object) -> None:
        keepers = named(os.getpid(), "vmckpt-keeper")
        if paused or not keepers:
            return
        os.kill(keepers[0], signal.SIGKILL)
        restore.machine.pause()  # the vCPU touches a missing page every few operations
        paused.append(keepers[0])
        restore.machine.resume()

    with LazyRestore.open(path, wanted=Wanted(background=False)) as restore:
        restore.run(until_ops=case.ops, on_tick=on_tick)
        assert restore.finish().digest == uninterrupted(path, case.ops)
    assert paused


def test_damage_that_is_met_while_the_machine_stops_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_userfaultfd()
    path = make(Case(), tmp_path)
    with Store.open(path) as store:
        entry = store.storage_entry(5)
    damage(path, entry.offset + entry.size_bytes - 9)
    with LazyRestore.open(path, Wishes(), Wanted(background=False)) as restore:
        restore.run(until_ops=0)

        def stop() -> None:
            restore.shared.log.counters[Counter.FINISH] = 1
            restore._keeper.tell("finish")  # type: ignore[union-attr]
            assert restore._vcpus[0][0].wait(20)
            stops()

        stops = restore.machine.stop
        monkeypatch.setattr(restore.machine, "stop", stop)
        with pytest.raises(CorruptionError, match="storage block 5"):
            restore.finish()


def test_handlers_that_get_nothing_done_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_userfaultfd()
    path = make(Case(), tmp_path)
    monkeypatch.setattr("vmckpt.restoring.handler._serve", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with (
        LazyRestore.open(path) as restore,
        pytest.raises(WorkerError, match=r"50 times in a row by signal 9"),
    ):
        restore.run(until_ops=1000)


def test_a_machine_saved_while_it_runs_goes_on_lazily(tmp_path: Path) -> None:
    need_userfaultfd()
    image, saved = str(tmp_path / "guest.raw"), str(tmp_path / "guest.vmckpt")
    run("create", image, "--size", "16M")
    report = run("save", image, saved, "--workload", "zipf", "--vcpus", "2", "--warmup-ops", "20000")
    assert isinstance(report, dict)
    whole = run("run", image, "--workload", "zipf", "--vcpus", "2", "--until-ops", "1000000")
    answer = run("restore", "--lazy", saved, "--until-ops", "1000000")
    assert isinstance(whole, dict)
    assert isinstance(answer, dict)
    assert answer["digest"] == whole["digest"]
    pages = answer["pages"]
    assert isinstance(pages, dict)
    active_pages = report["active_pages"]
    assert isinstance(active_pages, int)
    assert pages["prefetched"] == active_pages > 0
