"""KSM is left as it was, whatever happens; a directory stands for the kernel's."""

from pathlib import Path

import pytest

from vmckpt.errors import FeatureError, IoError
from vmckpt.kernel import ksm
from vmckpt.kernel.ksm import Counters, lacks, scan, split_count, tuned

BEFORE = {
    "run": 0,
    "pages_to_scan": 100,
    "sleep_millisecs": 20,
    "max_page_sharing": 256,
    "use_zero_pages": 0,
    "smart_scan": 1,
}
COUNTERS = Counters(0, 0, 0, 0, 0, 0, 7)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in (BEFORE | COUNTERS._asdict()).items():
        (tmp_path / name).write_text(f"{value}\n")
    monkeypatch.setattr(ksm, "_mergeable_elsewhere", lambda: 0)
    return str(tmp_path)


def settings_in(kernel: str) -> dict[str, int]:
    return {name: int((Path(kernel) / name).read_text()) for name in BEFORE}


@pytest.mark.parametrize("raised", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_settings_are_put_back_and_pages_unmerged(
    kernel: str, raised: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, int]] = []
    write = ksm._write

    def spy(directory: str, name: str, value: int) -> None:
        written.append((name, value))
        write(directory, name, value)

    monkeypatch.setattr(ksm, "_write", spy)

    def use() -> None:
        with tuned({"pages_to_scan": 5000, "max_page_sharing": 8}, kernel):
            assert settings_in(kernel) == BEFORE | {"pages_to_scan": 5000, "max_page_sharing": 8}
            written.clear()
            if raised is not None:
                raise raised

    if raised is None:
        use()
    else:
        with pytest.raises(raised):
            use()
    assert settings_in(kernel) == BEFORE
    assert written[0] == ("run", 2)
    assert written[-1] == ("run", 0)


def test_a_second_interruption_does_not_stop_the_putting_back(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ksm._write
    struck: list[str] = []

    def interrupted(directory: str, name: str, value: int) -> None:
        if (name, value) == ("run", 2) and not struck:
            struck.append(name)
            raise KeyboardInterrupt
        write(directory, name, value)

    monkeypatch.setattr(ksm, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt), tuned({"pages_to_scan": 5000}, kernel):
        pass
    assert struck
    assert settings_in(kernel) == BEFORE


def test_a_setting_that_is_refused_leaves_the_others_as_they_were(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ksm._write

    def refuse(directory: str, name: str, value: int) -> None:
        if (name, value) == ("max_page_sharing", 1):
            raise IoError("cannot set KSM's max_page_sharing to 1: Invalid argument")
        write(directory, name, value)

    monkeypatch.setattr(ksm, "_write", refuse)
    with (
        pytest.raises(IoError, match="max_page_sharing"),
        tuned({"pages_to_scan": 5, "max_page_sharing": 1}, kernel),
    ):
        pytest.fail("it was not refused")
    assert settings_in(kernel) == BEFORE


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("run", 1, "at work"), ("pages_shared", 3, "at work"), ("ksm_zero_pages", None, "no ksm_zero_pages")],
)
def test_ksm_that_is_in_use_or_too_old_is_left_alone(
    kernel: str, name: str, value: int | None, reason: str
) -> None:
    assert lacks(kernel) == ""
    path = Path(kernel) / name
    path.unlink() if value is None else path.write_text(str(value))
    before = {each.name: each.read_text() for each in Path(kernel).iterdir()}
    assert reason in lacks(kernel)
    with pytest.raises(FeatureError, match=reason), tuned({"pages_to_scan": 1}, kernel):
        pytest.fail("it was tuned")
    assert {each.name: each.read_text() for each in Path(kernel).iterdir()} == before


def test_no_ksm_or_mergeable_memory_of_others_is_a_reason(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no KSM" in lacks(kernel + "/nowhere")
    monkeypatch.setattr(ksm, "_mergeable_elsewhere", lambda: 4711)
    assert "process 4711" in lacks(kernel)


def test_a_scan_ends_when_a_whole_pass_brings_nothing_more(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [0, 0, 5, 9, 9, 9]
    seen = iter([COUNTERS._replace(pages_shared=shared[at], full_scans=7 + at) for at in range(6)])
    monkeypatch.setattr(ksm, "counters", lambda _: next(seen))
    found = scan(3, 60, kernel)
    assert (found.pages_shared, found.full_scans) == (9, 11)
    assert settings_in(kernel)["run"] == 0


def test_a_scan_that_does_not_end_is_an_error_and_stopped(kernel: str) -> None:
    with pytest.raises(IoError, match="0 times"):
        scan(1, 0.0, kernel)
    assert settings_in(kernel)["run"] == 0


def test_splits_are_counted_by_the_kernel_or_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 5\nthp_split_page 12\nthp_split_pmd 3\n")
    monkeypatch.setattr(ksm, "_VMSTAT", str(vmstat))
    assert split_count() == 12
    vmstat.write_text("nr_free_pages 5\n")
    with pytest.raises(FeatureError, match="thp_split_page"):
        split_count()
