"""What is asked of a save of a running machine, made from the words that people write. Apart from `request`: saves at rest
import nothing of tracing.
"""

from collections.abc import Collection
from typing import NamedTuple

from vmckpt.errors import UsageError
from vmckpt.saving.estimators import ESTIMATORS
from vmckpt.saving.rounds import StopRule
from vmckpt.trace.rules import Mode, Rule

__all__ = ["TRACERS", "LiveRequest", "live_request"]

TRACERS = ("auto", "userfaultfd", "software")
"""Ways to trace: by the kernel, without its help, or by the first of the two that works."""


class LiveRequest(NamedTuple):
    """What is asked of a save of a running machine, beside what is asked of any."""

    mode: Mode
    rule: Rule | None
    """Which touches trap; None: none, and the machine stands still while it is saved."""
    mechanism: str
    """`auto`, `userfaultfd` or `software`."""
    estimator: str
    """Which pages count as active: `tracing` or `scanning`."""
    stop_rule: StopRule = StopRule()


def live_request(
    mode: str | None, trace: str | None, tracer: str | None, estimator: str | None
) -> LiveRequest:
    """What the words stand for that people write; None: `checkpoint`, `access`, `auto`, `tracing`.

    Raises:
        UsageError: there is no such mode, trace, tracer or estimator.
    """
    modes = {each.value: each for each in Mode}
    rules: dict[str, Rule | None] = {each.value: each for each in Rule} | {"off": None}
    asked: dict[str, tuple[str, Collection[str]]] = {
        "mode": (mode or "checkpoint", modes),
        "trace": (trace or "access", rules),
        "tracer": (tracer or "auto", TRACERS),
        "estimator": (estimator or "tracing", ESTIMATORS),
    }
    for what, (word, known) in asked.items():
        if word not in known:
            raise UsageError(f"there is no {what} {word!r}: expected one of {', '.join(known)}")
    words = [word for word, _ in asked.values()]
    return LiveRequest(modes[words[0]], rules[words[1]], words[2], words[3])
