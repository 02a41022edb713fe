"""The machine as the saver sees it: what it hands over, and answers that no machine gives."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from vmckpt.errors import IoError, SourceError, UsageError, VmckptError
from vmckpt.kernel.memory import create_memfd
from vmckpt.kernel.process import send_descriptors
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine.client import Conversation
from vmckpt.machine.state import MachineState
from vmckpt.machine.workload import parse_workload
from vmckpt.pages import PageRange
from vmckpt.saving.guest import NO_TRACES, Guest, held_memory
from vmckpt.trace.rules import Mode, Needs, Rule, needs
from vmckpt.trace.software import create_table

PAGES, VCPUS = 8, 2
TRACED = needs(Rule.ACCESS, Mode.CHECKPOINT)
SOFTWARE: Mapping[str, object] = {
    "mechanism": "software",
    "regions": [[0, 6 * PAGE_BYTES], [1 << 32, 2 * PAGE_BYTES]],
    "bases": [],
    "vcpus": VCPUS,
}
KERNEL = {**SOFTWARE, "mechanism": "userfaultfd", "bases": [1 << 32, 1 << 33]}
NONE = {**SOFTWARE, "mechanism": "none"}
STATE = MachineState.boot(parse_workload("zipf"), vcpus=VCPUS, seed=1, page_count=PAGES)
MOMENT: Mapping[str, object] = {"machine": STATE.values(), "pause_s": 0.25, "ops_per_s_before": 100}


class Peer:
    """What listens there; says what it is to answer before it is asked."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(20)
        self.conversation = Conversation.over(theirs, timeout_s=20)
        self._answers = 0

    def answer(self, values: object, descriptors: list[int] | None = None) -> None:
        """`descriptors` are handed over, and closed here."""
        self._answers += 1
        line = json.dumps({"id": self._answers, "ok": True, "answer": values}).encode() + b"\n"
        send_descriptors(self._socket, line, descriptors or [])
        for fd in descriptors or []:
            os.close(fd)

    def refuse(self, kind: str, message: str) -> None:
        self._answers += 1
        error = {"kind": kind, "message": message}
        self._socket.sendall(json.dumps({"id": self._answers, "ok": False, "error": error}).encode() + b"\n")

    def asked(self) -> list[dict[str, Any]]:
        """All that it was asked so far."""
        return [json.loads(line) for line in self._socket.recv(1 << 16).splitlines()]

    def hang_up(self) -> None:
        self._socket.close()

    def close(self) -> None:
        self.hang_up()
        self.conversation.close()


def open_fds() -> set[str]:
    return {
        f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}" for fd in os.listdir("/proc/self/fd") if _is_open(fd)
    }


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")  # the one that lists them is not any more


@pytest.fixture
def peer() -> Iterator[Peer]:
    """No test leaks a descriptor."""
    before = open_fds()
    peer = Peer()
    yield peer
    peer.close()
    assert open_fds() == before


def memory_fd(pages: int = PAGES) -> int:
    fd = create_memfd("memory", pages * PAGE_BYTES)
    for page in range(pages):
        os.pwrite(fd, bytes([page + 1]) * PAGE_BYTES, page * PAGE_BYTES)
    return fd


def socket_fd() -> int:
    """The saver's end of a vCPU that is not there."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    return theirs.detach()


def software_fds() -> list[int]:
    return [memory_fd(), create_table(PAGES, VCPUS), *(socket_fd() for _ in range(VCPUS))]


def guest_of(peer: Peer, mechanism: str = "software") -> Guest:
    if mechanism == "software":
        peer.answer(SOFTWARE, software_fds())
    else:
        peer.answer(NONE, [memory_fd()])
    guest = Guest(peer.conversation, TRACED, mechanism)
    peer.asked()
    return guest


def test_what_it_hands_over_is_its_memory_and_who_traps(peer: Peer) -> None:
    peer.answer(SOFTWARE, software_fds())
    with Guest(peer.conversation, Needs(first_touch=True, writes=False, protect=False), "auto") as guest:
        assert peer.asked() == [
            {"id": 1, "do": "trace-prepare", "mechanism": "auto", "first_touch": True, "writes": False}
        ]
        assert guest.mechanism == "software"
        assert guest.layout == Layout([(0, 6 * PAGE_BYTES), (1 << 32, 2 * PAGE_BYTES)])
        assert guest.vcpus == VCPUS
        page = bytearray(PAGE_BYTES)
        with guest.memory() as memory:
            memory.read(PageRange(7, 8), memoryview(page))
        assert page == bytes([8]) * PAGE_BYTES
        tracer = guest.tracer()
        assert len(list(tracer.descriptors())) == VCPUS
        tracer.close()


def test_closing_twice_is_fine(peer: Peer) -> None:
    guest = guest_of(peer)
    guest.close()
    guest.close()
    assert guest.memory_fd == -1


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        ({}, "mtss"),
        ({**SOFTWARE, "mechanism": "magic"}, "mtss"),
        ({**SOFTWARE, "mechanism": None}, "mtss"),
        ({**SOFTWARE, "mechanism": ["software"]}, "mtss"),
        (SOFTWARE, ""),
        (SOFTWARE, "m"),
        (SOFTWARE, "mts"),
        (SOFTWARE, "mtsss"),
        (SOFTWARE, "m" * 64),
        (NONE, ""),
        (NONE, "mt"),
        (KERNEL, "ms"),
        (KERNEL, "msss"),
        ({**KERNEL, "bases": [1 << 32]}, "mss"),
        ({**KERNEL, "bases": [1, 2, 3]}, "mss"),
        ({**KERNEL, "bases": ["1", "2"]}, "mss"),
        ({**KERNEL, "bases": 5}, "mss"),
        ({**KERNEL, "bases": None}, "mss"),
        ({**SOFTWARE, "bases": [1 << 32]}, "mtss"),
        ({**SOFTWARE, "vcpus": 0}, "mt"),
        ({**SOFTWARE, "vcpus": -1}, "m"),
        ({**SOFTWARE, "vcpus": 17}, "mt" + "s" * 17),
        ({**SOFTWARE, "vcpus": "2"}, "mtss"),
        ({**SOFTWARE, "vcpus": 2.0}, "mtss"),
        ({**KERNEL, "vcpus": 17, "bases": [0] * 17}, "m" + "s" * 17),
        ({**NONE, "vcpus": 0}, "m"),
        ({**SOFTWARE, "regions": []}, "mtss"),
        ({**SOFTWARE, "regions": None}, "mtss"),
        ({**SOFTWARE, "regions": [[0]]}, "mtss"),
        ({**SOFTWARE, "regions": [[0, 4096, 1]]}, "mtss"),
        ({**SOFTWARE, "regions": [["0", "4096"]]}, "mtss"),
        ({**SOFTWARE, "regions": [[0, 4095]]}, "mtss"),
        ({**SOFTWARE, "regions": [[0, 0]]}, "mtss"),
        ({**SOFTWARE, "regions": [[0, -4096]]}, "mtss"),
        ({**SOFTWARE, "regions": [[-4096, 8192]]}, "mtss"),
        ({**SOFTWARE, "regions": [[0, 8192], [4096, 8192]]}, "mtss"),
        ({**SOFTWARE, "regions": [[0, 1 << 60]]}, "mtss"),
        ({**SOFTWARE, "regions": {"0": 4096}}, "mtss"),
    ],
    ids=lambda value: json.dumps(value)[:90] if isinstance(value, dict) else value,
)
def test_what_no_machine_hands_over_is_refused(peer: Peer, values: object, sizes: str) -> None:
    make = {"m": memory_fd, "t": lambda: create_table(PAGES, VCPUS), "s": socket_fd}
    peer.answer(values, [make[size]() for size in sizes])
    with pytest.raises(SourceError):
        Guest(peer.conversation, TRACED, "auto")


def test_memory_shorter_than_it_says_is_noticed_when_it_is_read(peer: Peer) -> None:
    peer.answer(NONE, [memory_fd(PAGES - 1)])
    with Guest(peer.conversation, NO_TRACES, "auto") as guest, guest.memory() as memory:
        memory.read(PageRange(0, PAGES - 1), memoryview(bytearray((PAGES - 1) * PAGE_BYTES)))
        with pytest.raises(VmckptError):
            memory.read(PageRange(PAGES - 1, PAGES), memoryview(bytearray(PAGE_BYTES)))


def test_memory_that_is_no_file_is_an_error(peer: Peer) -> None:
    peer.answer(NONE, [socket_fd()])
    with Guest(peer.conversation, NO_TRACES, "auto") as guest, pytest.raises(VmckptError):
        guest.memory()


@pytest.mark.parametrize("place", [2, 3])
def test_a_vcpu_that_is_no_socket_is_refused(peer: Peer, place: int) -> None:
    descriptors = software_fds()
    os.close(descriptors[place])
    descriptors[place] = memory_fd()
    peer.answer(SOFTWARE, descriptors)
    with Guest(peer.conversation, TRACED, "auto") as guest, pytest.raises(SourceError):
        guest.tracer()


def test_a_table_shorter_than_it_has_to_be_is_refused(peer: Peer) -> None:
    descriptors = software_fds()
    os.close(descriptors[1])
    descriptors[1] = create_table(PAGES - 1, 1)
    peer.answer(SOFTWARE, descriptors)
    with Guest(peer.conversation, TRACED, "auto") as guest, pytest.raises(VmckptError):
        guest.tracer()


def test_a_refusal_is_the_machines(peer: Peer) -> None:
    peer.refuse("UsageError", "the machine is being saved already")
    with pytest.raises(UsageError, match="saved already"):
        Guest(peer.conversation, TRACED, "auto")


@pytest.mark.parametrize("do", ["begin", "hold"])
def test_the_moment_is_the_machines_state_and_how_fast_it_was(peer: Peer, do: str) -> None:
    with guest_of(peer) as guest:
        peer.answer({**MOMENT, "ops_per_s_during": 60.5})
        assert getattr(guest, do)() == (STATE, 0.25, 100.0, 60.5)
        assert [each["do"] for each in peer.asked()] == [f"trace-{do}"]


@pytest.mark.parametrize("do", ["begin", "hold"])
@pytest.mark.parametrize(
    "changes",
    [
        {"machine": None},
        {"machine": "a machine"},
        {"machine": {**STATE.values(), "pages": PAGES + 1}},
        {"machine": {**STATE.values(), "vcpus": []}},
        {"machine": {**STATE.values(), "vcpus": [{}]}},
        {"machine": {**STATE.values(), "workload": "sleep"}},
        {"pause_s": "soon"},
        {"pause_s": None},
        {"ops_per_s_before": None},
        {"ops_per_s_before": "100"},
        {"ops_per_s_during": []},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_a_moment_that_is_none_is_refused(peer: Peer, do: str, changes: dict[str, object]) -> None:
    with guest_of(peer) as guest:
        peer.answer({**MOMENT, **changes})
        with pytest.raises(SourceError):
            getattr(guest, do)()


@pytest.mark.parametrize("missing", ["machine", "ops_per_s_before"])
def test_a_moment_of_which_a_part_is_missing_is_refused(peer: Peer, missing: str) -> None:
    with guest_of(peer) as guest:
        peer.answer({name: value for name, value in MOMENT.items() if name != missing})
        with pytest.raises(SourceError):
            guest.begin()


@pytest.mark.parametrize("stop", [False, True])
def test_the_end_tells_how_fast_it_was(peer: Peer, stop: bool) -> None:
    with guest_of(peer) as guest:
        peer.answer({"ops_per_s_during": 7})
        assert guest.end(stop=stop) == 7.0
        [asked] = peer.asked()
        assert (asked["do"], asked["stop"]) == ("trace-end", stop)


@pytest.mark.parametrize(
    "values", [{}, {"ops_per_s_during": "7"}, {"ops_per_s_during": None}], ids=json.dumps
)
def test_an_end_that_does_not_tell_is_refused(peer: Peer, values: object) -> None:
    with guest_of(peer) as guest:
        peer.answer(values)
        with pytest.raises(SourceError):
            guest.end(stop=False)


def test_only_without_the_kernels_help_is_it_asked_to_pass_between_two_operations(peer: Peer) -> None:
    with guest_of(peer) as guest:
        peer.answer({})
        guest.fence()
        guest.forget([PageRange(0, 4)])  # the tracer does that by itself there
        assert [each["do"] for each in peer.asked()] == ["trace-fence"]


def test_only_with_the_kernels_help_is_it_asked_to_forget(peer: Peer) -> None:
    peer.answer(KERNEL, [memory_fd(), socket_fd(), socket_fd()])
    with Guest(peer.conversation, TRACED, "userfaultfd") as guest:
        peer.asked()
        peer.answer({})
        guest.fence()
        guest.forget([PageRange(0, 4), PageRange(6, 8)])
        [asked] = peer.asked()
        assert (asked["do"], asked["ranges"]) == ("trace-forget", [[0, 4], [6, 8]])


def test_it_is_noticed_when_the_machine_ends(peer: Peer) -> None:
    with guest_of(peer) as guest:
        guest.check()
        guest.wait(0.01)
        peer.hang_up()
        for ask in (guest.check, guest.begin, guest.confirm):
            with pytest.raises(IoError, match="ended"):
                ask()


def test_held_memory_is_let_go(peer: Peer) -> None:
    peer.answer(NONE, [memory_fd()])
    peer.answer(MOMENT)
    peer.answer({"ops_per_s_during": 0})
    with held_memory(peer.conversation) as memory:
        assert memory.layout.page_count == PAGES
    assert [each["do"] for each in peer.asked()] == ["trace-prepare", "trace-hold", "trace-end"]
