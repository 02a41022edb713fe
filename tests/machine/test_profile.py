import subprocess
import sys

import pytest

from vmckpt.errors import UsageError
from vmckpt.machine.content import MIXES, PATTERNS
from vmckpt.machine.plan import LADDERS
from vmckpt.machine.profile import DEFAULT_PROFILE, FULL_SYSTEM_PAGES, PROFILES, profile_named

SIZES = [1, 2, 3, 63, 64, 65, 255, 1000, 4096, 32767, 32768, 32769, 131072, 1 << 21, 1 << 28]


@pytest.mark.parametrize("name", PROFILES)
def test_parts_fit_in_memory_of_any_size(name: str) -> None:
    for memory_pages in SIZES:
        used = sum(size.pages for size in PROFILES[name].apportion(memory_pages))
        assert 0 <= used <= memory_pages


@pytest.mark.parametrize("name", PROFILES)
def test_every_part_names_a_mix_and_a_ladder_that_exist_and_is_named_once(name: str) -> None:
    parts = [size.part for size in PROFILES[name].apportion(FULL_SYSTEM_PAGES)]
    assert all(part.mix in MIXES or part.mix in PATTERNS for part in parts)
    assert all(part.runs in LADDERS for part in parts)
    assert len({part.name for part in parts}) == len(parts)


def test_the_system_takes_as_many_pages_in_a_large_vm_as_in_a_small_one() -> None:
    small, large = (
        {size.part.name: size.pages for size in PROFILES["idle"].apportion(pages)}
        for pages in (FULL_SYSTEM_PAGES, 64 * FULL_SYSTEM_PAGES)
    )
    small.pop("free page records")
    records = large.pop("free page records")
    assert small == large
    assert records == pytest.approx(FULL_SYSTEM_PAGES, rel=0.04)  # a 64th


def test_a_server_fills_seven_eighths_of_what_the_system_leaves() -> None:
    memory_pages = 1 << 21
    sizes = PROFILES["server"].apportion(memory_pages)
    fixed = sum(size.part.contents * size.part.copies for size in sizes)
    used = sum(size.pages for size in sizes if size.part.name != "free page records")
    assert (used - fixed) / (memory_pages - fixed) == pytest.approx(7 / 8, abs=0.001)


def test_parts_of_one_name_are_alike_in_all_profiles_if_common() -> None:
    by_name: dict[str, str] = {}
    for profile in PROFILES.values():
        for part in profile.parts:
            if part.common:
                assert by_name.setdefault(part.name, part.mix) == part.mix


def test_an_unknown_profile_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match="choose one of idle, files"):
        profile_named("desktop")


def test_the_default_is_a_profile() -> None:
    assert DEFAULT_PROFILE in PROFILES


def test_profiles_are_listed_without_numpy() -> None:
    code = "import sys, vmckpt.machine.profile; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
