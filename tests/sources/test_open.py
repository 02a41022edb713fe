"""`open_source`: the kind follows from the content alone, and what cannot be opened is told apart."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.elfwriter import ElfCore, Load
from tests.support.memory import page_bytes
from vmckpt.checkpoint.format import FOOTER, FOOTER_MAGIC, MAGIC
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.errors import CorruptionError, FormatError, IoError, SourceError
from vmckpt.pages import PAGE_BYTES
from vmckpt.sources import open_checkpoint, open_source


@pytest.mark.parametrize("name", ["a.elf", "a.raw", "a.vmckpt", "a"])
def test_a_raw_image_is_raw_under_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(page_bytes(1))
    source = open_source(str(path))
    assert source.kind == "raw"
    source.close()


@pytest.mark.parametrize("name", ["a.elf", "a.raw", "a.vmckpt", "a"])
def test_an_elf_core_is_elf_under_any_name(tmp_path: Path, name: str) -> None:
    source = open_source(ElfCore([Load(0, page_bytes(1))]).write(tmp_path / name))
    assert source.kind == "elf"
    source.close()


@pytest.mark.parametrize("name", ["a.elf", "a.raw", "-"])
def test_a_checkpoint_goes_to_its_reader_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(MAGIC + b"not looked at here")
    opened = []

    def take(fd: int, name: str) -> None:
        opened.append((os.pread(fd, 8, 0), name))
        os.close(fd)

    monkeypatch.setattr(Checkpoint, "from_descriptor", take)
    before = len(os.listdir("/proc/self/fd"))
    open_source(str(tmp_path / name))
    assert opened == [(MAGIC, str(tmp_path / name))]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_checkpoint_with_a_damaged_header_is_no_raw_image(tmp_path: Path) -> None:
    path = tmp_path / "image"
    footer = FOOTER_MAGIC.ljust(FOOTER.size, b"\0")
    path.write_bytes(b"VMCKPX\x1a\n".ljust(2 * PAGE_BYTES - len(footer), b"\0") + footer)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((CorruptionError, SourceError)) as caught:
        open_source(str(path))
    assert caught.value.path == str(path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "head",
    [b"\x7fEL", b"VMCKPT\x1a", b"VMCKPT\x1a\r", b"vmckpt\x1a\n", b""],
    ids=["short ELF", "short checkpoint", "line ends changed", "lower case", "zeros"],
)
def test_what_only_resembles_a_magic_is_raw(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(head.ljust(PAGE_BYTES, b"\0"))
    source = open_source(str(path))
    assert source.kind == "raw"
    source.close()


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"KDUMP   ", "kdump-compressed dump"),
        (b"makedumpfile", "flattened kdump dump"),
        (b"LibvirtQemudSave", "libvirt save file"),
        (b"QEVM", "QEMU migration stream"),
        (b"QFI\xfb", "qcow2 disk image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_known_to_be_something_else_is_not_taken_for_raw_memory(
    tmp_path: Path, head: bytes, what: str
) -> None:
    path = tmp_path / "image"
    path.write_bytes(head.ljust(PAGE_BYTES, b"\0"))
    with pytest.raises(SourceError, match=what) as caught:
        open_source(str(path))
    assert caught.value.path == str(path)


def test_a_directory_is_not_understood(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="this is a directory: expected a memory image") as caught:
        open_source(str(tmp_path))
    assert (caught.value.path, caught.value.exit_code) == (str(tmp_path), 3)


def test_a_missing_file_is_an_io_error(tmp_path: Path) -> None:
    with pytest.raises(IoError, match="cannot open: No such file or directory") as caught:
        open_source(str(tmp_path / "none"))
    assert (caught.value.path, caught.value.exit_code) == (str(tmp_path / "none"), 1)


def test_a_file_without_permission_is_an_io_error(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(page_bytes(1))
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read every file
    try:
        with pytest.raises(IoError, match="cannot open: Permission denied"):
            open_source(str(path))
    finally:
        os.seteuid(user)


def test_a_socket_holds_no_memory_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # socket addresses are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(SourceError, match="take the control socket of a running machine"):
            open_source("socket")


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_an_empty_device_is_not_understood(device: str) -> None:
    with pytest.raises(SourceError, match="it is empty"):
        open_source(device)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(page_bytes(1))
    (tmp_path / "link").symlink_to("image")
    source = open_source(str(tmp_path / "link"))
    assert source.name == str(tmp_path / "link")
    source.close()


def test_opening_a_raw_image_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(page_bytes(1))
    script = (
        "import sys\n"
        "from vmckpt.sources import open_source\n"
        f"open_source({str(tmp_path / 'image')!r})\n"
        "print(*{'numpy', 'lz4', 'tempfile', 'dataclasses', 'elftools', 'click'} & set(sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert run.stdout.split() == []


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("losetup") is None, reason="a block device needs root and losetup"
)
def test_a_block_device_is_as_long_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(page_bytes(1) + page_bytes(2))
    made = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", str(tmp_path / "image")],
        capture_output=True,
        check=False,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    try:
        source = open_source(made.stdout.strip())
        assert source.layout.page_count == 2
        assert list(source.data_ranges()) == [(0, 2)]
        source.close()
    finally:
        subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (bytes(PAGE_BYTES), "a raw image"),
        (bytes(PAGE_BYTES + 1), "no memory image either"),
        (b"QFI\xfb".ljust(PAGE_BYTES, b"\0"), "a qcow2 disk image"),
        (b"\x7fELF".ljust(PAGE_BYTES, b"\0"), "an ELF core"),
    ],
    ids=["empty", "raw", "odd", "qcow2", "elf"],
)
def test_what_is_no_checkpoint_is_told_what_it_is(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FormatError, match=f"not a checkpoint: .*{what}") as caught:
        open_checkpoint(str(path))
    assert caught.value.path == str(path)
    assert len(os.listdir("/proc/self/fd")) == before
