"""Saves of a running machine: how long it stands still, how fast it works meanwhile, what the save costs, what it records.

    sizes ─▶ image ─▶ running machine ─▶ save after save, the ways to do it by turns ─▶ readings, results

One machine serves many saves, as a machine that is saved every hour would; between two of them it works in peace for
a second. A suspend ends its machine, so there each save has a machine of its own. `traps` is apart: it needs no machine.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.benchmarks.cases import AT_REST, QUANTITIES, RUNNING, LiveExperiment
from tests.benchmarks.emulated import Emulated, running
from tests.benchmarks.images import Image
from tests.benchmarks.measure import CommandError, timed
from tests.benchmarks.results import Reading, Result, Sample
from tests.benchmarks.traps import measure_traps
from tests.benchmarks.trial import Bench
from tests.benchmarks.used import foresight, used_pages
from vmckpt.checkpoint.file import CheckpointFile
from vmckpt.checkpoint.format import SectionType
from vmckpt.errors import VmckptError
from vmckpt.machine.state import MachineState

__all__ = ["Series", "measure_live", "read_pause", "read_records", "read_speed"]

PAUSES, SAVES, TIMES, RECORDS = 9, 7, 5, 3
"""Saves for a pause, a speed, a time, a set of active pages, in a full run."""
_PEACE_S = 1.1  # what a machine tells about its speed before a save is that of its last second
_BREATH_S = 0.3  # for what is left of the save before: its mappings go in the background

Found = Reading | Result
Values = Mapping[str, object]
"""The JSON of a save."""
Read = Callable[[Values, str], dict[str, float]]
"""Quantities by name, from a save's JSON and the path of its checkpoint."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to save a running machine."""

    id: str
    """What its row is called."""
    options: tuple[str, ...]
    """Of `vmckpt save`."""


_ACCESS = Way("--trace access", ("--trace", "access"))
_WRITE = Way("--trace write", ("--trace", "write"))
_WORKING_SET = Way("--trace working-set", ("--trace", "working-set"))
_SUSPEND = Way("--mode suspend", ("--mode", "suspend"))


@dataclass(slots=True)
class Series:
    """The saves of one way, as they are made; with a note, it is out."""

    way: Way
    """How they are made."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """What was read off each."""
    note: str = ""
    """Why there are no more."""

    def readings(self, experiment: str, image: str, prefix: str = "") -> Iterator[Reading]:
        """A reading for each quantity; one that has failed is a note and nothing else."""
        name = prefix + self.way.id
        if self.note or not self.rows:
            yield Reading(experiment, image, name, "", "x", note=self.note or "there was no save")
            return
        for quantity in self.rows[0]:
            values = tuple(row[quantity] for row in self.rows)
            yield Reading(experiment, image, name, quantity, QUANTITIES[quantity], values)


def read_pause(values: Values, path: str) -> dict[str, float]:
    """How long the machine stood still.

    Raises:
        CommandError: the save does not say.
    """
    del path
    return {"pause": _number(values, "pause_s")}


def read_speed(values: Values, path: str) -> dict[str, float]:
    """How fast the machine was, and how long the save took.

    Raises:
        CommandError: the save does not say, or the machine did nothing before it.
    """
    del path
    before, during = _number(values, "ops_per_s_before"), _number(values, "ops_per_s_during")
    if before <= 0:
        raise CommandError("the machine did nothing in the second before the save")
    return {
        "speed meanwhile": during / before,
        "operations before": before,
        "operations meanwhile": during,
        "save": _number(values, "elapsed_s"),
    }


def read_records(values: Values, path: str) -> dict[str, float]:
    """The recorded active pages against those used in the second after the checkpoint, at the speed before it.

    Raises:
        CommandError: the save does not say how fast the machine was.
        VmckptError: the checkpoint at `path` cannot be read.
    """
    with CheckpointFile.open(path) as checkpoint:
        recorded = checkpoint.active_pages()
        body = checkpoint.section(SectionType.VCPU_STATE) or b""
        state = MachineState.from_json(body, page_count=checkpoint.layout.page_count)
    used = used_pages(state, round(_number(values, "ops_per_s_before") / len(state.vcpus)))
    found = foresight(recorded, used)
    return {
        "used pages that are recorded": found.recall,
        "recorded pages for a used one": found.size,
        "recorded pages": float(len(recorded)),
        "pages used in the next second": float(len(used)),
    }


def _number(values: Values, key: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CommandError(f"the save's JSON has {key} {value!r}: expected a number")
    return float(value)


def measure_live(bench: Bench, experiment: LiveExperiment, image: Image) -> Iterator[Found]:
    """What an experiment finds on an image; where it cannot be measured, a note."""
    try:
        yield from _MEASURES[experiment.id](bench, image)
    except VmckptError as error:
        yield Reading(experiment.id, image.name, "", "", "x", note=str(error))
    finally:
        _say("\n")


def _pauses(bench: Bench, image: Image) -> Iterator[Reading]:
    with running(bench, image.path) as machine:
        made = _series(machine, (_ACCESS, _WRITE), bench.scaled(PAUSES), read_pause, _BREATH_S)
    for series in made:
        yield from series.readings("live-pause", image.name)


def _speeds(bench: Bench, image: Image) -> Iterator[Reading]:
    count = bench.scaled(SAVES)
    for vcpus in (1, 2):
        prefix = "1 vCPU, " if vcpus == 1 else f"{vcpus} vCPUs, "
        with running(bench, image.path, vcpus=vcpus) as machine:
            made = _series(machine, (_ACCESS, _WRITE), count, read_speed, _PEACE_S)
        for series in made:
            yield from series.readings("live-speed", image.name, prefix)
    yield from _suspends(bench, image, count).readings("live-speed", image.name, "1 vCPU, ")


def _suspends(bench: Bench, image: Image, count: int) -> Series:
    series = Series(_SUSPEND)
    for number in range(count + 1):
        with running(bench, image.path) as machine:
            machine.work(_PEACE_S)
            _add(series, machine, read_speed, counts=number > 0)
        _say("." if number else "~")
    return series


def _records(bench: Bench, image: Image) -> Iterator[Reading]:
    ways = (_ACCESS, _WORKING_SET, _WRITE)
    with running(
        bench, image.path
    ) as machine:  # a second of peace comes with each reading, which takes as long
        made = _series(machine, ways, bench.scaled(RECORDS), read_records, _BREATH_S)
    for series in made:
        yield from series.readings("live-active", image.name)


def _series(machine: Emulated, ways: Sequence[Way], count: int, read: Read, peace_s: float) -> list[Series]:
    # Save by turns, after one of each that does not count.
    machine.work(_PEACE_S)
    made = [Series(way) for way in ways]
    for number in range(count + 1):
        for series in made[:: 1 if number % 2 else -1]:
            _add(series, machine, read, counts=number > 0)
            machine.work(peace_s)
        _say("." if number else "~")
    return made


def _add(series: Series, machine: Emulated, read: Read, *, counts: bool) -> None:
    # One save more, unless one failed before.
    if series.note:
        return
    path = os.path.join(machine.bench.work_dir, "live")
    try:
        values = machine.save(path, *series.way.options)
        if counts:
            series.rows.append(read(values, path))
    except VmckptError as error:
        series.note = str(error)
    finally:
        _remove(path)


def _times(bench: Bench, image: Image) -> Iterator[Result]:
    # The memory at rest is that of the checkpoint just made: restored, while the machine stands still.
    samples: dict[str, list[Sample]] = {RUNNING: [], AT_REST: []}
    sizes: dict[str, int] = {}
    live_path, raw_path, rest_path = (os.path.join(bench.work_dir, name) for name in ("live", "raw", "rest"))
    try:
        with running(bench, image.path) as machine:
            machine.work(_PEACE_S)
            for number in range(bench.scaled(TIMES) + 1):
                live = _timed_save(bench, machine.socket_path, live_path)
                machine.pause()
                timed([*bench.vmckpt, "restore", live_path, raw_path, "--force"], machine.errors_path)
                at_rest = _timed_save(bench, raw_path, rest_path)
                machine.resume()
                if number:  # the first round warms up
                    samples[RUNNING].append(live)
                    samples[AT_REST].append(at_rest)
                sizes = {RUNNING: os.path.getsize(live_path), AT_REST: os.path.getsize(rest_path)}
                _say("." if number else "~")
    finally:
        _remove(live_path, raw_path, rest_path)
    for contender, found in samples.items():
        size_bytes = sizes[contender]
        yield Result("live-time", image.name, contender, True, tuple(found), size_bytes, size_bytes)


def _timed_save(bench: Bench, source: str, output_path: str) -> Sample:
    _remove(output_path)
    os.sync()
    argv = [*bench.vmckpt, "save", source, output_path, "--quiet"]
    sample = timed(argv, os.path.join(bench.work_dir, "errors"))
    return replace(sample, rss_bytes=None)  # this process has grown too large to tell (see `measure`)


def _remove(*paths: str) -> None:
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


_MEASURES: Mapping[str, Callable[[Bench, Image], Iterator[Found]]] = {
    "live-pause": _pauses,
    "live-speed": _speeds,
    "live-time": _times,
    "live-active": _records,
    "live-traps": lambda bench, _: measure_traps(bench),
}
