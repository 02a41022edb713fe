"""The figures of a lazy restore: its log and the states of its pages in, drawings with their numbers out.

    faults ─▶ over time (`timeline`), TTR(w, u), how long        states of pages + touched ─▶ page map

Pure. Called by `report`.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from vmckpt.charts.axes import count_axis, label_axis, memory_text, share_axis, time_axis
from vmckpt.charts.bins import Bins, tallied
from vmckpt.charts.map import MOST_COLUMNS, PageMap, page_map
from vmckpt.charts.markup import joined
from vmckpt.charts.page import Figure
from vmckpt.charts.plots import Key, bars, hits, legend, line, plot, table
from vmckpt.pages import PAGE_BYTES
from vmckpt.restoring import measures
from vmckpt.restoring.history import PAGE_KINDS, History, page_kinds
from vmckpt.restoring.outcome import LazyReport
from vmckpt.restoring.timeline import Timeline
from vmckpt.units import format_count, format_duration

__all__ = ["LazyFigures"]

_TTR_STEPS = 100
_STALL_EDGES_US = (0, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6)


def _step_text(time_us: float) -> str:
    if time_us < 1e3:
        return f"{time_us:.0f} µs" if time_us else "0"
    return f"{time_us / 1e3:.0f} ms" if time_us < 1e6 else f"{time_us / 1e6:.0f} s"


class _Window(NamedTuple):
    """A w of TTR(w, u), and how its curve looks: thinner ones lie on thicker ones, as they often coincide."""

    window_s: float
    colour: str
    width: float
    shape: str


_TTR_WINDOWS = (
    _Window(10.0, "green", 8.0, "thick"),
    _Window(1.0, "blue", 3.5, "line"),
    _Window(0.1, "orange", 1.5, "thin"),
)


class LazyFigures:
    """The figures of one restore."""

    def __init__(self, report: LazyReport, history: History) -> None:
        self._report = report
        self._history = history
        self._stalls = measures.stalls_of(history.faults, history.start_ns)
        self._timeline = Timeline(report, history, self._stalls)

    def all(self) -> list[Figure]:
        """All that have something to show; those that a reader looks for, in any case."""
        always = [self._timeline.utilisation(), self._timeline.faults(), self.page_map(), self.ttr()]
        return [*always, self.stalls(), self._timeline.places()] if self._history.faults else always

    def page_map(self) -> Figure:
        """Where in memory what came why."""
        kinds = page_kinds(self._history.cells, self._history.touched)
        bins = Bins.at_most(len(kinds), MOST_COLUMNS)
        pages = PageMap(bins, PAGE_KINDS, tallied(kinds, len(PAGE_KINDS), bins), PAGE_BYTES)
        size = memory_text(bins.size * PAGE_BYTES)
        many = f"{size}, in proportion; a kind that is there at all is drawn" if bins.size > 1 else "one page"
        return Figure(
            "Page map",
            f"All of memory, from its start (top left) to its end, by why a page was brought. A column is {many}.",
            page_map("Pages of memory by origin; the table has the numbers", pages),
        )

    def ttr(self) -> Figure:
        """TTR(w, u)."""
        leasts = [step / _TTR_STEPS for step in range(1, _TTR_STEPS + 1)]
        curves = [self._curve(window.window_s, leasts) for window in _TTR_WINDOWS]
        x = share_axis("utilisation asked for, u")
        y = time_axis("TTR(w, u)", max(curve[-1] for curve in curves), to_tick=True)
        lines = [
            line(
                [(least, y.at(at_s)) for least, at_s in zip(leasts, curve, strict=True)],
                window.colour,
                window.width,
            )
            for window, curve in zip(_TTR_WINDOWS, curves, strict=True)
        ]
        steps = range(4, _TTR_STEPS, 5)
        rows = [[f"{step + 1} %", *(format_duration(curve[step]) for curve in curves)] for step in steps]
        names = [f"w = {window.window_s:g} s" for window in _TTR_WINDOWS]
        texts = [
            "\n".join(
                [f"u = {row[0]}", *(f"{name}: {text}" for name, text in zip(names, row[1:], strict=True))]
            )
            for row in rows
        ]
        edges = [max(step / _TTR_STEPS - 0.015, 0.0) for step in steps] + [1.0]
        keys = [
            Key(name, window.colour, "", window.shape)
            for name, window in zip(names, _TTR_WINDOWS, strict=True)
        ]
        half = bool(self._history.faults)
        drawn = plot("Time to responsiveness", x, y, *lines, hits(edges, texts), tall=half)
        return Figure(
            "Time to responsiveness",
            "From when on every window of length w has a utilisation of at least u.",
            joined([legend(keys), drawn, table(["u", *names], rows)]),
            half=half,
        )

    def _curve(self, window_s: float, leasts: Sequence[float]) -> list[float]:
        report = self._report
        return measures.ttr_curve(
            self._stalls, report.vcpus, running_s=report.time_to_run_s, window_s=window_s, leasts=leasts
        )

    def stalls(self) -> Figure:
        """How long a fault took."""
        title, text = "How long a fault took", "From when it was heard of until the vCPU went on."
        found = [0] * len(_STALL_EDGES_US)
        for fault in self._history.faults:
            found[bisect_right(_STALL_EDGES_US, fault.stall_ns / 1000) - 1] += 1
        used = [index for index, count in enumerate(found) if count]
        low, high = max(used[0] - 1, 0), min(used[-1] + 2, len(found))
        names = [*map(_step_text, _STALL_EDGES_US), "∞"]
        counts, labels = found[low:high], names[low : high + 1]
        y = count_axis("faults", max(counts))
        edges = [index / len(counts) for index in range(len(counts) + 1)]
        spans = [f"{labels[index]} – {labels[index + 1]}" for index in range(len(counts))]
        texts = [f"{span}\n{format_count(count)} faults" for span, count in zip(spans, counts, strict=True)]
        every = -(-len(labels) // 7)
        ticks = [label if index % every == 0 else "" for index, label in enumerate(labels)]
        drawn = plot(
            title,
            label_axis("time waited, steps of 1, 2, 5", ticks),
            y,
            bars(edges, [("orange", [y.at(count) for count in counts])]),
            hits(edges, texts),
            tall=True,
        )
        rows = ([span, format_count(count)] for span, count in zip(spans, counts, strict=True))
        return Figure(title, text, joined([drawn, table(["time waited", "faults"], rows)]), half=True)
