"""Small images and checkpoints that have everything in them: zeros, patterns, duplicates near and far, two regions."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.craft import Parts, Storage, seal, take_apart
from tests.support.elfwriter import ElfCore, Load
from vmckpt import api
from vmckpt.checkpoint.format import LAST, REFERENCE, SectionType
from vmckpt.pages import PAGE_BYTES

__all__ = ["Sample", "make_sample", "mixed_pages", "quick_folder", "write_image"]


@dataclass(frozen=True)
class Sample:
    """A checkpoint and the memory that it must give back."""

    memory: bytes
    data: bytes


def text_page(rng: random.Random) -> bytes:
    """A page of its own that compresses well."""
    return rng.randbytes(16) * (PAGE_BYTES // 16)


def mixed_pages(rng: random.Random, count: int, *, random_bytes: int = 512) -> list[bytes]:
    """Pages of every class; `random_bytes` of those stored do not compress."""
    pages: list[bytes] = []
    while len(pages) < count:
        choice = rng.randrange(7)
        if choice == 0:
            pages.append(bytes(PAGE_BYTES))
        elif choice == 1:
            pages.append(bytes([rng.randrange(1, 256)]) * PAGE_BYTES)
        elif choice == 2 and pages:
            pages.append(rng.choice(pages))
        elif choice == 3 and pages:
            pages.append(pages[-1])
        elif choice == 4:
            page = bytearray(PAGE_BYTES)
            page[rng.randrange(PAGE_BYTES)] = rng.randrange(1, 256)
            pages.append(bytes(page))
        elif choice == 5:
            pages.append((rng.randbytes(random_bytes) + bytes(PAGE_BYTES))[:PAGE_BYTES])
        else:
            pages.append(text_page(rng))
    return pages


def make_sample(
    folder: str,
    *,
    seed: int = 1,
    pages: int = 24,
    codec: str = "lz4",
    random_bytes: int = 512,
    memory_block_bytes: int = 8192,
    storage_block_bytes: int = 16384,
    storage_blocks: int = 1,
) -> Sample:
    """Save mixed memory in two regions, and give the checkpoint the optional sections as well."""
    rng = random.Random(seed)
    memory = mixed_pages(rng, pages, random_bytes=random_bytes)
    half = pages // 2
    loads = [Load(0, b"".join(memory[:half])), Load(1 << 32, b"".join(memory[half:]))]
    core = ElfCore(loads).write(os.path.join(folder, "sample.core"))
    made = os.path.join(folder, "sample.vmckpt")
    api.save(
        core,
        made,
        codec=codec,
        memory_block_bytes=memory_block_bytes,
        storage_block_bytes=storage_block_bytes,
        jobs=1,
        force=True,
    )
    with open(made, "rb") as file:
        parts = take_apart(file.read())
    _split(parts, storage_blocks)
    active = b"".join(page.to_bytes(8, "little") for page in (3, 1, 2))
    parts.sections += [(SectionType.ACTIVE_PAGES, 0, active), (SectionType.VCPU_STATE, 0, b"registers")]
    parts.summary = parts.summary._replace(active_pages=3)
    data = seal(parts)
    with open(made, "wb") as file:
        file.write(data)
    assert api.verify(made, jobs=1).ok
    return Sample(b"".join(memory), data)


def _split(parts: Parts, count: int) -> None:
    """Spread the memory blocks over at least `count` storage blocks, as a saver with several streams would."""
    if len(parts.storages) >= count:
        return
    records = [
        (old, slot, record, storage.payload[record.fixed.payload_offset :][: record.fixed.stored_bytes])
        for old, storage in enumerate(parts.storages)
        for slot, record in enumerate(storage.records)
    ]
    parts.storages = [Storage([], b"", 0) for _ in range(count)]
    moved = {}
    for index, (old, slot, record, payload) in enumerate(records):
        number = index * count // len(records)
        storage = parts.storages[number]
        moved[old, slot] = (number, len(storage.records))
        record.set(payload_offset=len(storage.payload))
        storage.payload += payload
        storage.records.append(record)
    for _, _, record, _ in records:
        references = [(*moved[entry[:2]], entry[2]) for entry in REFERENCE.iter_unpack(record.references)]
        record.references = b"".join(REFERENCE.pack(*entry) for entry in references)
    parts.map_entries = [(*moved.get(entry[:2], entry[:2]), entry[2]) for entry in parts.map_entries]
    parts.storages[-1].flags = LAST
    parts.summary = parts.summary._replace(storage_blocks=count)


@contextmanager
def quick_folder(fallback: str) -> Iterator[str]:
    """A folder in memory where there is one, else `fallback`: hundreds of thousands of small files pass through."""
    import tempfile

    if os.access("/dev/shm", os.W_OK):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            yield folder
    else:
        yield fallback


def write_image(folder: Path, rng: random.Random) -> Path:
    """A raw image of 16 MiB, which takes a moment to save."""
    path = folder / "guest.raw"
    path.write_bytes(b"".join(mixed_pages(rng, 2048, random_bytes=3000)) * 2)
    return path
