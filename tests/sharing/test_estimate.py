"""The exact estimate, against counting in plain Python."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sharing.memories import Memory, copies_of, fleets, hashes_of_memory
from vmckpt.sharing.estimate import exact_parts, histogram_of, ladder_of
from vmckpt.sharing.ksm import ksm_forecast
from vmckpt.sharing.large import large_pages_of
from vmckpt.sharing.survey import Question, exact_report
from vmckpt.sharing.table import table_of

Fleet = list[tuple[Memory, int]]


def freed(counts: Counter[tuple[int, int]]) -> int:
    return counts.total() - len(counts)


@given(fleets())
def test_the_ladder_counts_all_copies_but_one(fleet: Fleet) -> None:
    table = table_of([hashes_of_memory(memory) for memory, _ in fleet])
    ladder = ladder_of(table, [group for _, group in fleet])
    assert ladder.zero == sum(not content for memory, _ in fleet for content in memory.content)
    assert ladder.intra == sum(freed(copies_of([(memory, 0)])) for memory, _ in fleet)
    assert ladder.trust == freed(copies_of(fleet))
    assert ladder.all == freed(copies_of([(memory, 0) for memory, _ in fleet]))
    assert ladder.intra <= ladder.trust <= ladder.all


@given(fleets())
def test_the_histogram_counts_contents_by_copies(fleet: Fleet) -> None:
    table = table_of([hashes_of_memory(memory) for memory, _ in fleet])
    counts = copies_of([(memory, 0) for memory, _ in fleet])
    assert histogram_of(table) == dict(Counter(counts.values()))


@given(fleets())
def test_the_parts_of_all_images_add_up_exactly(fleet: Fleet) -> None:
    table = table_of([hashes_of_memory(memory) for memory, _ in fleet])
    trusted = table.within([group for _, group in fleet])
    parts = exact_parts(trusted)
    assert sum(parts) == trusted.reclaimable
    copies = copies_of(fleet)
    for (memory, group), part in zip(fleet, parts, strict=True):
        pages = [content for content in memory.content if content]
        expected = sum((1 - Fraction(1, copies[group, content]) for content in pages), Fraction())
        assert part == pytest.approx(float(expected), abs=2e-6)


@given(fleets(), st.integers(2, 5))
def test_ksm_s_counters_cover_every_page(fleet: Fleet, share_cap: int) -> None:
    table = table_of([hashes_of_memory(memory) for memory, _ in fleet])
    ksm = ksm_forecast(table, share_cap)
    counts = copies_of([(memory, 0) for memory, _ in fleet])
    # A frame begins with two pages that found no other: one that is left over is not shared.
    frames = [copies // share_cap + (copies % share_cap > 1) for copies in counts.values()]
    assert ksm.pages_shared == sum(frames)
    assert (
        ksm.pages_shared + ksm.pages_sharing + ksm.pages_unshared + ksm.zero_pages == table.page_counts.sum()
    )


@given(fleets())
def test_a_survey_says_one_thing_in_all_its_parts(fleet: Fleet) -> None:
    images = [hashes_of_memory(memory, str(number)) for number, (memory, _) in enumerate(fleet)]
    report = exact_report(
        images,
        table_of(images),
        large_pages_of(images, 1 << 14),
        [str(group) for _, group in fleet],
        Question(large_page_bytes=1 << 14, top=10**6, detailed=True),
    )
    assert report.estimate.pages == report.reclaimable.trust
    assert sum(image.attributed_pages for image in report.images) == report.reclaimable.trust
    assert sum(image.exclusive_pages for image in report.images) == report.reclaimable.intra
    assert sum(large.gain_pages for large in report.top) == pytest.approx(
        report.zero_pages + report.reclaimable.trust
    )
    assert [large.gain_pages for large in report.top] == sorted(
        (large.gain_pages for large in report.top), reverse=True
    )
    assert report.detail is not None
    assert sum(len(each.large_pages) for each in report.detail.maps) == report.large_pages
    assert sum(sum(each.small_pages) for each in report.detail.maps) == report.pages
    assert np.trace(report.detail.matrix) == report.reclaimable.intra
