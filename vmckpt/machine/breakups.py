"""Large pages broken up, formed again and watched, as the supervisor serves it (docs/machine.md has the requests).

    break-up ─▶ Merger          re-form ─▶ forming          activity-begin, -scan, -end ─▶ ActivityTest, one at a time

Each request does a bounded piece of work and leaves nothing half done: who asks sends as many as it takes, and the
machine goes on, whoever goes away. While memory is saved or restored it is refused. Given to the control server as
handlers.
"""

from collections.abc import Mapping

from vmckpt.errors import UsageError
from vmckpt.machine.activity import ActivityTest, Thresholds
from vmckpt.machine.connection import Caller, Handler
from vmckpt.machine.forming import reform
from vmckpt.machine.large import LARGE_PAGE_BYTES
from vmckpt.machine.machine import Machine
from vmckpt.machine.merge import Merger

__all__ = ["MOST_LARGE_PAGES", "BreakUps"]

MOST_LARGE_PAGES = 64
"""In one `break-up` or `re-form`: some tens of milliseconds, for which other clients wait."""


class BreakUps:
    """The requests. Belongs to the machine's thread."""

    def __init__(self, machine: Machine) -> None:
        """Serve `machine`."""
        self._machine = machine
        self._mappings = machine.mappings
        self._merger = Merger(machine.ram, machine.mappings)
        self._test: tuple[ActivityTest, Caller] | None = None

    def handlers(self) -> dict[str, Handler]:
        """Requests by name, for `ControlServer.serve`."""
        return {
            "break-up": self._break_up,
            "re-form": self._reform,
            "broken": self._broken,
            "activity-begin": self._begin,
            "activity-scan": self._scan,
            "activity-end": self._end,
        }

    def _break_up(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        del caller
        numbers = self._wanted(values, "large_pages", "large_page_bytes")
        return self._merger.break_up(numbers)._asdict()

    def _reform(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        del caller
        numbers = self._wanted(values, "large_pages", "large_page_bytes")
        return {"formed_large_pages": reform(self._mappings, numbers)}

    def _broken(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        del caller
        self._check(values)
        return {
            "broken": sorted(self._mappings.broken),
            "large_page_bytes": self._mappings.large.large_page_bytes,
        }

    def _wanted(self, values: Mapping[str, object], *known: str) -> list[int]:
        """The large pages of a request."""
        self._check(values, *known)
        numbers = _numbers(values.get("large_pages"))
        if len(numbers) > MOST_LARGE_PAGES:
            raise UsageError(
                f"a request names {MOST_LARGE_PAGES} large pages at most, and not {len(numbers)}: ask again for the others"
            )
        self._mappings.use(_positive(values.get("large_page_bytes", LARGE_PAGE_BYTES), "large_page_bytes"))
        for number in numbers:
            self._mappings.large.pages_of(number)
        return numbers

    def _check(self, values: Mapping[str, object], *known: str) -> None:
        strange = sorted(set(values) - set(known))
        if strange:
            raise UsageError(f"the request does not take {', '.join(strange):.80}")
        activity = self._machine.activity
        if activity is not None:
            raise UsageError(
                f"the machine is {activity}: its large pages stay as they are until that is over"
            )

    # ---- the low-activity test

    def _begin(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        self._check(values, "large_pages", "large_page_bytes", "hot", "cold")
        if self._test is not None:
            raise UsageError(
                "an activity test is under way: activity-end, or the end of its connection, ends it"
            )
        thresholds = Thresholds(
            _part(values.get("hot", Thresholds().hot), "hot"),
            _part(values.get("cold", Thresholds().cold), "cold"),
        )
        if thresholds.cold > thresholds.hot:
            raise UsageError(
                f"hot begins above cold: expected at least {thresholds.cold}, found {thresholds.hot}"
            )
        self._mappings.use(_positive(values.get("large_page_bytes", LARGE_PAGE_BYTES), "large_page_bytes"))
        wanted = values.get("large_pages")
        numbers = self._mappings.large.numbers if wanted is None else _numbers(wanted)
        self._test = ActivityTest(self._mappings, numbers, thresholds), caller
        caller.at_end = self._stop_test
        return {"tested_large_pages": len(numbers)}

    def _scan(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        self._check(values)
        found = self._own(caller).scan()
        return {"activity": [each._asdict() for each in found]}

    def _end(self, values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
        self._check(values)
        self._own(caller)
        self._stop_test()
        return {}

    def _own(self, caller: Caller) -> ActivityTest:
        if self._test is None or self._test[1] is not caller:
            raise UsageError("this connection tests nothing: activity-begin comes first")
        return self._test[0]

    def _stop_test(self) -> None:
        if self._test is None:
            return
        (test, caller), self._test = self._test, None
        caller.at_end = None
        if self._machine.has_vcpus:
            test.end()


def _numbers(value: object) -> list[int]:
    if not isinstance(value, list) or any(type(number) is not int for number in value):
        raise UsageError(f"large_pages is a list of numbers, and not {value!r:.60}")
    return list(dict.fromkeys(value))


def _positive(value: object, name: str) -> int:
    if type(value) is not int:
        raise UsageError(f"{name} is a number, and not {value!r:.40}")
    return value


def _part(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"{name} is a number from 0 to 1, and not {value!r:.40}")
    return float(value)
