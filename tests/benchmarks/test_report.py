import json

import pytest

from tests.benchmarks.blocks import Cell, Setting, grid_table
from tests.benchmarks.report import (
    Table,
    footprint_table,
    measure_text,
    ratio_table,
    reading_table,
    render,
    tables,
    time_table,
)
from tests.benchmarks.results import Footprint, Outcome, Reading, Result, Sample, Spread, ratio, spread_of

MIB = 1 << 20


def result(contender: str, walls: list[float], file_bytes: int | None = None, note: str = "") -> Result:
    samples = tuple(Sample(wall_s, wall_s / 2, 9 * MIB) for wall_s in walls)
    return Result(
        "save", "guest.raw", contender, contender.startswith("vmckpt"), samples, file_bytes, file_bytes, note
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([], None, id="no values"),
        pytest.param([3.0], Spread(3.0, 3.0, 3.0), id="one value"),
        pytest.param([9.0, 1.0, 2.0], Spread(2.0, 1.0, 9.0), id="odd count, an outlier"),
        pytest.param([4.0, 1.0, 2.0, 8.0], Spread(3.0, 1.0, 8.0), id="even count"),
    ],
)
def test_a_spread_is_the_median_with_the_extremes(values: list[float], expected: Spread | None) -> None:
    assert spread_of(values) == expected


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"),
    [(6.0, 3.0, 2.0), (None, 3.0, None), (6.0, None, None), (6.0, 0, None)],
    ids=["both", "no numerator", "no denominator", "zero"],
)
def test_a_ratio_needs_both_parts(
    numerator: float | None, denominator: float | None, expected: float | None
) -> None:
    assert ratio(numerator, denominator) == expected


def test_results_keep_the_largest_peak_of_any_run() -> None:
    samples = (Sample(1.0, 1.0, 5), Sample(1.0, 1.0, None), Sample(1.0, 1.0, 7))
    assert Result("save", "i", "c", True, samples).rss_bytes == 7
    assert Result("save", "i", "c", True, (Sample(1.0, 1.0, None),)).rss_bytes is None


def test_ratios_say_how_many_times_as_fast_and_how_large() -> None:
    table = ratio_table("save", "guest.raw", [result("vmckpt save", [0.5], 60), result("lz4 -1", [2.0], 100)])
    assert table.header == ("peer", "vmckpt save")
    assert table.rows == (("lz4 -1", "4.00x, 0.60"),)


def test_a_contender_without_samples_becomes_a_note() -> None:
    table = time_table(
        "save", "guest.raw", [result("vmckpt save", [0.5, 0.4, 0.9]), result("lz4 -1", [], note="is ill")]
    )
    assert [row[0] for row in table.rows] == ["vmckpt save"]
    assert table.rows[0][1:3] == ("500 ms", "400 ms .. 900 ms")
    assert table.notes == ("lz4 -1: is ill.",)


def test_a_peak_near_the_floor_is_shown_as_a_bound() -> None:
    assert time_table("save", "i", [result("lz4 -1", [1.0])]).rows[0][4] == "9.00 MiB"
    assert time_table("save", "i", [result("lz4 -1", [1.0])], floor_bytes=9 * MIB).rows[0][4] == "< 10.0 MiB"


@pytest.mark.parametrize(("foreign_s", "said"), [(0.05, False), (1.5, True)], ids=["idle", "busy"])
def test_other_work_on_the_machine_is_told(foreign_s: float, said: bool) -> None:
    table = time_table("save", "i", [Result("save", "i", "c", True, (Sample(1.0, 1.0, 1, foreign_s),))])
    assert table.notes == (
        ("The machine was not idle: other work took 1.5 cores meanwhile.",) if said else ()
    )


def test_throughput_counts_memory_not_the_file() -> None:
    table = time_table("verify", "i", [result("vmckpt verify", [0.5], 10)], memory_bytes=512 * MIB)
    assert table.rows[0][-1] == "1.00 GiB"


def test_plain_tables_line_up() -> None:
    table = Table("Title", ("", "time"), (("a", "1 s"), ("longer", "10 s")), ("A note.",))
    assert render(table, markdown=False).splitlines() == [
        "Title",
        "",
        "        time",
        "------  ----",
        "a        1 s",
        "longer  10 s",
        "A note.",
    ]


def test_markdown_tables_can_be_pasted() -> None:
    table = Table("Title", ("", "time"), (("a|b", "1 s"),), ("A note.",))
    assert render(table, markdown=True).splitlines() == [
        "### Title",
        "",
        "|  | time |",
        "| --- | ---: |",
        "| a\\|b | 1 s |",
        "",
        "A note.",
    ]


def test_a_table_without_rows_renders() -> None:
    assert render(Table("Title", ("", "time"), ()), markdown=False)


def test_an_outcome_gives_times_ratios_and_memory() -> None:
    peak = Footprint("save", "guest.raw", "vmckpt save", True, 90 * MIB, 120 * MIB, 50 * MIB, 3, 40)
    outcome = Outcome(
        results=[result("vmckpt save", [1.0], 5), result("lz4 -1", [2.0], 10)], footprints=[peak]
    )
    titles = [table.title for table in tables(outcome)]
    assert titles == [
        "Save: guest.raw",
        "Save: guest.raw: times as fast as, and file as a fraction of, each peer's",
        "Peak memory",
    ]
    assert footprint_table([peak]).rows[0] == (
        *("vmckpt save", "guest.raw", "90.0 MiB", "120 MiB", "50.0 MiB", "3"),
    )


def test_an_outcome_of_failures_only_keeps_their_reasons() -> None:
    outcome = Outcome(results=[result("vmckpt save", [], note="no such command")])
    (table,) = tables(outcome)
    assert "vmckpt save: no such command." in render(table, markdown=False)


def test_json_holds_samples_and_medians() -> None:
    outcome = Outcome(machine={"cpu": "x"}, results=[result("lz4 -1", [3.0, 1.0, 2.0], 10)])
    (plain,) = json.loads(json.dumps(outcome.as_json()))["results"]
    assert plain["wall_s"] == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert [sample["wall_s"] for sample in plain["samples"]] == [3.0, 1.0, 2.0]


def test_readings_have_a_row_for_each_quantity_and_their_reasons_once() -> None:
    readings = [
        Reading("live-pause", "machine", "--trace access", "pause", "s", (0.002, 0.001, 0.009)),
        Reading("live-pause", "machine", "--trace write", "", "x", note="no luck."),
        Reading("live-pause", "machine", "--trace write", "", "x", note="no luck."),
    ]
    table = reading_table("live-pause", readings)
    assert table.title == "Pause of a live save"
    assert table.rows == (("--trace access", "machine", "pause", "2.0 ms", "1.0 ms .. 9.0 ms", "3"),)
    assert table.notes == ("--trace write, machine: no luck.",)


def test_readings_are_gathered_by_experiment() -> None:
    readings = [
        Reading(experiment, image, "c", "pause", "s", (1.0,))
        for image in ("small", "large")
        for experiment in ("live-pause", "live-active")
    ]
    active, pause = tables(Outcome(readings=readings))
    assert [row[1] for row in active.rows] == [row[1] for row in pause.rows] == ["small", "large"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.26e-6, "s", "4.3 µs"),
        (0.00042, "s", "420 µs"),
        (0.9912, "part", "99.12%"),
        (2409860.4, "per s", "2 409 860/s"),
        (26112.0, "pages", "26 112"),
        (0.754, "x", "0.75x"),
    ],
    ids=["a trap", "a pause", "part", "operations", "pages", "ratio"],
)
def test_values_are_shown_with_their_unit(value: float, unit: str, text: str) -> None:
    assert measure_text(value, unit) == text


def test_json_holds_readings_with_their_spread() -> None:
    outcome = Outcome(readings=[Reading("live-pause", "m", "c", "pause", "s", (2.0, 1.0, 9.0))])
    (plain,) = json.loads(json.dumps(outcome.as_json()))["readings"]
    assert plain["values"] == [2.0, 1.0, 9.0]
    assert plain["spread"] == {"median": 2.0, "low": 1.0, "high": 9.0}


def test_the_block_grid_has_a_column_for_each_number_of_jobs() -> None:
    cell = Cell(Setting("lz4", "64K", ""), {1: [2.0], 2: [1.0]}, [0.5], 100)
    failed = Cell(Setting("zstd", "1M", "2M"), failure="no zstd")
    table = grid_table("guest.raw", [cell, failed], 1000)
    assert table.header[-3:] == ("save, 1 jobs", "save, 2 jobs", "restore")
    assert table.rows == (("lz4", "64K", "default", "100 B", "10.00%", "2.00 s", "1.00 s", "500 ms"),)
    assert table.notes == ("--memory-block 1M --jobs 1 --codec zstd --storage-block 2M: no zstd.",)
