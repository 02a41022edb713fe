from typing import Literal

import pytest

from tests.benchmarks.bounds import Bound, ReadingTarget, Target
from tests.benchmarks.cases import AT_REST, EXPERIMENTS, LIVE, MINIMAL, QUANTITIES, RUNNING, SHARING, TRACER
from tests.benchmarks.images import Image
from tests.benchmarks.results import Footprint, Outcome, Reading, Result, Sample
from tests.benchmarks.targets import (
    READING_TARGETS,
    TARGETS,
    Verdict,
    judge,
    verdict_table,
)

GIB = 1 << 30
REAL = Image("guest.raw", "raw", "real", 2 * GIB)
CREATED = Image("created 2 GiB", "raw", "created", 2 * GIB)
CONTENDERS = {
    (experiment.id, contender.id) for experiment in EXPERIMENTS for contender in experiment.contenders
} | {("live-time", RUNNING), ("live-time", AT_REST)}
SMALL, LARGE = "machine of 256 MiB", "machine of 4.00 GiB"


def result(image: str, contender: str, wall_s: float, file_bytes: int) -> Result:
    return Result(
        "save", image, contender, contender.startswith("vmckpt"), (Sample(wall_s, wall_s, 1),), file_bytes
    )


def outcome(image: str, ours_s: float, ours_bytes: int) -> Outcome:
    return Outcome(
        results=[result(image, "vmckpt save", ours_s, ours_bytes), result(image, "lz4 -1", 1.0, 100)]
    )


def verdict(outcome: Outcome, image: Image, quantity: str, limit: float) -> Verdict:
    (found,) = [
        v
        for v in judge(outcome, {image.name: image})
        if (v.target.subject, v.target.peer, v.target.quantity, v.target.limit)
        == ("vmckpt save", "lz4 -1", quantity, limit)
    ]
    return found


@pytest.mark.parametrize(
    "target", TARGETS, ids=lambda target: f"{target.subject}-{target.quantity}-{target.peer}"
)
def test_every_target_names_contenders_that_are_measured(target: Target) -> None:
    assert (target.experiment, target.subject) in CONTENDERS
    assert not target.peer or (target.experiment, target.peer) in CONTENDERS
    assert bool(target.peer) == (target.quantity in {"speed", "size"})


@pytest.mark.parametrize(("ours_s", "met"), [(0.2, True), (0.21, False)], ids=["exactly", "just missed"])
def test_speed_is_the_peers_time_over_ours(ours_s: float, met: bool) -> None:
    assert verdict(outcome("guest.raw", ours_s, 1), REAL, "speed", 5.0).met is met


@pytest.mark.parametrize(("ours_bytes", "met"), [(60, True), (61, False)], ids=["exactly", "just missed"])
def test_size_is_our_file_over_the_peers(ours_bytes: int, met: bool) -> None:
    assert verdict(outcome("guest.raw", 1.0, ours_bytes), REAL, "size", 0.6).met is met


def test_a_target_for_real_guests_is_not_judged_on_a_created_image() -> None:
    found = verdict(outcome("created 2 GiB", 0.1, 1), CREATED, "speed", 5.0)
    assert (found.image, found.value, found.met) == ("", None, None)


def test_a_target_of_one_size_is_not_judged_on_another() -> None:
    small = Image("guest.raw", "raw", "real", GIB)
    assert verdict(outcome("guest.raw", 0.1, 1), small, "speed", 5.0).met is None


def test_an_elf_core_counts_by_the_memory_in_it() -> None:
    assert Image("g.elf", "elf", "real", 2 * GIB + (260 << 10)).about(2 * GIB)
    assert not Image("g.elf", "elf", "real", 2 * GIB + GIB).about(2 * GIB)


def test_peak_memory_is_judged_by_proportional_size() -> None:
    peak = Footprint("save", "guest.raw", "vmckpt save", True, 200 << 20, 300 << 20, 150 << 20, 3, 9)
    found = [
        v for v in judge(Outcome(footprints=[peak]), {"guest.raw": REAL}) if v.target.quantity == "memory"
    ]
    assert [v.met for v in found if v.target.subject == "vmckpt save"] == [True]


@pytest.mark.parametrize(
    ("bound", "below", "at", "above"),
    [
        (Bound.AT_LEAST, False, True, True),
        (Bound.MORE_THAN, False, False, True),
        (Bound.AT_MOST, True, True, False),
        (Bound.LESS_THAN, True, False, False),
    ],
    ids=lambda value: value.name if isinstance(value, Bound) else "",
)
def test_bounds_know_their_side(bound: Bound, below: bool, at: bool, above: bool) -> None:
    assert [bound.holds(value, 1.0) for value in (0.9, 1.0, 1.1)] == [below, at, above]


def test_the_table_tells_met_from_missed_from_not_measured() -> None:
    table = verdict_table(judge(outcome("guest.raw", 0.25, 10), {"guest.raw": REAL}))
    words = {(row[0], row[1], row[2]): row[3:] for row in table.rows}
    assert words["vmckpt save: speed against lz4 -1", "guest.raw", "≥ 5.00x"] == ("4.00x", "MISSED")
    assert words["vmckpt save: size against lz4 -1", "guest.raw", "≤ 0.60x"] == ("0.10x", "met")
    assert words["vmckpt --version: time", "", "< 60.0 ms"] == ("", "not measured")


def test_a_target_without_sizes_applies_to_all() -> None:
    assert Target("save", "vmckpt save", "size", Bound.AT_MOST, 1.0, "lz4 -1").applies(REAL)


def pause(image: str, *values: float) -> Reading:
    return Reading("live-pause", image, "--trace access", "pause", "s", values)


def trap(contender: str, image: str, value: float) -> Reading:
    return Reading("live-traps", image, contender, "a trap, on one core", "s", (value,))


def judged(*readings: Reading) -> dict[tuple[str, str], bool | None]:
    """Figure and image -> whether it is met, of those that were measured."""
    table = verdict_table(judge(Outcome(readings=list(readings)), {}))
    words = {"met": True, "MISSED": False}
    return {(row[0], row[1]): words[row[4]] for row in table.rows if row[4] in words}


@pytest.mark.parametrize(
    "target", READING_TARGETS, ids=lambda target: f"{target.subject}-{target.quantity}-{target.peer_image}"
)
def test_every_target_of_a_reading_names_what_is_read_off(target: ReadingTarget) -> None:
    assert target.experiment in {experiment.id for experiment in (*LIVE, *SHARING)}
    assert target.quantity in QUANTITIES or target.experiment == "live-traps"


def test_a_median_is_judged_wherever_it_was_measured() -> None:
    figure = "--trace access: pause"
    found = judged(pause(SMALL, 0.001, 0.0049, 0.3), pause("machine of 1.00 GiB", 0.005))
    assert found == {(figure, SMALL): True, (figure, "machine of 1.00 GiB"): False}


def test_the_largest_machine_is_judged_against_the_smallest() -> None:
    figure = f"--trace access: pause against {SMALL}"
    assert judged(pause(SMALL, 0.001), pause(LARGE, 0.002))[figure, LARGE] is True
    assert judged(pause(SMALL, 0.001), pause(LARGE, 0.0021))[figure, LARGE] is False
    assert (figure, LARGE) not in judged(pause(LARGE, 0.002))


def test_traps_are_judged_against_the_peer_for_each_size_of_block() -> None:
    readings = [trap(TRACER, "small", 9.0), trap(MINIMAL, "small", 5.0)]
    readings += [trap(TRACER, "large", 20.0), trap(MINIMAL, "large", 10.0), trap(TRACER, "alone", 1.0)]
    figure = f"{TRACER}: a trap, on one core against {MINIMAL}"
    assert judged(*readings) == {(figure, "small"): True, (figure, "large"): False}


@pytest.mark.parametrize(
    ("quantity", "unit", "values", "met"),
    [
        pytest.param("used pages that are recorded", "part", (0.99, 1.0, 1.0), True, id="all runs"),
        pytest.param("used pages that are recorded", "part", (0.98, 1.0, 1.0), False, id="but one"),
        pytest.param("recorded pages for a used one", "x", (1.0, 1.0, 1.2), True, id="no run too many"),
        pytest.param("recorded pages for a used one", "x", (1.0, 1.0, 1.3), False, id="one run too many"),
    ],
)
def test_active_pages_are_judged_by_the_worst_run(
    quantity: str, unit: Literal["part", "x"], values: tuple[float, ...], met: bool
) -> None:
    reading = Reading("live-active", SMALL, "--trace access", quantity, unit, values)
    assert judged(reading) == {(f"--trace access: {quantity}", SMALL): met}


def test_a_save_of_a_running_machine_may_take_twice_as_long() -> None:
    samples = {RUNNING: 2.0, AT_REST: 1.0}
    results = [
        Result("live-time", SMALL, name, True, (Sample(wall_s, wall_s, None),))
        for name, wall_s in samples.items()
    ]
    image = Image(SMALL, "raw", "created", 256 << 20)
    found = [v for v in judge(Outcome(results=results), {SMALL: image}) if v.target.subject == RUNNING]
    assert [(v.image, v.value, v.met) for v in found] == [(SMALL, 0.5, True)]
