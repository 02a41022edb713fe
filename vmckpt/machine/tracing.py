"""What a vCPU does in its own process for a save of the machine: the commands of every `Machine`.

    trace-prepare ─▶ a second mapping, registered ─▶ its address and userfaultfd to the supervisor     (it works on)
    trace-enter   ─▶ the fresh mapping replaces the one in use, which is taken down behind its back
    trace-forget  ─▶ pages of the mapping in use are dropped from it: their first touch traps again
    trace-fence   ─▶ nothing: it is between two operations
    trace-leave   ─▶ plain accesses again; a mapping that was prepared and never entered goes

A fresh mapping has no page-table entries, so where MISSING and MINOR are registered every first touch of it traps, with
nothing armed page by page. Traces of the kernel end with the last copy of the userfaultfd, of which none stays here, or
when the supervisor lifts them (`traces`, which sends these commands). Whoever traps waits with the interpreter lock held:
a vCPU answers no command then.
"""

import _thread
import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence

from vmckpt.errors import VmckptError
from vmckpt.kernel.memory import Advice
from vmckpt.kernel.memory import Mapping as MemoryMapping
from vmckpt.kernel.uffdio import Feature, Mode
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.access import PlainAccess
from vmckpt.machine.processor import Command, Place, Processor
from vmckpt.machine.traced import TracedAccess
from vmckpt.trace.software import TraceTable

__all__ = ["Tracing", "features_of"]

_Reply = tuple[Mapping[str, object], Sequence[int]]


def features_of(*, first_touch: bool, writes: bool) -> Feature:
    """What a userfaultfd has to be able to do to trap these touches of a memfd."""
    features = Feature(0)
    if first_touch:
        features |= Feature.MISSING_SHMEM | Feature.MINOR_SHMEM
    if writes:
        features |= Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM
    return features


class Tracing:
    """A vCPU's part in the save that is under way, if any. Each vCPU's process has its own."""

    def __init__(self) -> None:
        self._fresh: Place | None = None
        self._table: TraceTable | None = None
        self._traced: TracedAccess | None = None

    def commands(self) -> dict[str, Command]:
        """By name, for `Processor`."""
        return {
            "trace-prepare": self._prepare,
            "trace-prepare-software": self._prepare_software,
            "trace-enter": self._enter,
            "trace-forget": self._forget,
            "trace-fence": self._fence,
            "trace-leave": self._leave,
        }

    def _prepare(
        self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
    ) -> _Reply:
        """Answer the fresh mapping's address with its userfaultfd, or why there is none: the vCPU lives on."""
        [memory_fd] = descriptors
        with _taken(descriptors):
            first_touch, writes = bool(values["first_touch"]), bool(values["writes"])
            try:
                memory = MemoryMapping.of_file(memory_fd, processor.place.memory.size_bytes)
                self._fresh = Place(processor.place.share, memory, memory.view.cast("Q"))
                return {"base": memory.address}, [_register(memory, first_touch=first_touch, writes=writes)]
            except VmckptError as error:
                self._drop_fresh()
                return {"error": [type(error).__name__, error.message]}, ()

    def _prepare_software(
        self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
    ) -> _Reply:
        del values
        table_fd, tracer_fd = descriptors
        place = processor.place
        tracer = socket.socket(fileno=tracer_fd)
        with _taken([table_fd]):
            try:
                self._table = TraceTable(table_fd, place.share.page_count, place.share.vcpus)
            except VmckptError as error:
                tracer.close()
                return {"error": [type(error).__name__, error.message]}, ()
        row = self._table.rows[place.share.vcpu]
        self._traced = TracedAccess(place.words, place.share, row, tracer)
        return {}, ()

    def _enter(
        self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
    ) -> _Reply:
        del descriptors
        if self._traced is not None:
            processor.access = self._traced
        if self._fresh is not None:
            old, processor.place = processor.place, self._fresh
            processor.access = PlainAccess(processor.place.words, processor.place.share)
            self._fresh = None
            _close_behind(old)
        return _resumed(processor, values)

    def _forget(
        self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
    ) -> _Reply:
        del descriptors
        ranges = values["ranges"]
        assert isinstance(ranges, list)
        for start, end in ranges:
            processor.place.memory.advise(Advice.DONTNEED, start * PAGE_BYTES, (end - start) * PAGE_BYTES)
        return {}, ()

    @staticmethod
    def _fence(processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]) -> _Reply:
        del processor, values, descriptors
        return {}, ()

    def _leave(
        self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
    ) -> _Reply:
        del descriptors
        self._drop_fresh()
        if self._traced is not None:
            if processor.access is self._traced:
                processor.access = PlainAccess(processor.place.words, processor.place.share)
            self._traced.close()
            self._traced = None
        if self._table is not None:
            self._table.close()
            self._table = None
        return _resumed(processor, values)

    def _drop_fresh(self) -> None:
        if self._fresh is not None:
            _close(self._fresh)
            self._fresh = None


def _register(memory: MemoryMapping, *, first_touch: bool, writes: bool) -> int:
    """The descriptor of a userfaultfd that traps touches of all of `memory`; the caller owns it."""
    mode = (Mode.MISSING | Mode.MINOR if first_touch else Mode(0)) | (Mode.WP if writes else Mode(0))
    with Userfaultfd.open(features_of(first_touch=first_touch, writes=writes)) as uffd:
        uffd.register(memory.address, memory.size_bytes, mode)
        return os.dup(uffd.fileno())


def _resumed(processor: Processor, values: Mapping[str, object]) -> _Reply:
    # With the command rather than after it: a round trip less in which all vCPUs stand still.
    if values.get("resume"):
        processor.paused = False
    return {}, ()


def _close_behind(place: Place) -> None:
    """Take a mapping down while the vCPU works on: that takes 100 ms for 4 GiB, without the interpreter lock."""
    try:
        _thread.start_new_thread(_close, (place,))
    except RuntimeError:  # no more threads for this user
        _close(place)


def _close(place: Place) -> None:
    with contextlib.suppress(BufferError):  # somebody attached to it keeps a view: it stays, and does no harm
        place.words.release()
        place.memory.close()


@contextlib.contextmanager
def _taken(descriptors: Sequence[int]) -> Iterator[None]:
    try:
        yield
    finally:
        for fd in descriptors:
            os.close(fd)
