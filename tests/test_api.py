"""The Python API as a caller sees it: `import vmckpt`, and nothing else."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import vmckpt


def test_every_name_stays_itself_however_often_it_is_used(tmp_path: Path) -> None:
    image, checkpoint, back = (str(tmp_path / name) for name in ("image", "checkpoint", "back"))
    vmckpt.create_image(image, 1 << 20, seed=3)
    for _ in range(2):  # a submodule of the same name would take the function's place after its first use
        report = vmckpt.save(image, checkpoint, jobs=1, force=True)
        assert vmckpt.restore(checkpoint, back, jobs=1, force=True).digest == report.digest
        assert vmckpt.digest(back, jobs=1) == vmckpt.digest(checkpoint) == report.digest
        assert vmckpt.verify(checkpoint, jobs=1).ok
        assert vmckpt.info(checkpoint).pages == report.pages


@pytest.mark.parametrize("name", vmckpt.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(vmckpt, name)
    if not isinstance(value, str | int):
        assert inspect.getdoc(value)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'teleport'"):
        _ = vmckpt.teleport


def test_importing_the_package_imports_no_engine() -> None:
    code = "import sys, vmckpt; print(*(name for name in sys.modules if name.startswith('vmckpt')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["vmckpt.version", "vmckpt"] or found.split() == ["vmckpt", "vmckpt.version"]


def test_a_page_of_a_checkpoint_is_read_by_its_number(tmp_path: Path) -> None:
    image, checkpoint = str(tmp_path / "image"), str(tmp_path / "checkpoint")
    vmckpt.create_image(image, 1 << 20, seed=5)
    vmckpt.save(image, checkpoint, jobs=1)
    content = Path(image).read_bytes()
    page = bytearray(vmckpt.PAGE_BYTES)
    with vmckpt.open_checkpoint(checkpoint) as opened:
        for number in (0, 7, 255):
            opened.read(vmckpt.PageRange(number, number + 1), memoryview(page))
            assert page == content[number * vmckpt.PAGE_BYTES :][: vmckpt.PAGE_BYTES]
