"""The fault log, in memory and as a file; and the order file."""

import pytest

from vmckpt.errors import FormatError
from vmckpt.pages import PageRange
from vmckpt.restoring.log import (
    COUNTERS,
    RECORD_BYTES,
    Counter,
    Fault,
    FaultKind,
    FaultLog,
    read_lines,
    written_lines,
)
from vmckpt.restoring.record import packed_order, touched_order, unpacked_order

FAULTS = [
    Fault(5_001_000, 7000, 12, 1, FaultKind.READ, 4, 65536, is_write=True),
    Fault(5_009_000, 2000, 13, 0, FaultKind.ZERO, None, 0, is_write=False),
]


def log_of(records: int) -> FaultLog:
    return FaultLog(
        memoryview(bytearray(COUNTERS * 8)).cast("Q"), memoryview(bytearray(records * RECORD_BYTES))
    )


def test_what_is_logged_comes_back() -> None:
    log = log_of(2)
    for fault in FAULTS:
        log.add(fault)
    assert list(log.faults()) == FAULTS
    assert log.counters[Counter.STALL_NS] == 9000


def test_where_the_room_ends_faults_are_still_counted() -> None:
    log = log_of(1)
    for fault in FAULTS:
        log.add(fault)
    assert list(log.faults()) == FAULTS[:1]
    assert log.counters[Counter.FAULTS] == 2


def test_a_log_file_is_read_back() -> None:
    lines = list(written_lines(FAULTS, 5_000_000, {"pages": 64}))
    assert lines[1] == '[1,7,12,1,"read",4,65536,1]'
    head, faults = read_lines(lines)
    assert head["pages"] == 64
    assert faults == [fault._replace(at_ns=fault.at_ns - 5_000_000) for fault in FAULTS]


@pytest.mark.parametrize(
    "lines", [[], ["x"], ["{}"], ['{"fault_log":2}'], ['{"fault_log":1,"fields":[1,2]}', "[1,2]"], ["[]"]]
)
def test_another_file_is_no_log(lines: list[str]) -> None:
    with pytest.raises(FormatError, match="no fault log"):
        read_lines(lines)


def test_the_order_starts_with_what_was_prefetched_and_used() -> None:
    touched = [PageRange(1, 4), PageRange(9, 10)]
    assert touched_order([3, 50, 1], [9, 3, 40, 9], touched) == [3, 1, 9, 40, 2]


def test_an_order_file_is_read_back_for_its_checkpoint_only() -> None:
    text = packed_order([3, 1], b"i" * 16)
    assert unpacked_order(text, b"i" * 16, 4) == [3, 1]
    with pytest.raises(FormatError, match="belongs to the checkpoint"):
        unpacked_order(text, b"j" * 16, 4)
    with pytest.raises(FormatError, match="from 0 to 2"):
        unpacked_order(text, b"i" * 16, 3)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"touched_pages":1,"checkpoint_id":"69"}', "[" * 100_000])
def test_another_file_is_no_order(text: str) -> None:
    with pytest.raises(FormatError, match="no order of pages"):
        unpacked_order(text, b"i", 4)
