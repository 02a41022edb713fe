"""What samples, a fleet's memory and an overcommitted host come to: read off, rather than timed.

    sharing-sample      500 samples of two synthetic memories ─▶ how often the interval holds the truth, how far off it is
    sharing-memory      `tests.sharing.stream` ─▶ peak memory of a sample of 1 TiB
    sharing-overcommit  `vmckpt bench overcommit` ─▶ large pages kept, accesses to one, memory left to be swapped

Called by `__main__`; `ksm` has what needs an image.
"""

import os
import sys
from collections.abc import Iterator

from tests.benchmarks.cases import HELD, HITS, KEPT, OFF, PEAK, QUANTITIES, SWAPPED, LiveExperiment
from tests.benchmarks.measure import CommandError, asked
from tests.benchmarks.results import Reading
from tests.benchmarks.trial import Bench
from tests.sharing.test_sampled import CASES, SEEDS, drawn

__all__ = ["measure_sharing"]

_LIMIT_S = 1800.0
_BENCH_RUNS = 0.4  # of what was asked for: an experiment repeats itself


def measure_sharing(bench: Bench, experiment: LiveExperiment) -> Iterator[Reading]:
    """The readings of an experiment, or one with a note of the reason why there are none."""
    try:
        yield from _READERS[experiment.id](bench)
    except CommandError as error:
        yield Reading(experiment.id, "", "", "", "count", note=str(error))
    finally:
        sys.stderr.write("\n")


def _samples(bench: Bench) -> Iterator[Reading]:
    del bench
    for name, (make, fraction, heavy, method) in CASES.items():
        contents = make()
        pages, truth = int(contents.copies.sum()), contents.truth([0])
        found = [one.estimate for one in drawn(contents, [0], fraction, heavy=heavy)]
        held = sum(one.low <= truth <= one.high for one in found) / SEEDS
        off = max(abs(one.pages - truth) for one in found) / pages
        yield Reading("sharing-sample", name, method, HELD, "part", (held,))
        yield Reading("sharing-sample", name, method, OFF, "part", (off,))


def _memory(bench: Bench) -> Iterator[Reading]:
    found = asked([sys.executable, "-m", "tests.sharing.stream"], _errors(bench), _LIMIT_S)
    peak = found["peak_bytes"]
    assert isinstance(peak, int)
    yield Reading("sharing-memory", "1 TiB", "--sample 1/64", PEAK, "bytes", (float(peak),))


def _overcommit(bench: Bench) -> Iterator[Reading]:
    runs = max(1, round(bench.runs * _BENCH_RUNS))
    argv = [*bench.vmckpt, "bench", "overcommit", "--runs", str(runs), "--json"]
    values = asked(argv, _errors(bench), _LIMIT_S)["values"]
    assert isinstance(values, dict)
    quantities = {"large_pages": KEPT, "large_hits": HITS, "over_pages": SWAPPED}
    for policy, found in values["policies"].items():
        for key, quantity in quantities.items():
            numbers = tuple(float(found[key][each]) for each in ("low", "median", "high"))
            unit = QUANTITIES[quantity]
            yield Reading("sharing-overcommit", "4 guests", policy, quantity, unit, numbers, runs=runs)


def _errors(bench: Bench) -> str:
    return os.path.join(bench.work_dir, "stderr")


_READERS = {"sharing-sample": _samples, "sharing-memory": _memory, "sharing-overcommit": _overcommit}
