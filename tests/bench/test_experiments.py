"""Each experiment from end to end, on a machine of a few MiB."""

import json
import os
from pathlib import Path

import pytest

from vmckpt.cli import main
from vmckpt.kernel.features import probe
from vmckpt.restoring.trap import MISSING


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = probe().lacks(MISSING)
    if reason:
        pytest.skip(reason)
    monkeypatch.setattr("tempfile.tempdir", os.fspath(tmp_path))


def run(name: str, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["bench", name, "--size", "8M", "--runs", "1", "--disk", "fast", *options]) == 0
    printed = capsys.readouterr()
    assert not printed.err
    return printed.out


def test_halite(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    values = json.loads(run("halite", capsys, "--json"))
    assert values["size_bytes"] == 8 << 20
    assert values["machine"]["cores"] >= 1
    restores = values["values"]["restores"]
    assert len(restores) == 9
    assert all(each["overhead_s"]["median"] > 0 for each in restores)
    reads = {each["name"]: each["storage_reads"]["median"] for each in restores if each["group"] == "paper"}
    assert reads["access"] < reads["physical"] < reads["random"] < reads["page by page"]
    assert {target["holds"] for target in values["targets"]} <= {True, False}
    assert list(tmp_path.iterdir()) == []


def test_working_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = run("working-set", capsys, "--disk", "real")
    assert table.startswith("working-set: a guest of 8.00 MiB, seed 0, one run\n")
    for word in ("TTR(1 s, 90 %)", "eager", "scanning, --trace access", "coverage", "asked for"):
        assert word in table
    assert list(tmp_path.iterdir()) == []


def test_divergence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    values = json.loads(run("divergence", capsys, "--json"))
    restores = values["values"]["restores"]
    assert [each["machine"] for each in restores[::2]] == ["the same machine", "another set", "zipf"]
    by_mode = {(each["machine"], each["mode"]): each for each in restores}
    assert by_mode["the same machine", "prefetched"]["faults"]["median"] == 0
    for machine in ("another set", "zipf"):
        assert by_mode[machine, "prefetched"]["faults"]["median"] > 0
        assert by_mode[machine, "nothing"]["avoided"]["median"] == 0
    assert [target["what"] for target in values["targets"]] == [
        "fast: another set, lost to a prefetch for nothing",
        "fast: zipf, lost to a prefetch for nothing",
    ]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_it_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "halite", "--size", "4097", "--json"]) == 2
    assert "4097" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tape"]) == 2
    assert main(["bench", "halite", "--disk", "tape"]) == 2
    assert "hdd" in capsys.readouterr().err
