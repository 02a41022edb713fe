"""What a read costs on a disk that is not there: seek time and bandwidth, and one arm for all who read. Pure.

    read (offset, size) at a moment ─▶ waits until the disk is free ─▶ positioning ─▶ transfer ─▶ done

    positioning   none where the last read ended; ahead of there, reading over the gap if that is quicker; else a seek

`pace` makes real reads take that long.
"""

from typing import NamedTuple

from vmckpt.errors import UsageError

__all__ = ["DISKS", "REAL", "Disk", "Queue", "disk_named", "served"]


class Disk(NamedTuple):
    """A disk as the model knows it."""

    name: str
    seek_s: float
    """From anywhere to anywhere else, the wait for the platter to come round included."""
    bytes_per_s: float
    """0: the disk of this machine, as it is."""

    @property
    def is_real(self) -> bool:
        """Whether reads are left as they are."""
        return not self.bytes_per_s

    def positioning_s(self, head: int | None, offset: int) -> float:
        """From where the last read ended (None: nobody knows) to `offset`."""
        if head is None or offset < head:
            return self.seek_s
        return min(self.seek_s, (offset - head) / self.bytes_per_s)

    def cost_s(self, head: int | None, offset: int, size_bytes: int) -> float:
        """Positioning and transfer of a read."""
        return self.positioning_s(head, offset) + size_bytes / self.bytes_per_s


REAL = Disk("real", 0.0, 0.0)
"""This machine's own, the file in the page cache."""

DISKS = {
    disk.name: disk
    for disk in (
        Disk("hdd", 9e-3, 120e6),  # 7,200 to 15,000 turns a minute, as the papers'
        Disk("ssd", 100e-6, 500e6),  # SATA
        Disk("fast", 20e-6, 3e9),  # NVMe
        REAL,
    )
}
"""By the name that `--disk` takes."""


class Queue(NamedTuple):
    """The state of a disk between two reads."""

    free_at_s: float = 0.0
    """When it is done with all that was asked of it."""
    head: int | None = None
    """Where the last read ends."""


def served(disk: Disk, queue: Queue, now_s: float, offset: int, size_bytes: int) -> Queue:
    """The disk's state once a read that is asked for now is done, at its `free_at_s`: first come, first served."""
    start_s = max(queue.free_at_s, now_s)
    return Queue(start_s + disk.cost_s(queue.head, offset, size_bytes), offset + size_bytes)


def disk_named(name: str) -> Disk:
    """The disk that goes by this name.

    Raises:
        UsageError: there is none.
    """
    if name not in DISKS:
        raise UsageError(f"there is no disk {name!r}: choose from {', '.join(DISKS)}")
    return DISKS[name]
