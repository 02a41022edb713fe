"""The figures that lazy restores are held to."""

from tests.benchmarks.bounds import Bound, ReadingTarget
from tests.benchmarks.lazy_cases import (
    DISKS,
    FAULT_SUBJECTS,
    PAGE_BY_PAGE,
    START,
    START_SIZES_BYTES,
    place,
    start_name,
)

__all__ = ["LAZY_TARGETS"]

_PREFETCHED = "access, compressed, prefetched"
_FIRST, *_LARGER = START_SIZES_BYTES

LAZY_TARGETS: tuple[ReadingTarget, ...] = (
    ReadingTarget("lazy-start", START, "time to run", Bound.LESS_THAN, 0.200),
    *(
        ReadingTarget(
            *("lazy-start", START, "time to run", Bound.AT_MOST, 1.2),
            image=start_name(size_bytes),
            peer_image=start_name(_FIRST),
        )
        for size_bytes in _LARGER
    ),
    *(
        ReadingTarget(
            *("lazy-layout", _PREFETCHED, "overhead", Bound.AT_MOST, 0.30 if disk == "real" else 0.06),
            peer=PAGE_BY_PAGE,
            image=place(disk, blocks),
        )
        for blocks in ("ours", "paper")
        for disk in DISKS
    ),
    *(
        ReadingTarget(
            *("lazy-layout", fewer, "storage reads", Bound.LESS_THAN, 1.0),
            peer=more,
            image=place(disk, "paper"),
        )
        for disk in DISKS
        for fewer, more in (("access", "physical"), ("physical", "random"))
    ),
    *(
        ReadingTarget(
            *("lazy-layout", "access", "other pages used", Bound.AT_LEAST, 0.8), image=place(disk, "paper")
        )
        for disk in DISKS
    ),
    *(
        ReadingTarget(
            *("lazy-ttr", "working set", "TTR(1 s, 90 %)", Bound.AT_MOST, 0.11), peer="eager", image=disk
        )
        for disk in DISKS
    ),
    *(
        ReadingTarget("lazy-ttr", f"tracing, --trace {rule}", "coverage", Bound.AT_LEAST, 0.99)
        for rule in ("working-set", "access")
    ),
    *(
        ReadingTarget("lazy-divergence", machine, "time lost", Bound.AT_MOST, 0.10)
        for machine in ("another set", "zipf")
    ),
    *(
        ReadingTarget("lazy-background", codec, "memory brought", Bound.AT_LEAST, 1.5)
        for codec in ("default codec", "--codec raw")
    ),
    ReadingTarget("lazy-fault", FAULT_SUBJECTS[0], "a fault", Bound.AT_MOST, 1.7, FAULT_SUBJECTS[1]),
    ReadingTarget("lazy-kills", START, "right digests", Bound.AT_LEAST, 1.0, every_run=True),
)
"""Of lazy restores; overheads and times to responsiveness as parts of the peer's."""
