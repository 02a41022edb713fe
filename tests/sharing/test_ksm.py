"""The forecast of KSM's counters, against a small KSM; the benchmark has the kernel's own."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.sharing.memories import Memory, fleets, hashes_of_memory
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.ksm import ksm_forecast
from vmckpt.sharing.sampled import estimate_of
from vmckpt.sharing.table import table_of
from vmckpt.sharing.tally import tally_of

Fleet = list[tuple[Memory, int]]


def merged(fleet: Fleet, share_cap: int, use_zero_pages: bool) -> tuple[int, int, int, int]:
    """Page after page, as KSM does: a frame that has room, else a page that waits for an equal one, else wait."""
    frames: dict[int, list[int]] = {}
    waiting: Counter[int] = Counter()
    zero = 0
    for content in (content for memory, _ in fleet for content in memory.content):
        if content == 0 and use_zero_pages:
            zero += 1
            continue
        room = [index for index, used in enumerate(frames.get(content, [])) if used < share_cap]
        if room:
            frames[content][room[0]] += 1
        elif waiting[content]:
            waiting[content] -= 1
            frames.setdefault(content, []).append(2)
        else:
            waiting[content] += 1
    shared = sum(map(len, frames.values()))
    return shared, sum(map(sum, frames.values())) - shared, waiting.total(), zero


@given(fleets(), st.integers(2, 6), st.booleans())
def test_forecast_is_what_a_scan_comes_to(fleet: Fleet, share_cap: int, use_zero_pages: bool) -> None:
    table = table_of([hashes_of_memory(memory) for memory, _ in fleet])
    found = ksm_forecast(table, share_cap, use_zero_pages=use_zero_pages)
    shared, sharing, unshared, zero = merged(fleet, share_cap, use_zero_pages)
    assert tuple(found)[:4] == (shared, sharing, unshared, zero)
    saved, tracked = (sharing + zero) * PAGE_BYTES, shared + sharing + unshared
    assert found.general_profit_bytes == saved - 64 * tracked


@given(fleets(), st.integers(2, 6))
def test_a_sample_of_everything_comes_to_the_same(fleet: Fleet, share_cap: int) -> None:
    images = [hashes_of_memory(memory) for memory, _ in fleet]
    tallies = [tally_of("memory", image.page_count, image.zero_pages, image.hashes) for image in images]
    sampled = estimate_of(tallies, [0] * len(fleet), fraction=1.0, confidence=0.95, share_cap=share_cap)
    assert sampled.ksm == ksm_forecast(table_of(images), share_cap)
