"""A lazy restore as a page to look at: its report, its log and the states of its pages in, the text of an HTML file out.

    LazyReport ─▶ headline, tiles, facts        History ─▶ figures (`figures`)        both ─▶ document

Pure. Called by `files`.
"""

from collections.abc import Sequence

from vmckpt.charts.page import Fact, Page, Tile, document
from vmckpt.pages import PAGE_BYTES
from vmckpt.restoring.figures import LazyFigures
from vmckpt.restoring.history import History
from vmckpt.restoring.log import Fault
from vmckpt.restoring.outcome import LazyReport
from vmckpt.units import format_count, format_duration, format_share, format_size
from vmckpt.version import __version__

__all__ = ["page_of"]

_CHOSEN = {"recorded": ", as an earlier restore recorded", "order": ", by an order that was given"}


def page_of(name: str, report: LazyReport, history: History) -> str:
    """The page: the text of an HTML file.

    Args:
        name: of the checkpoint.
        report: what came of the restore.
        history: what it was made of.
    """
    return document(
        Page(
            title=f"Lazy restore of {name}",
            eyebrow=f"{format_size(report.memory_bytes)} · {_vcpus(report)} · {report.workload}",
            lead=_lead(report),
            tiles=_tiles(report, history.faults, history.start_ns / 1e9),
            figures=LazyFigures(report, history).all(),
            facts=_facts(report),
            footer=f"vmckpt {__version__}. Times count from the start of the command. "
            "What the measures mean: docs/restore.md.",
        )
    )


def _vcpus(report: LazyReport) -> str:
    return f"{report.vcpus} vCPU{'s' if report.vcpus > 1 else ''}"


def _lead(report: LazyReport) -> str:
    ran = f"The machine ran {format_duration(report.time_to_run_s)} after the start of the command"
    there = f"its {format_size(report.memory_bytes)} of memory were all there after {format_duration(report.resident_s)}"
    if not report.faults:
        return f"{ran} and never waited for a page; {there}."
    back = f"from {format_duration(report.ttr_s['0.9'])} on it had at least 90 % of its speed in every second"
    return f"{ran}; {back}; {there}."


def _tiles(report: LazyReport, faults: Sequence[Fault], start_s: float) -> list[Tile]:
    stalls = sorted(fault.stall_ns for fault in faults)
    typical = f"median {_quantile(stalls, 0.5)}, 99 % below {_quantile(stalls, 0.99)}" if stalls else "none"
    last_s = max((fault.at_ns + fault.stall_ns for fault in faults), default=0) / 1e9 - start_s
    until_s = min(max(report.resident_s, last_s), report.elapsed_s)
    running_s = max(until_s - report.time_to_run_s, 1e-9)
    stalled = report.stall_s / report.vcpus / running_s
    precision = "–" if report.precision is None else format_share(report.precision)
    return [
        Tile(
            "Ran after",
            format_duration(report.time_to_run_s),
            f"prefetch {format_duration(report.prefetch_s)}",
        ),
        Tile("90 % of speed after", format_duration(report.ttr_s["0.9"]), "in windows of 1 s"),
        Tile("All there after", format_duration(report.resident_s), _throughput(report)),
        Tile(
            "Stalled", format_duration(report.stall_s), f"{format_share(min(stalled, 1))} of the vCPUs’ time"
        ),
        Tile("Faults", format_count(report.faults), typical),
        Tile(
            "Storage reads",
            format_count(report.storage_reads),
            f"{format_count(report.demand_reads)} waited for",
        ),
        Tile(
            "Bytes read",
            format_size(report.bytes_read),
            f"{format_share(report.bytes_read / report.memory_bytes)} of memory",
        ),
        Tile(
            "Prefetched",
            format_count(report.pages.prefetched),
            f"pages, {format_share(report.pages.prefetched / max(report.pages.total, 1))} of memory",
        ),
        Tile("Coverage", format_share(report.coverage), "of the needed was prefetched"),
        Tile("Precision", precision, "of the prefetched was needed"),
    ]


def _quantile(ordered: Sequence[int], part: float) -> str:
    return format_duration(ordered[min(int(part * len(ordered)), len(ordered) - 1)] / 1e9)


def _throughput(report: LazyReport) -> str:
    pages, took_s = report.pages, report.resident_s - report.time_to_run_s + report.prefetch_s
    brought = pages.prefetched + pages.on_demand + pages.neighbours + pages.background
    return f"{format_size(brought * PAGE_BYTES / took_s)}/s" if brought and took_s > 0 else ""


def _facts(report: LazyReport) -> list[Fact]:
    pages = report.pages
    handlers = "" if report.handlers == 1 else f"{report.handlers} handler processes, as some were killed"
    return [
        Fact("Workload", f"{report.workload}, seed {report.seed}, {_vcpus(report)}"),
        Fact(
            "Operations", f"{format_count(report.ops)} since boot, until {format_duration(report.elapsed_s)}"
        ),
        Fact("Ended by", report.ended_by),
        Fact("Mechanism", report.mechanism),
        Fact("Handlers", handlers),
        Fact(
            "Prefetched",
            f"{format_count(pages.prefetched)} pages, {format_count(pages.prefetched_used)} used"
            + _CHOSEN.get(report.prefetch_from, ""),
        ),
        Fact(
            "Came along",
            f"{format_count(pages.neighbours)} pages, {format_count(pages.neighbours_used)} used",
        ),
        Fact(
            "Background",
            f"{format_count(pages.background)} pages, {format_count(pages.background_used)} used",
        ),
        Fact("Digest", report.digest),
    ]
