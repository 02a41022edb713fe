import errno
import os
import pickle
from collections.abc import Sequence

import pytest

from vmckpt.errors import FeatureError
from vmckpt.kernel import libc, uffdio
from vmckpt.kernel.features import WAYS, Features, Way, probe
from vmckpt.kernel.pagemap import Pagemap
from vmckpt.kernel.uffdio import Feature

DEVICE = "/dev/userfaultfd"
EVERYTHING = Feature(sum(Feature))


def refusing(code: int) -> Way:
    def open_it() -> int:
        raise OSError(code, os.strerror(code))

    return Way(f"refused {code}", open_it, kernel_faults=True)


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        pytest.param([errno.ENOSYS], "Function not implemented", id="no-system-call"),
        pytest.param([errno.EPERM], "Operation not permitted", id="not-permitted"),
        pytest.param(
            [errno.ENOENT, errno.EPERM], "No such file or directory; refused 1", id="each-way-is-named"
        ),
    ],
)
def test_without_userfaultfd_the_reason_is_told(codes: list[int], words: str) -> None:
    found = probe([refusing(code) for code in codes])
    assert found.supported == Feature(0)
    assert words in found.reason
    assert words in found.lacks(Feature(0))
    with pytest.raises(FeatureError, match="cannot trap touches of guest memory: no userfaultfd"):
        found.require(Feature(0))


def test_a_descriptor_that_refuses_the_handshake_is_no_userfaultfd() -> None:
    before = open_descriptors()
    found = probe([Way("a file", lambda: os.open(os.devnull, os.O_RDWR), kernel_faults=True)])
    assert found.reason.startswith("userfaultfd refuses the handshake")
    assert open_descriptors() == before


def test_missing_features_are_named() -> None:
    found = Features(Feature.PAGEFAULT_FLAG_WP, kernel_faults=True, reason="")
    assert found.lacks(Feature.PAGEFAULT_FLAG_WP) == ""
    assert found.lacks(Feature.PAGEFAULT_FLAG_WP | Feature.POISON) == "this kernel's userfaultfd lacks POISON"


def test_touches_by_the_kernel_are_asked_for_apart() -> None:
    found = Features(EVERYTHING, kernel_faults=False, reason="")
    assert found.lacks(EVERYTHING) == ""
    assert "vm.unprivileged_userfaultfd" in found.lacks(EVERYTHING, kernel_faults=True)


def test_a_way_that_is_refused_gives_way_to_the_next() -> None:
    found = probe()
    if found.reason:
        pytest.skip(found.reason)
    assert probe([refusing(errno.EACCES), *WAYS]) == found


def test_probing_leaves_no_descriptor_open() -> None:
    before = open_descriptors()
    probe()
    assert open_descriptors() == before


def test_without_privileges_only_touches_by_the_process_itself_trap() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give up its privileges")
    if os.path.exists(DEVICE) and os.stat(DEVICE).st_mode & 0o006:
        pytest.skip("everybody may open the device here")
    with open("/proc/sys/vm/unprivileged_userfaultfd", encoding="ascii") as sysctl:
        if sysctl.read().strip() != "0":
            pytest.skip("vm.unprivileged_userfaultfd lets everybody trap everything here")
    if probe().reason:
        pytest.skip(probe().reason)
    found = as_nobody(WAYS)
    assert found == Features(probe().supported, kernel_faults=False, reason="")


def test_the_device_needs_no_privileges_but_its_permission() -> None:
    if os.geteuid() != 0 or not os.path.exists(DEVICE):
        pytest.skip("only root can open the device and then give up its privileges")
    if probe().reason:
        pytest.skip(probe().reason)
    device = os.open(DEVICE, os.O_RDWR)
    passed_in = Way(
        "opened before", lambda: libc.ioctl(device, uffdio.NEW, os.O_NONBLOCK), kernel_faults=True
    )
    found = as_nobody([passed_in])
    os.close(device)
    assert found == Features(probe().supported, kernel_faults=True, reason="")


def as_nobody(ways: Sequence[Way]) -> Features:
    """What a process without privileges finds."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(writing, pickle.dumps(probe(ways)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = pickle.load(pipe)
    os.waitpid(pid, 0)
    assert isinstance(found, Features)
    return found


def test_a_kernel_with_other_pages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmap.PAGESIZE", 1 << 16)
    assert probe().lacks(Feature(0)) == "this kernel's pages have 65536 bytes: expected 4096"
    with pytest.raises(FeatureError, match="65536 bytes"):
        Pagemap()
