"""Frozen files of every format version: they open, prove, restore and say what they said when they were made.

Raw files are compared bit for bit with what the same save writes today. lz4 and zstd files are compared by content
alone: other releases of either library may compress the same bytes differently, and are right.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.files import need_zstd
from tests.golden.make import CASES, HERE, Case, record_of
from tests.support import ckptreader
from vmckpt import api
from vmckpt.checkpoint.format import FORMAT_VERSION

need_zstd()

GOLDEN = sorted(Path(HERE).glob("*.ckpt"))
FILES = pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)


def recorded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return found


def test_every_case_has_its_file_and_there_is_room_for_more() -> None:
    names = {path.stem for path in GOLDEN}
    assert {f"v{FORMAT_VERSION}-{name}" for name in CASES} <= names, "run `make golden`"
    assert {
        f"v1-{name}" for name in ("raw", "lz4", "zstd", "sections", "zeros", "streams", "example")
    } <= names
    assert sum(path.stat().st_size for path in GOLDEN) < 100 << 10


@FILES
def test_a_golden_file_proves(path: Path) -> None:
    report = api.verify(str(path))
    assert (report.ok, report.problems) == (True, ())


@FILES
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_golden_file_restores_to_what_it_was_made_of(path: Path, jobs: int, tmp_path: Path) -> None:
    said = recorded(path)
    report = api.restore(str(path), str(tmp_path / "memory"), jobs=jobs)
    memory = (tmp_path / "memory").read_bytes()
    assert hashlib.sha256(memory).hexdigest() == said["memory_sha256"]
    assert report.digest == api.digest(str(tmp_path / "memory")) == api.digest(str(path)) == said["digest"]


@FILES
def test_a_golden_file_says_what_it_said(path: Path) -> None:
    # Keys may have been added since.
    said = recorded(path)
    now = json.loads(json.dumps(record_of(str(path), b"")))
    assert {key: now[key] for key in said if key != "memory_sha256"} == {
        key: value for key, value in said.items() if key != "memory_sha256"
    }


@FILES
def test_another_reader_reads_it(path: Path) -> None:
    dump = ckptreader.read(path.read_bytes())
    said = recorded(path)
    assert hashlib.sha256(dump.memory).hexdigest() == said["memory_sha256"]
    assert [list(region) for region in dump.regions] == [region[:2] for region in said["regions"]]


@FILES
def test_a_new_index_of_a_golden_file_can_be_made(path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[:-1])
    report = api.rebuild_index(str(cut), str(tmp_path / "new"))
    assert report.digest == recorded(path)["digest"]


@pytest.mark.parametrize("name", CASES)
def test_the_same_save_still_writes_the_same(name: str, tmp_path: Path) -> None:
    case: Case = CASES[name]
    case.write(str(tmp_path / "now"), case)
    now = (tmp_path / "now").read_bytes()
    then = (Path(HERE) / f"v{FORMAT_VERSION}-{name}.ckpt").read_bytes()
    if case.same_bytes:
        assert now == then
    one, other = ckptreader.read(now), ckptreader.read(then)
    assert (one.memory, one.digest, one.places, one.regions) == (
        other.memory,
        other.digest,
        other.places,
        other.regions,
    )
    assert _plain(one) == _plain(other)
    assert {kind: one.sections[kind] for kind in one.sections if kind > 3} == {
        kind: other.sections[kind] for kind in other.sections if kind > 3
    }


def _plain(dump: ckptreader.Dump) -> list[Any]:
    """Every storage block but for where compression puts it."""
    return [storage._replace(offset=0) for storage in dump.storage]


@pytest.mark.parametrize("name", CASES)
def test_what_a_case_is_made_of_has_not_changed(name: str) -> None:
    said = recorded(Path(HERE) / f"v{FORMAT_VERSION}-{name}.ckpt")
    assert hashlib.sha256(CASES[name].memory).hexdigest() == said["memory_sha256"]
