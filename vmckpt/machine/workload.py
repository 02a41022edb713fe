"""What a machine is told to do: the name of a workload and its options, as people write them and as checkpoints keep them.

    "zipf"  "zipf:write=10"  "working-set:set=5,phase=0"  "trace:FILE"  ──▶ Workload ──▶ operations.operations_of

Only words and numbers here; `operations` makes operations of them. Called by the command line, `state` and `operations`.
"""

from types import MappingProxyType
from typing import NamedTuple

from vmckpt.errors import UsageError

__all__ = ["DEFAULT_WORKLOAD", "WORKLOADS", "Option", "Workload", "WorkloadKind", "parse_workload"]

DEFAULT_WORKLOAD = "working-set"


class Option(NamedTuple):
    """A number that a workload takes."""

    default: int
    low: int
    high: int
    """The largest value allowed."""
    meaning: str


class WorkloadKind(NamedTuple):
    """A way to use memory."""

    meaning: str
    options: MappingProxyType[str, Option]


def _write(default: int) -> Option:
    return Option(default, 0, 100, "operations of a hundred that write, the others read")


def _kind(meaning: str, **options: Option) -> WorkloadKind:
    return WorkloadKind(meaning, MappingProxyType(options))


WORKLOADS: MappingProxyType[str, WorkloadKind] = MappingProxyType(
    {
        "sequential": _kind("walks through memory, a cache line at a time, over and over", write=_write(50)),
        "uniform": _kind("takes any word of memory, all equally likely", write=_write(30)),
        "zipf": _kind(
            "takes few pages often and most seldom: the n-th most popular page about 1/n as often as the first",
            write=_write(30),
        ),
        "working-set": _kind(
            "stays within a small part of memory, of which a quarter moves on with each phase",
            write=_write(30),
            set=Option(10, 1, 100, "size of the set: per cent of memory"),
            phase=Option(64_000_000, 0, 1 << 62, "operations in a phase; 0: the set never moves"),
            cluster=Option(128, 1, 1 << 20, "pages side by side that move together, where the set has room"),
        ),
        "pointer-chase": _kind(
            "builds a linked list all over memory, then follows it: each address is read from memory",
            write=_write(25),
            list=Option(50, 1, 100, "pages with a node of the list: per cent of memory"),
        ),
        "trace": _kind("replays what a real program did: trace:FILE, as valgrind's lackey recorded it"),
    }
)
"""Workloads by name, in the order in which to list them."""


class Workload(NamedTuple):
    """A workload with all its options."""

    name: str
    """A key of WORKLOADS."""
    options: MappingProxyType[str, int]
    """Every option of that workload, in its order."""
    path: str = ""
    """The recording that `trace` replays."""

    @property
    def text(self) -> str:
        """As `parse_workload` takes it; options that have their default are left out."""
        if self.path:
            return f"{self.name}:{self.path}"
        known = WORKLOADS[self.name].options
        given = [f"{key}={value}" for key, value in self.options.items() if value != known[key].default]
        return ":".join([self.name, ",".join(given)] if given else [self.name])


def parse_workload(text: str) -> Workload:
    """The workload that `NAME`, `NAME:option=number,...` or `trace:FILE` stands for.

    Raises:
        UsageError: there is no such workload or option, or a number is out of range.
    """
    name, colon, rest = text.partition(":")
    if name not in WORKLOADS:
        raise UsageError(f"there is no workload {name!r}: choose one of {', '.join(WORKLOADS)}")
    if name == "trace":
        if not rest:
            raise UsageError("the workload trace needs a recording to replay: trace:FILE")
        return Workload(name, MappingProxyType({}), rest)
    known = WORKLOADS[name].options
    options = {key: option.default for key, option in known.items()}
    for part in rest.split(",") if colon else []:
        key, _, number = part.partition("=")
        if key not in known:
            raise UsageError(f"the workload {name} has no option {key!r}: it has {', '.join(known)}")
        options[key] = _number(name, key, number, known[key])
    return Workload(name, MappingProxyType(options))


def _number(name: str, key: str, number: str, option: Option) -> int:
    # ASCII digits only, and not so many that int() refuses them with an error of its own.
    value = int(number) if number.isascii() and number.isdigit() and len(number) < 20 else -1
    if not option.low <= value <= option.high:
        raise UsageError(
            f"the workload {name} cannot take {key}={number!r}: expected a number from {option.low} to {option.high}"
        )
    return value
