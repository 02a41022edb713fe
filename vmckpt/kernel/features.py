"""Whether this process can have userfaultfd, and what it can do: found by opening a temporary one.

    /dev/userfaultfd ──refused──▶ the system call ──refused──▶ the system call, for touches by the process itself only

Nothing here asks for a version. `userfaultfd.Userfaultfd.open` opens by the first way that works.
"""

import errno
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vmckpt.errors import FeatureError
from vmckpt.kernel import libc, uffdio
from vmckpt.kernel.uffdio import Feature
from vmckpt.layout import PAGE_BYTES

__all__ = ["WAYS", "Features", "Way", "handshake", "open_descriptor", "probe"]

_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # poll answers an error on a descriptor that blocks
_DEVICE = "/dev/userfaultfd"
_SYSCALLS = {"x86_64": 323, "aarch64": 282, "riscv64": 282}


def _by_device() -> int:
    device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        return libc.ioctl(device, uffdio.NEW, _FLAGS)
    finally:
        os.close(device)


def _by_syscall(flags: int) -> int:
    number = _SYSCALLS.get(os.uname().machine) if sys.platform == "linux" and sys.maxsize > 1 << 32 else None
    if number is None:
        raise OSError(errno.ENOSYS, f"not known on {sys.platform} {os.uname().machine}")
    return libc.syscall(number, flags)


class Way(NamedTuple):
    """A way to a new descriptor."""

    name: str
    open: Callable[[], int]
    """Returns the descriptor or raises OSError."""
    kernel_faults: bool
    """Pages that the kernel touches for the process (read(2) into them, KVM) trap as well."""


WAYS = (
    Way(_DEVICE, _by_device, kernel_faults=True),
    Way("userfaultfd()", lambda: _by_syscall(_FLAGS), kernel_faults=True),
    Way(
        "userfaultfd(USER_MODE_ONLY)",
        lambda: _by_syscall(_FLAGS | uffdio.USER_MODE_ONLY),
        kernel_faults=False,
    ),
)
"""Every way, the best first."""


@dataclass(frozen=True, slots=True)
class Features:
    """What this process can have from userfaultfd, as found by trying."""

    supported: Feature
    """Feature bits; none when there is no userfaultfd for this process."""
    kernel_faults: bool
    """Pages that the kernel touches for the process trap as well; without it such a touch fails with EFAULT."""
    reason: str
    """Why there is none; empty when there is."""

    def lacks(self, needed: Feature, *, kernel_faults: bool = False) -> str:
        """Why `needed` cannot be had, in words for an error message; empty when it can."""
        if self.reason:
            return self.reason
        missing = needed & ~self.supported
        if missing:
            return f"this kernel's userfaultfd lacks {', '.join(str(bit.name) for bit in missing)}"
        if kernel_faults and not self.kernel_faults:
            return (
                "this process may not trap touches by the kernel: it needs read and write permission on "
                f"{_DEVICE}, CAP_SYS_PTRACE, or the sysctl vm.unprivileged_userfaultfd=1"
            )
        return ""

    def require(self, needed: Feature, *, kernel_faults: bool = False) -> None:
        """Raise FeatureError, with the reason, unless `needed` can be had."""
        reason = self.lacks(needed, kernel_faults=kernel_faults)
        if reason:
            raise FeatureError(f"cannot trap touches of guest memory: {reason}")


def open_descriptor(ways: Sequence[Way]) -> tuple[int, Way]:
    """A new descriptor before its handshake, by the first way that works.

    Raises:
        FeatureError: none does.
    """
    refusals = []
    for way in ways:
        try:
            return way.open(), way
        except OSError as error:
            refusals.append(f"{way.name}: {error.strerror or error}")
    raise FeatureError("; ".join(refusals))


def handshake(fd: int, features: Feature) -> Feature:
    """Ask a new descriptor for `features`; returns all that the kernel has.

    Raises:
        OSError: the kernel refused.
    """
    api = uffdio.Api(uffdio.API_VERSION, features, 0)
    libc.ioctl(fd, uffdio.API, api)
    return Feature(api.features) & Feature(sum(Feature))  # later kernels have bits without a name here


def probe(ways: Sequence[Way] = WAYS) -> Features:
    """Find out what this process can have, with a temporary descriptor."""
    if mmap.PAGESIZE != PAGE_BYTES:
        reason = f"this kernel's pages have {mmap.PAGESIZE} bytes: expected {PAGE_BYTES}"
        return Features(Feature(0), kernel_faults=False, reason=reason)
    try:
        fd, way = open_descriptor(ways)
    except FeatureError as error:
        return Features(Feature(0), kernel_faults=False, reason=f"no userfaultfd ({error.message})")
    try:
        return Features(handshake(fd, Feature(0)), way.kernel_faults, "")
    except OSError as error:
        return Features(
            Feature(0), kernel_faults=False, reason=f"userfaultfd refuses the handshake ({error.strerror})"
        )
    finally:
        os.close(fd)
