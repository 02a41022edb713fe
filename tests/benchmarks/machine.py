"""What the figures were measured on and with: goes into the JSON and above the tables."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

from vmckpt.units import format_size

__all__ = ["describe", "heading"]

_PEERS: Mapping[str, tuple[str, ...]] = {
    "lz4": ("lz4", "--version"),
    "zstd": ("zstd", "--version"),
    "cp": ("cp", "--version"),
    "cc": ("cc", "--version"),
    "qemu": ("qemu-system-x86_64", "--version"),
}


def describe(vmckpt: Sequence[str], work_dir: str) -> dict[str, object]:
    """Machine, system and versions as plain values."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": list(os.getloadavg()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": _file_system(os.path.realpath(work_dir)),
        "vmckpt": _first_line([*vmckpt, "--version"]),
        "commit": _first_line(["git", "describe", "--always", "--dirty"]),
        "peers": {name: _first_line(argv) for name, argv in _PEERS.items()},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def heading(machine: Mapping[str, object]) -> list[str]:
    """The same in two lines for a person; a third where other work was running when it began."""
    memory, load, peers = machine["memory_bytes"], machine["load_average"], machine["peers"]
    assert isinstance(memory, int)
    assert isinstance(load, list)
    assert isinstance(peers, dict)
    size = format_size(memory)
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {size}, Linux {machine['kernel']}, {machine['file_system']}",
        f"Python {machine['python']}; {machine['vmckpt'] or 'no vmckpt'} (commit {machine['commit'] or 'unknown'}); "
        + "; ".join(version or f"no {name}" for name, version in peers.items()),
    ]
    if load[0] > 0.5:
        lines.append(f"The machine was not idle at the start: load average {load[0]:.1f}.")
    return lines


def _first_line(argv: Sequence[str]) -> str:
    # The first line that a command prints, or "" when there is no such command.
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return lines[0].strip("* ") if lines and done.returncode == 0 else ""


def _cpu_model() -> str:
    for name, value in _fields("/proc/cpuinfo", ":"):
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system(path: str) -> str:
    # The type of the longest mount point that `path` lies below.
    best, kind = "", "unknown"
    for _, rest in _fields("/proc/self/mounts", " "):
        mount_point, found_kind = rest.split(" ")[:2]
        below = path == mount_point or path.startswith(mount_point.rstrip("/") + "/")
        if below and len(mount_point) >= len(best):
            best, kind = mount_point, found_kind
    return kind


def _fields(path: str, separator: str) -> Iterator[tuple[str, str]]:
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, value = line.rstrip("\n").partition(separator)
            yield name, value
