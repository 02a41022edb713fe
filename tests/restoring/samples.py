"""Checkpoints of small memories with every kind of page, and machines' states in them."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

from tests.checkpoint.files import KIB, save_memory
from vmckpt.checkpoint.format import SectionType
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.state import MachineState
from vmckpt.machine.workload import parse_workload


def mixed_memory(pages: int, seed: int = 0) -> bytes:
    """Zero, pattern, random and repeated pages, in runs, and at the end a stretch of zeros."""
    rng = random.Random(seed)
    content: list[bytes] = []
    while len(content) < pages * 7 // 8:
        run = rng.randint(1, 9)
        kind = rng.choice(["zero", "pattern", "random", "random", "random", "copy"])
        for _ in range(run):
            if kind == "zero":
                content.append(bytes(PAGE_BYTES))
            elif kind == "pattern":
                content.append(rng.randbytes(8) * (PAGE_BYTES // 8))
            elif kind == "copy" and content:
                content.append(rng.choice(content))
            else:
                content.append(rng.randbytes(PAGE_BYTES // 2) * 2)
    del content[pages * 7 // 8 :]
    return b"".join(content) + bytes((pages - len(content)) * PAGE_BYTES)


def state_json(pages: int, workload: str = "zipf", *, vcpus: int = 1, seed: int = 0) -> bytes:
    """The state of a machine that is about to boot."""
    return MachineState.boot(parse_workload(workload), vcpus=vcpus, seed=seed, page_count=pages).to_json()


def checkpoint(
    path: Path,
    memory: bytes,
    *,
    codec: str = "lz4",
    memory_block_bytes: int = 16 * KIB,
    storage_block_bytes: int = 64 * KIB,
    active: Sequence[int] | None = None,
    state: bytes | None = None,
) -> str:
    """A checkpoint with the active pages and the state that are given."""
    sections = []
    if active is not None:
        sections.append((SectionType.ACTIVE_PAGES, b"".join(page.to_bytes(8, "little") for page in active)))
    if state is not None:
        sections.append((SectionType.VCPU_STATE, state))
    return save_memory(
        os.fspath(path),
        memory,
        codec=codec,
        memory_block_bytes=memory_block_bytes,
        storage_block_bytes=storage_block_bytes,
        active_pages=len(active or ()),
        sections=sections,
    )


def page_of(memory: bytes, page: int) -> bytes:
    return memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]


def damage(path: str, offset: int) -> None:
    """Flip a bit."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
