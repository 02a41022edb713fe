"""Lazy restores: how soon the machine runs, what it waits for, how soon it is itself again, and whether it survives.

lazy-start, lazy-background, lazy-kills ─▶ whole commands, their JSON
lazy-layout, lazy-ttr, lazy-divergence  ─▶ `vmckpt bench`, its JSON: medians and extremes of its own runs
lazy-fault                              ─▶ `fault_cost`: our handler and a minimal one, by turns
                                        all ─▶ readings
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from tests.benchmarks import fault_cost
from tests.benchmarks.cases import LiveExperiment
from tests.benchmarks.lazy_cases import (
    FAULT_SUBJECTS,
    KILLS,
    START,
    START_SIZES_BYTES,
    start_name,
)
from tests.benchmarks.lazy_experiments import (
    Values,
    divergence_readings,
    layout_readings,
    number_of,
    reading,
    ttr_readings,
)
from tests.benchmarks.measure import CommandError, asked
from tests.benchmarks.results import Reading
from tests.benchmarks.trial import Bench
from tests.restoring.runs import named
from vmckpt.errors import VmckptError
from vmckpt.layout import PAGE_BYTES

__all__ = [
    "measure_lazy",
    "read_background",
]

STARTS, BENCH_RUNS, BACKGROUNDS, FAULT_ROUNDS = 9, 3, 5, 15
"""Runs of each in a full run."""
_WARMUP_OPS, _START_OPS = 20_000, 1000
_BACKGROUND_BYTES = 2 << 30
_CODECS = (("default codec", ()), ("--codec raw", ("--codec", "raw")))
_KILL_BYTES, _KILL_OPS = 256 << 20, 600_000
_BENCH_LIMIT_S = 7200.0


def measure_lazy(bench: Bench, experiment: LiveExperiment) -> Iterator[Reading]:
    """What an experiment finds; where it cannot be measured, a note."""
    try:
        yield from _MEASURES[experiment.id](bench)
    except (VmckptError, ImportError) as error:
        yield Reading(experiment.id, "-", "", "", "x", note=str(error))
    finally:
        _say("\n")


def _starts(bench: Bench, sizes_bytes: Sequence[int] = START_SIZES_BYTES) -> Iterator[Reading]:
    paths = {size: _path(bench, f"start-{size}") for size in sizes_bytes}
    found: dict[int, list[float]] = {size: [] for size in sizes_bytes}
    try:
        until_ops = {size: _saved_sparse(bench, size, path) + _START_OPS for size, path in paths.items()}
        for number in range(bench.scaled(STARTS) + 1):
            for size, path in paths.items():
                values = _restored(bench, path, "--prefetch", "none", "--until-ops", str(until_ops[size]))
                if number:
                    found[size].append(number_of(values, "time_to_run_s"))
            _say("." if number else "~")
    finally:
        _remove(*paths.values())
    for size, times_s in found.items():
        yield reading("lazy-start", start_name(size), START, "time to run", tuple(times_s))


def _saved_sparse(bench: Bench, size_bytes: int, path: str) -> int:
    # A machine that has used some pages all over a memory of zeros, saved live; the operations it had done.
    image = _path(bench, "sparse.raw")
    with open(image, "wb") as file:
        file.truncate(size_bytes)
    try:
        options = ("--workload", "uniform", "--warmup-ops", str(_WARMUP_OPS), "--json")
        values = asked([*bench.vmckpt, "save", image, path, *options], _errors(bench))
    finally:
        _remove(image)
    done = values.get("ops_at_checkpoint")
    if not isinstance(done, list) or not done or not isinstance(done[0], int):
        raise CommandError(f"the save's JSON has ops_at_checkpoint {done!r}: expected a list of numbers")
    return done[0]


def _backgrounds(bench: Bench, size_bytes: int = _BACKGROUND_BYTES) -> Iterator[Reading]:
    image = _path(bench, "background.raw")
    paths = {name: _path(bench, f"background-{at}") for at, (name, _) in enumerate(_CODECS)}
    found: dict[str, list[float]] = {name: [] for name in paths}
    try:
        _run(bench, "create", image, "--size", f"{size_bytes >> 20}M")
        for name, options in _CODECS:
            _run(bench, "save", image, paths[name], *options)
        for number in range(bench.scaled(BACKGROUNDS) + 1):
            for name, path in paths.items():
                idle = ("--prefetch", "none", "--workload", "uniform", "--until-ops", "0")
                values = _restored(bench, path, *idle)
                if number:
                    found[name].append(read_background(values))
            _say("." if number else "~")
    finally:
        _remove(image, *paths.values())
    for name, rates in found.items():
        yield reading("lazy-background", start_name(size_bytes), name, "memory brought", tuple(rates))


def read_background(values: Values) -> float:
    """Memory that is not zero, in GB/s, from the moment in which the machine ran until all was there.

    Raises:
        CommandError: the restore does not say.
    """
    pages = values.get("pages")
    if not isinstance(pages, dict):
        raise CommandError("the restore's JSON has no pages")
    brought = sum(number_of(pages, key) for key in ("prefetched", "on_demand", "neighbours", "background"))
    took_s = number_of(values, "resident_s") - number_of(values, "time_to_run_s")
    if not brought or took_s <= 0:
        raise CommandError("the restore has brought nothing in the background")
    return brought * PAGE_BYTES / took_s / 1e9


def _kills(bench: Bench, size_bytes: int = _KILL_BYTES, until_ops: int = _KILL_OPS) -> Iterator[Reading]:
    # Whole commands; from outside, the handler is killed once, at a random moment of its life.
    image, path = _path(bench, "kills.raw"), _path(bench, "kills")
    rng = random.Random(0)
    right: list[float] = []
    try:
        _run(bench, "create", image, "--size", f"{size_bytes >> 20}M")
        machine = ("--workload", "working-set", "--warmup-ops", "100000")
        _run(bench, "save", image, path, *machine)
        never = asked([*bench.vmckpt, "run", path, "--until-ops", str(until_ops), "--json"], _errors(bench))
        life_s = number_of(_restored(bench, path, "--until-ops", str(until_ops)), "resident_s")
        while len(right) < bench.scaled(KILLS):
            argv = [*bench.vmckpt, "restore", "--lazy", path, "--until-ops", str(until_ops), "--json"]
            printed, killed = _killed(argv, rng.uniform(0.0, life_s))
            if killed:
                right.append(float(f'"digest": "{never["digest"]}"' in printed))
                _say("." if right[-1] else "X")
    finally:
        _remove(image, path)
    yield reading("lazy-kills", start_name(size_bytes), START, "right digests", tuple(right))


def _killed(argv: Sequence[str], after_s: float) -> tuple[str, bool]:
    # What the command prints, and whether there was a handler to be killed so long after its start.
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        time.sleep(after_s)
        handlers = [
            handler
            for keeper in named(process.pid, "vmckpt-keeper")
            for handler in named(keeper, "vmckpt-handler")
        ]
        killed = False
        for pid in handlers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed = True
        printed, _ = process.communicate(timeout=120)
    return printed, killed


def _faults(bench: Bench) -> Iterator[Reading]:
    for codec in ("raw", "auto"):
        for pause_us in (0, 200):
            setting = fault_cost.Setting(codec, pause_us=pause_us)
            found = fault_cost.measure_faults(setting, bench.scaled(FAULT_ROUNDS), bench.work_dir)
            _say(".")
            where = f"64 KiB, {codec}, " + ("back to back" if not pause_us else f"every {pause_us} µs")
            for name, costs in found.items():
                values, ours = tuple(costs.median_s), name == FAULT_SUBJECTS[0]
                yield Reading("lazy-fault", where, name, "a fault", "s", values, ours)


def _experiment(bench: Bench, name: str) -> Values:
    runs = str(bench.scaled(BENCH_RUNS))
    argv = [*bench.vmckpt, "bench", name, "--runs", runs, "--json"]
    return asked(argv, _errors(bench), _BENCH_LIMIT_S)


def _restored(bench: Bench, path: str, *options: str) -> Values:
    return asked([*bench.vmckpt, "restore", "--lazy", path, *options, "--json"], _errors(bench))


def _run(bench: Bench, *arguments: str) -> None:
    asked([*bench.vmckpt, *arguments, "--json"], _errors(bench))


def _path(bench: Bench, name: str) -> str:
    return os.path.join(bench.work_dir, f"lazy-{name}")


def _errors(bench: Bench) -> str:
    return os.path.join(bench.work_dir, "errors")


def _remove(*paths: str) -> None:
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


_MEASURES: Mapping[str, Callable[[Bench], Iterator[Reading]]] = {
    "lazy-start": _starts,
    "lazy-layout": lambda bench: layout_readings(_experiment(bench, "halite")),
    "lazy-ttr": lambda bench: ttr_readings(_experiment(bench, "working-set")),
    "lazy-divergence": lambda bench: divergence_readings(_experiment(bench, "divergence")),
    "lazy-background": _backgrounds,
    "lazy-fault": _faults,
    "lazy-kills": _kills,
}
