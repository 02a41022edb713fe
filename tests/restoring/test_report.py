"""The page of a lazy restore, from a log and states that are made up."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.webpage import WebPage
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.restoring import measures
from vmckpt.restoring.history import History, page_kinds
from vmckpt.restoring.log import Fault, FaultKind
from vmckpt.restoring.measures import Stall, ttr, ttr_curve
from vmckpt.restoring.outcome import LazyPages, LazyReport
from vmckpt.restoring.report import page_of
from vmckpt.restoring.residency import ORIGIN_SHIFT, Origin, State

START_NS = 5_000_000_000
FIGURES = [
    "Utilisation over time",
    "Faults over time",
    "Page map",
    "Time to responsiveness",
    "How long a fault took",
    "Where the faults were",
]
PAGES = LazyPages(40, 30, 5, 20, 10, 100, 0, 7, 4096)


def report(faults: list[Fault], **changes: object) -> LazyReport:
    made = LazyReport(
        memory_bytes=4096 * PAGE_BYTES,
        time_to_run_s=0.15,
        prefetch_s=0.02,
        elapsed_s=2.0,
        ops=1000,
        ops_per_vcpu=(500, 500),
        digest="ab" * 16,
        faults=len(faults),
        storage_reads=12,
        demand_reads=3,
        bytes_read=123_456,
        stall_s=measures.stall_s(faults),
        pages=PAGES,
        coverage=0.857,
        precision=0.75,
        ttr_s={"0.5": 0.15, "0.7": 0.2, "0.9": 0.3},
        resident_s=1.2,
        handlers=1,
        vcpus=2,
        workload="zipf",
        seed=7,
        ended_by="until-ops",
        mechanism="userfaultfd",
        prefetch_from="active",
    )
    return made._replace(**changes)  # type: ignore[arg-type]  # fields by name


def log(count: int, seed: int = 1) -> list[Fault]:
    rng = random.Random(seed)
    moments = sorted(rng.randrange(140, 1100) for _ in range(count))  # some just before it is said to run
    return [
        Fault(
            START_NS + at * 1_000_000,
            rng.randrange(1000, 9_000_000),
            rng.randrange(4096),
            rng.randrange(2),
            rng.choice(list(FaultKind)),
            0,
            0,
            False,
        )
        for at in moments
    ]


def cells(seed: int = 2) -> bytes:
    rng = random.Random(seed)
    brought = [state | origin << ORIGIN_SHIFT for state in (State.PRESENT, State.ZERO) for origin in Origin]
    return bytes(rng.choices([State.MISSING, State.REMOVED, *brought], k=4096))


def shown(name: str, faults: list[Fault], **changes: object) -> WebPage:
    history = History(faults, START_NS, memoryview(cells()), [PageRange(0, 100), PageRange(2000, 2001)])
    return WebPage(page_of(name, report(faults, **changes), history))


def whole(text: str) -> int:
    return int(re.sub(r"\s", "", text))


def test_a_page_has_every_figure_and_needs_nothing_but_itself() -> None:
    shown("guest.vmckpt", log(300)).check(FIGURES)


def test_without_faults_it_says_so() -> None:
    read = shown("guest.vmckpt", [], ttr_s={"0.5": 0.15, "0.7": 0.15, "0.9": 0.15}, precision=None)
    read.check(FIGURES[:4])
    assert "never waited for a page" in read.texts("header")[0]
    assert "No vCPU ever waited for a page." in "".join(read.figure("Faults over time").itertext())
    assert {row[1] for row in read.rows("Utilisation over time")} == {"100.0 %"}
    assert read.tiles()["Precision"] == "–"


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a&b\"'.vmckpt", "\udcff\x1b[31m"])
def test_a_name_is_only_a_name(name: str) -> None:
    read = shown(name, log(3), workload="trace:</svg><script>alert(2)</script>")
    read.check(FIGURES)
    assert [tag for tag, _ in read.tags].count("script") == 1


def test_every_fault_is_in_every_figure_of_faults() -> None:
    faults = log(500)
    read = shown("guest.vmckpt", faults)
    assert sum(whole(cell) for row in read.rows("Faults over time") for cell in row[1:]) == 500
    assert sum(whole(row[1]) for row in read.rows("How long a fault took")) == 500
    assert sum(whole(row[1]) for row in read.rows("Where the faults were")) == 500
    keys = read.legend("Faults over time")
    counts = [sum(fault.kind == kind for fault in faults) for kind in FaultKind]
    assert [whole(keys[name]) for name in list(keys)[: len(FaultKind)]] == counts


def test_utilisation_is_what_was_not_stalled() -> None:
    faults = [Fault(START_NS + 200_000_000, 100_000_000, 1, 0, FaultKind.READ, 0, 0, False)]
    rows = shown("x", faults, resident_s=0.4).rows("Utilisation over time")
    shares = [float(row[1].removesuffix(" %")) for row in rows]
    assert set(shares) == {100.0, 50.0}  # one of two vCPUs
    windows = len(shares)
    assert shares.count(50.0) / windows == pytest.approx(0.1 / 0.25, abs=2 / windows)


def test_the_map_has_every_page_and_tells_used_from_unused() -> None:
    found = page_kinds(cells(), [PageRange(0, 4096)])
    unused = page_kinds(cells(), [])
    prefetched = [
        State.PRESENT | Origin.PREFETCH << ORIGIN_SHIFT,
        State.ZERO | Origin.PREFETCH << ORIGIN_SHIFT,
    ]
    count = sum(cells().count(cell) for cell in prefetched)
    assert (found.count(0), found.count(1)) == (count, 0)
    assert (unused.count(0), unused.count(1)) == (0, count)
    read = shown("x", log(3))
    assert sum(whole(value.partition("·")[0]) for value in read.legend("Page map").values()) == 4096
    assert sum(whole(cell) for row in read.rows("Page map") for cell in row[1:]) == 4096


@pytest.mark.parametrize(
    ("source", "said"),
    [("active", ""), ("recorded", "as an earlier restore recorded"), ("order", "by an order that was given")],
)
def test_it_says_whose_order_it_went_by(source: str, said: str) -> None:
    history = History([], START_NS, memoryview(cells()), [])
    text = page_of("guest.vmckpt", report([], prefetch_from=source), history)
    assert said in text
    assert ("recorded" in text) == (source == "recorded")


def test_the_same_run_makes_the_same_page() -> None:
    assert shown("x", log(50)).text == shown("x", log(50)).text


def test_a_run_that_ends_before_its_memory_is_there() -> None:
    read = shown("x", log(20), elapsed_s=0.151, resident_s=3.0)
    read.check(FIGURES)
    assert sum(whole(cell) for row in read.rows("Faults over time") for cell in row[1:]) == 20


STALLS = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 500)), max_size=10).map(
    lambda pairs: [Stall(start / 1000, (start + length) / 1000) for start, length in pairs]
)


@given(STALLS, st.sampled_from([0.1, 1.0, 10.0]), st.integers(1, 3))
def test_a_curve_of_ttr_is_ttr_at_each_utilisation(stalls: list[Stall], window: float, vcpus: int) -> None:
    leasts = [step / 10 for step in range(11)]
    curve = ttr_curve(stalls, vcpus, running_s=0.3, window_s=window, leasts=leasts)
    assert curve == sorted(curve)
    for least, found in zip(leasts, curve, strict=True):
        assert found == ttr(stalls, vcpus, running_s=0.3, window_s=window, least=least)
