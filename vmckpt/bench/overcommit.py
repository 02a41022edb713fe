"""`bench overcommit`: a host with less memory than its machines have, and what breaking large pages up costs and brings.

    images ─▶ machines arrive one by one ─▶ after each the policy acts ─▶ turns until it is done ─▶ a while of work is measured

The same machines under each of four policies (`policies`), in turns. Measured: pages freed and large pages kept (counted), the
part of accesses that still met a large mapping (counted, every one), pages that would have to be swapped.
`outcome_of` is pure; `run` acts.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vmckpt.bench.guest import Request
from vmckpt.bench.host import Host, kept_free_bytes
from vmckpt.bench.outcome import Grid, Outcome, Spread, Target, percent, spread_of
from vmckpt.bench.policies import AsKsm, BreakAll, ByPlan, NeverBreak, Policy
from vmckpt.machine.image import create_image
from vmckpt.machine.session import Wishes
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.choose import planned
from vmckpt.sharing.pressure import State
from vmckpt.units import format_count, format_size

__all__ = ["POLICIES", "SIZE_BYTES", "Measured", "outcome_of", "run"]

SIZE_BYTES = 128 << 20
"""Of each guest."""
PROFILES = ("server", "sort", "server", "files")
"""Of the guests."""
_BUDGET_PART = 0.85  # of what all guests have
_WORKLOAD = "working-set:set=10,cluster=512,phase=0,write=10"
_WARMUP_OPS = 100_000
_MEASURE_S = 1.5
_MOST_TURNS = 20

NEVER, ALL, KSM, OURS = "never break", "break all", "KSM's order", "ours"
POLICIES = (NEVER, ALL, KSM, OURS)


class Measured(NamedTuple):
    """One run under one policy."""

    freed_pages: int
    large_pages: int
    """That are left."""
    large_hits: float
    """Part of all accesses that met a large mapping."""
    over_pages: int
    """That would have to be swapped in the end."""
    peak_over_pages: int
    """The most of these that were left when the policy had acted on an arrival."""
    ops_per_s: float
    turns: int
    states: Sequence[State]
    """Of the host at each turn, where the policy looks at it."""


def _policy(name: str, note: Callable[[State], None]) -> Policy:
    makers: Mapping[str, Callable[[], Policy]] = {
        NEVER: NeverBreak,
        ALL: BreakAll,
        KSM: AsKsm,
        OURS: lambda: ByPlan(planned, note),
    }
    return makers[name]()


def run(request: Request) -> Outcome:
    """Do the experiment; policies take turns.

    Raises:
        VmckptError: something failed.
    """
    images = []
    for number, profile in enumerate(PROFILES):
        request.tell(f"creating guest {number + 1} of {len(PROFILES)}")
        images.append(os.path.join(request.work_dir, f"guest-{number}.raw"))
        create_image(images[-1], request.size_bytes, profile=profile, seed=request.seed + number)
    budget_bytes = int(len(images) * request.size_bytes * _BUDGET_PART)
    runs: dict[str, list[Measured]] = {name: [] for name in POLICIES}
    for turn in range(request.runs):
        for name in POLICIES:
            request.tell(f"run {turn + 1} of {request.runs}: {name}")
            runs[name].append(_measure(request, images, budget_bytes, name))
    return outcome_of(runs, memory_bytes=len(images) * request.size_bytes, budget_bytes=budget_bytes)


def _measure(request: Request, images: Sequence[str], budget_bytes: int, name: str) -> Measured:
    states: list[State] = []
    policy = _policy(name, states.append)
    with Host(budget_bytes, request.tell) as host:
        peak = turns = 0
        for number, image in enumerate(images):
            host.arrive(image, Wishes(_WORKLOAD, 1, request.seed + number), _WARMUP_OPS)
            turns += _act(policy, host)
            peak = max(peak, host.over_pages)
        before = host.count()
        time.sleep(_MEASURE_S)  # of the machines' work
        after = host.count()
        ops, small_ops = after.ops - before.ops, after.small_ops - before.small_ops
        return Measured(
            after.freed_pages,
            after.large_pages,
            1 - small_ops / max(ops, 1),
            host.over_pages,
            peak,
            ops / (after.at_s - before.at_s),
            turns,
            states,
        )


def _act(policy: Policy, host: Host) -> int:
    for turn in range(_MOST_TURNS):
        if not policy.act(host):
            return turn + 1
    return _MOST_TURNS


def outcome_of(runs: Mapping[str, Sequence[Measured]], *, memory_bytes: int, budget_bytes: int) -> Outcome:
    """Tables, values and targets of runs by policy."""
    values: dict[str, object] = {
        "guests": len(PROFILES),
        "guest_profiles": list(PROFILES),
        "workload": _WORKLOAD,
        "memory_bytes": memory_bytes,
        "budget_bytes": budget_bytes,
        "min_free_bytes": kept_free_bytes(budget_bytes),
        "policies": {name: _values(found) for name, found in runs.items()},
    }
    title = (
        f"{len(PROFILES)} guests with {format_size(memory_bytes)} on a host of {format_size(budget_bytes)}, "
        f"which keeps {format_size(kept_free_bytes(budget_bytes))} free"
    )
    header = (
        "policy",
        "freed",
        "large pages left",
        "accesses that met one",
        "min .. max",
        "to be swapped",
        "ops/s",
    )
    rows = [_row(name, found) for name, found in runs.items()]
    return Outcome(values, [Grid(title, header, rows)], _targets(runs))


def _values(found: Sequence[Measured]) -> dict[str, object]:
    names = (
        "freed_pages",
        "large_pages",
        "large_hits",
        "over_pages",
        "peak_over_pages",
        "ops_per_s",
        "turns",
    )
    spreads: dict[str, object] = {name: _of(found, name)._asdict() for name in names}
    return {**spreads, "states": [[state.name.lower() for state in each.states] for each in found]}


def _row(name: str, found: Sequence[Measured]) -> tuple[str, ...]:
    hits = _of(found, "large_hits")
    return (
        name,
        format_size(_of(found, "freed_pages").median * PAGE_BYTES),
        format_count(round(_of(found, "large_pages").median)),
        percent(hits.median),
        f"{percent(hits.low)} .. {percent(hits.high)}",
        format_size(_of(found, "over_pages").median * PAGE_BYTES),
        format_count(round(_of(found, "ops_per_s").median)),
    )


def _of(found: Sequence[Measured], name: str) -> Spread:
    return spread_of([float(getattr(each, name)) for each in found])


def _targets(runs: Mapping[str, Sequence[Measured]]) -> list[Target]:
    def median(policy: str, name: str) -> float:
        return _of(runs[policy], name).median

    never, ours = median(NEVER, "over_pages"), median(OURS, "over_pages")
    kept, ksm_kept = median(OURS, "large_pages"), median(KSM, "large_pages")
    hits, ksm_hits = median(OURS, "large_hits"), median(KSM, "large_hits")
    return [
        Target(
            "sharing comes before swapping",
            "nothing to swap, where never breaking has",
            f"{format_size(ours * PAGE_BYTES)} instead of {format_size(never * PAGE_BYTES)}",
            ours == 0 < never,
        ),
        Target(
            "large pages kept",
            "more than in KSM's order",
            f"{kept:.0f}, KSM's order {ksm_kept:.0f}",
            kept > ksm_kept,
        ),
        Target(
            "accesses that meet a large mapping",
            "more than in KSM's order",
            f"{percent(hits)}, KSM's order {percent(ksm_hits)}",
            hits > ksm_hits,
        ),
    ]
