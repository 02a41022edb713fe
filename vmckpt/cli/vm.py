"""`vmckpt vm`: a request to a running machine out, what it answers in."""

from typing import TYPE_CHECKING

import click

from vmckpt.cli.options import json_option, quiet_option
from vmckpt.cli.render import Line, Table, answer
from vmckpt.units import format_count, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["command"]

_ACTIONS = ("status", "pause", "resume", "stop")


@click.command("vm")
@click.argument("action", metavar="status|pause|resume|stop", type=click.Choice(_ACTIONS))
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
@quiet_option
@json_option
def command(action: str, socket_path: str, *, wait_s: float, quiet: bool, as_json: bool) -> None:
    """Control a running machine.

    SOCKET is where `vmckpt run --socket SOCKET` listens. `pause` returns when no vCPU runs any more, each stopped
    between two operations; `resume` lets them go on. `stop` ends the machine, which then prints its report; it returns
    when the socket is gone. Each answers with the machine's status.

    \b
    Example:
      cd "$(mktemp -d)"
      vmckpt create guest.raw --size 64M
      vmckpt run guest.raw --socket vm.sock --json > report.json &
      vmckpt vm status vm.sock --wait 30
      vmckpt vm pause vm.sock
      vmckpt vm resume vm.sock
      vmckpt vm stop vm.sock
      wait

    \b
    JSON: state (running, paused, saving, restoring; stopped once it is), memory_bytes,
      vcpus, ops (of all vCPUs since boot), ops_per_vcpu [], workload, seed,
      resident_pages, pid, protocol
    """
    from vmckpt.machine.client import ask  # noqa: PLC0415 - start-up: help needs no engine

    status = ask(socket_path, action, wait_s=wait_s, until_closed=action == "stop")
    if as_json or not quiet:
        answer(_table(socket_path, status), status, as_json=as_json)


def _table(socket_path: str, status: "Mapping[str, object]") -> Table:
    rows = [
        Line("state", str(status.get("state")), "bold"),
        Line(
            "memory",
            f"{_size(status.get('memory_bytes'))}, {_count(status.get('resident_pages'))} pages in use",
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
