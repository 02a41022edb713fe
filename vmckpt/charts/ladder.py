"""A ladder: steps one below the other, each of which begins where the one above it ends.

    zero pages     ▇▇▇▇▇▇▇▇│                412 MiB
    within images          ▇▇▇▇│           +210 MiB
    between them               ░░░          +98 MiB   faint: not counted
                   0     200     400 MiB

Rows are plain HTML around an SVG that stretches, so on a phone the name goes above its beam. Pure. Called by the reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vmckpt.charts.axes import Axis
from vmckpt.charts.markup import Markup, element, number
from vmckpt.charts.plots import x_ticks

__all__ = ["Step", "ladder"]

_WIDTH, _HEIGHT = 1000, 100
_TOP, _BOTTOM = 24, 76  # of the beam
_WHISKER_TOP, _WHISKER_BOTTOM = 36, 64


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a ladder."""

    name: str
    note: str
    """What else there is to say, below the name."""
    start: float
    """Where it begins, on the axis."""
    end: float
    value: str
    share: str
    """Below the value."""
    colour: str
    """Of the palette."""
    faint: bool = False
    """It does not count."""
    interval: tuple[float, float] | None = None
    """Where its end may be, if that is not sure."""


def ladder(label: str, axis: Axis, steps: Sequence[Step]) -> Markup:
    """The steps, and the axis below them.

    Args:
        label: what it is, for those who do not see it.
        axis: what `start` and `end` are measured on.
        steps: from the first.
    """
    rows = [_row(axis, step, last=index == len(steps) - 1) for index, step in enumerate(steps)]
    foot = element("div", element("div", *x_ticks(axis.ticks), class_="xs"), class_="foot")
    return element(
        "div",
        *rows,
        foot,
        element("p", axis.title, class_="unit"),
        class_="ladder",
        role="img",
        aria_label=label,
    )


def _row(axis: Axis, step: Step, *, last: bool) -> Markup:
    return element(
        "div",
        element("div", element("b", step.name), element("span", step.note), class_="what"),
        _beam(axis, step, last=last),
        element("div", element("b", step.value), element("span", step.share), class_="much"),
        class_="step",
    )


def _beam(axis: Axis, step: Step, *, last: bool) -> Markup:
    left, right = (_WIDTH * axis.at(value) for value in (step.start, step.end))
    shapes = [
        element(
            "path",
            class_="grid",
            d="".join(f"M{number(_WIDTH * tick.at)} 0v{_HEIGHT}" for tick in axis.ticks),
        )
    ]
    if step.end > step.start:
        right = max(right, left + 2)  # so that it can be seen at all
        box = f"M{number(left)} {_TOP}H{number(right)}V{_BOTTOM}H{number(left)}z"
        shapes.append(
            element("path", class_=f"{'wash edged' if step.faint else 'fill'} c-{step.colour}", d=box)
        )
    if step.interval is not None:
        low, high = (number(_WIDTH * axis.at(value)) for value in step.interval)
        ends = "".join(f"M{at} {_WHISKER_TOP}V{_WHISKER_BOTTOM}" for at in (low, high))
        whisker = f"M{low} {_HEIGHT // 2}H{high}{ends}"
        shapes += [element("path", class_=name, d=whisker) for name in ("halo", "whisker")]
    joints = f"M{number(left)} 0V{_TOP}" if step.start > 0 else ""
    if not last:
        joints += f"M{number(right)} {_BOTTOM if step.end > step.start else 0}V{_HEIGHT}"
    shapes.append(element("path", class_="joint", d=joints))
    return element(
        "svg",
        *shapes,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        class_="beam",
        aria_hidden="true",
    )
