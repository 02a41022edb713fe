"""`vmckpt restore --lazy`: a checkpoint in, a machine that runs at once, and what came of it out.

Options are those of `restore`; this module carries them out.
"""

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import click

from vmckpt.cli.render import Line, Table, answer
from vmckpt.cli.report import report_file, write_text
from vmckpt.errors import IoError
from vmckpt.output import AtomicFile
from vmckpt.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from vmckpt.restoring.lazy import LazyRestore
    from vmckpt.restoring.outcome import LazyReport

__all__ = ["LazyOptions", "restore_lazily"]


class LazyOptions(NamedTuple):
    """What was asked for on the command line."""

    prefetch: str = "active"
    """`active` or `none`."""
    prefetch_pages: str | None = None
    """As `prefetch.parse_amount` takes it."""
    halo_pages: int = 0
    until_ops: int | None = None
    workload: str | None = None
    vcpus: int | None = None
    seed: int | None = None
    socket_path: str | None = None
    mechanism: str | None = None
    """`userfaultfd` or `software`."""
    fault_log: str | None = None
    """Where to write the log."""
    record: str | None = None
    """Where to write which pages were touched, in their order."""
    report: str | None = None
    """Where to write the page."""
    order: str | None = None
    """What `record` wrote before, to be taken for the active pages."""
    force: bool = False
    """Replace the files to write."""


def restore_lazily(checkpoint: str, options: LazyOptions, *, quiet: bool, as_json: bool) -> None:
    """Run the machine, and print its report."""
    from vmckpt.machine.session import Wishes  # noqa: PLC0415 - start-up: help needs no engine
    from vmckpt.restoring.handler import Wanted  # noqa: PLC0415
    from vmckpt.restoring.lazy import LazyRestore  # noqa: PLC0415
    from vmckpt.restoring.prefetch import Amount, parse_amount  # noqa: PLC0415

    if checkpoint == "-":
        raise click.UsageError("a stream cannot be restored lazily: its pages are needed in any order")
    wanted = Wanted(
        active=() if options.prefetch == "none" else None,
        amount=Amount() if options.prefetch_pages is None else parse_amount(options.prefetch_pages),
        halo_pages=options.halo_pages,
    )
    wishes = Wishes(options.workload, options.vcpus, options.seed)
    until_resident = options.until_ops is None and options.socket_path is None
    with ExitStack() as stack:
        files = {
            path: stack.enter_context(AtomicFile(path, force=options.force))
            for path in (options.fault_log, options.record)
            if path is not None
        }
        page = _page_file(stack, checkpoint, options)
        restore = stack.enter_context(
            LazyRestore.open(
                checkpoint,
                wishes,
                wanted,
                socket_path=options.socket_path,
                mechanism=options.mechanism,
                order=None if options.order is None else _text_of(options.order),
            )
        )
        stopped: BaseException | None = None
        try:
            restore.run(until_ops=options.until_ops, until_resident=until_resident)
        except (SystemExit, KeyboardInterrupt) as request:  # Ctrl-C, SIGTERM: an end like any other,
            if not restore.is_resident:  # where nothing is left to bring
                raise
            stopped = request
        report = restore.finish()
        if options.fault_log is not None:
            write_text(files[options.fault_log], (line + "\n" for line in restore.fault_log()))
        if options.record is not None:
            write_text(files[options.record], [restore.touched_order()])
        if page is not None:
            write_text(page, [_page(checkpoint, restore, report)])
    if as_json or not quiet:
        answer(_table(checkpoint, report), _values(report), as_json=as_json)
    if stopped is not None:
        raise stopped


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise IoError(f"cannot read the order of pages: {error}", path=path) from error


def _page_file(stack: ExitStack, checkpoint: str, options: LazyOptions) -> AtomicFile | None:
    if options.report is None:
        return None
    others = [path for path in (options.fault_log, options.record) if path is not None]
    inputs = [checkpoint, *([options.order] if options.order is not None else [])]
    return stack.enter_context(
        report_file(options.report, force=options.force, inputs=inputs, outputs=others)
    )


def _page(checkpoint: str, restore: "LazyRestore", report: "LazyReport") -> str:
    from vmckpt.restoring.history import History  # noqa: PLC0415 - only now: nobody waits for it
    from vmckpt.restoring.report import page_of  # noqa: PLC0415

    shared = restore.shared
    history = History(
        list(shared.log.faults()), round(restore.started_s * 1e9), shared.residency.cells, restore.touched
    )
    return page_of(os.path.basename(checkpoint), report, history)


def _values(report: "LazyReport") -> dict[str, object]:
    return {**report._asdict(), "pages": report.pages._asdict()}


def _table(checkpoint: str, report: "LazyReport") -> Table:
    pages = report.pages
    prefetched = f"{format_count(pages.prefetched)}, {format_count(pages.prefetched_used)} of them used"
    return Table(
        f"Restored {checkpoint} lazily",
        [
            Line("memory", format_size(report.memory_bytes)),
            Line("workload", f"{report.workload}, seed {report.seed}"),
            Line("ran after", format_duration(report.time_to_run_s), "bold"),
            Line("  prefetch", format_duration(report.prefetch_s)),
            Line("at 90 % after", format_duration(report.ttr_s["0.9"])),
            Line("all there after", format_duration(report.resident_s)),
            Line("faults", f"{format_count(report.faults)}, which cost {format_duration(report.stall_s)}"),
            Line("  prefetched", prefetched),
            Line("  on demand", format_count(pages.on_demand)),
            Line("storage reads", f"{format_count(report.storage_reads)}, {format_size(report.bytes_read)}"),
            Line("operations", format_count(report.ops)),
            Line("time", format_duration(report.elapsed_s)),
            Line("digest", report.digest),
        ],
    )
