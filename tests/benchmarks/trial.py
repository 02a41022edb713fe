"""The rounds: each contender of an experiment in turn, again and again, on one image.

    prepare each contender ─▶ warm the image ─▶ one warm-up round ─▶ A B C, A B C, ... ─▶ results

By turns, so that what slows the machine for a while slows everyone. Outputs are absent before each run, and what was
written is flushed between runs, so that one contender's write-back is not another's burden. A restored image is
compared with the original after the warm-up. A contender that fails leaves the rounds with a note; the others go on.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

from tests.benchmarks.cases import QEMU_SYNC, Contender, Experiment, expand
from tests.benchmarks.images import Image, warm
from tests.benchmarks.measure import CommandError, sampled, timed
from tests.benchmarks.qemu import migrated
from tests.benchmarks.results import Footprint, Result, Sample

__all__ = ["FULL_RUNS", "Bench", "compare", "footprints"]

FULL_RUNS = 5
"""What is asked for unless somebody asks for another number."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and with what the experiments run."""

    vmckpt: tuple[str, ...]
    """The command under test."""
    work_dir: str
    """Holds all outputs; on the disk that is measured."""
    runs: int
    """Timed runs of each contender."""

    def scaled(self, full: int) -> int:
        """How often to measure what a full run measures `full` times: more or less often where more or fewer runs are asked for."""
        return max(full * self.runs // FULL_RUNS, 1)


@dataclass(slots=True)
class _Entry:
    # A contender in the race, and how it has done so far; with a note, it is out.
    contender: Contender
    places: dict[str, str]
    stderr_path: str
    samples: list[Sample] = field(default_factory=list)
    file_bytes: int | None = None
    disk_bytes: int | None = None
    note: str = ""


def compare(bench: Bench, experiment: Experiment, image: Image) -> list[Result]:
    """Run `experiment` on `image` and return a result for each contender, in the experiment's order."""
    entries = _entries(bench, experiment, image)
    try:
        for entry in entries:
            _prepare(bench, entry)
        if experiment.subject in {"image", "raw image"}:
            warm(image.path)
        for number in range(bench.runs * experiment.run_factor + 1):
            # Each round starts with another one: what the one before leaves behind (freed memory that a host takes
            # back, dirty pages) must not always fall to the same.
            first = number % len(entries)
            for entry in (*entries[first:], *entries[:first]):
                _take_turn(bench, experiment, entry, warm_up=number == 0)
            _say("." if number else "~")
    finally:
        for entry in entries:
            _remove(entry.places["packed"], entry.places["output"])
        _say("\n")
    return [_result(experiment, image, entry) for entry in entries]


def footprints(bench: Bench, experiment: Experiment, image: Image) -> list[Footprint]:
    """Peak memory of each contender on `image`, in one run each; failures and QEMU, which maps the image, left out."""
    found = []
    for entry in _entries(bench, experiment, image):
        try:
            _prepare(bench, entry)
            if not entry.note and entry.contender.argv:
                labels = (experiment.id, image.name, entry.contender.id, entry.contender.ours)
                argv = expand(entry.contender.argv, bench.vmckpt, entry.places)
                found.append(sampled(argv, entry.stderr_path, labels))
        except CommandError as error:
            _say(f"{error}\n")
        finally:
            _remove(entry.places["packed"], entry.places["output"])
        _say(".")
    _say("\n")
    return found


def _entries(bench: Bench, experiment: Experiment, image: Image) -> list[_Entry]:
    entries = []
    for number, contender in enumerate(experiment.contenders):
        places = {
            "image": image.path,
            "packed": os.path.join(bench.work_dir, f"packed-{number}"),
            "output": os.path.join(bench.work_dir, "output"),
            "python": sys.executable,
        }
        entry = _Entry(contender, places, os.path.join(bench.work_dir, "errors"))
        missing = [program for program in contender.needs if shutil.which(program) is None]
        if missing:
            entry.note = f"not installed: {', '.join(missing)}"
        elif contender.raw_only and image.kind != "raw":
            entry.note = "reads raw images only"
        entries.append(entry)
    return entries


def _prepare(bench: Bench, entry: _Entry) -> None:
    if entry.note or not entry.contender.prepare:
        return
    _remove(entry.places["packed"])
    try:
        timed(expand(entry.contender.prepare, bench.vmckpt, entry.places), entry.stderr_path)
    except CommandError as error:
        entry.note = f"cannot be prepared: {error}"


def _take_turn(bench: Bench, experiment: Experiment, entry: _Entry, *, warm_up: bool) -> None:
    if entry.note:
        return
    _remove(entry.places["output"])
    os.sync()
    try:
        sample = _run(bench, entry)
        if warm_up:
            _look_at_files(experiment, entry)
        else:
            entry.samples.append(sample)
    except CommandError as error:
        entry.note = str(error)
        entry.samples.clear()
    finally:
        _remove(entry.places["output"])


def _run(bench: Bench, entry: _Entry) -> Sample:
    if entry.contender.argv:
        return timed(expand(entry.contender.argv, bench.vmckpt, entry.places), entry.stderr_path)
    sync = entry.contender.id == QEMU_SYNC.id
    return migrated(entry.places["image"], entry.places["output"], bench.work_dir, sync=sync)


def _look_at_files(experiment: Experiment, entry: _Entry) -> None:
    # The sizes of the compressed file, and, where memory was restored, whether it is the memory that was saved.
    places = entry.places
    path = places["packed"] if experiment.packed else places["output"]
    if os.path.exists(path):
        status = os.stat(path)
        entry.file_bytes, entry.disk_bytes = status.st_size, status.st_blocks * 512
    if experiment.packed and os.path.exists(places["output"]):
        same = subprocess.run(["cmp", "-s", places["image"], places["output"]], check=False)
        if same.returncode:
            raise CommandError("the restored image differs from the one that was saved", path=places["image"])


def _result(experiment: Experiment, image: Image, entry: _Entry) -> Result:
    return Result(
        experiment.id,
        image.name,
        entry.contender.id,
        entry.contender.ours,
        tuple(entry.samples),
        entry.file_bytes,
        entry.disk_bytes,
        entry.note,
    )


def _remove(*paths: str) -> None:
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
