import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from vmckpt.errors import FeatureError, IoError, WorkerError
from vmckpt.kernel.process import (
    Peer,
    Pidfd,
    die_with_parent,
    keep_only,
    name_process,
    peer_of,
    receive_descriptors,
    send_descriptors,
    undisturbed,
    unstoppable,
)

Pair = tuple[socket.socket, socket.socket]


def child(body: Callable[[], None]) -> int:
    """Fork a process that runs `body`; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return pid


def end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_SEQPACKET], ids=["stream", "packets"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    one, other = socket.socketpair(socket.AF_UNIX, request.param)
    with one, other:
        yield one, other


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Names and ends


@pytest.mark.parametrize("name", ["vmckpt-vcpu", "vmckpt-handler"])
def test_a_process_shows_its_name(name: str) -> None:
    def body() -> None:
        name_process(name)
        with open("/proc/self/comm", encoding="ascii") as comm:
            assert comm.read() == name + "\n"

    assert end_of(child(body)) == 0


def test_a_name_that_the_kernel_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="'vmckpt-handlers1' has 16"):
        name_process("vmckpt-handlers1")


def test_a_child_ends_with_its_parent() -> None:
    reading, writing = os.pipe()

    def parent() -> None:
        os.close(reading)
        here = os.getpid()
        ready, armed = os.pipe()

        def waits() -> None:
            die_with_parent(here)
            os.write(armed, b"x")
            signal.pause()

        child(waits)
        os.read(ready, 1)

    assert end_of(child(parent)) == 0
    os.close(writing)
    assert os.read(reading, 1) == b""  # the grandchild, which held the pipe, is gone as well
    os.close(reading)


def test_a_parent_that_ended_before_is_noticed() -> None:
    def body() -> None:
        with pytest.raises(WorkerError, match="process 1, ended before"):
            die_with_parent(1)

    assert end_of(child(body)) == 0


def test_a_pidfd_tells_the_end_and_reaps() -> None:
    reading, writing = os.pipe()

    def body() -> None:
        os.read(reading, 1)
        os._exit(7)

    pid = child(body)
    with Pidfd(pid) as process:
        assert not process.wait(timeout_s=0)
        os.write(writing, b"x")
        assert process.wait()
        assert process.reap() == 7
        assert not process.signal(signal.SIGTERM)
        with pytest.raises(IoError, match=f"cannot wait for process {pid}"):
            process.reap()
    os.close(reading)
    os.close(writing)


def test_a_pidfd_signals() -> None:
    with Pidfd(child(signal.pause)) as process:
        assert process.signal(signal.SIGKILL)
        assert process.reap() == -signal.SIGKILL


def test_there_is_no_pidfd_of_nobody() -> None:
    pid = child(lambda: None)
    end_of(pid)
    with pytest.raises(IoError, match=f"cannot hold on to process {pid}"):
        Pidfd(pid)


def test_without_pidfds_the_feature_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(FeatureError, match="no pidfd"):
        Pidfd(os.getpid())


# Sockets


def test_descriptors_arrive_with_their_message(pair: Pair) -> None:
    reading, writing = os.pipe()
    send_descriptors(pair[0], b"hello", [reading, writing])
    message, received = receive_descriptors(pair[1], 100, 2)
    assert message == b"hello"
    assert not any(os.get_inheritable(fd) for fd in received)
    os.write(received[1], b"x")
    assert os.read(reading, 1) == b"x"
    for fd in (reading, writing, *received):
        os.close(fd)


def test_a_message_may_come_without_descriptors(pair: Pair) -> None:
    pair[0].send(b"hello")
    assert receive_descriptors(pair[1], 100, 2) == (b"hello", [])


@pytest.mark.parametrize(("sent", "limit"), [(2, 1), (3, 1), (4, 3), (1, 0), (253, 2)])
def test_more_descriptors_than_expected_are_refused_and_closed(pair: Pair, sent: int, limit: int) -> None:
    with open(os.devnull, "rb") as null:
        before = descriptors()
        send_descriptors(pair[0], b"hello", [null.fileno()] * sent)
        with pytest.raises(IoError, match=f"more descriptors than the {limit} expected"):
            receive_descriptors(pair[1], 100, limit)
        assert descriptors() == before


def test_a_longer_packet_than_expected_is_refused_and_its_descriptors_closed() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other, open(os.devnull, "rb") as null:
        before = descriptors()
        send_descriptors(one, b"hello", [null.fileno()])
        with pytest.raises(IoError, match="longer message"):
            receive_descriptors(other, 4, 1)
        assert descriptors() == before


def test_a_peer_that_has_gone_is_an_error(pair: Pair) -> None:
    pair[0].close()
    with pytest.raises(IoError, match="closed the connection"):
        receive_descriptors(pair[1], 100, 1)
    with pytest.raises(IoError, match="cannot send descriptors"):
        send_descriptors(pair[1], b"hello", [])


def test_a_message_that_does_not_fit_is_an_error_not_half_a_message() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        one.setblocking(False)
        with pytest.raises(IoError, match="was cut"):
            send_descriptors(one, bytes(1 << 24), [])


def test_descriptors_need_a_byte_to_travel_with(pair: Pair) -> None:
    with pytest.raises(ValueError, match="cannot send 1 descriptors with 0 bytes"):
        send_descriptors(pair[0], b"", [0])
    with pytest.raises(ValueError, match="cannot send 254 descriptors"):
        send_descriptors(pair[0], b"x", [0] * 254)


def test_the_peer_of_a_connection_is_known(pair: Pair) -> None:
    assert peer_of(pair[0]) == Peer(os.getpid(), os.geteuid(), os.getegid())


def test_other_sockets_have_no_peer_process() -> None:
    with (
        socket.socket(socket.AF_INET) as connection,
        pytest.raises(IoError, match="cannot tell who connected"),
    ):
        peer_of(connection)


def test_a_child_keeps_the_descriptors_that_it_is_told_to_and_the_standard_ones() -> None:
    kept, closed = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    pid = os.fork()
    if pid == 0:
        # 0 stands for a memfd of a process that was started without standard input.
        keep_only(kept, 0)
        os._exit(
            sum(
                1 << bit
                for bit, fd in enumerate((0, 2, kept, closed))
                if os.path.exists(f"/proc/self/fd/{fd}")
            )
        )
    _, status = os.waitpid(pid, 0)
    os.close(kept)
    os.close(closed)
    assert os.waitstatus_to_exitcode(status) & 0b1100 == 0b0100


def test_signals_wait_until_the_moment_is_over() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            assert got == []
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_z_is_ignored_for_a_while() -> None:
    before = signal.getsignal(signal.SIGTSTP)
    with unstoppable():
        assert signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTSTP) is before
