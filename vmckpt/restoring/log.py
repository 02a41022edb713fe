"""The log of a restore: a record for each fault, in memory that outlives the process that writes it.

    handler ─▶ FaultLog (shared memory) ─▶ supervisor ─▶ measures, or a file (docs/restore.md has its form)

Counters and records are written by one handler at a time; one that is started again goes on where the last one stopped.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

from vmckpt.errors import FormatError

__all__ = ["RECORD_BYTES", "Counter", "Fault", "FaultKind", "FaultLog", "read_lines", "written_lines"]

_VERSION = 1
_RECORD = struct.Struct("=QQIIIHBB")
RECORD_BYTES = _RECORD.size
_NONE = 0xFFFF_FFFF


class FaultKind(IntEnum):
    """What answered a fault."""

    READ = 0
    """A storage block was read for it."""
    HELD = 1
    """Its storage block was at hand."""
    ZERO = 2
    """The page is zero."""
    LATE = 3
    """Somebody else had brought the page since it was touched."""
    REMOVED = 4
    """The guest had given the page up."""


class Fault(NamedTuple):
    """A vCPU that touched a page which was not there."""

    at_ns: int
    """When it was heard of, on the scale of `time.monotonic_ns`."""
    stall_ns: int
    """From then until the vCPU was let go."""
    page: int
    vcpu: int
    kind: int
    """A `FaultKind`."""
    storage_block: int | None
    """What the page lies in; None where that is nothing."""
    read_bytes: int
    """What was read from the file for it."""
    is_write: bool


class Counter(IntEnum):
    """Numbers that handler and supervisor share."""

    FAULTS = 0
    READS = 1
    """Storage blocks read, for whatever reason."""
    DEMAND_READS = 2
    """Those that a vCPU waited for."""
    READ_BYTES = 3
    RECORDS = 4
    STALL_NS = 5
    PREFETCHED = 6
    """Not 0: what is to be there before the vCPUs start is there."""
    RESIDENT_NS = 7
    """When all memory was there; 0: not yet."""
    HANDLERS = 8
    """Handler processes so far."""
    STEPS = 9
    """Pieces of work done, for whoever wants to know whether there is progress."""
    PREFETCH_NS = 10
    """How long the prefetch took."""
    FINISH = 11
    """Not 0: the vCPUs are done, and all of memory is wanted. The supervisor's to set."""
    BUSY = 12
    """0: the handler had nothing to do, and slept."""


COUNTERS = 16


class FaultLog:
    """Counters and records. Where the room for records ends, faults are still counted.

    Attributes:
        counters: 64-bit words, by `Counter`.
    """

    def __init__(self, counters: memoryview, records: memoryview) -> None:
        """Go on from both, which start as zeros: COUNTERS 64-bit words, and room for records."""
        self.counters = counters
        self._records = records
        self._room = len(records) // _RECORD.size

    def add(self, fault: Fault) -> None:
        """Log a fault."""
        counters = self.counters
        counters[Counter.FAULTS] += 1
        counters[Counter.STALL_NS] += fault.stall_ns
        at = counters[Counter.RECORDS]
        if at >= self._room:
            return
        _RECORD.pack_into(
            self._records,
            at * _RECORD.size,
            fault.at_ns,
            fault.page,
            min(fault.stall_ns, _NONE),
            _NONE if fault.storage_block is None else fault.storage_block,
            min(fault.read_bytes, _NONE),
            fault.vcpu,
            fault.kind,
            fault.is_write,
        )
        counters[Counter.RECORDS] = at + 1  # last: what is counted is written

    def faults(self) -> Iterator[Fault]:
        """What was logged, in order."""
        count = self.counters[Counter.RECORDS]
        for at_ns, page, stall_ns, storage, read_bytes, vcpu, kind, is_write in _RECORD.iter_unpack(
            self._records[: count * _RECORD.size]
        ):
            number = None if storage == _NONE else storage
            yield Fault(at_ns, stall_ns, page, vcpu, kind, number, read_bytes, bool(is_write))


def written_lines(faults: Iterable[Fault], start_ns: int, values: Mapping[str, object]) -> Iterator[str]:
    """A log as lines of JSON: an object that says what it is, then a list for each fault.

    Args:
        faults: in order.
        start_ns: what times count from, on the faults' scale.
        values: what else the first line is to say.
    """
    head = {"fault_log": _VERSION, "fields": list(_FIELDS), **values}
    yield json.dumps(head, separators=(",", ":"))
    for fault in faults:
        values_of = [
            (fault.at_ns - start_ns) // 1000,
            fault.stall_ns // 1000,
            fault.page,
            fault.vcpu,
            FaultKind(fault.kind).name.lower(),
            fault.storage_block,
            fault.read_bytes,
            int(fault.is_write),
        ]
        yield json.dumps(values_of, separators=(",", ":"))


_FIELDS = ("at_us", "stall_us", "page", "vcpu", "kind", "storage_block", "read_bytes", "write")
_KINDS: Mapping[str, int] = {kind.name.lower(): kind.value for kind in FaultKind}


def read_lines(lines: Iterable[str]) -> tuple[Mapping[str, object], list[Fault]]:
    """What `written_lines` wrote: the first line's values, and the faults, with times counted from 0.

    Raises:
        FormatError: it is no such log.
    """
    rest = iter(lines)
    try:
        head = json.loads(next(rest))
        if not isinstance(head, dict) or head.get("fault_log") != _VERSION:
            raise ValueError(f"expected a fault log of version {_VERSION}")
        return head, [_fault_of(json.loads(line), len(head["fields"])) for line in rest]
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise FormatError(f"this is no fault log: {str(error) or 'it is empty'}") from error


_whole: Callable[[object], int] = int  # type: ignore[assignment]  # of JSON: a TypeError if it is no number


def _fault_of(values: list[object], fields: int) -> Fault:
    if len(values) != fields or fields < len(_FIELDS):
        raise ValueError(f"a line has {len(values)} fields, expected {fields}")
    at_us, stall_us, page, vcpu, kind, storage, read_bytes, is_write = values[: len(_FIELDS)]
    return Fault(
        _whole(at_us) * 1000,
        _whole(stall_us) * 1000,
        _whole(page),
        _whole(vcpu),
        _KINDS[str(kind)],
        None if storage is None else _whole(storage),
        _whole(read_bytes),
        bool(is_write),
    )
