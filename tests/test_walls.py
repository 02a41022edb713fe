"""Which room may import which: downwards only, and some libraries in one place only (docs/architecture.md)."""

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "vmckpt"

FLOORS = [
    {"errors", "units", "pages", "layout", "hashing", "output", "workers", "version", "reports"},
    {"kernel", "charts"},
    {"trace", "checkpoint", "sources"},
    {"saving", "restoring", "sharing", "machine"},
    {"api", "__init__"},
    {"bench"},
    {"cli", "__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# A library, and the modules (or packages) that may import it.
ONLY_IN = {
    "click": ["cli/"],
    "rich": ["cli/"],
    "lz4": ["checkpoint/codec.py"],
    "xxhash": ["hashing.py"],
    "ctypes": ["kernel/"],
    "distributed": ["sharing/cluster.py"],
    "fcntl": ["kernel/", "output.py"],
}

MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def room_of(module: str) -> str:
    """The first part of a module's place: `cli` of cli/save.py, `hashing` of hashing.py."""
    return module.split("/", maxsplit=1)[0].removesuffix(".py")


def imports_of(module: str) -> Iterator[str]:
    """The dotted name of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    assert room_of(module) in FLOOR, f"give the new room of {module} a floor in this test"
    rooms = {name.split(".")[1] for name in imports_of(module) if name.startswith("vmckpt.")}
    above = {room for room in rooms if FLOOR.get(room, 0) > FLOOR[room_of(module)]}
    assert above == set()


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_their_rooms(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(module)}
    astray = {root for root in roots & set(ONLY_IN) if not module.startswith(tuple(ONLY_IN[root]))}
    assert astray == set()


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("cli/")])
def test_only_the_command_line_prints(module: str) -> None:
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "print"] == []


def test_every_room_has_one_floor() -> None:
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(FLOORS, 2))
