"""Worker processes: messages there and back, errors with their fields, deaths, and nothing left open."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from vmckpt.errors import (
    ChangedError,
    CorruptionError,
    FeatureError,
    FormatError,
    IoError,
    SourceError,
    UsageError,
    VmckptError,
    WorkerError,
)
from vmckpt.workers import Channel, Crew, affordable_workers, worker_count


def open_fds() -> set[str]:
    """This process's descriptors."""
    return set(os.listdir("/proc/self/fd"))


def children() -> list[int]:
    """This process's children, zombies included."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid():
            found.append(int(entry))
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Whatever a test does: afterwards there is no descriptor and no child that was not there before."""
    fds, before = open_fds(), children()
    yield
    assert open_fds() == fds
    assert children() == before


def echo(channel: Channel) -> None:
    for message in channel.messages():
        channel.send(message[::-1])


def collect(crew: Crew, count: int) -> list[tuple[int, bytes]]:
    answers: list[tuple[int, bytes]] = []
    while len(answers) < count:
        answers += crew.receive()
    return answers


def test_each_worker_answers_its_own_messages_in_order() -> None:
    with Crew(3, echo) as crew:
        assert len(crew) == 3
        for number in range(30):
            crew.send(number % 3, b"%d" % number)
        answers = collect(crew, 30)
    for worker in range(3):
        mine = [answer for who, answer in answers if who == worker]
        assert mine == [(b"%d" % number)[::-1] for number in range(worker, 30, 3)]


def listen(work: Callable[[Channel], None], *, workers: int = 1) -> None:
    """Give the last worker a message, and take answers until something is raised."""
    with Crew(workers, work) as crew:
        crew.send(workers - 1, b"go")
        while True:
            assert crew.receive() == [(workers - 1, b"first")]


@pytest.mark.parametrize("size", [0, 1, 4095, 65536, 1 << 20])
def test_messages_of_any_size_arrive_whole(size: int) -> None:
    message = bytes(range(256)) * (size // 256 + 1)
    with Crew(1, echo) as crew:
        crew.send(0, message[:size])
        assert collect(crew, 1) == [(0, message[:size][::-1])]


def test_ten_thousand_small_answers_arrive_in_order() -> None:
    def many(channel: Channel) -> None:
        for message in channel.messages():
            for number in range(int(message)):
                channel.send(number.to_bytes(4, "little"))

    with Crew(2, many) as crew:
        for worker in range(2):
            crew.send(worker, b"10000")
        answers = collect(crew, 20000)
    for worker in range(2):
        mine = [int.from_bytes(answer, "little") for who, answer in answers if who == worker]
        assert mine == list(range(10000))


@pytest.mark.parametrize(
    "kind",
    [VmckptError, IoError, ChangedError, FeatureError, UsageError, SourceError, FormatError, CorruptionError],
)
def test_an_error_arrives_with_its_class_and_fields(kind: type[VmckptError]) -> None:
    def fail(channel: Channel) -> None:
        next(channel.messages())
        raise kind("it went wrong", path="a/b", offset=4096, page=17)

    with pytest.raises(kind) as caught:
        listen(fail, workers=2)
    error = caught.value
    assert type(error) is kind
    assert (error.message, error.path, error.offset, error.page) == ("it went wrong", "a/b", 4096, 17)


def test_answers_of_before_an_error_are_not_mistaken_for_it() -> None:
    def fail_later(channel: Channel) -> None:
        next(channel.messages())
        channel.send(b"first")
        raise IoError("then this")

    with pytest.raises(IoError, match="then this"):
        listen(fail_later)


def test_a_message_to_a_worker_that_failed_raises_what_it_met() -> None:
    def fail(_channel: Channel) -> None:
        raise CorruptionError("at once", offset=3)

    def ask_on() -> None:
        with Crew(1, fail) as crew:
            while True:
                crew.send(0, b"do you hear me?")

    with pytest.raises(CorruptionError, match="at once"):
        ask_on()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_a_killed_worker_is_a_worker_error_that_names_the_signal(number: signal.Signals) -> None:
    def suicide(channel: Channel) -> None:
        next(channel.messages())
        os.kill(os.getpid(), number)

    with pytest.raises(WorkerError, match=f"killed by signal {int(number)}"):
        listen(suicide, workers=2)


def test_a_worker_killed_in_the_middle_of_an_answer_is_a_worker_error() -> None:
    def half(channel: Channel) -> None:
        next(channel.messages())
        os.write(channel._writing, (100).to_bytes(4, "little") + b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerError):
        listen(half)


def test_a_bug_in_a_worker_is_a_worker_error_and_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    def buggy(_channel: Channel) -> None:
        raise ZeroDivisionError("oh")

    with pytest.raises(WorkerError, match="exit code 1"), Crew(1, buggy) as crew:
        crew.receive()
    assert "ZeroDivisionError: oh" in capfd.readouterr().err


def test_leaving_by_an_exception_ends_workers_that_would_not_end() -> None:
    def deaf(_channel: Channel) -> None:
        while True:
            signal.pause()

    with pytest.raises(KeyError), Crew(3, deaf):
        raise KeyError("leave")


def test_leaving_lets_workers_finish_what_they_were_given(tmp_path: object) -> None:
    path = f"{tmp_path}/done"

    def finish(channel: Channel) -> None:
        for message in channel.messages():
            with open(path, "ab") as file:
                file.write(message)

    with Crew(1, finish) as crew:
        for _ in range(100):
            crew.send(0, b"x")
    with open(path, "rb") as file:
        assert file.read() == b"x" * 100


def test_workers_ignore_ctrl_c() -> None:
    def interrupted(channel: Channel) -> None:
        for message in channel.messages():
            os.kill(os.getpid(), signal.SIGINT)
            channel.send(message)

    with Crew(1, interrupted) as crew:
        crew.send(0, b"still here")
        assert collect(crew, 1) == [(0, b"still here")]


def test_a_worker_that_cannot_be_started_is_a_worker_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = os.fork
    started = 0

    def fork_once() -> int:
        nonlocal started
        started += 1
        if started > 1:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    monkeypatch.setattr(os, "fork", fork_once)
    with pytest.raises(WorkerError, match="cannot start a worker"):
        Crew(2, echo)


def test_a_parent_that_ignores_sigchld_changes_nothing() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with Crew(2, echo) as crew:
            crew.send(0, b"ab")
            assert collect(crew, 1) == [(0, b"ba")]

        def suicide(_channel: Channel) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        with pytest.raises(WorkerError), Crew(1, suicide) as crew:
            crew.receive()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_crew_works_where_stdout_and_stderr_are_closed() -> None:
    script = (
        "import os\n"
        "from vmckpt.workers import Crew\n"
        "with Crew(1, lambda channel: channel.send(next(channel.messages()))) as crew:\n"
        "    crew.send(0, b'x')\n"
        "    os._exit(42 if crew.receive() == [(0, b'x')] else 1)\n"
    )
    done = subprocess.run(
        ["bash", "-c", 'exec "$@" >&- 2>&-', "bash", sys.executable, "-c", script], check=False
    )
    assert done.returncode == 42


def test_buffered_text_is_not_written_twice() -> None:
    script = (
        "import sys\n"
        "from vmckpt.workers import Crew\n"
        "sys.stdout.write('once')\n"
        "with Crew(3, lambda channel: None):\n"
        "    pass\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"once"


def test_as_many_workers_as_asked_for_or_as_there_are_processors() -> None:
    assert worker_count(7) == 7
    assert worker_count(None) == len(os.sched_getaffinity(0))
    for jobs in (0, -1):
        with pytest.raises(UsageError, match="1 or more"):
            worker_count(jobs)


@pytest.mark.parametrize(
    ("jobs", "each_mib", "expected"),
    [(1, 1, 1), (2, 2, 2), (64, 2, 20), (64, 4, 16), (64, 128, 1), (3, 1024, 1)],
)
def test_workers_are_as_many_as_memory_allows_and_never_none(jobs: int, each_mib: int, expected: int) -> None:
    assert affordable_workers(jobs, each_mib << 20) == expected
