"""What the experiments of `vmckpt bench` say, as readings: medians and extremes of their own runs. Pure.

JSON of halite, working-set, divergence ─▶ readings of lazy-layout, lazy-ttr, lazy-divergence
"""

from collections.abc import Iterator, Mapping

from tests.benchmarks.lazy_cases import LAZY_QUANTITIES, PAGE_BY_PAGE, place
from tests.benchmarks.measure import CommandError
from tests.benchmarks.results import Reading

__all__ = ["Values", "divergence_readings", "layout_readings", "number_of", "reading", "ttr_readings"]

Values = Mapping[str, object]


def layout_readings(values: Values) -> Iterator[Reading]:
    """What `vmckpt bench halite` prints: overheads, reads, and how much of what was read was used."""
    for each in _list(values, "restores"):
        blocks, disk, name = (str(each[key]) for key in ("group", "disk", "name"))
        where, ours = place(disk, blocks), name != PAGE_BY_PAGE
        for quantity, key in (("overhead", "overhead_s"), ("storage reads", "storage_reads")):
            yield _summed("lazy-layout", where, name, quantity, each[key], values, ours=ours)
        if each["other_pages_used"] is not None:
            yield _summed("lazy-layout", where, name, "other pages used", each["other_pages_used"], values)


def ttr_readings(values: Values) -> Iterator[Reading]:
    """What `vmckpt bench working-set` prints: times to 90 % of normal speed, and coverage."""
    for each in _list(values, "restores"):
        ttr_s = each["ttr_s"]
        assert isinstance(ttr_s, dict)
        disk, mode = str(each["disk"]), str(each["mode"])
        yield _summed("lazy-ttr", disk, mode, "TTR(1 s, 90 %)", ttr_s["0.9"], values, ours=mode != "eager")
    for each in _list(values, "estimates"):
        if each["estimator"] is not None:
            name = f"{each['estimator']}, --trace {each['trace']}"
            yield reading("lazy-ttr", "real", name, "coverage", (number_of(each, "coverage"),))


def divergence_readings(values: Values) -> Iterator[Reading]:
    """What `vmckpt bench divergence` prints: times with and without a prefetch, and the part lost."""
    for each in _list(values, "restores"):
        disk, name = str(each["disk"]), f"{each['machine']}, {each['mode']}"
        yield _summed("lazy-divergence", disk, name, "time", each["elapsed_s"], values)
    for each in _list(values, "lost"):
        yield _summed("lazy-divergence", str(each["disk"]), str(each["machine"]), "time lost", each, values)


def _list(values: Values, key: str) -> list[dict[str, object]]:
    found = values.get("values")
    listed = found.get(key) if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise CommandError(f"the experiment's JSON has no list of {key}")
    return listed


def _summed(
    experiment: str,
    image: str,
    contender: str,
    quantity: str,
    spread: object,
    values: Values,
    *,
    ours: bool = True,
) -> Reading:
    # An experiment of the product keeps median and extremes of its runs, not all of them.
    assert isinstance(spread, dict)
    numbers = tuple(number_of(spread, key) for key in ("low", "median", "high"))
    runs = round(number_of(values, "runs"))
    return reading(experiment, image, contender, quantity, numbers, ours=ours, runs=runs)


def reading(
    experiment: str,
    image: str,
    contender: str,
    quantity: str,
    values: tuple[float, ...],
    *,
    ours: bool = True,
    runs: int = 0,
) -> Reading:
    """A reading, with the unit of its quantity."""
    unit = LAZY_QUANTITIES[quantity]
    return Reading(experiment, image, contender, quantity, unit, values, ours, runs=runs)


def number_of(values: Values, key: str) -> float:
    """A number of an object's.

    Raises:
        CommandError: it is not there, or something else.
    """
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CommandError(f"the JSON has {key} {value!r}: expected a number")
    return float(value)
