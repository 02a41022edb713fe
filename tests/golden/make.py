"""Writes the golden files of the current format version, those that are not there yet: `make golden`.

In: `CASES`. Out: beside this module, for each case `vN-CASE.ckpt`, and `vN-CASE.json` with what was true of it when it
was made. A golden file is never written again: it stands for all the files of its version that are out there. Content
comes from SHAKE-128, so it is the same wherever this runs.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from tests.checkpoint.files import KIB, header_of, save_memory
from vmckpt import api
from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.format import DUPLICATE, FORMAT_VERSION, REFERENCE, STORED, ZERO, SectionType
from vmckpt.checkpoint.writer import CheckpointWriter
from vmckpt.hashing import Digest, pack_hashes, page_hashes
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.reports import PageCounts

__all__ = ["CASES", "HERE", "Case", "record_of"]

HERE = os.path.dirname(os.path.abspath(__file__))

_ZERO = bytes(PAGE_BYTES)


def _noise(seed: str) -> bytes:
    return hashlib.shake_128(seed.encode()).digest(PAGE_BYTES)


def _text(seed: str) -> bytes:
    return (f"{seed}: the quick brown fox jumps over the lazy dog. " * PAGE_BYTES)[:PAGE_BYTES].encode()


def _filled(byte: int) -> bytes:
    return bytes([byte]) * PAGE_BYTES


# Seven memory blocks of four pages, the last of three: stored and shrinking, stored and not shrinking, zero, patterns,
# duplicates within a block, of an earlier one, and of a page in the same storage block.
_MIXED = b"".join(
    [
        *(_text("a"), _text("b"), _ZERO, _text("a")),
        *(_noise("1"), _noise("2"), _filled(0xFF), _text("b")),
        *(_ZERO,) * 4,
        *(_filled(0x55), _filled(0xAA), _filled(0x55), _ZERO),
        *(_text("a"), _text("b"), _noise("2"), _filled(1)),
        *(_ZERO,) * 4,
        *(_text("c"), _ZERO, _noise("1")),
    ]
)
_SECTIONS = (
    (SectionType.ACTIVE_PAGES, b"".join(page.to_bytes(8, "little") for page in (5, 0, 3))),
    (SectionType.VCPU_STATE, b"state of a vCPU, whatever the machine makes of it"),
    (SectionType.DEVICE_STATE, bytes(range(100))),
    (SectionType.METADATA, b'{"name":"golden","tags":["one","two"]}'),
)
_PC = Layout([(0, 3 * PAGE_BYTES), (4 << 30, 5 * PAGE_BYTES)])


@dataclass(frozen=True, slots=True)
class Case:
    """A golden file."""

    memory: bytes
    write: Callable[[str, "Case"], object]
    """Writes the checkpoint to a path."""
    codec: str = "raw"
    layout: Layout | None = None
    sections: tuple[tuple[int, bytes], ...] = ()
    active_pages: int = 0
    same_bytes: bool = True
    """Whether every build of the codec must write the same bytes."""


def _save(path: str, case: Case) -> object:
    return save_memory(
        path,
        case.memory,
        layout=case.layout,
        codec=case.codec,
        storage_block_bytes=32 * KIB,
        active_pages=case.active_pages,
        sections=case.sections,
    )


def _save_small_blocks(path: str, case: Case) -> object:
    return save_memory(
        path,
        case.memory,
        codec=case.codec,
        memory_block_bytes=8 * KIB,
        storage_block_bytes=16 * KIB,
        sections=case.sections,
    )


def _block(number: int, generation: int, pages: list[bytes], references: dict[int, bytes]) -> MemoryBlock:
    kinds = bytes(DUPLICATE if at in references else STORED if any(p) else ZERO for at, p in enumerate(pages))
    order = [at for kind in (STORED, DUPLICATE) for at in range(len(pages)) if kinds[at] == kind]
    hashes = pack_hashes(page_hashes(memoryview(b"".join(pages[at] for at in order))))
    return MemoryBlock(number, generation, 0, kinds, hashes, b"", b"".join(references.values()), 0, 0)


def _save_streams(path: str, case: Case) -> object:
    """As a live save would: two streams, and a block that is written again once its pages have changed."""
    layout = Layout.flat(len(case.memory))
    header = header_of(layout, memory_block_bytes=8 * KIB, storage_block_bytes=16 * KIB)
    page = [case.memory[at : at + PAGE_BYTES] for at in range(0, len(case.memory), PAGE_BYTES)]
    with open(path, "w+b", buffering=0) as file:
        writer = CheckpointWriter(file.fileno(), header, layout)

        def put(
            number: int, generation: int, stream: int, pages: list[bytes], same: tuple[int, int] | None
        ) -> None:
            references = {}
            if same is not None:  # page `same[0]` of this block is page 0 of block `same[1]`
                references = {same[0]: REFERENCE.pack(*writer.place_of(same[1]), 0)}
            block = _block(number, generation, pages, references)
            payload = b"".join(p for at, p in enumerate(pages) if block.kinds[at] == STORED)
            writer.reserve(number, len(payload), stream=stream)
            writer.append(block, payload, stream=stream)

        put(0, 0, 1, [_noise("old"), _ZERO], None)
        put(1, 0, 2, page[2:4], None)
        put(2, 0, 1, [_ZERO, _noise("old")], (1, 0))
        put(3, 0, 2, page[6:7], None)
        put(0, 1, 2, page[0:2], None)
        put(2, 1, 1, page[4:6], (1, 1))
        digest = Digest()
        digest.add(pack_hashes(page_hashes(memoryview(case.memory))))
        writer.finish(digest.bytes(), PageCounts(7, 2, 0, 1, 4))
    return path


CASES = {
    "raw": Case(_MIXED, _save),
    "lz4": Case(_MIXED, _save, codec="lz4", same_bytes=False),
    "zstd": Case(_MIXED, _save, codec="zstd", same_bytes=False),
    "sections": Case(
        _MIXED[: 8 * PAGE_BYTES],
        _save,
        layout=_PC,
        sections=_SECTIONS,
        active_pages=3,
        codec="lz4",
        same_bytes=False,
    ),
    "zeros": Case(bytes(9 * PAGE_BYTES), _save),
    "streams": Case(
        b"".join([_text("0"), _ZERO, _noise("s"), _text("2"), _ZERO, _noise("s"), _text("3")]), _save_streams
    ),
    # The worked example of docs/format.md.
    "example": Case(
        b"".join([_text("hello"), _ZERO, _text("hello"), _filled(0xCC), _ZERO, _ZERO, _text("bye")]),
        _save_small_blocks,
        codec="lz4",
        sections=((SectionType.METADATA, b'{"name":"example"}'),),
        same_bytes=False,
    ),
}
"""Name -> what to write. A case may be added, never changed."""


def record_of(path: str, memory: bytes) -> dict[str, object]:
    """What is recorded of a golden file: digests of the memory and all that `info` says."""
    info = api.info(path)
    return {
        "memory_sha256": hashlib.sha256(memory).hexdigest(),
        **info._asdict(),
        "regions": [list(region) for region in info.regions],
        "pages": info.pages._asdict(),
    }


def main() -> None:
    for name, case in CASES.items():
        path = os.path.join(HERE, f"v{FORMAT_VERSION}-{name}.ckpt")
        if os.path.exists(path):
            print(f"{os.path.basename(path)} is there and stays")
            continue
        part = f"{path}.part"
        case.write(part, case)
        with open(path.replace(".ckpt", ".json"), "w", encoding="utf-8") as file:
            json.dump(record_of(part, case.memory), file, indent=1)
            file.write("\n")
        os.rename(part, path)
        print(f"{os.path.basename(path)}: {os.path.getsize(path)} bytes, new")


if __name__ == "__main__":
    main()
