"""`python -m tests.benchmarks`: every experiment on every image; tables on stdout, JSON in bench-results/."""

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from tests.benchmarks import machine
from tests.benchmarks.cases import EXPERIMENTS, LIVE, SHARING, Experiment, LiveExperiment, machine_name
from tests.benchmarks.images import BIG_SPARSE, NO_IMAGE, Image, created, found, ready
from tests.benchmarks.lazy_cases import LAZY
from tests.benchmarks.measure import rss_floor_bytes
from tests.benchmarks.report import render, tables
from tests.benchmarks.results import Outcome, Reading
from tests.benchmarks.targets import judge, verdict_table
from tests.benchmarks.trial import FULL_RUNS, Bench, compare, footprints
from vmckpt.errors import IoError, VmckptError
from vmckpt.units import format_size, parse_size

__all__ = ["RESULTS_DIR", "default_vmckpt", "main"]

RESULTS_DIR = "bench-results"
_LIVE_NAMES = [experiment.id for experiment in LIVE]
_LAZY_NAMES = [experiment.id for experiment in LAZY]
_SHARING_NAMES = [experiment.id for experiment in SHARING]
_NAMES = [
    *(experiment.id for experiment in EXPERIMENTS),
    "memory",
    *_LIVE_NAMES,
    *_LAZY_NAMES,
    *_SHARING_NAMES,
]
_GROUPS = {"live": _LIVE_NAMES, "lazy": _LAZY_NAMES, "sharing": _SHARING_NAMES}
_QUICK_BYTES = 512 << 20
_MACHINE_PROFILE = "idle"  # mostly zero: quick to make, and what a machine works in is its own writing


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    images: tuple[Image, ...]
    """In the order measured."""
    names: frozenset[str]
    """Ids of the experiments, and `memory`."""
    largest_machine_bytes: float
    """Running machines above it are left out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep; the exit code is 0 unless nothing could be measured (1) or it was interrupted (130)."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcome = Outcome()
    images: dict[str, Image] = {}
    try:
        plan = _plan(options)
        with _work_dir(options.work_dir) as work_dir:
            runs = 2 if options.quick else options.runs
            bench = Bench(tuple(shlex.split(options.vmckpt)), work_dir, runs)
            outcome.machine = machine.describe(bench.vmckpt, work_dir) | {"runs": runs}
            try:
                _measure(bench, plan, outcome, images)
            finally:
                outcome.machine["rss_floor_bytes"] = rss_floor_bytes()
            _measure_live(bench, plan, outcome, images)
            _measure_lazy(bench, plan, outcome)
            _measure_sharing(bench, plan, outcome, images)
        outcome.complete = True
    except VmckptError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: these are the results so far\n")
    _keep(outcome, options.json or os.path.join(RESULTS_DIR, time.strftime("%Y%m%d-%H%M%S.json")))
    _print(outcome, images, markdown=options.markdown)
    return 0 if outcome.complete else 130


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--images", metavar="DIR", help="also measure the *.raw and *.elf files in DIR")
    parser.add_argument(
        "--runs",
        type=int,
        default=FULL_RUNS,
        help=f"timed runs of each contender (default {FULL_RUNS})",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[*_NAMES, *_GROUPS],
        help="this experiment only; may be repeated; `live`, `lazy` and `sharing` are all that begin so",
    )
    parser.add_argument("--created", default="512M,2G,8G", help="sizes of created images, or `none`")
    parser.add_argument("--profile", default="", help="profile of created images")
    parser.add_argument(
        "--json", metavar="FILE", help=f"where the JSON goes (default {RESULTS_DIR}/DATE.json)"
    )
    parser.add_argument("--work-dir", metavar="DIR", help=f"where outputs go (default: below {RESULTS_DIR}/)")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for docs/performance.md")
    parser.add_argument("--quick", action="store_true", help="two runs, nothing created above 512 MiB")
    parser.add_argument(
        "--vmckpt", default=default_vmckpt(), metavar="COMMAND", help="the command under test"
    )
    options = parser.parse_args(argv)
    if options.runs < 1:
        parser.error("--runs needs at least 1")
    return options


def default_vmckpt() -> str:
    """The command installed beside this Python, so that an environment need not be activated."""
    beside = os.path.join(os.path.dirname(sys.executable), "vmckpt")
    return shlex.quote(beside) if os.path.exists(beside) else "vmckpt"


def _plan(options: argparse.Namespace) -> Plan:
    sizes = [] if options.created == "none" else [parse_size(size) for size in options.created.split(",")]
    if options.quick:
        sizes = [size for size in sizes if size <= _QUICK_BYTES]
    images = (*found(options.images), *(created(size, options.profile) for size in sizes))
    names = set(options.only or _NAMES)
    for group, members in _GROUPS.items():
        if group in names:
            names.update(members)
    return Plan(images, frozenset(names), _QUICK_BYTES if options.quick else math.inf)


def _measure(bench: Bench, plan: Plan, outcome: Outcome, images: dict[str, Image]) -> None:
    # `outcome` and `images` grow as it goes, so that an interruption loses nothing but what is under way.
    wanted = [experiment for experiment in EXPERIMENTS if experiment.id in plan.names]
    largest = _largest(plan.images) if "memory" in plan.names else []
    for planned in plan.images:
        here = [experiment for experiment in wanted if experiment.runs_on(planned.kind)]
        if not here and planned not in largest:
            continue
        with _made(planned, bench, outcome, images) as image:
            _compare(bench, here, image, outcome)
            if planned in largest:
                _measure_memory(bench, image, outcome)
    for experiment in wanted:
        if experiment.subject in {"none", "big sparse"}:
            planned = NO_IMAGE if experiment.subject == "none" else BIG_SPARSE
            with _made(planned, bench, outcome, images) as image:
                _compare(bench, [experiment], image, outcome)


def _measure_live(bench: Bench, plan: Plan, outcome: Outcome, images: dict[str, Image]) -> None:
    # Last of all: what measures these makes this process larger, and with it the floor of every peak (see `measure`).
    wanted = [experiment for experiment in LIVE if experiment.id in plan.names]
    for size_bytes in sorted({size for experiment in wanted for size in experiment.sizes_bytes}):
        name = machine_name(size_bytes)
        if size_bytes > plan.largest_machine_bytes:
            outcome.notes.append(f"The {name} is left out: --quick.")
            continue
        with _made(created(size_bytes, _MACHINE_PROFILE), bench, outcome, images) as image:
            if image is not None:
                images[name] = replace(image, name=name)
                here = [experiment for experiment in wanted if size_bytes in experiment.sizes_bytes]
                _read_off(bench, here, images[name], outcome)
    _read_off(bench, [each for each in wanted if not each.sizes_bytes], NO_IMAGE, outcome)


def _measure_lazy(bench: Bench, plan: Plan, outcome: Outcome) -> None:
    for experiment in LAZY:
        if experiment.id in plan.names:
            from tests.benchmarks.lazy import measure_lazy

            sys.stderr.write(f"{experiment.id} ")
            sys.stderr.flush()
            for reading in measure_lazy(bench, experiment):
                outcome.readings.append(reading)


def _read_off(bench: Bench, experiments: Sequence[LiveExperiment], image: Image, outcome: Outcome) -> None:
    for experiment in experiments:
        from tests.benchmarks.live import measure_live

        sys.stderr.write(f"{experiment.id} {image.name} ")
        sys.stderr.flush()
        for found_here in measure_live(bench, experiment, image):
            if isinstance(found_here, Reading):
                outcome.readings.append(found_here)
            else:
                outcome.results.append(found_here)


def _measure_sharing(bench: Bench, plan: Plan, outcome: Outcome, images: dict[str, Image]) -> None:
    for experiment in SHARING:
        if experiment.id in plan.names and experiment.id != "sharing-ksm":
            from tests.benchmarks.sharing import measure_sharing

            sys.stderr.write(f"{experiment.id} ")
            sys.stderr.flush()
            outcome.readings += measure_sharing(bench, experiment)
    # As `_measure_live`, at the end: the image's memory is in this process, for KSM to merge.
    if "sharing-ksm" not in plan.names:
        return
    from tests.benchmarks.ksm import MOST_BYTES, measure_ksm

    for planned in plan.images:
        if planned.kind == "raw" and planned.size_bytes <= MOST_BYTES:
            with _made(planned, bench, outcome, images) as image:
                if image is not None:
                    sys.stderr.write(f"sharing-ksm {image.name} ")
                    outcome.readings += measure_ksm(image)


def _largest(images: Sequence[Image]) -> list[Image]:
    # The largest raw image of all, and the largest real guest: what peak memory is measured on.
    raw = sorted((image for image in images if image.kind == "raw"), key=lambda image: image.size_bytes)
    return [*raw[-1:], *[image for image in raw if image.real][-1:]]


def _compare(bench: Bench, experiments: Sequence[Experiment], image: Image | None, outcome: Outcome) -> None:
    for experiment in experiments if image is not None else ():
        assert image is not None
        sys.stderr.write(f"{experiment.id} {image.name} ")
        outcome.results += compare(bench, experiment, image)


def _measure_memory(bench: Bench, image: Image | None, outcome: Outcome) -> None:
    for experiment in EXPERIMENTS:
        if image is not None and experiment.id in {"save", "restore"}:
            sys.stderr.write(f"memory of {experiment.id} {image.name} ")
            outcome.footprints += footprints(bench, experiment, image)


@contextmanager
def _made(image: Image, bench: Bench, outcome: Outcome, images: dict[str, Image]) -> Iterator[Image | None]:
    # The image ready to be measured and entered in the books, or None with a note of the reason.
    free_bytes, need_bytes = shutil.disk_usage(bench.work_dir).free, _need_bytes(image)
    with ExitStack() as stack:
        made = None
        try:
            if free_bytes < need_bytes:
                need, free = format_size(need_bytes), format_size(free_bytes)
                raise IoError(f"{need} of disk needed, {free} free")
            made = stack.enter_context(ready(image, bench.work_dir, bench.vmckpt))
            images[made.name], outcome.images[made.name] = made, _facts(made)
        except IoError as error:
            outcome.notes.append(f"{image.name} is left out: {error}.")
        yield made


def _need_bytes(image: Image) -> int:
    # The image itself where it is made here, a copy of it, and the packed forms, which together are about as large.
    if image.origin == "sparse":
        return 256 << 20
    if image.path:
        return 3 * os.stat(image.path).st_blocks * 512 + (64 << 20)
    return 2 * image.size_bytes + (1 << 30)


def _facts(image: Image) -> dict[str, object]:
    disk_bytes = os.stat(image.path).st_blocks * 512
    return {
        "kind": image.kind,
        "origin": image.origin,
        "size_bytes": image.size_bytes,
        "disk_bytes": disk_bytes,
    }


@contextmanager
def _work_dir(chosen: str | None) -> Iterator[str]:
    parent = chosen or RESULTS_DIR
    try:
        os.makedirs(parent, exist_ok=True)
        path = tempfile.mkdtemp(prefix="work-", dir=os.path.abspath(parent))
    except OSError as error:
        raise IoError.of(error, "cannot make a work directory", path=parent) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _print(outcome: Outcome, images: dict[str, Image], *, markdown: bool) -> None:
    if outcome.machine:
        for line in machine.heading(outcome.machine):
            print(line)
        print(f"Medians of {outcome.machine['runs']} runs by turns after a warm-up, page cache warm.\n")
    for table in [*tables(outcome), verdict_table(judge(outcome, images))]:
        print(render(table, markdown=markdown))
    for note in outcome.notes:
        print(note)


def _keep(outcome: Outcome, path: str) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(outcome.as_json(), file, indent=1)
        file.write("\n")
    sys.stderr.write(f"kept in {path}\n")


if __name__ == "__main__":
    sys.exit(main())
