"""The figures of a lazy restore over time: its log in, drawings with their numbers out.

    faults ─▶ windows of time ─▶ utilisation, faults over time, where and when

They have one axis: from a little before the machine runs until nothing more happens. Pure. Called by `figures`.
"""

from collections.abc import Sequence
from itertools import pairwise

from vmckpt.charts.axes import count_axis, memory_axis, share_axis, time_axis
from vmckpt.charts.bins import spread, window_of, windows
from vmckpt.charts.markup import Markup, joined
from vmckpt.charts.page import Figure
from vmckpt.charts.plots import (
    Key,
    Mark,
    bars,
    heat,
    hits,
    legend,
    marks,
    nothing,
    outline,
    plot,
    shade,
    table,
)
from vmckpt.pages import PAGE_BYTES
from vmckpt.restoring.history import History
from vmckpt.restoring.log import FaultKind
from vmckpt.restoring.measures import Stall
from vmckpt.restoring.outcome import LazyReport
from vmckpt.units import format_count, format_duration, format_share, format_size

__all__ = ["Timeline"]

_MOST_WINDOWS = 120
_MOSTLY_CALM, _CALM_SHOWN = 2, 1.25  # time without faults, beside time with them
_HEAT = (64, 32)  # columns, cells of a column

_FAULTS = (
    (FaultKind.READ, "a read from the file", "orange"),
    (FaultKind.HELD, "its storage block was at hand", "amber"),
    (FaultKind.ZERO, "a zero page", "purple"),
    (FaultKind.LATE, "brought meanwhile", "sky"),
    (FaultKind.REMOVED, "given up by the guest", "green"),
)


class Timeline:
    """What happened when, in one restore."""

    def __init__(self, report: LazyReport, history: History, stalls: Sequence[Stall]) -> None:
        self._report = report
        self._history = history
        self._stalls = stalls
        last_s = max((stall.end_s for stall in self._stalls), default=0.0)
        until_s = min(max(report.resident_s, last_s), report.elapsed_s)
        if 0 < last_s < until_s / _MOSTLY_CALM:
            until_s = last_s * _CALM_SHOWN
        self._end_s = max(until_s, report.time_to_run_s + 1e-3)
        self._edges_s = windows(report.time_to_run_s, self._end_s, _MOST_WINDOWS)
        shown_s = self._end_s - report.time_to_run_s
        low_s = report.time_to_run_s - shown_s / 5 if report.time_to_run_s > shown_s else 0.0
        self._time = time_axis("time since the start of the command", self._end_s, low_s=low_s)
        self._edges = [self._time.at(edge_s) for edge_s in self._edges_s]
        self._window = format_duration(self._edges_s[1] - self._edges_s[0])

    def _moments(self) -> list[Mark]:
        report = self._report
        found = [
            Mark("the machine runs", report.time_to_run_s, format_duration(report.time_to_run_s), "solid"),
            Mark(
                "90 % of speed from here on", report.ttr_s["0.9"], format_duration(report.ttr_s["0.9"]), "dot"
            ),
            Mark("all memory is there", report.resident_s, format_duration(report.resident_s), "dash"),
        ]
        return [
            Mark(mark.name, self._time.at(mark.at), mark.text, mark.shape)
            for mark in found
            if mark.at <= self._end_s * 1.0001
        ]

    def _timed(self, *keys: Key) -> tuple[Markup, Markup, Markup]:
        """Legend, what lies below the shapes, and what lies above."""
        moments = self._moments()
        lines = [Key(mark.name, "ink", mark.text, mark.shape) for mark in moments]
        before = shade(0, self._time.at(self._report.time_to_run_s))
        return legend([*keys, *lines]), before, marks(moments)

    def _rows(self) -> list[str]:
        pairs = pairwise(self._edges_s)
        return [f"{format_duration(low)} – {format_duration(high)}" for low, high in pairs]

    def utilisation(self) -> Figure:
        """What part of each window vCPUs did not wait."""
        waited = spread(self._stalls, self._edges_s)
        lengths = [high - low for low, high in pairwise(self._edges_s)]
        shares = [
            max(1 - wait / (length * self._report.vcpus), 0.0)
            for wait, length in zip(waited, lengths, strict=True)
        ]
        texts = [
            f"{row}\n{format_share(share)} of the time at work"
            for row, share in zip(self._rows(), shares, strict=True)
        ]
        keys, below, above = self._timed()
        drawn = plot(
            "Utilisation over time",
            self._time,
            share_axis("part of the vCPUs’ time not spent waiting for a page"),
            below,
            outline(self._edges, shares, "blue"),
            hits(self._edges, texts),
            above,
        )
        rows = ([row, format_share(share)] for row, share in zip(self._rows(), shares, strict=True))
        return Figure(
            "Utilisation over time",
            f"How much of their time vCPUs worked, in windows of {self._window}. Shaded: the machine did not run yet."
            + self._rest(),
            joined([keys, drawn, table(["window", "utilisation"], rows)]),
        )

    def _rest(self) -> str:
        """What the time axis leaves out."""
        report = self._report
        if report.elapsed_s <= self._end_s * 1.05:
            return ""
        there = (
            f"; all memory was there after {format_duration(report.resident_s)}"
            if report.resident_s > self._end_s
            else ""
        )
        return f" After that it ran on at full speed, until {format_duration(report.elapsed_s)}{there}."

    def faults(self) -> Figure:
        """How many faults there were in each window."""
        title = "Faults over time"
        if not self._history.faults:
            return Figure(
                title, "Touches of pages that were not there.", nothing("No vCPU ever waited for a page.")
            )
        counts = [[0] * len(_FAULTS) for _ in self._edges[1:]]
        place = {kind: index for index, (kind, _, _) in enumerate(_FAULTS)}
        for fault in self._history.faults:
            at_s = (fault.at_ns - self._history.start_ns) / 1e9
            counts[window_of(self._edges_s, at_s)][place[FaultKind(fault.kind)]] += 1
        totals = [sum(column) for column in zip(*counts, strict=True)]
        there = [index for index, total in enumerate(totals) if total]
        y = count_axis(f"faults in {self._window}", max(map(sum, counts)))
        layers = [(_FAULTS[index][2], [y.at(window[index]) for window in counts]) for index in there]
        texts = [
            "\n".join([row, *(f"{_FAULTS[at][1]}: {format_count(window[at])}" for at in there if window[at])])
            if any(window)
            else ""
            for row, window in zip(self._rows(), counts, strict=True)
        ]
        keys, below, above = self._timed(
            *(Key(_FAULTS[at][1], _FAULTS[at][2], format_count(totals[at])) for at in there)
        )
        drawn = plot(title, self._time, y, below, bars(self._edges, layers), hits(self._edges, texts), above)
        rows = (
            [row, *(format_count(window[at]) for at in there)]
            for row, window in zip(self._rows(), counts, strict=True)
            if any(window)
        )
        numbers = table(["window", *(_FAULTS[at][1] for at in there)], rows)
        return Figure(
            title,
            "Touches of pages that were not there, by what answered them.",
            joined([keys, drawn, numbers]),
        )

    def places(self) -> Figure:
        """Which part of memory was asked for when."""
        title = "Where the faults were"
        text = "Each cell is a stretch of memory during a stretch of time: the stronger its colour, the more faults."
        columns, cells = _HEAT
        counts = [[0] * cells for _ in range(columns)]
        total = self._report.pages.total
        for fault in self._history.faults:
            at = self._time.at((fault.at_ns - self._history.start_ns) / 1e9)
            counts[min(int(at * columns), columns - 1)][min(fault.page * cells // total, cells - 1)] += 1
        keys, below, above = self._timed()
        y = memory_axis("place in memory", total * PAGE_BYTES)
        drawn = plot(title, self._time, y, below, heat(counts, "orange"), above, tall=True)
        stripe = total * PAGE_BYTES // cells
        rows = (
            [f"from {format_size(stripe * cell)}", format_count(sum(column[cell] for column in counts))]
            for cell in range(cells)
        )
        return Figure(title, text, joined([keys, drawn, table(["place in memory", "faults"], rows)]))
