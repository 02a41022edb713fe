"""Axes: where the ticks are and what they say.

    low, high ─▶ round steps ─▶ ticks (place from 0 to 1, text with unit)

All labels of an axis are in one unit and with as many decimals; sizes are in the unit that makes them whole. Pure.
Called by the reports.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vmckpt.charts.bins import round_up
from vmckpt.units import format_count

__all__ = [
    "Axis",
    "Tick",
    "count_axis",
    "label_axis",
    "memory_axis",
    "memory_text",
    "order_axis",
    "share_axis",
    "size_axis",
    "time_axis",
]

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_SIZES = (("TiB", 1 << 40), *_UNITS, ("B", 1))
_TIMES = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    """0: the axis's start, 1: its end."""
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """What is measured along one side of a plot."""

    title: str
    low: float
    high: float
    ticks: Sequence[Tick]

    def at(self, value: float) -> float:
        """Where a value is, from 0 to 1; outside values at the ends."""
        span = self.high - self.low
        return min(max((value - self.low) / span, 0.0), 1.0) if span > 0 else 0.0


def time_axis(title: str, high_s: float, *, low_s: float = 0.0, to_tick: bool = False) -> Axis:
    """From `low_s` to `high_s`, or with `to_tick` to the tick at or above it."""
    high_s = max(high_s, low_s + 1e-6)
    unit, unit_s = next((found for found in _TIMES if high_s >= 1.5 * found[1]), _TIMES[-1])
    step = round_up((high_s - low_s) / unit_s / 6)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if to_tick:
        high_s = math.ceil(high_s / unit_s / step - 1e-9) * step * unit_s
    first, last = math.ceil(low_s / unit_s / step - 1e-9), math.floor(high_s / unit_s / step + 1e-9)
    ticks = [
        Tick(
            (index * step * unit_s - low_s) / (high_s - low_s),
            f"{index * step:.{decimals}f} {unit}" if index else "0",
        )
        for index in range(first, last + 1)
    ]
    return Axis(title, low_s, high_s, ticks)


def count_axis(title: str, high: int) -> Axis:
    """From 0 to a round number at or above `high`."""
    step = max(round_up(max(high, 1) / 4), 1)
    steps = max(math.ceil(high / step), 1)
    ticks = [Tick(index / steps, format_count(round(index * step))) for index in range(steps + 1)]
    return Axis(title, 0.0, steps * step, ticks)


def order_axis(title: str, count: int) -> Axis:
    """From 0 to `count`, with ticks at round numbers."""
    step = max(round_up(max(count, 1) / 5), 1)
    ticks = [Tick(at / max(count, 1), format_count(at)) for at in range(0, count + 1, round(step))]
    return Axis(title, 0.0, count, ticks)


def share_axis(title: str, steps: int = 4) -> Axis:
    """From 0 to 1, in per cent."""
    return Axis(
        title,
        0.0,
        1.0,
        [Tick(index / steps, f"{100 * index // steps} %") for index in range(steps + 1)],
    )


def memory_text(size_bytes: int) -> str:
    """A place in memory, with nothing rounded off: `0`, `72.5 MiB`, `3 GiB`."""
    if not size_bytes:
        return "0"
    for unit, unit_bytes in _UNITS:
        if size_bytes >= unit_bytes and 8 * size_bytes % unit_bytes == 0:  # three decimals say all
            whole, rest = divmod(size_bytes, unit_bytes)
            return f"{format_count(whole)}{f'{rest / unit_bytes:g}'.removeprefix('0')} {unit}"
    return f"{format_count(size_bytes)} B"


def memory_axis(title: str, size_bytes: int) -> Axis:
    """From 0 to the end of memory, a tick at each power of two, or at so many of them."""
    step = 1 << max((size_bytes - 1).bit_length() - 3, 0)
    if size_bytes / step < 5:
        step >>= 1
    ticks = [Tick(at / size_bytes, memory_text(at)) for at in range(0, size_bytes + 1, max(step, 1))]
    return Axis(title, 0.0, size_bytes, ticks)


def size_axis(title: str, high_bytes: float, steps: int = 5) -> Axis:
    """From 0 to a round size at or above `high_bytes`, about so many steps of 1, 2 or 5 times a power of ten of a unit."""
    high_bytes = max(high_bytes, 1)
    unit, unit_bytes = next((found for found in _SIZES if high_bytes >= 2 * found[1]), _SIZES[-1])
    step = round_up(high_bytes / unit_bytes / steps)
    if unit_bytes == 1:
        step = max(step, 1)
    count = max(math.ceil(high_bytes / unit_bytes / step - 1e-9), 1)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    texts = [
        f"{format_count(round(at * step)) if not decimals else f'{at * step:.{decimals}f}'} {unit}"
        for at in range(1, count + 1)
    ]
    ticks = [Tick(at / count, text) for at, text in enumerate(["0", *texts])]
    return Axis(title, 0.0, count * step * unit_bytes, ticks)


def label_axis(title: str, labels: Sequence[str]) -> Axis:
    """Edges of steps that are one as wide as the other: a text for each, some of them empty."""
    last = max(len(labels) - 1, 1)
    ticks = [Tick(index / last, text) for index, text in enumerate(labels) if text]
    return Axis(title, 0.0, last, ticks)
