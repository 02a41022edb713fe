"""Break-ups over the control socket, as `docs/machine.md` has them."""

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.machine.machines import boot as machine_over
from tests.machine.machines import image
from vmckpt import api
from vmckpt.errors import IoError, UsageError, VmckptError
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine.boot import Booted, boot
from vmckpt.machine.breakups import MOST_LARGE_PAGES, BreakUps
from vmckpt.machine.client import Conversation, ask
from vmckpt.machine.ram import Ram
from vmckpt.machine.session import Session, Wishes
from vmckpt.saving.guest import held_memory
from vmckpt.sources.hashes import digest_of

MIB = 1 << 20
SOON_S = 20.0
LARGE = {"large_page_bytes": 64 << 10}
WISHES = Wishes("working-set:write=3", 2, 7)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return image(tmp_path_factory.mktemp("guest") / "image.raw", 8 * MIB)


@pytest.fixture
def booted(guest: str) -> Iterator[Booted]:
    with boot(guest, WISHES) as booted:
        yield booted


def values(booted: Booted, do: str, **asked: object) -> dict[str, Any]:
    return dict(booted.conversation.ask(do, asked).values)


def digest(booted: Booted) -> str:
    with held_memory(booted.conversation) as memory:
        return digest_of(memory, jobs=1).hex()


def test_breaking_up_frees_memory_and_forming_again_takes_it_back(booted: Booted) -> None:
    before = values(booted, "pause")
    assert (before["large_pages"], before["small_pages"], before["freed_pages"]) == (4, 0, 0)
    expected = digest(booted)
    answer = values(booted, "break-up", large_pages=list(range(64)), **LARGE)
    assert answer["broken_large_pages"] == 64
    assert answer["differed_pages"] == 0
    assert answer["freed_pages"] > 100
    assert answer["small_pages"] == 64 * 16
    assert answer["large_pages"] == 64
    assert answer["resident_pages"] < before["resident_pages"]
    assert values(booted, "broken")["broken"] == list(range(64))
    assert digest(booted) == expected
    again = values(booted, "break-up", large_pages=[0, 1], **LARGE)
    assert (again["broken_large_pages"], again["freed_pages"]) == (0, 0)
    assert values(booted, "re-form", large_pages=list(range(64)), **LARGE)["formed_large_pages"] == 64
    after = values(booted, "status")
    assert (after["small_pages"], after["freed_pages"]) == (0, 0)
    # Zero pages come back as holes.
    assert answer["resident_pages"] < after["resident_pages"] <= before["resident_pages"]
    assert digest(booted) == expected


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no list": ({"large_pages": 3}, "large_pages is a list of numbers, and not 3"),
    "nothing": ({}, "large_pages is a list of numbers, and not None"),
    "text": ({"large_pages": ["1"]}, "a list of numbers"),
    "truth": ({"large_pages": [True]}, "a list of numbers"),
    "negative": ({"large_pages": [-1]}, "there is no large page -1"),
    "beyond": ({"large_pages": [0, 128], **LARGE}, "there is no large page 128: expected one of 128"),
    "huge": ({"large_pages": [1 << 70]}, "there is no large page"),
    "too many": (
        {"large_pages": list(range(65)), **LARGE},
        f"names {MOST_LARGE_PAGES} large pages at most, and not 65",
    ),
    "odd size": ({"large_pages": [0], "large_page_bytes": 5000}, "expected a power of two above 4096"),
    "no size": ({"large_pages": [0], "large_page_bytes": "2M"}, "large_page_bytes is a number"),
    "strange": ({"large_pages": [0], "target": 4}, "does not take target"),
}


@pytest.mark.parametrize("do", ["break-up", "re-form"])
@pytest.mark.parametrize("case", REFUSED)
def test_requests_that_make_no_sense_are_refused_and_change_nothing(
    booted: Booted, do: str, case: str
) -> None:
    asked, why = REFUSED[case]
    with pytest.raises(UsageError, match=why):
        booted.conversation.ask(do, asked)
    status = values(booted, "status")
    assert status["small_pages"] == 0


def test_a_save_forms_all_large_pages_first_and_a_break_up_waits_for_its_end(
    booted: Booted,
) -> None:
    values(booted, "break-up", large_pages=list(range(64)), **LARGE)
    first_touch: dict[str, object] = {"mechanism": "software", "first_touch": True, "writes": True}
    prepared = booted.conversation.ask("trace-prepare", first_touch)
    assert prepared.values["page_table"] is False
    assert prepared.values["small_pages"] == 0
    for do in ("break-up", "re-form"):
        with pytest.raises(
            UsageError, match="the machine is saving: its large pages stay as they are until that is over"
        ):
            booted.conversation.ask(do, {"large_pages": [0]})
    values(booted, "trace-end", stop=False)
    assert values(booted, "break-up", large_pages=[0], **LARGE)["broken_large_pages"] == 1


@pytest.mark.parametrize("trace", ["write", "off"])
def test_a_checkpoint_of_a_machine_whose_pages_share_is_that_of_any(
    guest: str, tmp_path: Path, trace: str
) -> None:
    checkpoint = str(tmp_path / "a.vmckpt")
    with listening(guest, tmp_path) as (path, _):
        ask(path, "break-up", {"large_pages": list(range(64)), **LARGE})
        report = api.save(path, checkpoint, trace=trace)
        assert ask(path, "status")["small_pages"] == (0 if trace == "write" else 64 * 16)
    assert report.live is not None
    until_ops = max(report.live.ops_at_checkpoint) + 20_000
    assert digest_after(checkpoint, Wishes(), until_ops) == digest_after(guest, WISHES, until_ops)


def digest_after(path: str, wishes: Wishes, until_ops: int) -> str:
    with Session.open(path, wishes) as session:
        session.run(until_ops=until_ops)
        return session.finish().digest


@contextlib.contextmanager
def listening(guest: str, folder: Path, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The socket and the process of a machine that runs as a command; it is stopped in the end."""
    path = str(folder / "vm.sock")
    assert WISHES.workload is not None
    command = [sys.executable, "-m", "vmckpt", "run", guest, "--socket", path, "--json", *options]
    wishes = ["--workload", WISHES.workload, "--vcpus", str(WISHES.vcpus), "--seed", str(WISHES.seed)]
    with subprocess.Popen([*command, *wishes], stdout=subprocess.PIPE, text=True) as process:
        try:
            ask(path, "status", wait_s=20)
            yield path, process
            with contextlib.suppress(VmckptError):
                ask(path, "stop", until_closed=True)
        finally:
            process.terminate()


def test_the_end_of_a_connection_ends_its_activity_test(guest: str, tmp_path: Path) -> None:
    with listening(guest, tmp_path) as (path, _), Conversation(path) as other:
        with Conversation(path) as tester:
            assert tester.ask("activity-begin", LARGE).values["tested_large_pages"] == 128
            assert other.ask("status").values["large_pages"] == 0
            with pytest.raises(UsageError, match="an activity test is under way"):
                other.ask("activity-begin")
            with pytest.raises(UsageError, match="this connection tests nothing"):
                other.ask("activity-scan")
        deadline_s = time.monotonic() + SOON_S
        while other.ask("status").values["small_pages"]:  # the machine has not noticed yet
            assert time.monotonic() < deadline_s
        assert other.ask("activity-begin", {"large_pages": [3], **LARGE}).values["small_pages"] == 16
        assert other.ask("activity-end").values["small_pages"] == 0


def test_the_activity_test_tells_hot_from_cold(booted: Booted) -> None:
    values(booted, "activity-begin", hot=0.5, **LARGE)
    deadline_s = time.monotonic() + SOON_S
    levels: dict[str, int] = {}
    while not {"hot", "cold"} <= set(levels):
        assert time.monotonic() < deadline_s
        found = values(booted, "activity-scan")["activity"]
        levels = Counter(each["level"] for each in found)
        assert all(0 <= each["touched_pages"] <= 16 for each in found)
    assert values(booted, "status")["large_pages"] == levels["hot"]
    assert values(booted, "activity-end")["large_pages"] == 128


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"hot": 2}, "hot is a number from 0 to 1, and not 2"),
        ({"cold": "no"}, "cold is a number from 0 to 1"),
        ({"hot": 0.1, "cold": 0.2}, "hot begins above cold"),
        ({"large_pages": [9]}, "no large page 9"),
        ({"large_pages": {}}, "a list of numbers"),
        ({"seconds": 1}, "does not take seconds"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_activity_tests_that_make_no_sense_are_refused(
    booted: Booted, asked: dict[str, object], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        booted.conversation.ask("activity-begin", asked)
    assert values(booted, "status")["small_pages"] == 0
    assert values(booted, "activity-begin")["tested_large_pages"] == 4


def test_clients_that_vanish_amid_their_break_ups_change_nothing(guest: str, tmp_path: Path) -> None:
    ops = 400_000
    with listening(guest, tmp_path, "--until-ops", str(ops)) as (path, process):
        for turn in range(20):
            with contextlib.suppress(IoError), Conversation(path) as conversation:
                asked = {"do": ["break-up", "re-form"][turn % 2], "large_pages": list(range(64)), **LARGE}
                conversation._connection.sendall(json.dumps(asked).encode() + b"\n")  # and is gone
        report, _ = process.communicate(timeout=SOON_S)
    assert json.loads(report)["digest"] == digest_after(guest, WISHES, ops)


def test_a_machine_that_is_being_restored_keeps_its_large_pages() -> None:
    with Ram(Layout.flat(64 * PAGE_BYTES)) as ram, machine_over(ram) as machine:
        machine.activity = "restoring"
        breakups = BreakUps(machine).handlers()
        for do in ("break-up", "re-form", "activity-begin"):
            with pytest.raises(UsageError, match="the machine is restoring"):
                breakups[do]({"large_pages": [0]}, None)  # type: ignore[arg-type]


def test_a_stopped_machine_has_nothing_to_break_up(booted: Booted) -> None:
    values(booted, "break-up", large_pages=[0])
    assert values(booted, "stop")["state"] == "stopped"
    with pytest.raises((IoError, UsageError)):
        booted.conversation.ask("break-up", {"large_pages": [1]})
