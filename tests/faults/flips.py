"""Every single-bit flip of a checkpoint, shown to verify, to restore and to the streaming restore.

    sample ─▶ for each bit: flip it in a memory file ─▶ each reader must refuse, with exit code 3 or 4 ─▶ flip it back

One process for each core, each with its share of the bits.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from tests.faults.inline import inline_crews
from tests.faults.samples import Sample
from vmckpt import api
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.errors import CorruptionError, FormatError, VmckptError
from vmckpt.restoring.eager import stream_image
from vmckpt.restoring.image import plan_raw
from vmckpt.workers import Channel, Crew

__all__ = ["READERS", "count_flips", "found_by", "memory_file", "unfound_flips"]

Reader = Callable[[str, str], None]


def _verify(path: str, folder: str) -> None:
    report = api.verify(path, jobs=1)
    if not report.ok:
        raise CorruptionError(report.problems[0].message)


def _restore(path: str, folder: str) -> None:
    output = os.path.join(folder, f"restored.{os.getpid()}")
    try:
        api.restore(path, output, jobs=1)
    finally:
        if os.path.exists(output):
            os.unlink(output)


def _stream(path: str, folder: str) -> None:
    with Checkpoint.open(path) as checkpoint:
        stream_image(checkpoint, plan_raw(checkpoint.layout), lambda _part: None)


READERS: dict[str, Reader] = {"verify": _verify, "restore": _restore, "stream": _stream}
"""What must find each flip: each raises where it does."""


@contextmanager
def memory_file(data: bytes) -> Iterator[tuple[int, str]]:
    """A file that is nowhere on a disk, and a path to open it by."""
    fd = os.memfd_create("checkpoint")
    try:
        os.write(fd, data)
        yield fd, f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def found_by(reader: Reader, path: str, folder: str) -> str | None:
    """How the reader refused the file: class and message; None if it did not.

    Any exception that is not one of the two refusals is let through.
    """
    try:
        reader(path, folder)
    except (CorruptionError, FormatError) as error:
        return f"{type(error).__name__}: {error.message}"
    return None


def unfound_flips(
    data: bytes, bits: Iterable[int], folder: str, readers: Sequence[str] = tuple(READERS)
) -> Iterator[tuple[int, str]]:
    """Bit and reader of every flip among `bits` that the reader did not find."""
    with memory_file(data) as (fd, path), inline_crews():
        for bit in bits:
            offset, mask = bit >> 3, 1 << (bit & 7)
            os.pwrite(fd, bytes([data[offset] ^ mask]), offset)
            for name in readers:
                try:
                    if found_by(READERS[name], path, folder) is None:
                        yield bit, name
                except Exception as error:
                    raise AssertionError(f"bit {bit & 7} of byte {offset} broke {name}") from error
            os.pwrite(fd, data[offset : offset + 1], offset)


def count_flips(
    sample: Sample,
    folder: str,
    *,
    readers: Sequence[str] = tuple(READERS),
    jobs: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, list[tuple[int, str]]]:
    """Flip every bit; how many that were, and which were not found."""
    bits = len(sample.data) * 8
    share = 4096

    def work(channel: Channel) -> None:
        for message in channel.messages():
            first = int.from_bytes(message, "little")
            try:
                mine = range(first, min(first + share, bits))
                unfound = list(unfound_flips(sample.data, mine, folder, readers))
            except AssertionError as error:
                raise VmckptError(f"{error}: {error.__cause__!r}") from error
            text = ",".join(f"{bit}:{name}" for bit, name in unfound)
            channel.send(len(mine).to_bytes(4, "little") + text.encode())

    unfound: list[tuple[int, str]] = []
    done = 0
    rest = iter(range(0, bits, share))
    with Crew(jobs, work) as crew:
        for worker in range(jobs):
            first = next(rest, None)
            if first is not None:
                crew.send(worker, first.to_bytes(8, "little"))
        while done < bits:
            for worker, answer in crew.receive():
                done += int.from_bytes(answer[:4], "little")
                pairs = (pair.split(":") for pair in answer[4:].decode().split(",") if pair)
                unfound += [(int(bit), name) for bit, name in pairs]
                first = next(rest, None)
                if first is not None:
                    crew.send(worker, first.to_bytes(8, "little"))
                if progress is not None:
                    progress(done, bits)
    return done, unfound
