"""A userfaultfd: the kernel stops whoever touches a registered range, and tells us.

    guest's process    open ─▶ register ─▶ send the descriptor (process.send_descriptors) ─▶ touch ─▶ (waits) ─▶ goes on
    handler's process                      Userfaultfd(received) ─▶ poll ─▶ read_events ─▶ copy | zero | proceed

A descriptor belongs to the memory of the process that opened it, whoever holds it now. **The handler must be another
process**: a Python thread that touches a registered page keeps the interpreter lock while it waits for its answer.
"""

import errno
import os
from collections.abc import Callable, Sequence
from ctypes import Structure
from types import TracebackType
from typing import Self

from vmckpt.errors import FeatureError, IoError
from vmckpt.kernel import libc, uffdio
from vmckpt.kernel.faults import CopyOutcome, Event, Stop
from vmckpt.kernel.features import WAYS, Way, handshake, open_descriptor, probe
from vmckpt.kernel.memory import pinned
from vmckpt.kernel.uffdio import Feature, Mode
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import Buffer

__all__ = ["Userfaultfd"]

_PLAIN = Feature(0)
_UNANSWERED = Feature.EVENT_FORK | Feature.EVENT_REMAP  # their events carry what nobody here would take over


class Userfaultfd:
    """A userfaultfd: opened here for this process's memory, or received from the process whose memory it is.

    It owns its descriptor. Threads may share it; a fork shares the descriptor, and both must close it.
    While any process holds a copy, touches of missing pages wait. When the last copy closes they go on and read zeros.
    """

    def __init__(self, fd: int) -> None:
        """Take over `fd`, on which the handshake was done already."""
        self._fd = fd
        os.set_blocking(fd, False)

    @classmethod
    def open(
        cls, features: Feature = _PLAIN, *, kernel_faults: bool = False, ways: Sequence[Way] = WAYS
    ) -> Self:
        """Open one for this process's memory.

        Args:
            features: what it has to do beyond missing pages of private anonymous memory.
            kernel_faults: do not make do with a descriptor that traps only what the process itself touches.
            ways: how descriptors are made.

        Raises:
            FeatureError: this process cannot have that.
            ValueError: fork or remap events are asked for, which nobody reads.
        """
        if features & _UNANSWERED:
            raise ValueError(f"{features & _UNANSWERED!r} would bring events that nobody reads")
        probe(ways).require(features, kernel_faults=kernel_faults)
        fd, _ = open_descriptor(ways)
        try:
            handshake(fd, features)
            return cls(fd)
        except OSError as error:
            os.close(fd)
            raise FeatureError(f"userfaultfd refuses the features {features!r}: {error.strerror}") from error

    def fileno(self) -> int:
        """The descriptor, to poll and to send; -1 once closed."""
        return self._fd

    def register(self, address: int, length_bytes: int, mode: Mode) -> int:
        """Trap touches of a range of this process's memory.

        Returns bit n set where ioctl n works on the range (huge pages have no ZEROPAGE).

        Raises:
            FeatureError: this kernel, or this descriptor, cannot trap so on this kind of mapping.
            IoError: the kernel refused; the range is not mapped, or another descriptor has it.
            ValueError: these are not whole pages.
        """
        _check_pages(address, length_bytes)
        argument = uffdio.Register(address, length_bytes, mode, 0)
        try:
            libc.ioctl(self._fd, uffdio.REGISTER, argument)
        except OSError as error:
            what = f"cannot trap {mode!r} at {address:#x}, {length_bytes} bytes"
            if error.errno == errno.EINVAL:
                raise FeatureError(f"{what}: not with this kernel, mapping and descriptor") from error
            raise IoError.of(error, what) from error
        return argument.ioctls

    def unregister(self, address: int, length_bytes: int) -> None:
        """Trap nothing in the range any more, and lift its write protection.

        Who waits there for a missing page is woken; who waits to write to a protected page is not: call `wake`.

        Raises:
            IoError: the kernel refused.
        """
        self._act(uffdio.UNREGISTER, uffdio.Range(address, length_bytes), "unregister", address)

    def wake(self, address: int, length_bytes: int) -> None:
        """Let the threads that wait for these pages try again; what is still missing traps again.

        Raises:
            IoError: the kernel refused.
        """
        self._act(uffdio.WAKE, uffdio.Range(address, length_bytes), "wake", address)

    def _act(self, request: int, argument: Structure, name: str, address: int) -> None:
        try:
            libc.ioctl(self._fd, request, argument)
        except OSError as error:
            raise IoError.of(error, f"userfaultfd cannot {name} at {address:#x}") from error

    def copy(
        self, dst: int, src: int | Buffer, length_bytes: int, *, wp: bool = False, wake: bool = True
    ) -> CopyOutcome:
        """Fill missing pages with the bytes at `src`, which need not be aligned.

        Args:
            dst: where, in the guest's process.
            src: a buffer, or an address in this process (1.5 µs faster; `memory.address_of`).
            length_bytes: whole pages.
            wp: write-protect them. Without it a protection that was set is lifted.
            wake: let who waits for them go on.

        Raises:
            IoError: the kernel refused for a reason that no `Stop` stands for, before anything was copied.
            ValueError: the buffer is shorter than `length_bytes`.
        """
        mode = (uffdio.FILL_WP if wp else 0) | (0 if wake else uffdio.FILL_DONT_WAKE)
        if isinstance(src, int):
            return self._copy(dst, src, length_bytes, mode)
        with pinned(src) as (address, size_bytes):
            if size_bytes < length_bytes:
                raise ValueError(f"a buffer of {size_bytes} bytes cannot fill {length_bytes}")
            return self._copy(dst, address, length_bytes, mode)

    def _copy(self, dst: int, src: int, length_bytes: int, mode: int) -> CopyOutcome:
        argument = uffdio.Copy(dst, src, length_bytes, mode, 0)
        try:
            libc.ioctl(self._fd, uffdio.COPY, argument)
        except OSError as error:
            if argument.done <= 0:
                return CopyOutcome(0, _stop(error, uffdio.COPY, argument, 0))
        else:
            return CopyOutcome(length_bytes, Stop.DONE)  # as a rule, and then it is quick
        return self._fill(
            uffdio.COPY,
            lambda done: uffdio.Copy(dst + done, src + done, length_bytes - done, mode, 0),
            length_bytes,
            argument.done,
        )

    def zero(self, address: int, length_bytes: int, *, wake: bool = True) -> CopyOutcome:
        """Fill missing pages with zeros, not write-protected (there, copy zeros instead).

        Raises:
            IoError: as `copy`.
        """
        mode = _mode(wp=False, wake=wake)
        return self._fill(uffdio.ZEROPAGE, _pages(address, length_bytes, mode), length_bytes)

    def proceed(self, address: int, length_bytes: int, *, wp: bool = False, wake: bool = True) -> CopyOutcome:
        """Map the pages that the file has; without `wp` a write protection that was set is lifted.

        Raises:
            IoError: as `copy`.
        """
        mode = _mode(wp=wp, wake=wake)
        return self._fill(uffdio.CONTINUE, _pages(address, length_bytes, mode), length_bytes)

    def poison(self, address: int, length_bytes: int, *, wake: bool = True) -> CopyOutcome:
        """Make missing pages fail: who touches one gets SIGBUS, a system call on it EFAULT.

        Raises:
            IoError: as `copy`.
        """
        mode = _mode(wp=False, wake=wake)
        return self._fill(uffdio.POISON, _pages(address, length_bytes, mode), length_bytes)

    def _fill(
        self, request: int, argument_at: Callable[[int], "_Filling"], length_bytes: int, done: int = 0
    ) -> CopyOutcome:
        # The kernel stops at the first page that it cannot fill and says EAGAIN, with the bytes done; asked for the
        # rest, it says why. So go on for as long as there is progress.
        while done < length_bytes:
            argument = argument_at(done)
            try:
                libc.ioctl(self._fd, request, argument)
            except OSError as error:
                if argument.done <= 0:
                    return CopyOutcome(done, _stop(error, request, argument, done))
            done += argument.done
        return CopyOutcome(done, Stop.DONE)

    def write_protect(self, address: int, length_bytes: int, on: bool, *, wake: bool = True) -> Stop:
        """Write-protect a range registered with WP, or lift the protection and wake who waits for it.

        Setting it never wakes. Where the answer is not DONE, a part of the range may be changed. Other mappings of the same file are not protected by it.

        Raises:
            IoError: the kernel refused for a reason that no `Stop` stands for.
        """
        mode = uffdio.PROTECT if on else 0 if wake else uffdio.PROTECT_DONT_WAKE
        argument = uffdio.WriteProtect(address, length_bytes, mode)
        try:
            libc.ioctl(self._fd, uffdio.WRITEPROTECT, argument)
        except OSError as error:
            return _stop(error, uffdio.WRITEPROTECT, argument, 0)
        return Stop.DONE

    def read_events(self, limit: int = 16) -> list[Event]:
        """Up to `limit` events that are waiting now; empty when none is.

        The end of the guest's process is no event: it shows as `Stop.GONE`.

        Raises:
            IoError: the read failed, or brought what vmckpt does not understand.
        """
        try:
            messages = os.read(self._fd, limit * uffdio.MESSAGE_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise IoError.of(error, "cannot read the events of a userfaultfd") from error
        return uffdio.events_in(messages)

    def close(self) -> None:
        """Close this copy of the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_Filling = uffdio.Copy | uffdio.Fill
_NAMES = {
    uffdio.COPY: "copy pages",
    uffdio.ZEROPAGE: "make zero pages",
    uffdio.CONTINUE: "map pages",
    uffdio.POISON: "poison pages",
    uffdio.WRITEPROTECT: "change the write protection",
}
_STOPS = {
    errno.EEXIST: Stop.EXISTS,
    errno.EAGAIN: Stop.AGAIN,
    errno.ESRCH: Stop.GONE,
    errno.ENOENT: Stop.ABSENT,
}


def _mode(*, wp: bool, wake: bool) -> int:
    return (uffdio.FILL_WP if wp else 0) | (0 if wake else uffdio.FILL_DONT_WAKE)


def _pages(address: int, length_bytes: int, mode: int) -> Callable[[int], uffdio.Fill]:
    return lambda done: uffdio.Fill(address + done, length_bytes - done, mode, 0)


def _stop(error: OSError, request: int, argument: _Filling | uffdio.WriteProtect, done: int) -> Stop:
    code = error.errno or 0
    if code in _STOPS:
        return _STOPS[code]
    if request == uffdio.CONTINUE and code == errno.EFAULT:
        return Stop.HOLE
    if done:
        return Stop.AGAIN  # or the progress would be lost; whoever asks for the rest gets the error
    start = argument.dst if isinstance(argument, uffdio.Copy) else argument.start
    raise IoError.of(
        error, f"userfaultfd cannot {_NAMES[request]} at {start:#x}, {argument.length} bytes"
    ) from error


def _check_pages(address: int, length_bytes: int) -> None:
    if address % PAGE_BYTES or length_bytes % PAGE_BYTES or length_bytes <= 0:
        raise ValueError(f"{length_bytes} bytes at {address:#x} are not whole pages")
