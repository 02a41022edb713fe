"""The overcommitted host: its decisions against naive ones, and one small host with real machines."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine.machines import image
from tests.sharing.memories import Memory, hashes_of_memory, memories
from vmckpt.bench.host import Host, kept_free_bytes
from vmckpt.bench.overcommit import ALL, KSM, NEVER, OURS, POLICIES, Measured, outcome_of
from vmckpt.bench.policies import AsKsm, BreakAll, ByPlan, NeverBreak, Policy, ksm_order, turn_of
from vmckpt.cli import main
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine.session import Wishes
from vmckpt.sharing.breakup import Seen, Watched
from vmckpt.sharing.choose import planned
from vmckpt.sharing.pressure import Pressure, State

MIB = 1 << 20
MIN_FREE = 100 * MIB


def naive_ksm(memory: Memory, per: int) -> list[int]:
    """A scan page by page, as mm/ksm.c does it: a match splits the large page it was found in, and the one it matches."""
    met: dict[int, int] = {}
    split: list[int] = []
    for page, content in enumerate(memory.content):
        other = met.setdefault(content, page)
        if other != page:
            for each in sorted((page, other)):
                large = memory.layout.gpa_of(each) // (per * PAGE_BYTES)
                if large not in split:
                    split.append(large)
    return split


@given(memory=memories(), per=st.sampled_from([2, 4, 8]))
def test_ksm_splits_in_the_order_of_its_scan(memory: Memory, per: int) -> None:
    found = ksm_order(hashes_of_memory(memory), per * PAGE_BYTES)
    expected = naive_ksm(memory, per)
    assert set(found) == set(expected)
    # Two that one match splits come in either order.
    assert [expected.index(number) for number in found] == pytest.approx(list(range(len(found))), abs=1)


def seen_of(levels: Sequence[str], content: Sequence[int]) -> Seen:
    memory = hashes_of_memory(Memory(content, Layout.flat(len(content) * PAGE_BYTES)))
    return Seen(memory, {number: Watched(0.1, level) for number, level in enumerate(levels)})


@pytest.mark.parametrize(
    ("state", "spared"), [(State.HIGH, {0, 1, 3}), (State.CLEAR, {3}), (State.LOW, {3})], ids=str
)
def test_only_cold_large_pages_are_broken_until_memory_is_scarce(state: State, spared: set[int]) -> None:
    seen = seen_of(["hot", "warm", "cold", "cold"], [1] * 8)
    turn = turn_of(
        Pressure(state, is_short=True), 50 * MIB, MIN_FREE, [seen], [{0: 512, 1: 512, 2: 512, 3: 0}]
    )
    assert turn.spared == [frozenset(spared)]


def test_a_turn_wants_what_is_missing_and_takes_what_its_rate_allows() -> None:
    seen = seen_of(["cold"], list(range(1, 9)))
    turn = turn_of(Pressure(State.HIGH, is_short=True), 3 * MIN_FREE, MIN_FREE, [seen], [{0: 512}])
    assert turn.target_pages == MIN_FREE // PAGE_BYTES
    assert turn.most_large_pages >= 1
    calm = turn_of(Pressure(State.HIGH, is_short=False), 5 * MIN_FREE, MIN_FREE, [seen], [{0: 512}])
    assert calm.target_pages == 0


def test_a_small_host_keeps_free_the_part_that_a_large_one_does() -> None:
    assert kept_free_bytes(96 << 30) == pytest.approx(1597.44 * MIB, rel=1e-5)
    assert kept_free_bytes(1 << 30) == pytest.approx((1 << 30) * 1597.44 / (96 << 10), rel=1e-5)


def measured(**changes: object) -> Measured:
    base = Measured(100, 10, 0.5, 0, 0, 1e6, 4, ())
    return base._replace(**changes)  # type: ignore[arg-type]


def test_the_outcome_says_what_holds() -> None:
    runs = {
        NEVER: [measured(over_pages=7)],
        ALL: [measured(large_pages=0)],
        KSM: [measured(large_pages=3, large_hits=0.2)],
        OURS: [measured(states=(State.HIGH, State.SOFT))],
    }
    outcome = outcome_of(runs, memory_bytes=64 * MIB, budget_bytes=50 * MIB)
    assert [target.holds for target in outcome.targets] == [True, True, True]
    assert [row[0] for row in outcome.grids[0].rows] == list(POLICIES)
    policies = outcome.values["policies"]
    assert isinstance(policies, dict)
    assert policies[OURS]["states"] == [["high", "soft"]]
    assert policies[KSM]["large_hits"] == {"median": 0.2, "low": 0.2, "high": 0.2}
    runs[OURS] = [measured(large_pages=3, large_hits=0.2, over_pages=1)]
    outcome = outcome_of(runs, memory_bytes=64 * MIB, budget_bytes=50 * MIB)
    assert [target.holds for target in outcome.targets] == [False, False, False]


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("guests")
    return [image(folder / f"{number}.raw", 16 * MIB) for number in range(2)]


def told(text: str) -> None:
    assert text


def test_what_policies_do_to_real_machines(guests: list[str]) -> None:
    pages = len(guests) * 16 * MIB // PAGE_BYTES
    budget = pages * PAGE_BYTES * 95 // 100
    kept: dict[str, int] = {}
    over: dict[str, int] = {}
    policies: dict[str, Policy] = {
        NEVER: NeverBreak(),
        ALL: BreakAll(),
        KSM: AsKsm(),
        OURS: ByPlan(planned),
    }
    for name, policy in policies.items():
        with Host(budget, told) as host:
            for number, path in enumerate(guests):
                host.arrive(path, Wishes("working-set:phase=0,write=0,cluster=512", 1, number), 1000)
                while policy.act(host):
                    pass
            before = host.count()
            while (after := host.count()).ops < before.ops + 20_000:
                pass
            kept[name], over[name] = after.large_pages, host.over_pages
            assert pages - host.used_pages == pytest.approx(after.freed_pages, abs=2 * len(host))
            small_ops, ops = after.small_ops - before.small_ops, after.ops - before.ops
            assert small_ops == {NEVER: 0, ALL: ops}.get(name, small_ops)
    assert kept[NEVER] == 16
    assert kept[ALL] == 0
    assert over[NEVER] > 0
    assert over[KSM] == over[OURS] == over[ALL] == 0
    assert kept[OURS] >= kept[KSM]


def test_the_command_compares_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("vmckpt.bench.overcommit._MEASURE_S", 0.05)
    monkeypatch.setattr("vmckpt.bench.overcommit._WARMUP_OPS", 1000)
    monkeypatch.setattr("vmckpt.bench.host._WATCH_S", 0.02)
    assert main(["bench", "overcommit", "--size", "8M", "--runs", "1", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    policies = values["values"]["policies"]
    assert list(policies) == list(POLICIES)
    assert policies[NEVER]["large_hits"]["median"] == 1
    assert policies[ALL]["large_hits"]["median"] == 0
    assert policies[ALL]["freed_pages"]["median"] >= policies[OURS]["freed_pages"]["median"] > 0
    assert policies[OURS]["states"][0]
    assert list(tmp_path.iterdir()) == []


def test_it_reads_no_disk(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "overcommit", "--disk", "ssd"]) == 2
    assert "--disk is for restores" in capsys.readouterr().err
