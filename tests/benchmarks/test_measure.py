import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from tests.benchmarks.cases import EXPERIMENTS, Contender, Experiment, expand
from tests.benchmarks.images import Image, created, found, ready
from tests.benchmarks.measure import CommandError, sampled, timed
from tests.benchmarks.trial import Bench, compare


@pytest.fixture
def errors(tmp_path: Path) -> str:
    return str(tmp_path / "errors")


def test_a_timed_command_reports_what_it_cost(errors: str) -> None:
    sample = timed([sys.executable, "-c", "b = bytearray(80 << 20)"], errors)
    assert sample.cpu_s > 0
    assert 0 < sample.wall_s < 30
    assert sample.rss_bytes is not None
    assert sample.rss_bytes >= 80 << 20


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["sh", "-c", "echo first >&2; echo no luck >&2; exit 3"], "status 3: no luck"),
        (["no-such-program-anywhere"], "no such program"),
        (["sh", "-c", "kill -9 $$"], "status -9: it said nothing"),
    ],
    ids=["exit status", "missing", "killed"],
)
def test_a_failed_command_says_why(argv: list[str], said: str, errors: str) -> None:
    with pytest.raises(CommandError, match=said):
        timed(argv, errors)


def test_a_command_that_hangs_is_killed_with_its_children(errors: str) -> None:
    with pytest.raises(CommandError, match="status -9"):
        timed(["sh", "-c", "sleep 60 & sleep 60"], errors, limit_s=0.1)


def test_an_interrupt_leaves_no_process_behind(errors: str, tmp_path: Path) -> None:
    pid_path = tmp_path / "pid"
    os.mkfifo(pid_path)
    pids: list[int] = []

    def interrupt() -> None:
        pids.append(int(pid_path.read_text()))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            timed(["sh", "-c", f"echo $$ > {pid_path}; exec sleep 60"], errors)
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_sampling_counts_every_process_of_the_session(errors: str) -> None:
    program = "import subprocess, sys; b = bytearray(40 << 20); subprocess.run(['sleep', '0.3'], check=True)"
    peak = sampled([sys.executable, "-c", program], errors, ("save", "i", "c", True))
    assert peak.processes == 2
    assert peak.pss_bytes >= 40 << 20
    assert peak.largest_bytes <= peak.rss_bytes
    assert (peak.experiment, peak.image, peak.contender, peak.ours) == ("save", "i", "c", True)


def test_placeholders_are_filled_in() -> None:
    argv = ("{vmckpt}", "save", "{image}", "--to={output}")
    places = {"image": "a b", "output": "{x}"}
    assert expand(argv, ("python", "-m", "vmckpt"), places) == [
        "python",
        "-m",
        "vmckpt",
        "save",
        "a b",
        "--to={x}",
    ]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.id)
def test_contenders_have_names_of_their_own_and_make_what_they_need(experiment: Experiment) -> None:
    ids = [contender.id for contender in experiment.contenders]
    assert len(set(ids)) == len(ids)
    for contender in experiment.contenders:
        words = " ".join(contender.argv)
        assert ("{packed}" in words) == bool(contender.prepare)
        assert not contender.prepare or experiment.packed


def test_one_that_fails_leaves_the_others_in_the_race(tmp_path: Path) -> None:
    image_path = tmp_path / "guest.raw"
    image_path.write_bytes(bytes(8192))
    copy = Contender("cp", ("cp", "{image}", "{output}"))
    ill = Contender("ill", ("sh", "-c", "echo no luck >&2; exit 1"))
    missing = Contender("missing", ("no-such-program",), needs=("no-such-program",))
    experiment = Experiment("save", "Save", (ill, copy, missing), "image")
    bench = Bench(("vmckpt",), str(tmp_path), 2)
    results = compare(bench, experiment, Image("guest", "raw", "real", 8192, str(image_path)))
    assert [(r.contender, len(r.samples)) for r in results] == [("ill", 0), ("cp", 2), ("missing", 0)]
    assert "no luck" in results[0].note
    assert results[1].file_bytes == 8192
    assert results[2].note == "not installed: no-such-program"
    assert sorted(os.listdir(tmp_path)) == ["errors", "guest.raw"]


def test_a_wrong_restore_is_found_out(tmp_path: Path) -> None:
    image_path = tmp_path / "guest.raw"
    image_path.write_bytes(b"memory")
    script = "echo other > $1"
    contender = Contender(
        "c", ("sh", "-c", script, "sh", "{output}", "{packed}"), ("cp", "{image}", "{packed}")
    )
    bench = Bench(("vmckpt",), str(tmp_path), 1)
    image = Image("guest", "raw", "real", 6, str(image_path))
    (result,) = compare(
        bench, Experiment("restore", "Restore", (contender,), "raw image", packed=True), image
    )
    assert "differs" in result.note
    assert not result.samples


def test_images_are_found_by_suffix_smallest_first_and_not_twice(tmp_path: Path) -> None:
    given, shared = tmp_path / "given", tmp_path / "shared"
    given.mkdir()
    shared.mkdir()
    for name, size in (("b.raw", 9000), ("a.elf", 10000), ("note.txt", 1)):
        (given / name).write_bytes(bytes(size))
    for name in ("b.raw.zst", "c.raw.zst"):
        (shared / name).write_bytes(b"")
    images = found(str(given), str(shared))
    assert [(image.name, image.kind) for image in images] == [
        ("c.raw", "raw"),
        ("b.raw", "raw"),
        ("a.elf", "elf"),
    ]


def test_a_created_image_is_there_while_needed_and_gone_after(tmp_path: Path) -> None:
    command = ("sh", "-c", 'truncate -s "$4" "$2"', "vmckpt")
    with ready(created(1 << 20), str(tmp_path), command) as image:
        assert os.path.getsize(image.path) == 1 << 20
    assert os.listdir(tmp_path) == []
