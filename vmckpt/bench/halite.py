"""`bench halite`: one checkpoint laid out in several ways, each restored on several disks (ATC'13, 5.1 and table 1).

    live save ─▶ convert ─▶ random, physical, access, access compressed ─▶ lazily restored, by faults alone
          └────▶ restore ─▶ raw image in page order ─▶ page by page, on the same engine

Two groups. *Paper*: blocks of 8 KiB and 64 KiB, and a working set in scattered pieces of 4 pages, so that a block of 16
neighbours holds some of it and much else, as with the paper's stride of 16 pages. *Ours*: the sizes that `vmckpt save`
takes, and the working set that `vmckpt run` has, but that it never moves. Overhead is the time beyond that of the machine that was never saved.

`cells` and `outcome_of` are pure; `run` acts.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vmckpt import api
from vmckpt.bench.disk import Disk
from vmckpt.bench.fetched import pages_by_storage_block
from vmckpt.bench.guest import Request, Setting, create, saved, set_pages
from vmckpt.bench.outcome import Grid, Outcome, Spread, Target, cut, percent, signed_duration, spread_of
from vmckpt.bench.restored import Goal, Restored, lazy, never_saved, page_by_page
from vmckpt.restoring.handler import Wanted
from vmckpt.units import format_count, format_duration

__all__ = ["SIZE_BYTES", "Cell", "Results", "cells", "outcome_of", "run"]

SIZE_BYTES = 256 << 20


class Group(NamedTuple):
    """What is restored."""

    name: str
    title: str
    workload: str
    set_per_cent: int
    memory_block_bytes: int | None
    storage_block_bytes: int | None


PAPER = Group(
    "paper",
    "blocks of 8 KiB and 64 KiB, a scattered set",
    "working-set:set=5,phase=0,cluster=4",
    5,
    8 << 10,
    64 << 10,
)
OURS = Group("ours", "vmckpt's own sizes and set", "working-set:phase=0", 10, None, None)
_GROUPS = (PAPER, OURS)

PAGE, RANDOM, PHYSICAL, ACCESS = "page by page", "random", "physical", "access"
COMPRESSED, PREFETCHED = "access, compressed", "access, compressed, prefetched"
_DISK_CUT, _WARM_CUT, _SHARE = 0.94, 0.70, 0.80


class Cell(NamedTuple):
    """One way to restore."""

    group: str
    name: str
    layout: str | None
    """None: page by page, from the image."""
    codec: str | None = None
    """None: the default."""
    prefetch: bool = False
    """Bring the active pages first."""


class Results(NamedTuple):
    """All runs."""

    never_saved_s: Mapping[str, Sequence[float]]
    """By group."""
    runs: Mapping[tuple[str, Cell], Sequence[Restored]]
    """By disk and cell."""
    file_bytes: Mapping[Cell, int]


def cells() -> list[Cell]:
    """What is compared, in the order of the table."""
    return [
        Cell("paper", PAGE, None),
        Cell("paper", RANDOM, "random", "raw"),
        Cell("paper", PHYSICAL, "physical", "raw"),
        Cell("paper", ACCESS, "access", "raw"),
        Cell("paper", COMPRESSED, "access"),
        Cell("paper", PREFETCHED, "access", prefetch=True),
        Cell("ours", PAGE, None),
        Cell("ours", COMPRESSED, "access"),
        Cell("ours", PREFETCHED, "access", prefetch=True),
    ]


class _Prepared:
    """The files of a group, and what is run on them."""

    def __init__(self, request: Request, image: str, group: Group) -> None:
        self._request = request
        request.tell(f"saving it ({group.name})")
        setting = Setting(
            group.workload,
            set_pages(request.size_bytes, group.set_per_cent),
            memory_block_bytes=group.memory_block_bytes,
            storage_block_bytes=group.storage_block_bytes,
        )
        self.guest = saved(image, self._path(f"{group.name}.vmckpt"), setting, request.seed)
        self.cells = [cell for cell in cells() if cell.group == group.name]
        self.files: dict[Cell, str] = {}
        self._pages: dict[Cell, dict[int, list[int]]] = {}
        made: dict[tuple[str | None, str | None], str] = {}
        for cell in self.cells:
            key = (cell.layout, cell.codec)
            if key not in made:
                made[key] = self._made(cell, self._path(f"{group.name}-{len(made)}"))
            self.files[cell] = made[key]
            if cell.layout is not None and not cell.prefetch:
                self._pages[cell] = pages_by_storage_block(made[key])

    def _path(self, name: str) -> str:
        return os.path.join(self._request.work_dir, name)

    def _made(self, cell: Cell, path: str) -> str:
        self._request.tell(f"laying it out: {cell.name} ({cell.group})")
        if cell.layout is None:
            api.restore(self.guest.path, path)
        else:
            api.convert(self.guest.path, path, layout=cell.layout, codec=cell.codec)
        return path

    def measure(self, cell: Cell, disk: Disk, goal: Goal) -> Restored:
        work_dir, path = self._request.work_dir, self.files[cell]
        if cell.layout is None:
            return page_by_page(self.guest.path, path, disk, work_dir, goal)
        wanted = Wanted(active=None if cell.prefetch else (), background=False)
        return lazy(path, disk, work_dir, goal, wanted, self._pages.get(cell))


def run(request: Request, disks: Sequence[Disk]) -> Outcome:
    """Do the experiment; ways to restore take turns.

    Raises:
        VmckptError: something failed, or a digest was wrong.
    """
    image = create(request)
    prepared = {group.name: _Prepared(request, image, group) for group in _GROUPS}
    os.unlink(image)
    never_s: dict[str, list[float]] = {name: [] for name in prepared}
    found: dict[tuple[str, Cell], list[Restored]] = {}
    for number in range(request.runs):
        for name, group in prepared.items():
            goal = never_saved(group.guest.path, group.guest.until_ops)
            never_s[name].append(goal.elapsed_s)
            for disk in disks:
                for cell in group.cells:
                    request.tell(f"run {number + 1} of {request.runs}: {disk.name}, {cell.name} ({name})")
                    found.setdefault((disk.name, cell), []).append(group.measure(cell, disk, goal))
    sizes = {
        cell: os.stat(path).st_blocks * 512
        for group in prepared.values()
        for cell, path in group.files.items()
    }
    return outcome_of(Results(never_s, found, sizes), disks)


def outcome_of(results: Results, disks: Sequence[Disk]) -> Outcome:
    """Medians, tables and targets."""
    return Outcome(
        {
            "never_saved_s": {
                group: spread_of(times)._asdict() for group, times in results.never_saved_s.items()
            },
            "restores": [_values(results, disk.name, cell) for disk in disks for cell in cells()],
        },
        [_grid(results, disk, group) for group in _GROUPS for disk in disks],
        [target for disk in disks for target in _targets(results, disk)],
    )


def _overhead(results: Results, disk: str, cell: Cell) -> Spread:
    never_s = spread_of(results.never_saved_s[cell.group]).median
    return spread_of([each.elapsed_s - never_s for each in results.runs[disk, cell]])


def _spread(results: Results, disk: str, cell: Cell, name: str) -> Spread:
    return spread_of([float(getattr(each, name)) for each in results.runs[disk, cell]])


def _share(results: Results, disk: str, cell: Cell) -> Spread | None:
    shares = [each.fetched.share for each in results.runs[disk, cell] if each.fetched is not None]
    known = [share for share in shares if share is not None]
    return spread_of(known) if known else None


def _values(results: Results, disk: str, cell: Cell) -> dict[str, object]:
    share = _share(results, disk, cell)
    names = ("running_s", "stall_s", "storage_reads", "read_bytes", "faults")
    return {
        "disk": disk,
        **cell._asdict(),
        "file_bytes": results.file_bytes[cell],
        "overhead_s": _overhead(results, disk, cell)._asdict(),
        **{name: _spread(results, disk, cell, name)._asdict() for name in names},
        "other_pages_used": None if share is None else share._asdict(),
    }


def _grid(results: Results, disk: Disk, group: Group) -> Grid:
    header = ("layout", "overhead", "min .. max", "less by", "reads", "others used", "faults", "stall")
    of_group = [cell for cell in cells() if cell.group == group.name]
    page_s = _overhead(results, disk.name, of_group[0]).median
    rows = []
    for cell in of_group:
        overhead = _overhead(results, disk.name, cell)
        share = _share(results, disk.name, cell)
        rows.append(
            (
                cell.name,
                signed_duration(overhead.median),
                f"{signed_duration(overhead.low)} .. {signed_duration(overhead.high)}",
                "" if cell.layout is None else percent(cut(overhead.median, page_s)),
                format_count(round(_spread(results, disk.name, cell, "storage_reads").median)),
                percent(None if share is None else share.median),
                format_count(round(_spread(results, disk.name, cell, "faults").median)),
                format_duration(_spread(results, disk.name, cell, "stall_s").median),
            )
        )
    return Grid(f"{disk.name}: {group.title}", header, rows)


def _targets(results: Results, disk: Disk) -> list[Target]:
    named = {(cell.group, cell.name): cell for cell in cells()}
    reads = [
        _spread(results, disk.name, named["paper", name], "storage_reads").median
        for name in (ACCESS, PHYSICAL, RANDOM)
    ]
    found = " < ".join(format_count(round(count)) for count in reads)
    in_order = reads == sorted(set(reads))
    share = _share(results, disk.name, named["paper", ACCESS])
    used = 0.0 if share is None else share.median
    targets = [
        Target(f"{disk.name}: reads, access < physical < random", "in this order", found, in_order),
        Target(f"{disk.name}: others used, access", f">= {percent(_SHARE)}", percent(used), used >= _SHARE),
    ]
    asked = _WARM_CUT if disk.is_real else _DISK_CUT
    for group in ("ours", "paper"):
        page_s = _overhead(results, disk.name, named[group, PAGE]).median
        less = cut(_overhead(results, disk.name, named[group, PREFETCHED]).median, page_s)
        what = f"{disk.name}: overhead less than page by page, prefetched ({group})"
        targets.append(Target(what, f">= {percent(asked)}", percent(less), less >= asked))
    return targets
