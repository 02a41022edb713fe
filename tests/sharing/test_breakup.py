"""Break-ups from outside: a machine that runs as a command, and `vmckpt vm break-up`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.machine.machines import image
from tests.machine.test_breakups import WISHES, digest_after, listening
from tests.sharing.memories import Memory, hashes_of_memory
from vmckpt.errors import IoError, UsageError
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine.boot import Booted, boot
from vmckpt.machine.client import ask
from vmckpt.sharing.breakup import Seen, Watched, break_up, broken_of, look, target_of, watch
from vmckpt.sharing.choose import planned, shareable_pages
from vmckpt.sharing.hashes import hashes_of
from vmckpt.sharing.large import large_pages_of
from vmckpt.sharing.plan import plan_of
from vmckpt.sharing.table import table_of
from vmckpt.sources import open_source

MIB = 1 << 20
LARGE = 64 << 10
OPS = 1_500_000


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return image(tmp_path_factory.mktemp("guest") / "image.raw", 16 * MIB)


@pytest.fixture
def booted(guest: str) -> Iterator[Booted]:
    with boot(guest, WISHES) as booted:
        booted.conversation.ask("pause")
        yield booted


def vm(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "vmckpt", "vm", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.startswith("vmckpt: ") or "Error" in done.stderr
        return {"error": done.stderr}
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_a_target_is_freed_while_the_machine_runs_and_it_computes_the_same(
    guest: str, tmp_path: Path
) -> None:
    with listening(guest, tmp_path, "--until-ops", str(OPS)) as (path, process):
        report = vm("break-up", path, "--target", "512K", "--watch", "0.05")
        assert report["target_pages"] == 128
        assert report["broken_large_pages"] > 0
        assert report["freed_pages"] > 0
        assert report["shared_pages"] > 0
        assert sum(report["levels"].values()) == 8
        final, _ = process.communicate(timeout=60)
    assert json.loads(final)["digest"] == digest_after(guest, WISHES, OPS)


def test_a_plan_file_is_carried_out_page_by_page(guest: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    breaks = [{"source": "guest.raw", "large_page": number} for number in (1, 4, 6)]
    values = {
        "large_page_bytes": 2 * MIB,
        "images": [{"source": "guest.raw", "pages": 4096}],
        "plan": {"breaks": breaks},
    }
    plan.write_text(json.dumps(values))
    with listening(guest, tmp_path) as (path, _):
        ask(path, "pause")
        before = ask(path, "status")
        digest = subprocess.check_output([sys.executable, "-m", "vmckpt", "digest", path])
        report = vm("break-up", path, "--plan", str(plan))
        assert report["broken_large_pages"] == 3
        assert report["large_pages"] == 5
        status = ask(path, "status")
        assert status["freed_pages"] == report["freed_pages"] > 0
        assert report["resident_pages_after"] == status["resident_pages"]
        assert report["resident_pages_before"] == before["resident_pages"]
        assert subprocess.check_output([sys.executable, "-m", "vmckpt", "digest", path]) == digest
        assert vm("break-up", path, "--plan", str(plan))["broken_large_pages"] == 0

        plan.write_text(json.dumps({"breaks": [{"source": "x", "large_page": 8}]}))
        assert "no large page 8" in vm("break-up", path, "--plan", str(plan), code=2)["error"]
        plan.write_text(json.dumps({**values, "images": [{"source": "guest.raw", "pages": 4}]}))
        assert "this machine has 16.0 MiB" in vm("break-up", path, "--plan", str(plan), code=2)["error"]
        assert "cannot free 1.00 GiB" in vm("break-up", path, "--target", "1G", code=2)["error"]
        plan.write_text("no plan")
        assert "this is no plan: it is no JSON" in vm("break-up", path, "--plan", str(plan), code=3)["error"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("break-up",), "either --plan FILE or --target SIZE"),
        (("break-up", "--plan", "p", "--target", "1M"), "either --plan FILE or --target SIZE"),
        (("break-up", "--target", "1M", "--source", "a"), "it goes with --plan"),
        (("status", "--target", "1M"), "--target goes with break-up, and not with status"),
        (("pause", "--plan", "p"), "--plan goes with break-up, and not with pause"),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_options_that_contradict_each_other_are_wrong_usage(arguments: tuple[str, ...], why: str) -> None:
    action, *options = arguments
    assert why in vm(action, "nowhere.sock", *options, code=2)["error"]


def test_no_machine_is_an_error(tmp_path: Path) -> None:
    assert "cannot connect" in vm("break-up", str(tmp_path / "none"), "--target", "1M", code=1)["error"]


def test_hashes_of_a_machine_are_those_of_its_image_broken_up_or_not(guest: str) -> None:
    with boot(guest, WISHES._replace(workload="uniform:write=0")) as booted, open_source(guest) as source:
        expected = hashes_of(source, jobs=1)
        for turn in range(2):
            found = look(booted.conversation, "vm.sock")
            assert found.source == "vm.sock"
            assert found.pages.tolist() == expected.pages.tolist()
            assert found.hashes.tolist() == expected.hashes.tolist()
            if not turn:
                break_up(booted.conversation, range(8))


def planned_for(booted: Booted, target_pages: int) -> list[int]:
    broken, _ = broken_of(booted.conversation)
    memory = look(booted.conversation, "vm.sock")
    return [number for _, number in planned([Seen(memory, small_already=broken)], target_pages, LARGE)]


def test_a_plan_frees_what_it_says(booted: Booted) -> None:
    freed = 0
    for target in (20, 100, 300):
        numbers = planned_for(booted, target)
        report = break_up(booted.conversation, numbers, large_page_bytes=LARGE)
        assert report.freed_pages >= target
        assert report.broken_large_pages == len(numbers)
        freed += report.freed_pages
    assert booted.conversation.ask("status").values["freed_pages"] == freed
    break_up(booted.conversation, planned_for(booted, 10**9), large_page_bytes=LARGE)
    assert break_up(booted.conversation, planned_for(booted, 1), large_page_bytes=LARGE).freed_pages == 0


@pytest.mark.parametrize("target_pages", [1, 150, 10**6])
def test_a_machine_that_stands_still_frees_exactly_what_the_plan_promised(
    booted: Booted, target_pages: int
) -> None:
    promised = 0
    for _ in range(2):  # the second time beside what is broken already
        memory = look(booted.conversation, "vm.sock")
        large = large_pages_of([memory], LARGE)
        broken, _ = broken_of(booted.conversation)
        already = np.isin(large.numbers, sorted(broken))
        plan = plan_of(table_of([memory]), large, target_pages, small_already=already)
        numbers = large.numbers[plan.large_pages].tolist()
        report = break_up(booted.conversation, numbers, large_page_bytes=LARGE)
        assert report.freed_pages == plan.reclaimed_pages
        promised += plan.reclaimed_pages
    assert booted.conversation.ask("status").values["freed_pages"] == promised > 0


def test_hot_large_pages_are_broken_only_where_the_others_do_not_do() -> None:
    large = 4 * PAGE_BYTES
    memory = hashes_of_memory(Memory([1, 1, 1, 1, 4, 4, 5, 6, 7, 7, 8, 9], Layout.flat(12 * PAGE_BYTES)))
    watched = {0: Watched(0.5, "hot"), 1: Watched(0.1, "warm"), 2: Watched(0.0, "cold")}
    assert planned([Seen(memory, watched)], 1, large) == [(0, 2)]
    assert sorted(planned([Seen(memory, watched)], 2, large)) == [(0, 1), (0, 2)]
    assert planned([Seen(memory, watched)], 3, large) == [(0, 0)]  # the fewest


def test_enough_is_enough(booted: Booted) -> None:
    report = break_up(
        booted.conversation, range(256), large_page_bytes=LARGE, enough=lambda freed: freed >= 1
    )
    assert 0 < report.broken_large_pages < 256


def test_a_machine_that_ends_while_it_is_watched_is_an_error(guest: str) -> None:
    with boot(guest, WISHES) as booted:
        booted.conversation.ask("stop")
        with pytest.raises((IoError, UsageError)):
            watch(booted.conversation, seconds=5)


def test_watching_leaves_no_trace(booted: Booted) -> None:
    booted.conversation.ask("resume")
    found = watch(booted.conversation, seconds=0.1, large_page_bytes=LARGE)
    assert set(found) == set(range(256))
    assert all(0 <= each.touched_part <= 1 for each in found.values())
    assert {"hot", "cold"} & {each.level for each in found.values()}
    assert booted.conversation.ask("status").values["small_pages"] == 0


@pytest.mark.parametrize(("size", "pages"), [(1, 1), (4096, 1), (4097, 2), (MIB, 256)])
def test_a_target_is_rounded_up_to_pages(size: int, pages: int) -> None:
    assert target_of(size, MIB) == pages


@pytest.mark.parametrize("size", [0, -1, MIB + 1])
def test_targets_that_no_machine_meets_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match="expected more than nothing"):
        target_of(size, MIB)


def test_cold_large_pages_come_first() -> None:
    large = 4 * PAGE_BYTES
    memory = hashes_of_memory(Memory([1, 1, 2, 3, 4, 4, 5, 6], Layout.flat(8 * PAGE_BYTES)))
    first, second = (
        {0: Watched(1.0, "hot"), 1: Watched(0.0, "cold")},
        {1: Watched(1.0, "hot"), 0: Watched(0.0, "cold")},
    )
    assert planned([Seen(memory, first)], 1, large) == [(0, 1)]
    assert planned([Seen(memory, second)], 1, large) == [(0, 0)]
    assert sorted(planned([Seen(memory, first)], 2, large)) == [(0, 0), (0, 1)]
    assert planned([Seen(memory, first, spared=frozenset([0]))], 2, large) == [(0, 1)]
    assert planned([Seen(memory, first, small_already=frozenset([1]))], 1, large) == [(0, 0)]


def test_machines_do_not_share_with_each_other() -> None:
    large = 4 * PAGE_BYTES
    alike = [hashes_of_memory(Memory([1, 2, 3, 4], Layout.flat(large))) for _ in range(2)]
    assert planned([Seen(memory) for memory in alike], 1, large) == []
    twice = hashes_of_memory(Memory([1, 2, 1, 4], Layout.flat(large)))
    assert planned([Seen(alike[0]), Seen(twice)], 1, large) == [(1, 0)]
    assert [shareable_pages(Seen(memory), large) for memory in (alike[0], twice)] == [{0: 0}, {0: 2}]
