"""Tables of an outcome, as plain text or as Markdown: pure, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from tests.benchmarks.cases import EXPERIMENTS, LIVE, SHARING
from tests.benchmarks.images import NO_IMAGE
from tests.benchmarks.lazy_cases import LAZY
from tests.benchmarks.results import Footprint, Outcome, Reading, Result, Sample, Spread, ratio
from vmckpt.units import format_count, format_duration, format_size

__all__ = [
    "Table",
    "footprint_table",
    "measure_text",
    "ratio_table",
    "reading_table",
    "render",
    "tables",
    "time_table",
]

_TITLES = {each.id: each.title for each in EXPERIMENTS} | {
    each.id: each.title for each in (*LIVE, *LAZY, *SHARING)
}


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table of ready-made texts."""

    title: str
    """What is above it."""
    header: tuple[str, ...]
    """One text for each column."""
    rows: tuple[tuple[str, ...], ...]
    """As many texts in each as in the header; the first column is left-aligned, the others right."""
    notes: tuple[str, ...] = ()
    """Sentences below it."""


def render(table: Table, *, markdown: bool) -> str:
    """The table as it is printed, ending in a newline."""
    lines = _markdown(table) if markdown else _plain(table)
    return "\n".join([*lines, ""])


def tables(outcome: Outcome, *, throughput: Sequence[str] = ("verify", "digest")) -> list[Table]:
    """All tables of an outcome: times and ratios for each experiment and image, peak memory, what was read off."""
    made = []
    floor = outcome.machine.get("rss_floor_bytes")
    floor_bytes = floor if isinstance(floor, int) else 0
    for (experiment, image), group in groupby(outcome.results, key=lambda r: (r.experiment, r.image)):
        results = list(group)
        size = outcome.images.get(image, {}).get("size_bytes")
        memory_bytes = size if isinstance(size, int) and experiment in throughput else None
        made.append(time_table(experiment, image, results, memory_bytes, floor_bytes))
        if experiment in {"save", "restore"}:
            made.append(ratio_table(experiment, image, results))
    if outcome.footprints:
        made.append(footprint_table(outcome.footprints))
    readings = sorted(
        outcome.readings, key=lambda reading: reading.experiment
    )  # stable: in the order measured
    for experiment, found in groupby(readings, key=lambda reading: reading.experiment):
        made.append(reading_table(experiment, list(found)))
    return [table for table in made if table.rows or table.notes]


def time_table(
    experiment: str,
    image: str,
    results: Sequence[Result],
    memory_bytes: int | None = None,
    floor_bytes: int = 0,
) -> Table:
    """Median and spread of each contender; with `memory_bytes`, also bytes of memory per second.

    Peaks that are hardly above `floor_bytes` (see `measure`) are shown as a bound.
    """
    with_files = any(result.file_bytes is not None for result in results)
    header = ["", "time", "min .. max", "CPU", "peak RSS"]
    header += ["file", "on disk"] if with_files else []
    header += ["per second"] if memory_bytes else []
    rows = []
    for result in results:
        wall_s, cpu_s = result.wall_s, result.cpu_s
        if wall_s is None or cpu_s is None:
            continue
        row = [
            result.contender,
            measure_text(wall_s.median, "s"),
            _range(wall_s),
            measure_text(cpu_s.median, "s"),
        ]
        row.append(_peak(result.rss_bytes, floor_bytes))
        row += [_bytes(result.file_bytes), _bytes(result.disk_bytes)] if with_files else []
        row += [format_size(memory_bytes / wall_s.median)] if memory_bytes else []
        rows.append(tuple(row))
    notes = tuple(f"{result.contender}: {result.note}." for result in results if result.note)
    notes += _disturbance([sample for result in results for sample in result.samples])
    return Table(_title(experiment, image), tuple(header), tuple(rows), notes)


def ratio_table(experiment: str, image: str, results: Sequence[Result]) -> Table:
    """Each of ours against each peer: how many times as fast, and its file as a fraction of the peer's."""
    ours = [result for result in results if result.ours and result.samples]
    peers = [result for result in results if not result.ours and result.samples]
    rows = tuple((peer.contender, *(_against(result, peer) for result in ours)) for peer in peers)
    title = f"{_title(experiment, image)}: times as fast as, and file as a fraction of, each peer's"
    return Table(title, ("peer", *(result.contender for result in ours)), rows if ours else ())


def footprint_table(footprints: Sequence[Footprint]) -> Table:
    """Peak memory, summed over all processes of a command."""
    header = ("", "image", "all processes (PSS)", "all processes (RSS)", "largest process", "processes")
    rows = []
    for peak in footprints:
        sizes = (_bytes(peak.pss_bytes), _bytes(peak.rss_bytes), _bytes(peak.largest_bytes))
        rows.append((peak.contender, peak.image, *sizes, str(peak.processes)))
    note = "Sampled every 10 ms in a run that is not timed. PSS counts a page shared by two processes once, RSS twice."
    return Table("Peak memory", header, tuple(rows), (note,))


def reading_table(experiment: str, readings: Sequence[Reading]) -> Table:
    """Median and spread of each quantity of an experiment."""
    header = ("", "on", "figure", "median", "min .. max", "runs")
    rows = []
    for reading in readings:
        if (spread := reading.spread) is not None:
            low, high = measure_text(spread.low, reading.unit), measure_text(spread.high, reading.unit)
            middle = measure_text(spread.median, reading.unit)
            name, count = reading.contender, reading.runs or len(reading.values)
            rows.append((name, reading.image, reading.quantity, middle, f"{low} .. {high}", str(count)))
    reasons = dict.fromkeys(_reason(reading) for reading in readings if reading.note)
    return Table(_TITLES.get(experiment, experiment), header, tuple(rows), tuple(reasons))


def _reason(reading: Reading) -> str:
    where = ", ".join(filter(None, (reading.contender, reading.image)))
    return f"{where}: {reading.note.removesuffix('.')}."


def measure_text(value: float, unit: str) -> str:
    """A value with its unit: `s`, `bytes`, `x`, or another of a reading's."""
    if unit == "s":
        return f"{value * 1e6:.1f} µs" if value < 1e-4 else format_duration(value)
    if unit == "bytes":
        return format_size(value)
    if unit == "part":
        return f"{value:.2%}"
    if unit == "GB/s":
        return f"{value:.2f} GB/s"
    if unit in {"per s", "pages", "count"}:
        return format_count(round(value)) + ("/s" if unit == "per s" else "")
    return f"{value:.2f}x"


def _title(experiment: str, image: str) -> str:
    title = _TITLES.get(experiment, experiment)
    return title if image == NO_IMAGE.name else f"{title}: {image}"


def _peak(rss_bytes: int | None, floor_bytes: int) -> str:
    roof_bytes = floor_bytes + (1 << 20)
    if rss_bytes is None or rss_bytes > roof_bytes:
        return _bytes(rss_bytes)
    return f"< {format_size(roof_bytes)}"


def _disturbance(samples: Sequence[Sample]) -> tuple[str, ...]:
    # A sentence when the machine was busy with something else for more than a tenth of a core.
    cores = ratio(sum(sample.foreign_s for sample in samples), sum(sample.wall_s for sample in samples))
    if cores is None or cores < 0.1:
        return ()
    return (f"The machine was not idle: other work took {cores:.1f} cores meanwhile.",)


def _against(ours: Result, peer: Result) -> str:
    parts = []
    if ours.wall_s is not None and peer.wall_s is not None:
        speed = ratio(peer.wall_s.median, ours.wall_s.median)
        parts.append("" if speed is None else f"{speed:.2f}x")
    size = ratio(ours.file_bytes, peer.file_bytes)
    parts.append("" if size is None else f"{size:.2f}")
    return ", ".join(part for part in parts if part)


def _bytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else format_size(size_bytes)


def _range(spread: Spread) -> str:
    return f"{measure_text(spread.low, 's')} .. {measure_text(spread.high, 's')}"


def _markdown(table: Table) -> list[str]:
    rule = ["---", *("---:" for _ in table.header[1:])]
    rows = [_markdown_row(row) for row in (table.header, rule, *table.rows)]
    notes = [line for note in table.notes for line in ("", note)]
    return [f"### {table.title}", "", *rows, *notes]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(table: Table) -> list[str]:
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
    rows = [
        _plain_row(row, widths) for row in (table.header, tuple("-" * width for width in widths), *table.rows)
    ]
    return [table.title, "", *rows, *table.notes]


def _plain_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    return "  ".join(
        [first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
    ).rstrip()
