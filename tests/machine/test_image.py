import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.machine import census
from vmckpt.errors import IoError, UsageError
from vmckpt.machine import image as image_module
from vmckpt.machine.content import KINDS, MIXES, PATTERNS
from vmckpt.machine.image import create_image
from vmckpt.machine.profile import PROFILES

MIB = 1 << 20

# sha256 of 4 MiB with seed 1 and common seed 2. These bytes are promised: "same arguments, same bytes".
GOLDEN = {
    "idle": "2c9ecde8ec617de406731d2a4c441e52f206a8f4a9bae621e051b6aec7357910",
    "files": "7af9ecbfda801fa3120192d7b67b627269396cd5e12918de304208f96a1289bc",
    "sort": "98a527c5730eca7a42113b2b23f1cf43317248948ad9da9cb6dd807cb1598523",
    "server": "044c89dbc15f79fcce4ab4f728dd10b67fe5d4c1716738713ad0cb10982a8db9",
    "zero": "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8",
    "noise": "64e305358cc28373ca5b60ca588b8a3cbc16813ff89620cb5dd62a81e29ab4c6",
}


def make(
    path: Path, size_bytes: int = 4 * MIB, *, profile: str = "server", seed: int = 1, common_seed: int = 2
) -> npt.NDArray[np.uint8]:
    create_image(str(path), size_bytes, profile=profile, seed=seed, common_seed=common_seed, force=True)
    return census.load(str(path))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_bytes_are_those_of_every_other_machine_and_version(tmp_path: Path, profile: str) -> None:
    make(tmp_path / "image", profile=profile)
    assert sha256(tmp_path / "image") == GOLDEN[profile]


@pytest.mark.parametrize("profile", ["files", "server", "noise"])
def test_the_bytes_do_not_depend_on_the_batch(
    tmp_path: Path, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "whole", profile=profile)
    monkeypatch.setattr(image_module, "_BATCH_PAGES", 37)
    make(tmp_path / "pieces", profile=profile)
    assert sha256(tmp_path / "whole") == sha256(tmp_path / "pieces")


def test_each_seed_changes_the_bytes(tmp_path: Path) -> None:
    made = set()
    for number, (seed, common_seed) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1), (2**64 - 1, 2**64 - 1)]):
        make(tmp_path / str(number), seed=seed, common_seed=common_seed)
        made.add(sha256(tmp_path / str(number)))
    assert len(made) == 5


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size_bytes", [4096, 65 * 4096, 16 * MIB], ids=["page", "65 pages", "16 MiB"])
def test_the_classes_reported_are_those_found_in_the_bytes(
    tmp_path: Path, profile: str, size_bytes: int
) -> None:
    report = create_image(str(tmp_path / "image"), size_bytes, profile=profile)
    found = census.take(census.load(str(tmp_path / "image")))
    assert (found.pages, found.zero, found.pattern, found.duplicate, found.unique) == (
        report.pages.total,
        report.pages.zero,
        report.pages.pattern,
        report.pages.duplicate,
        report.pages.unique,
    )
    assert report.memory_bytes == size_bytes


def test_vms_of_one_system_share_just_the_system(tmp_path: Path) -> None:
    one = make(tmp_path / "one", 32 * MIB, profile="idle", seed=1, common_seed=7)
    two = make(tmp_path / "two", 32 * MIB, profile="files", seed=2, common_seed=7)
    common = sum(size.contents for size in PROFILES["idle"].apportion(8192) if size.part.common)
    assert len(census.contents(one) & census.contents(two)) == common
    same_place = (one == two).all(axis=1) & ~(one == one[:, :1]).all(axis=1)
    assert same_place.sum() < common / 4


@pytest.mark.parametrize("profiles", [("idle", "idle"), ("idle", "server")], ids="-".join)
def test_vms_of_other_systems_share_nothing(tmp_path: Path, profiles: tuple[str, str]) -> None:
    one = make(tmp_path / "one", 16 * MIB, profile=profiles[0], seed=1, common_seed=7)
    two = make(tmp_path / "two", 16 * MIB, profile=profiles[1], seed=2, common_seed=8)
    assert not census.contents(one) & census.contents(two)


@pytest.mark.parametrize("other", [("files", 16 * MIB), ("idle", 32 * MIB)], ids=["profile", "size"])
def test_one_seed_in_vms_of_another_make_repeats_nothing_private(
    tmp_path: Path, other: tuple[str, int]
) -> None:
    one = make(tmp_path / "one", 16 * MIB, profile="idle", common_seed=7)
    two = make(tmp_path / "two", other[1], profile=other[0], common_seed=8)
    assert not census.contents(one) & census.contents(two)


def test_zero_pages_are_holes(tmp_path: Path) -> None:
    report = create_image(str(tmp_path / "image"), 64 * MIB, profile="idle")
    used = (report.pages.total - report.pages.zero) * 4096
    found = os.stat(tmp_path / "image")
    assert found.st_size == 64 * MIB
    if found.st_blocks * 512 >= 64 * MIB:
        pytest.skip("this file system has no holes")
    assert used <= report.file_bytes <= used + MIB


def test_an_image_of_zeros_takes_no_space(tmp_path: Path) -> None:
    assert create_image(str(tmp_path / "image"), 1 << 40, profile="zero").file_bytes < MIB


def test_progress_ends_at_the_number_of_pages_to_write(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = create_image(
        str(tmp_path / "image"), 16 * MIB, progress=lambda done, all_: calls.append((done, all_))
    )
    used = report.pages.total - report.pages.zero
    assert calls[-1] == (used, used)
    assert calls == sorted(calls)


@pytest.mark.parametrize("size_bytes", [0, -4096, 1, 4095, 4097])
def test_a_size_that_is_no_number_of_pages_is_refused(tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(UsageError, match="multiple of 4096"):
        create_image(str(tmp_path / "image"), size_bytes)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("seed", "common_seed"), [(-1, 0), (1 << 64, 0), (0, -1), (0, 1 << 64)])
def test_a_seed_out_of_range_is_refused(tmp_path: Path, seed: int, common_seed: int) -> None:
    with pytest.raises(UsageError, match="seed"):
        create_image(str(tmp_path / "image"), 4096, seed=seed, common_seed=common_seed)


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"mine")
    with pytest.raises(IoError, match="exists"):
        create_image(str(path), 4 * MIB)
    assert path.read_bytes() == b"mine"
    create_image(str(path), 4 * MIB, force=True)
    assert path.stat().st_size == 4 * MIB


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, whole: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_image(str(tmp_path / "image"), 16 * MIB, progress=interrupt)
    assert not os.listdir(tmp_path)


def test_a_full_disk_is_an_error_with_its_place() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    fd = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(IoError, match=r"image: at offset 8192: cannot write: No space left"):
            image_module._write_pages(fd, memoryview(bytes(4096)), 2, "image")
    finally:
        os.close(fd)


def test_memory_use_does_not_follow_the_size(tmp_path: Path) -> None:
    if not os.path.exists("/proc/self/status"):
        pytest.skip("there is no /proc here to tell a process's peak memory")
    # Not ru_maxrss: a child starts with its parent's, and this one's parent holds images.
    code = (
        "import sys; from vmckpt.machine.image import create_image;"
        "create_image(sys.argv[1], int(sys.argv[2]), profile='noise', force=True);"
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    used_kib = [
        int(subprocess.check_output([sys.executable, "-c", code, str(tmp_path / "image"), str(size)]))
        for size in (8 * MIB, 128 * MIB)
    ]
    assert used_kib[1] - used_kib[0] < 8 * 1024
    assert used_kib[1] < 200 * 1024


def test_mixes_weigh_only_kinds_that_there_are() -> None:
    assert all(len(mix) <= len(KINDS) - len(PATTERNS) and sum(mix) > 0 for mix in MIXES.values())


def test_more_than_a_checkpoint_can_hold_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected at most 64\.0 TiB"):
        create_image(str(tmp_path / "image"), (64 << 40) + 4096)
    assert not os.listdir(tmp_path)
