"""`--report`, at the shell."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.webpage import WebPage

SAVE = ["save", "guest.raw", "new.vmckpt"]
LAZY = ["restore", "--lazy", "guest.vmckpt", "--workload", "zipf", "--until-ops", "2000"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image and its checkpoint."""
    folder = tmp_path_factory.mktemp("report")
    call(folder, "create", "guest.raw", "--size", "4M", code=0)
    call(folder, "save", "guest.raw", "guest.vmckpt", code=0)
    return folder


def call(folder: Path, *arguments: str, code: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "vmckpt", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    return done


def page(path: Path) -> WebPage:
    return WebPage(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (SAVE, "Save to new.vmckpt"),
        ([*SAVE, "--workload", "zipf", "--warmup-ops", "1000"], "Live save to new.vmckpt"),
        (LAZY, "Lazy restore of guest.vmckpt"),
    ],
    ids=["save", "live save", "lazy restore"],
)
def test_a_page_is_private_and_new_and_json_is_what_it_was(
    folder: Path, arguments: list[str], title: str
) -> None:
    path, new = folder / "run.html", folder / "new.vmckpt"
    arguments = [*arguments, "--json", "--report", "run.html"]
    done = call(folder, *arguments, code=0)
    assert done.stderr == ""
    assert "digest" in json.loads(done.stdout)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert page(path).texts("h1") == [title]
    path.write_bytes(b"precious")
    new.unlink(missing_ok=True)
    assert "exists already" in call(folder, *arguments, code=1).stderr
    assert path.read_bytes() == b"precious"
    assert not new.exists()  # it was refused before anything was done
    call(folder, *arguments, "--force", code=0)
    assert path.read_bytes() != b"precious"
    path.unlink()
    new.unlink(missing_ok=True)


def test_a_hostile_name_is_only_a_name(folder: Path) -> None:
    name = b'<script>alert(1)<\xff>&".vmckpt'
    arguments = [
        os.fsencode(sys.executable),
        b"-m",
        b"vmckpt",
        b"save",
        b"guest.raw",
        name,
        b"--report",
        b"h.html",
    ]
    subprocess.run(arguments, cwd=folder, check=True, capture_output=True)
    read = page(folder / "h.html")
    assert read.texts("h1") == ['Save to <script>alert(1)<\\xff>&".vmckpt']
    assert len(read.texts("script")) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*SAVE, "--report", "-"], 2, "a stream will not do as a report"),
        ([*SAVE, "--report", "new.vmckpt"], 2, "give each its own name"),
        ([*SAVE, "--report", "./new.vmckpt", "--force"], 2, "give each its own name"),
        ([*SAVE, "--report", "guest.raw", "--force"], 2, "same file"),
        (["save", "guest.raw", "-", "--report", "r.html"], 2, "not standard output"),
        ([*SAVE, "--report", "nowhere/r.html"], 1, "cannot open the directory"),
        ([*LAZY, "--report", "guest.vmckpt", "--force"], 2, "same file"),
        ([*LAZY, "--report", "log", "--fault-log", "log"], 2, "give each its own name"),
        (["restore", "guest.vmckpt", "new.raw", "--report", "r.html"], 2, "without --lazy"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    before = [(path, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    assert message in call(folder, *arguments, code=code).stderr
    assert [(path, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())] == before


def test_a_run_that_fails_leaves_no_page(folder: Path) -> None:
    (folder / "bad.raw").write_bytes(b"no pages")
    call(folder, "save", "bad.raw", "new.vmckpt", "--report", "r.html", code=3)
    assert not (folder / "r.html").exists()
    (folder / "bad.raw").unlink()


@pytest.mark.parametrize("arguments", [SAVE, LAZY], ids=["save", "lazy restore"])
def test_without_a_report_nothing_of_it_is_imported(folder: Path, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom vmckpt.cli import main\n"
        f"code = main({[*arguments, '--quiet', '--force']!r})\n"
        "print(code, *(name for name in sys.modules if 'charts' in name or 'ing.report' in name or 'ing.figures' in name))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0"]
    (folder / "new.vmckpt").unlink(missing_ok=True)
