"""Saves of the machine, as its supervisor serves them: one at a time, for the connection that asked for it.

    trace-prepare ─▶ prepared ── trace-begin ─▶ traced ── trace-hold ─▶ held ── trace-end ─▶ none
                        └───────────────┬──────────────────────┘
        the connection ends, or a vCPU stands still too long: traces lifted, a held machine goes on ─▶ none

The saver does the work; here the machine is only paused, changed over and let go (docs/machine.md has the requests).
Whatever a saver does, the machine is not lost by it: traces are lifted when it is gone, and when it answers no traps.

Given to the control server as handlers, and told the time by `session`.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Mapping
from functools import partial

from vmckpt.errors import IoError, UsageError, WorkerError
from vmckpt.machine.connection import Caller, Handler
from vmckpt.machine.forming import reform_all
from vmckpt.machine.machine import Machine
from vmckpt.machine.traces import MECHANISMS, Traces, Wanted, prepare

__all__ = ["HOLD_PATIENCE_S", "PATIENCE_S", "Saves"]

HOLD_PATIENCE_S = 30.0
"""How long a held machine waits for a sign of its saver; then it goes on, and the save fails."""
PATIENCE_S = 10.0
"""How long a traced vCPU may stand still in the midst of an operation; then its traces are lifted, and the save fails."""

_RATE_S = 1.0  # the rate before a save is that of about so long
_SAMPLE_S = 0.05
_MOST_RANGES = 512  # in a message to a vCPU, which has less than 64 KiB


class _Save:
    """One save."""

    def __init__(self, caller: Caller, traces: Traces, before: float, started: "_Sample") -> None:
        self.caller = caller
        self.traces = traces
        self.before = before  # operations in a second
        self.during: float | None = None
        self.prepared = started
        self.begun: _Sample | None = None
        self.held_s: float | None = None  # since when, on perf_counter
        self.heard_s = time.monotonic()  # of its saver
        self.resumes = False  # it was held, and ran before
        self.lost = ""  # why its traces were lifted before it ended
        self.pulses: list[tuple[tuple[int, int] | None, float]] = []  # of each vCPU, and since when that


_Sample = tuple[float, int]  # monotonic seconds, operations


class Saves:
    """The requests of savers. Belongs to the machine's thread."""

    def __init__(self, machine: Machine) -> None:
        """Watch over `machine` from now on."""
        self._machine = machine
        self._save: _Save | None = None
        self._lost: tuple[Caller, str] | None = None
        self._samples: deque[_Sample] = deque()
        machine.while_waiting = self._lift_if_lost

    def handlers(self) -> dict[str, Handler]:
        """Requests by name, for `ControlServer.serve`."""
        return {
            "pause": self._pause,
            "resume": self._resume,
            "stop": self._stop,
            "trace-prepare": self._prepare,
            "trace-begin": self._begin,
            "trace-hold": self._hold,
            "trace-fence": self._fence,
            "trace-forget": self._forget,
            "trace-confirm": self._confirm,
            "trace-end": self._end,
        }

    def tick(self) -> None:
        """Call it a few times in a second."""
        self._sample()
        reason = self._lift_if_lost()
        if reason:
            self.abort(reason)

    def abort(self, reason: str) -> None:
        """End the save that is under way, if any: the machine goes on as if it had never been."""
        save = self._save
        if save is None:
            return
        self._save = None
        self._lost = save.caller, reason
        self._part(save)

    def _part(self, save: _Save, *, stop: bool = False) -> None:
        save.traces.lift()
        save.caller.at_end = None
        self._machine.activity = None
        if self._machine.state == "stopped":
            return
        if stop:
            self._machine.stop()
            return
        with contextlib.suppress(WorkerError):  # a vCPU is lost: the machine has been stopped, and says so
            self._machine.exchange("trace-leave", resume=save.resumes)

    # ---- control of the machine, by whomever

    def _pause(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        del values, caller
        self._machine.pause()
        if self._save is not None:
            self._save.resumes = False
        return {}

    def _resume(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        del values, caller
        if self._save is not None and self._save.held_s is not None:
            raise UsageError("the machine is held until it is saved: then it goes on by itself, or ends")
        self._machine.resume()
        return {}

    def _stop(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        del values, caller
        if self._save is not None:
            self._save.lost = "the machine was stopped"
            self._save.traces.lift()  # so that no vCPU waits for a tracer that does not answer
        self._machine.stop()
        return {}

    # ---- the save

    def _prepare(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        wanted = _wanted(values)
        if self._save is not None:
            raise UsageError("the machine is being saved already")
        if self._machine.activity is not None:
            raise UsageError(f"the machine is {self._machine.activity}: it can be saved after that")
        now = self._sample()
        before = _rate(self._samples[0], now)
        machine = self._machine
        if wanted.first_touch or wanted.writes:
            reform_all(machine.mappings)  # traces are of pages in place
        traces = prepare(machine, wanted)
        try:
            caller.descriptors += [os.dup(machine.ram.fd), *machine.mappings.give(), *traces.give()]
        except OSError as error:
            traces.lift()
            self._machine.call("trace-leave", {})
            raise IoError.of(error, "cannot hand the machine's memory over") from error
        self._save = _Save(caller, traces, before, now)
        self._machine.activity = "saving"
        caller.at_end = partial(self.abort, "its connection ended")
        regions = [[region.gpa, region.size_bytes] for region in self._machine.ram.layout.regions]
        answer = {"mechanism": traces.mechanism, "regions": regions, "bases": list(traces.bases)}
        return {**answer, "page_table": machine.mappings.active}

    def _begin(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        save = self._own(caller, values)
        if save.begun is not None or save.held_s is not None:
            raise UsageError("this save has begun already")
        machine, ran = self._machine, not self._machine.paused
        started_s = time.perf_counter()
        machine.pause()
        state = machine.machine_state()
        machine.exchange("trace-enter", resume=ran)
        pause_s = time.perf_counter() - started_s
        save.begun = self._sample()
        return {"machine": state.values(), "pause_s": pause_s, "ops_per_s_before": save.before}

    def _hold(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        save = self._own(caller, values)
        if save.held_s is not None:
            raise UsageError("the machine is held already")
        save.held_s, save.resumes = time.perf_counter(), not self._machine.paused
        self._machine.pause()
        self._own(caller, {})  # it may have been lost while a vCPU was waited for
        during = _rate(save.begun or save.prepared, self._sample())
        save.during = during if save.begun is not None else None
        state = self._machine.machine_state().values()
        return {"machine": state, "ops_per_s_before": save.before, "ops_per_s_during": during}

    def _fence(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        self._own(caller, values)
        self._machine.call("trace-fence", {})
        self._own(caller, {})
        return {}

    def _forget(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        save = self._own(caller, values, "ranges")
        ranges = _ranges(values.get("ranges"), self._machine.ram.layout.page_count)
        if save.begun is None:
            raise UsageError("this save has not begun: there is nothing to forget")
        for first in range(0, len(ranges), _MOST_RANGES):
            self._machine.call("trace-forget", {"ranges": ranges[first : first + _MOST_RANGES]})
        return {}

    def _confirm(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        self._own(caller, values)
        return {}

    def _end(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        save = self._own(caller, values, "stop")
        stop = _flag(values, "stop")
        during = save.during
        if during is None:
            during = _rate(save.begun or save.prepared, self._sample())
        self._save = None
        self._part(save, stop=stop)
        pause_s = 0.0 if save.held_s is None else time.perf_counter() - save.held_s
        return {"pause_s": pause_s, "ops_per_s_during": during}

    def _own(self, caller: Caller, values: Mapping[str, object], *known: str) -> _Save:
        """The save that `caller` has asked for; only `known` values may come with the request."""
        _check_names(values, known)
        reason = self._lift_if_lost()
        if reason:
            self.abort(reason)
        if self._save is not None and self._save.caller is caller:
            self._save.heard_s = time.monotonic()
            return self._save
        if self._lost is not None and self._lost[0] is caller:
            raise WorkerError(f"the save has been ended, and the machine goes on without it: {self._lost[1]}")
        raise UsageError("this connection does not save the machine: trace-prepare comes first")

    # ---- what is noticed

    def _sample(self) -> _Sample:
        """Operations now; samples reach back for `_RATE_S`, or to the start."""
        now = (time.monotonic(), self._machine.status().ops)
        samples = self._samples
        if not samples or now[0] - samples[-1][0] >= _SAMPLE_S:
            samples.append(now)
        while len(samples) > 1 and now[0] - samples[1][0] >= _RATE_S:
            samples.popleft()
        return now

    def _lift_if_lost(self) -> str:
        """Lift the traces, and say why, if nobody answers traps any more. Asks no vCPU anything."""
        save = self._save
        if save is None or (save.begun is None and save.held_s is None):
            return ""
        if not save.lost:
            if save.caller.has_gone():
                save.lost = "its connection ended"
            elif save.held_s is not None and time.monotonic() - save.heard_s >= HOLD_PATIENCE_S:
                save.lost = (
                    f"the machine was held, and nothing was heard of the saver for {HOLD_PATIENCE_S:g} s"
                )
            elif save.begun is not None and self._still_s(save) >= PATIENCE_S:
                save.lost = f"a vCPU waited {PATIENCE_S:g} s for an answer to its trap"
            if save.lost:
                save.traces.lift()
        return save.lost

    def _still_s(self, save: _Save) -> float:
        """How long the vCPU that has stood still for longest has had operations to do, and not got on."""
        now_s, pulses = time.monotonic(), self._machine.pulses
        before = save.pulses or [(None, now_s)] * len(pulses)
        save.pulses = [
            (pulse, since_s if pulse == known and pulse is not None else now_s)
            for pulse, (known, since_s) in zip(pulses, before, strict=True)
        ]
        return max(now_s - since_s for _, since_s in save.pulses)


def _rate(start: _Sample, end: _Sample) -> float:
    return (end[1] - start[1]) / max(end[0] - start[0], 1e-6)


def _wanted(values: Mapping[str, object]) -> Wanted:
    _check_names(values, ("mechanism", "first_touch", "writes"))
    mechanism = values.get("mechanism")
    if mechanism not in MECHANISMS:
        raise UsageError(f"there is no mechanism {mechanism!r:.40}: choose one of {', '.join(MECHANISMS)}")
    return Wanted(str(mechanism), _flag(values, "first_touch"), _flag(values, "writes"))


def _check_names(values: Mapping[str, object], known: tuple[str, ...]) -> None:
    strange = sorted(set(values) - set(known))
    if strange:
        raise UsageError(f"the request does not take {', '.join(strange):.80}")


def _flag(values: Mapping[str, object], name: str) -> bool:
    value = values.get(name)
    if not isinstance(value, bool):
        raise UsageError(f"{name} is true or false, and not {value!r:.40}")
    return value


def _ranges(value: object, page_count: int) -> list[list[int]]:
    if not isinstance(value, list):
        raise UsageError("ranges are a list of pairs: first page, end page")
    for pages in value:
        if not isinstance(pages, list) or len(pages) != 2 or any(type(page) is not int for page in pages):
            raise UsageError(f"a range is a pair of page numbers, and not {pages!r:.40}")
        if not 0 <= pages[0] < pages[1] <= page_count:
            raise UsageError(f"a range is not in a memory of {page_count} pages, or empty: {pages!r:.60}")
    return value
