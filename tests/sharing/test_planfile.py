import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.errors import IoError, SourceError, UsageError, VmckptError
from vmckpt.sharing.planfile import PlanFile, breaks_for, read_plan

MIB = 1 << 20
BREAKS = [
    {"source": "a", "large_page": 7},
    {"source": "a", "large_page": 3},
    {"source": "b", "large_page": 0},
]


def plan_in(folder: Path, values: object) -> PlanFile:
    path = folder / "plan.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return read_plan(str(path))


@pytest.mark.parametrize(
    "values",
    [{"plan": {"target_pages": 9, "breaks": BREAKS}, "pages": 3}, {"breaks": BREAKS}],
    ids=["whole", "bare"],
)
def test_a_plan_is_read_as_it_was_printed(tmp_path: Path, values: object) -> None:
    plan = plan_in(tmp_path, values)
    assert plan == PlanFile(str(tmp_path / "plan.json"), 2 * MIB, {"a": [3, 7], "b": [0]}, {})


def test_size_of_large_pages_and_of_images_are_taken_from_it(tmp_path: Path) -> None:
    plan = plan_in(
        tmp_path,
        {
            "large_page_bytes": 65536,
            "images": [{"source": "a", "pages": 5}, {"source": "b"}, 3],
            "plan": {"breaks": BREAKS},
        },
    )
    assert plan.large_page_bytes == 65536
    assert plan.pages == {"a": 5}


def test_a_plan_without_the_rest_knows_the_size_of_its_large_pages(tmp_path: Path) -> None:
    assert plan_in(tmp_path, {"large_page_bytes": 65536, "breaks": BREAKS}).large_page_bytes == 65536


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is no JSON"),
        ("{", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[]", "expected an object"),
        ("{}", "it has no list of breaks"),
        ('{"plan": 3}', "it has no list of breaks"),
        ('{"plan": null}', "it has no list of breaks"),
        ('{"breaks": [3]}', "a break is a source and a large page, and not 3"),
        ('{"breaks": [{"source": "a"}]}', "a break is a source and a large page"),
        ('{"breaks": [{"source": 3, "large_page": 3}]}', "a break is"),
        ('{"breaks": [{"source": "a", "large_page": -1}]}', "a break is"),
        ('{"breaks": [{"source": "a", "large_page": true}]}', "a break is"),
        ('{"breaks": [{"source": "a", "large_page": 1e3}]}', "a break is"),
        ('{"breaks": [], "large_page_bytes": "2M"}', "large_page_bytes is a number"),
    ],
    ids=lambda value: value[:24],
)
def test_what_is_no_plan_is_refused_with_the_reason(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(SourceError, match=r"plan\.json: this is no plan: ") as caught:
        plan_in(tmp_path, text)
    assert why in str(caught.value)
    assert caught.value.exit_code == 3


@given(text=st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_any_bytes_are_a_plan_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(text.encode("latin-1", "replace"))
    with pytest.raises(SourceError):
        read_plan(str(path))


def test_a_plan_that_cannot_be_read_is_an_io_error(tmp_path: Path) -> None:
    with pytest.raises(IoError, match="cannot read the plan"):
        read_plan(str(tmp_path / "none"))


def test_a_plan_comes_through_a_pipe() -> None:
    script = "from vmckpt.sharing.planfile import read_plan; print(dict(read_plan('-').breaks))"
    plan = json.dumps({"breaks": [{"source": "a", "large_page": 3}]})
    done = subprocess.run(
        [sys.executable, "-c", script], input=plan, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "{'a': [3]}\n"


def of(breaks: dict[str, list[int]], pages: dict[str, int] | None = None) -> PlanFile:
    return PlanFile("plan.json", 2 * MIB, breaks, pages or {})


def test_a_plan_for_one_source_is_for_the_machine_whatever_it_is_called() -> None:
    assert breaks_for(of({"guest.raw": [1, 2]}, {"guest.raw": 256}), names=["vm.sock"], memory_bytes=MIB) == [
        1,
        2,
    ]


def test_of_a_plan_for_several_the_machine_takes_its_own_part() -> None:
    plan = of({"a": [1], "b": [2]}, {"a": 256, "b": 256, "c": 256})
    assert breaks_for(plan, names=["b"], memory_bytes=MIB) == [2]
    assert breaks_for(plan, names=["c"], memory_bytes=MIB) == ()
    with pytest.raises(UsageError, match=r"the plan is for other sources: expected vm\.sock, found a, b"):
        breaks_for(plan, names=["vm.sock"], memory_bytes=MIB)


def test_a_plan_with_nothing_to_break_is_for_everybody() -> None:
    assert breaks_for(of({}), names=["vm.sock"], memory_bytes=MIB) == ()


def test_a_plan_for_a_memory_of_another_size_is_refused() -> None:
    with pytest.raises(VmckptError, match=r"is for a memory of 4.00 MiB, and this machine has 1.00 MiB"):
        breaks_for(of({"a": [0]}, {"a": 1024}), names=["vm.sock"], memory_bytes=MIB)
