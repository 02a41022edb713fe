import contextlib
import json
import os
import random
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.machine.machines import boot, children, open_fds
from vmckpt.errors import IoError, SourceError, UsageError, VmckptError
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine import client as client_module
from vmckpt.machine import control as control_module
from vmckpt.machine.client import Conversation, ask
from vmckpt.machine.connection import Caller
from vmckpt.machine.control import MOST_CLIENTS, MOST_REQUEST_BYTES, PATIENCE_S, ControlServer
from vmckpt.machine.machine import MachineStatus
from vmckpt.machine.ram import Ram

SOON_S = 20.0
STATUS = MachineStatus("running", 1 << 20, 2, 30, (10, 20), "zipf", 0, 7)


class Standin:
    """A machine without vCPUs: it serves its watched descriptors, and counts what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.failure: VmckptError | None = None
        self._poll = select.poll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self.stopping = threading.Event()

    def status(self) -> MachineStatus:
        return STATUS

    def pause(self) -> None:
        self._tell("pause")

    def resume(self) -> None:
        self._tell("resume")

    def stop(self) -> None:
        self._tell("stop")

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if self.failure is not None:
            raise self.failure

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        self._poll.register(fd, events)
        self._watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._watched[fd]

    def serve(self, server: ControlServer) -> None:
        while not self.stopping.is_set():
            self.turn()
            server.expire()

    def turn(self) -> None:
        for fd, events in self._poll.poll(5):
            if fd in self._watched:
                self._watched[fd](events)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A short path, for sockets have no room for long ones."""
    with contextlib.chdir(tmp_path):
        yield "vm.sock"


def hand_over(values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
    """The reading ends of some pipes, each with a number to read."""
    count = values["count"]
    assert isinstance(count, int)
    for number in range(count):
        reading, writing = os.pipe()
        os.write(writing, str(number).encode())
        os.close(writing)
        caller.descriptors.append(reading)
    if values.get("refuse"):
        raise UsageError("after all, no")
    return {"padding": "x" * int(str(values.get("padding", 0)))}


@pytest.fixture
def standin(path: str) -> Iterator[Standin]:
    machine = Standin()
    server = ControlServer(path)

    def remember(values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        caller.at_end = lambda: machine.told.append(f"the end of {values['name']}")
        return {"caller": id(caller), "gone": caller.has_gone()}

    handlers = {"echo": lambda values, _: dict(values), "hand over": hand_over, "remember": remember}
    server.serve(machine, handlers)
    thread = threading.Thread(target=machine.serve, args=(server,))
    thread.start()
    yield machine
    machine.stopping.set()
    thread.join()
    server.close()


def connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SOON_S)
    connection.connect(path)
    return connection


def talk(connection: socket.socket, *lines: bytes) -> list[dict[str, Any]]:
    """Send all lines at once, and read as many answers."""
    connection.sendall(b"".join(lines))
    with connection.makefile("rb") as stream:
        return [json.loads(stream.readline()) for _ in lines]


def rest_of(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    received = b""
    with contextlib.suppress(ConnectionError):  # closed with something of ours unread: a reset
        while part := connection.recv(1 << 16):
            received += part
    return received


def test_status_says_what_the_machine_does(standin: Standin, path: str) -> None:
    answer = ask(path, "status")
    expected = json.loads(json.dumps(STATUS._asdict())) | {"protocol": 1, "pid": os.getpid()}
    assert answer == expected


@pytest.mark.parametrize("do", ["pause", "resume", "stop"])
def test_a_request_is_done_and_answered_with_the_status(standin: Standin, path: str, do: str) -> None:
    assert ask(path, do)["ops"] == 30
    assert standin.told == [do]


def test_a_refusal_reaches_the_client_as_what_it_was(standin: Standin, path: str) -> None:
    standin.failure = UsageError("it does not run")
    with pytest.raises(UsageError, match=r"vm\.sock: it does not run"):
        ask(path, "pause")
    assert ask(path, "status")["state"] == "running"


def test_one_connection_carries_many_requests_in_order(standin: Standin, path: str) -> None:
    with connect(path) as connection:
        answers = talk(connection, *(b'{"id": %d, "do": "status"}\n' % number for number in range(50)))
        assert [answer["id"] for answer in answers] == list(range(50))
        [answer] = talk(connection, b'{"id": "a", "do": "echo", "x": [1]}\n')
        assert (answer["id"], answer["ok"], answer["answer"]["x"]) == ("a", True, [1])


def test_a_request_may_come_byte_by_byte(standin: Standin, path: str) -> None:
    with connect(path) as connection:
        for byte in b'{"do": "paus':
            connection.sendall(bytes([byte]))
        assert ask(path, "status")
        assert talk(connection, b'e"}\n')[0]["ok"]
    assert standin.told == ["pause"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"do": "fly"}',
        b'{"do": "status", "loudly": true}',
        b'{"id": 9, "do": "pause", "until_ops": 4}',
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_the_next_one_heard(
    standin: Standin, path: str, line: bytes
) -> None:
    with connect(path) as connection:
        refusal, answer = talk(connection, line + b"\n", b'{"do": "status"}\n')
    assert (refusal["ok"], refusal["error"]["kind"], answer["ok"]) == (False, "UsageError", True)
    assert standin.told == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"null\n",
        b"[]\n",
        b"{}\n",
        b'{"do": 7}\n',
        b'{"do": ["status"]}\n',
        b'{"id": {}, "do": "status"}\n',
        b'{"do": "status"\n',
        b"\x00\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"do": "status", "n": ' + b"9" * 50_000 + b"}\n",
        b"x" * MOST_REQUEST_BYTES,
        b"x" * (3 * MOST_REQUEST_BYTES) + b"\n",
    ],
    ids=lambda garbage: f"{garbage[:12]!r} {len(garbage)}",
)
def test_garbage_is_answered_once_and_ends_the_connection_only(
    standin: Standin, path: str, garbage: bytes
) -> None:
    with connect(path) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(garbage + b'{"do": "pause"}\n')
        answers = rest_of(connection).splitlines()
    assert len(answers) <= 1
    assert all(json.loads(answer)["ok"] is False for answer in answers)
    assert standin.told == []
    assert ask(path, "status")["state"] == "running"


def test_random_bytes_do_no_harm(standin: Standin, path: str) -> None:
    random_bytes = random.Random(5)
    for _ in range(40):
        with connect(path) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(random_bytes.randbytes(random_bytes.randrange(2000)))
            if random_bytes.random() < 0.5:
                connection.shutdown(socket.SHUT_WR)
                rest_of(connection)
    assert ask(path, "status")["state"] == "running"
    assert standin.told == []


def test_a_client_that_vanishes_in_the_middle_is_forgotten(standin: Standin, path: str) -> None:
    before = open_fds()
    for sent in (b"", b'{"do": "pa', b'{"do": "status"}\n' * 500):
        with connect(path) as connection:
            connection.sendall(sent)
    assert ask(path, "status")
    deadline_s = time.monotonic() + SOON_S
    while open_fds() - before:
        assert time.monotonic() < deadline_s


def test_half_a_request_is_not_done_when_the_client_ends(standin: Standin, path: str) -> None:
    with connect(path) as connection:
        connection.sendall(b'{"do": "pause"}')
        connection.shutdown(socket.SHUT_WR)
        assert rest_of(connection) == b""
    assert standin.told == []


def test_half_a_request_has_a_time_to_end(
    standin: Standin, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(path) as patient, connect(path) as half:
        assert talk(patient, b'{"do": "status"}\n')
        half.sendall(b'{"do": ')
        monkeypatch.setattr(control_module, "PATIENCE_S", 0.0)
        assert rest_of(half) == b""
        monkeypatch.undo()
        assert talk(patient, b'{"do": "status"}\n')[0]["ok"]  # who asks nothing may stay


def test_a_flood_from_a_client_that_does_not_read_stops_at_the_sockets_buffers(
    standin: Standin, path: str
) -> None:
    with connect(path) as flooding:
        flooding.setblocking(False)
        sent = 0
        line = b'{"do": "status"}\n'
        poll = select.poll()
        poll.register(flooding, select.POLLOUT)
        while poll.poll(200):
            with contextlib.suppress(BlockingIOError):
                sent += flooding.send(line * 1000)
        assert sent < 4 << 20
        assert ask(path, "status")["state"] == "running"
        flooding.settimeout(SOON_S)
        flooding.shutdown(socket.SHUT_WR)
        answers = rest_of(flooding)
    # Every request that went out in whole is answered.
    assert answers.count(b"\n") == sent // len(line)


def test_clients_are_limited_in_number(standin: Standin, path: str) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_CLIENTS):
            connection = stack.enter_context(connect(path))
            assert talk(connection, b'{"do": "status"}\n')[0]["ok"]
        one_more = stack.enter_context(connect(path))
        assert json.loads(rest_of(one_more))["ok"] is False
    deadline_s = time.monotonic() + SOON_S
    while True:  # until it has seen them go
        with contextlib.suppress(VmckptError):
            ask(path, "status")
            break
        assert time.monotonic() < deadline_s


def test_the_socket_is_its_owners_only(standin: Standin, path: str) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def told(standin: Standin, what: str) -> None:
    """Wait until the machine was told that."""
    deadline_s = time.monotonic() + SOON_S
    while what not in standin.told:
        assert time.monotonic() < deadline_s


def test_a_conversation_is_one_connection(standin: Standin, path: str) -> None:
    with Conversation(path) as one, Conversation(path) as other:
        callers = [each.ask("remember", {"name": "x"}).values for each in (one, one, other)]
        assert callers[0]["caller"] == callers[1]["caller"] != callers[2]["caller"]
        assert not callers[0]["gone"]
        assert one.ask("echo", {"number": 7}).values["number"] == 7
        with pytest.raises(UsageError, match="there is no request 'fly'"):
            one.ask("fly")
        assert one.ask("status").descriptors == []


@pytest.mark.parametrize("padding", [0, 1_000_000], ids=["in one part", "in parts"])
def test_descriptors_come_with_the_answer(standin: Standin, path: str, padding: int) -> None:
    before = open_fds()
    with Conversation(path) as conversation:
        for count in (3, 17, 1):
            answer = conversation.ask("hand over", {"count": count, "padding": padding})
            assert [os.read(fd, 10) for fd in answer.descriptors] == [
                str(number).encode() for number in range(count)
            ]
            assert not any(os.get_inheritable(fd) for fd in answer.descriptors)
            for fd in answer.descriptors:
                os.close(fd)
        with pytest.raises(UsageError, match="after all, no"):
            conversation.ask("hand over", {"count": 5, "refuse": True})
        conversation.ask("remember", {"name": "this"})
    told(standin, "the end of this")
    assert open_fds() == before


def test_descriptors_that_nobody_takes_are_closed(standin: Standin, path: str) -> None:
    before = open_fds()
    with connect(path) as connection:  # does not read, and leaves with the answer half sent
        connection.sendall(b'{"do": "remember", "name": "this"}\n')
        connection.sendall(b'{"do": "hand over", "count": 9, "padding": 5000000}\n' * 2)
    told(standin, "the end of this")
    with connect(path) as connection:  # reads, but takes no descriptors: the kernel closes them
        connection.sendall(b'{"do": "hand over", "count": 2}\n')
        assert connection.recv(1 << 16).endswith(b"\n")
    ask(path, "status")
    deadline_s = time.monotonic() + SOON_S
    while open_fds() != before:
        assert time.monotonic() < deadline_s


@pytest.mark.parametrize("leave", ["close", "half close", "garbage", "half a request"])
def test_who_asked_to_be_told_is_told_of_the_end_of_a_connection(
    standin: Standin, path: str, monkeypatch: pytest.MonkeyPatch, leave: str
) -> None:
    monkeypatch.setattr(control_module, "PATIENCE_S", 0.05 if leave == "half a request" else PATIENCE_S)
    with connect(path) as connection:
        assert talk(connection, b'{"do": "remember", "name": "this"}\n')[0]["ok"]
        assert standin.told == []
        if leave == "close":
            connection.close()
        elif leave == "half close":
            connection.shutdown(socket.SHUT_WR)
        else:
            connection.sendall(b"nonsense\n" if leave == "garbage" else b"{")
            rest_of(connection)
        told(standin, "the end of this")
        assert standin.told == ["the end of this"]


def test_a_conversation_goes_over_a_connection_that_was_there_already() -> None:
    machine = Standin()
    ours, theirs = socket.socketpair()

    def remember(_: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        caller.at_end = lambda: machine.told.append("the end")
        return {}

    with ControlServer(None) as server:
        server.serve(machine, {"remember": remember})
        server.adopt(theirs)
        thread = threading.Thread(target=machine.serve, args=(server,))
        thread.start()
        with Conversation.over(ours) as conversation:
            assert conversation.ask("remember").values["ops"] == 30
            machine.stopping.set()
            thread.join()
            server.close()
            assert machine.told == ["the end"]
            with pytest.raises(IoError, match="the machine has ended"):
                conversation.ask("status")
        assert conversation.fileno() == -1


@pytest.mark.parametrize(
    ("said", "error_class"),
    [
        (b"", IoError),
        (b'{"id": 1, "ok": tr', IoError),
        (b"hello\n", SourceError),
        (b'{"id": 2, "ok": true, "answer": {}}\n', SourceError),
        (b'{"id": [], "ok": true, "answer": {}}\n', SourceError),
        (b'{"id": 1, "ok": true, "answer": []}\n', SourceError),
        (b"x" * 100_000, SourceError),
        (b'{"id": null, "ok": false, "error": {"kind": "UsageError", "message": "full"}}\n', UsageError),
        (b'{"id": 1, "ok": false, "error": {"kind": "SystemExit", "message": "ha"}}\n', VmckptError),
    ],
)
def test_what_is_said_in_a_conversation_is_checked(
    monkeypatch: pytest.MonkeyPatch, said: bytes, error_class: type[VmckptError]
) -> None:
    monkeypatch.setattr(client_module, "_MOST_ANSWER_BYTES", 1000)
    before = open_fds()
    ours, theirs = socket.socketpair()
    with theirs, Conversation.over(ours) as conversation:
        socket.send_fds(theirs, [said or b"\0"], [0, 1])
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(error_class):
            conversation.ask("status")
    assert open_fds() == before


def test_a_machine_that_does_not_answer_ends_a_conversation_by_a_timeout() -> None:
    ours, theirs = socket.socketpair()
    with (
        theirs,
        Conversation.over(ours, timeout_s=0.05) as conversation,
        pytest.raises(IoError, match="in time"),
    ):
        conversation.ask("status")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_turned_away_even_where_the_modes_would_let_him_in(path: str) -> None:
    machine = Standin()
    with ControlServer(path) as server:
        server.serve(machine)
        os.chmod(path, 0o666)
        os.chmod(".", 0o755)
        here, there = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.setresuid(65534, 65534, 65534)
                there.sendall(rest_of(connect(path)))
            os._exit(0)
        there.close()
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            machine.turn()
        with here:
            assert "user 65534 may not" in json.loads(rest_of(here))["error"]["message"]


def test_the_socket_goes_with_the_server(path: str) -> None:
    server = ControlServer(path)
    server.close()
    server.close()
    assert not os.path.lexists(path)
    with pytest.raises(IoError, match="cannot connect"):
        ask(path, "status")


def test_a_stale_socket_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(IoError, match="no machine listens at this socket any more"):
        ask(path, "status")
    with ControlServer(path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert not os.path.lexists(path)


def test_a_live_socket_is_refused_and_stays(standin: Standin, path: str) -> None:
    with pytest.raises(IoError, match="listens at this socket already"):
        ControlServer(path)
    assert ask(path, "status")["state"] == "running"


def test_what_is_no_socket_stays(path: str) -> None:
    Path(path).write_text("precious", encoding="utf-8")
    with pytest.raises(IoError, match="no socket has this name"):
        ControlServer(path)
    with pytest.raises(SourceError, match="no control socket"):
        ask(path, "status")
    assert Path(path).read_text(encoding="utf-8") == "precious"


def test_a_socket_that_somebody_else_has_put_there_since_stays(path: str) -> None:
    server = ControlServer(path)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        server.close()
        assert os.path.lexists(path)


@pytest.mark.parametrize("name", ["x" * 200, "missing/vm.sock"])
def test_a_path_that_cannot_be_is_an_error_with_the_path(path: str, name: str) -> None:
    with pytest.raises(VmckptError) as caught:
        ControlServer(name)
    assert caught.value.path == name


@pytest.mark.parametrize(
    "said", [b"", b"hello\n", b"[]\n", b'{"ok": true, "answer": 7}\n', b'{"ok": false}\n']
)
def test_something_else_that_listens_is_no_machine(path: str, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SourceError, match="does not answer as a machine does"):
            ask(path, "status")
        thread.join()


def test_a_machine_that_does_not_answer_is_given_up(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        with pytest.raises(IoError, match="did not answer"):
            ask(path, "status", timeout_s=0.05)


def test_a_machine_whose_queue_is_full_is_waited_for_and_then_given_up(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(path)
        with pytest.raises(IoError, match="cannot connect"):
            ask(path, "status", timeout_s=0.05)


def test_a_client_can_wait_for_the_socket_to_be_there(path: str) -> None:
    machine = Standin()

    def appear() -> None:
        with ControlServer(path) as server:
            server.serve(machine)
            machine.serve(server)

    thread = threading.Timer(0.1, appear)
    thread.start()
    try:
        assert ask(path, "status", wait_s=SOON_S)["state"] == "running"
    finally:
        machine.stopping.set()
        thread.join()


def test_a_real_machine_is_paused_resumed_and_stopped_by_its_socket(path: str) -> None:
    before, others = open_fds(), children()
    answers: dict[str, Mapping[str, object]] = {}

    def control() -> None:
        for do in ("status", "pause", "resume", "stop"):
            answers[do] = ask(path, do, until_closed=do == "stop")

    with boot(Ram(Layout.flat(64 * PAGE_BYTES)), vcpus=2) as machine, ControlServer(path) as server:
        server.serve(machine)
        machine.start()
        thread = threading.Thread(target=control)
        thread.start()
        assert machine.wait(SOON_S)
        server.close()
        thread.join()
        assert [answers[do]["state"] for do in answers] == ["running", "paused", "running", "stopped"]
        assert answers["stop"]["ops"] == machine.status().ops
        assert machine.machine_state().ops == machine.status().ops
    assert open_fds() == before
    assert children() == others


def test_the_limits_are_those_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "machine.md").read_text(encoding="utf-8")
    for limit in (f"{MOST_REQUEST_BYTES} bytes", f"{MOST_CLIENTS} clients", f"{PATIENCE_S:g} seconds"):
        assert limit in page
    for key in (*STATUS._fields, "pid", "protocol"):
        assert f"`{key}`" in page
