"""Plans of odd but valid checkpoints, for the independent writer; from a seed, so that hypothesis can go through them."""

import random

from tests.support.ckptwriter import Block, Page, Plan, Storage, duplicate, pattern, stored, zero
from tests.support.memory import page_bytes

__all__ = ["LZ4", "RAW", "page", "plan_of", "simple_plan"]

RAW, LZ4, ZSTD = range(3)
PAGE_BYTES = 4096


def page(seed: int) -> bytes:
    """A page that does not repeat a word, another one for each seed."""
    return bytes([1]) + page_bytes(seed)[1:]


def simple_plan(**changes: object) -> Plan:
    """Three memory blocks in two storage blocks: stored, pattern, zero and duplicate pages, one of them forward."""
    first = Block(0, (stored(page(1)), zero(), duplicate(page(2), 1, 0, 1), pattern(b"abcdefgh")))
    second = Block(1, (stored(page(3)), stored(page(2)), zero(), duplicate(page(1), 0, 0, 0)), codec=LZ4)
    third = Block(3, (stored(page(4)), stored(page(5))))
    fields = {"storage": (Storage((first,)), Storage((second, third))), "page_count": 14} | changes
    return Plan(**fields)  # type: ignore[arg-type]  # tests change what they like


def plan_of(seed: int) -> Plan:
    """Any number of storage blocks, streams and generations, in any order, with references wherever they may lead."""
    rng = random.Random(seed)
    block_pages = rng.choice([1, 2, 4, 8])
    page_count = rng.randint(1, 40)
    records = [
        (number, generation)
        for number in range(-(-page_count // block_pages))
        for generation in rng.sample(range(5), rng.choice([0, 1, 1, 1, 2, 3]))
    ]
    rng.shuffle(records)
    kinds = [
        [rng.choice([0, 1, 1, 2, 3]) for _ in range(min(block_pages, page_count - number * block_pages))]
        for number, _ in records
    ]
    groups: list[list[int]] = [[]]
    for index in range(len(records)):
        if groups[-1] and (len(groups[-1]) == 8 or rng.random() < 0.3):
            groups.append([])
        groups[-1].append(index)
    contents = [[page(rng.randint(1, 6)) for _ in those] for those in kinds]
    targets = [
        (contents[index][at], group, slot, at)
        for group, members in enumerate(groups)
        for slot, index in enumerate(members)
        for at, kind in enumerate(kinds[index])
        if kind == 1
    ]

    def page_of(index: int, at: int) -> Page:
        kind = kinds[index][at]
        if kind == 1:
            return stored(contents[index][at])
        if kind == 2:
            return pattern(rng.choice([b"\xff" * 8, b"01234567", bytes(7) + b"\1"]))
        return duplicate(*rng.choice(targets)) if kind == 3 and targets else zero()

    def block_of(index: int) -> Block:
        pages = tuple(page_of(index, at) for at in range(len(kinds[index])))
        return Block(*records[index][:1], pages, records[index][1], rng.choice([RAW, LZ4, ZSTD]))

    order = list(range(len(groups)))
    rng.shuffle(order)
    half = page_count // 2
    return Plan(
        storage=tuple(Storage(tuple(map(block_of, members)), stream=rng.randint(0, 3)) for members in groups),
        page_count=page_count,
        regions=((1 << 20, half), (4 << 30, page_count - half)) if half else (),
        memory_block_bytes=block_pages * PAGE_BYTES,
        storage_block_bytes=16 * block_pages * PAGE_BYTES,
        order=tuple(order),
    )
