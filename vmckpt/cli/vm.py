"""`vmckpt vm`: a request to a running machine out, what it answers in; or a plan in, and large pages broken up."""

from typing import TYPE_CHECKING

import click

from vmckpt.cli.options import jobs_option, json_option, quiet_option, size
from vmckpt.cli.progress import progress_bar
from vmckpt.cli.render import Line, Table, answer
from vmckpt.pages import PAGE_BYTES
from vmckpt.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmckpt.machine.client import Conversation

__all__ = ["command"]

_BREAK_UP = "break-up"
_ACTIONS = ("status", "pause", "resume", "stop", _BREAK_UP)
_WATCH_S = 1.0


@click.command("vm")
@click.argument("action", metavar="status|pause|resume|stop|break-up", type=click.Choice(_ACTIONS))
@click.argument("socket_path", metavar="SOCKET")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait that long for the machine to be there at all.",
)
@click.option(
    "--plan",
    "plan_path",
    metavar="FILE",
    help="break-up: what `vmckpt estimate-sharing --target --json` printed; - is standard input.",
)
@click.option(
    "--source",
    "source_name",
    metavar="NAME",
    help="break-up: which source of a plan for several this machine is.  [default: SOCKET]",
)
@click.option(
    "--target",
    "target_bytes",
    type=size,
    metavar="SIZE",
    help="break-up: free that much, with a plan made here and now from the running machine.",
)
@click.option(
    "--watch",
    "watch_s",
    type=click.FloatRange(min=0),
    default=_WATCH_S,
    show_default=True,
    metavar="SECONDS",
    help="break-up --target: watch so long which large pages are cold; 0: do not.",
)
@jobs_option
@quiet_option
@json_option
def command(
    action: str,
    socket_path: str,
    *,
    wait_s: float,
    plan_path: str | None,
    source_name: str | None,
    target_bytes: int | None,
    watch_s: float,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Control a running machine.

    SOCKET is where `vmckpt run --socket SOCKET` listens. `pause` returns when no vCPU runs any more, each stopped
    between two operations; `resume` lets them go on. `stop` ends the machine, which then prints its report; it returns
    when the socket is gone. Each answers with the machine's status.

    `break-up` takes large pages apart, has their equal small pages share memory, copy-on-write, and gives back what
    they took: those of a --plan, or as few and as cold ones as free --target. The machine goes on meanwhile, and does
    what it would have done. Bytes are compared before anything is shared. What is written to later has memory of its
    own again. A live save forms all large pages again first.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt run guest.raw --socket vm.sock --json > report.json &
      vmckpt vm status vm.sock --wait 30
      vmckpt vm pause vm.sock
      vmckpt vm resume vm.sock
      vmckpt vm break-up vm.sock --target 2M
      vmckpt vm stop vm.sock
      wait

    \b
    JSON: state (running, paused, saving, restoring; stopped once it is), memory_bytes,
      vcpus, ops (of all vCPUs since boot), ops_per_vcpu [], workload, seed,
      resident_pages, large_pages, small_pages, shared_pages, freed_pages,
      unshared_pages, small_ops, pid, protocol

    \b
    JSON of break-up: broken_large_pages, freed_pages, shared_pages, unshared_pages,
      differed_pages, resident_pages_before, resident_pages_after, large_pages,
      elapsed_s; with --target: target_pages, levels {hot, warm, cold}
    """
    if action == _BREAK_UP:
        if (plan_path is None) == (target_bytes is None):
            raise click.UsageError("break-up takes either --plan FILE or --target SIZE")
        if source_name is not None and plan_path is None:
            raise click.UsageError("--source names a source of a plan: it goes with --plan")
        values = _break_up(
            socket_path, plan_path, source_name, target_bytes, wait_s, watch_s, jobs, quiet=quiet or as_json
        )
        if as_json or not quiet:
            answer(_break_up_table(socket_path, values), values, as_json=as_json)
        return
    for option, value in {"--plan": plan_path, "--target": target_bytes, "--source": source_name}.items():
        if value is not None:
            raise click.UsageError(f"{option} goes with break-up, and not with {action}")
    from vmckpt.machine.client import ask  # noqa: PLC0415 - start-up: help needs no engine

    status = ask(socket_path, action, wait_s=wait_s, until_closed=action == "stop")
    if as_json or not quiet:
        answer(_table(socket_path, status), status, as_json=as_json)


def _break_up(
    socket_path: str,
    plan_path: str | None,
    source_name: str | None,
    target_bytes: int | None,
    wait_s: float,
    watch_s: float,
    jobs: int | None,
    *,
    quiet: bool,
) -> dict[str, object]:
    from vmckpt.machine.client import Conversation  # noqa: PLC0415 - as below
    from vmckpt.sharing.breakup import break_up  # noqa: PLC0415
    from vmckpt.sharing.planfile import breaks_for, read_plan  # noqa: PLC0415

    plan = None if plan_path is None else read_plan(plan_path)
    extra: dict[str, object] = {}
    with Conversation(socket_path, wait_s=wait_s) as conversation:
        if plan is not None:
            names = [socket_path] if source_name is None else [source_name]
            memory_bytes = _whole(conversation.ask("status").values.get("memory_bytes"))
            numbers = breaks_for(plan, names=names, memory_bytes=memory_bytes)
            large_page_bytes = plan.large_page_bytes
        else:
            assert target_bytes is not None
            large_page_bytes, numbers, extra = _planned(
                conversation, socket_path, target_bytes, watch_s, jobs, quiet=quiet
            )
        with progress_bar("breaking up large pages", quiet=quiet) as progress:
            report = break_up(conversation, numbers, large_page_bytes=large_page_bytes, progress=progress)
    return {**report._asdict(), **extra}


def _planned(
    conversation: "Conversation",
    socket_path: str,
    target_bytes: int,
    watch_s: float,
    jobs: int | None,
    *,
    quiet: bool,
) -> "tuple[int, Sequence[int], dict[str, object]]":
    """Size and numbers of the large pages to break up, and what to say of the plan."""
    from vmckpt.sharing.breakup import Seen, broken_of, look, target_of, watch  # noqa: PLC0415
    from vmckpt.sharing.choose import planned  # noqa: PLC0415
    from vmckpt.workers import worker_count  # noqa: PLC0415

    target_pages = target_of(target_bytes, _whole(conversation.ask("status").values.get("memory_bytes")))
    broken, large_page_bytes = broken_of(conversation)
    watched = watch(conversation, seconds=watch_s, large_page_bytes=large_page_bytes) if watch_s else {}
    with progress_bar("reading memory", quiet=quiet) as progress:
        hashes = look(conversation, socket_path, jobs=worker_count(jobs), progress=progress)
    breaks = planned([Seen(hashes, watched, broken)], target_pages, large_page_bytes)
    levels = [each.level for each in watched.values()]
    counts = {level: levels.count(level) for level in ("hot", "warm", "cold")}
    numbers = [number for _, number in breaks]
    return large_page_bytes, numbers, {"target_pages": target_pages, "levels": counts if watched else None}


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _break_up_table(socket_path: str, values: "Mapping[str, object]") -> Table:
    rows = [
        Line(
            "broken up",
            f"{_count(values['broken_large_pages'])} large pages; {_count(values['large_pages'])} are left",
        ),
        Line("freed", f"{_count(values['freed_pages'])} pages, {_pages_size(values['freed_pages'])}", "bold"),
        Line(
            "sharing",
            f"{_count(values['shared_pages'])} pages; {_count(values['unshared_pages'])} were written to meanwhile",
        ),
        Line(
            "memory in use",
            f"{_pages_size(values['resident_pages_before'])} before, {_pages_size(values['resident_pages_after'])} now",
        ),
        Line("time", format_duration(float(str(values["elapsed_s"])))),
    ]
    if "target_pages" in values:
        rows.insert(0, Line("wanted", _pages_size(values["target_pages"])))
    return Table(f"Large pages of the machine at {socket_path}", rows)


def _pages_size(value: object) -> str:
    return format_size(_whole(value) * PAGE_BYTES)


def _table(socket_path: str, status: "Mapping[str, object]") -> Table:
    rows = [
        Line("state", str(status.get("state")), "bold"),
        Line(
            "memory",
            f"{_size(status.get('memory_bytes'))}, {_count(status.get('resident_pages'))} pages in use",
        ),
        Line(
            "large pages",
            f"{_count(status.get('large_pages'))}; {_count(status.get('small_pages'))} small ones, "
            f"{_count(status.get('freed_pages'))} freed",
        ),
        Line("workload", f"{status.get('workload')}, seed {status.get('seed')}"),
        Line("vCPUs", _count(status.get("vcpus"))),
        Line("operations", _count(status.get("ops"))),
        Line("process", str(status.get("pid"))),
    ]
    return Table(f"Machine at {socket_path}", rows)


def _count(value: object) -> str:
    return format_count(value) if isinstance(value, int) else "?"


def _size(value: object) -> str:
    return format_size(value) if isinstance(value, int) else "?"
