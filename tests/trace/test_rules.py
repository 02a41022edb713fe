"""What a trap means, entry by entry, as the table in `vmckpt.trace.rules` says it."""

import pytest

from vmckpt.trace.rules import Mode, Needs, Rule, Verdict, judge, needs

T, F = True, False
COPY_BLOCK = Verdict(copy=T, dirty=F, whole_block=T, lift_writes=T)
COPY_PAGE = Verdict(copy=T, dirty=F, whole_block=F, lift_writes=T)
DIRTY_BLOCK = Verdict(copy=F, dirty=T, whole_block=T, lift_writes=T)
DIRTY_PAGE = Verdict(copy=F, dirty=T, whole_block=F, lift_writes=T)
READ_BLOCK = Verdict(copy=F, dirty=F, whole_block=T, lift_writes=F)
READ_PAGE = Verdict(copy=F, dirty=F, whole_block=F, lift_writes=F)

VERDICTS = [
    (Rule.ACCESS, Mode.CHECKPOINT, "read", COPY_BLOCK),
    (Rule.ACCESS, Mode.CHECKPOINT, "write", COPY_BLOCK),
    (Rule.ACCESS, Mode.SUSPEND, "read", READ_BLOCK),
    (Rule.ACCESS, Mode.SUSPEND, "write", DIRTY_BLOCK),
    (Rule.WRITE, Mode.CHECKPOINT, "read", READ_PAGE),
    (Rule.WRITE, Mode.CHECKPOINT, "write", COPY_BLOCK),
    (Rule.WRITE, Mode.SUSPEND, "read", READ_PAGE),
    (Rule.WRITE, Mode.SUSPEND, "write", DIRTY_BLOCK),
    (Rule.WORKING_SET, Mode.CHECKPOINT, "read", READ_PAGE),
    (Rule.WORKING_SET, Mode.CHECKPOINT, "write", COPY_PAGE),
    (Rule.WORKING_SET, Mode.SUSPEND, "read", READ_PAGE),
    (Rule.WORKING_SET, Mode.SUSPEND, "write", DIRTY_PAGE),
]
NEEDS = [
    (Rule.ACCESS, Mode.CHECKPOINT, Needs(first_touch=T, writes=F, protect=F)),
    (Rule.ACCESS, Mode.SUSPEND, Needs(first_touch=T, writes=T, protect=F)),
    (Rule.WRITE, Mode.CHECKPOINT, Needs(first_touch=F, writes=T, protect=T)),
    (Rule.WRITE, Mode.SUSPEND, Needs(first_touch=F, writes=T, protect=T)),
    (Rule.WORKING_SET, Mode.CHECKPOINT, Needs(first_touch=T, writes=T, protect=F)),
    (Rule.WORKING_SET, Mode.SUSPEND, Needs(first_touch=T, writes=T, protect=F)),
]


def name(value: object) -> str | None:
    return value.value if isinstance(value, Rule | Mode) else None


@pytest.mark.parametrize(("rule", "mode", "touch", "verdict"), VERDICTS, ids=name)
def test_each_trap_has_its_verdict(rule: Rule, mode: Mode, touch: str, verdict: Verdict) -> None:
    assert judge(rule, mode, write=touch == "write") == verdict


@pytest.mark.parametrize(("rule", "mode", "expected"), NEEDS, ids=name)
def test_each_rule_has_its_needs(rule: Rule, mode: Mode, expected: Needs) -> None:
    assert needs(rule, mode) == expected


@pytest.mark.parametrize("mode", Mode, ids=name)
@pytest.mark.parametrize("rule", Rule, ids=name)
def test_writes_stay_traced_only_where_they_can_be(rule: Rule, mode: Mode) -> None:
    reads_only = not judge(rule, mode, write=False).lift_writes
    assert not reads_only or needs(rule, mode).writes
    assert judge(rule, mode, write=True).lift_writes


@pytest.mark.parametrize("rule", Rule, ids=name)
def test_no_write_passes_uncopied_or_unnoticed(rule: Rule) -> None:
    assert judge(rule, Mode.CHECKPOINT, write=True).copy
    assert judge(rule, Mode.SUSPEND, write=True).dirty
    read = judge(rule, Mode.CHECKPOINT, write=False)
    assert read.copy or not read.lift_writes


def test_a_trap_stands_for_its_block_but_in_the_working_set() -> None:
    assert [rule.by_block for rule in Rule] == [True, True, False]
