"""Estimates from samples: exact where all is kept, and as often right as they say where it is not."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sharing.memories import Memory, copies_of, fleets, hashes_of_memory
from vmckpt.sharing.heavy import Heavy
from vmckpt.sharing.horvitz import circle_values
from vmckpt.sharing.outcome import Estimate
from vmckpt.sharing.sampled import SampledSharing, estimate_of, sampled_matrix
from vmckpt.sharing.selection import Seeded, keep_below, threshold_of
from vmckpt.sharing.table import table_of
from vmckpt.sharing.tally import Tally, sum_of, tally_of

Fleet = list[tuple[Memory, int]]
SEEDS = 500


def tallies_of(fleet: Fleet, fraction: float = 1.0, seed: int = 0) -> list[Tally]:
    found = []
    for memory, _ in fleet:
        image = hashes_of_memory(memory)
        values = Seeded(fraction, seed).values(image.hashes)
        kept = values[keep_below(values, threshold_of(fraction))]
        found.append(tally_of("memory", image.page_count, image.zero_pages, kept))
    return found


def groups_of(fleet: Fleet) -> list[int]:
    return [sorted({group for _, group in fleet}).index(group) for _, group in fleet]


@given(fleets())
def test_a_fraction_of_one_is_exact(fleet: Fleet) -> None:
    table = table_of([hashes_of_memory(memory) for memory, _ in fleet])
    trusted = table.within(groups_of(fleet))
    found = estimate_of(tallies_of(fleet), groups_of(fleet), fraction=1.0, confidence=0.95)
    assert found.estimate == Estimate(*(trusted.reclaimable,) * 3, 0.95, "exact", 1.0)
    assert found.distinct[:3] == (table.distinct,) * 3
    assert found.reclaimable == (
        table.zero_pages.sum(),
        table.within(range(len(fleet))).reclaimable,
        trusted.reclaimable,
        table.reclaimable,
    )
    assert found.pages == table.page_counts.sum()
    everything = Counter(content for memory, _ in fleet for content in memory.content if content)
    assert found.histogram == Counter(everything.values())
    assert found.ksm.pages_unshared == sum(copies == 1 for copies in everything.values())
    assert found.ksm.pages_sharing == table.reclaimable


@given(fleets())
def test_each_image_s_part_is_that_of_counting(fleet: Fleet) -> None:
    found = estimate_of(tallies_of(fleet), groups_of(fleet), fraction=1.0, confidence=0.95)
    copies = copies_of([(memory, group) for memory, group in fleet])
    parts = [
        sum(1 - 1 / copies[group, content] for content in memory.content if content)
        for memory, group in fleet
    ]
    assert found.attributed_pages == pytest.approx(parts)
    alone = [len([c for c in memory.content if c]) - len({*memory.content} - {0}) for memory, _ in fleet]
    assert found.exclusive_pages == pytest.approx(alone)
    assert np.diag(sampled_matrix(tallies_of(fleet), 1.0)).tolist() == pytest.approx(alone)


@given(fleets(), st.sampled_from([1 / 2, 1 / 16, 1 / 1024]), st.integers(0, 99))
def test_whatever_was_kept_the_answer_is_possible(fleet: Fleet, fraction: float, seed: int) -> None:
    tallies = tallies_of(fleet, fraction, seed)
    found = estimate_of(tallies, groups_of(fleet), fraction=fraction, confidence=0.95)
    data = sum(tally.data_pages for tally in tallies)
    assert 0 <= found.estimate.low <= found.estimate.pages <= found.estimate.high <= data
    assert 0 <= found.distinct.low <= found.distinct.pages <= found.distinct.high <= data
    assert found.reclaimable.zero == sum(tally.zero_pages for tally in tallies)
    assert 0 <= found.reclaimable.intra <= found.reclaimable.trust <= found.reclaimable.all <= data
    assert sum(found.attributed_pages) == pytest.approx(found.estimate.pages)


@pytest.mark.parametrize("heavy", [False, True], ids=["difference", "heavy"])
def test_counting_in_parts_changes_nothing(heavy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = contents_of(np.random.default_rng(8).integers(0, 4, (3, 500)))
    groups = [0, 1, 1]
    found = []
    for part_rows in (1 << 18, 50, 1):
        monkeypatch.setattr("vmckpt.sharing.sampled._PART_ROWS", part_rows)
        table = moved(contents.heavy(groups), 0.5, 1) if heavy else None
        tallies = contents.sampled(0.5, 1)
        found.append(estimate_of(tallies, groups, fraction=0.5, confidence=0.95, heavy=table))
    for one in found[1:]:
        assert one.attributed_pages == pytest.approx(found[0].attributed_pages)
        assert one._replace(attributed_pages=()) == found[0]._replace(attributed_pages=())


@given(fleets())
def test_the_matrix_has_what_two_images_both_have(fleet: Fleet) -> None:
    matrix = sampled_matrix(tallies_of(fleet), 1.0)
    counts = [Counter(content for content in memory.content if content) for memory, _ in fleet]
    for row, one in enumerate(counts):
        for column, other in enumerate(counts):
            if row != column:
                assert matrix[row][column] == (one & other).total()


@given(fleets())
def test_the_tally_of_all_is_the_sum_of_the_tallies(fleet: Fleet) -> None:
    tallies = tallies_of(fleet)
    together = sum_of(tallies, "all")
    counts = Counter(content for memory, _ in fleet for content in memory.content if content)
    assert sorted(together.counts.tolist()) == sorted(counts.values())
    assert together.data_pages == counts.total()


class Contents(NamedTuple):
    """A synthetic memory: how many copies each content has in each image."""

    hashes: npt.NDArray[np.uint64]
    copies: npt.NDArray[np.int64]
    """[images, contents]."""

    def heavy(self, groups: list[int]) -> Heavy:
        """Of all pages, in an order at random; of the hashes themselves."""
        heavy = Heavy(1 << 12, 1 << 17)
        chance = np.random.default_rng(3)
        for image, copies in enumerate(self.copies):
            pages = np.repeat(self.hashes, copies)
            heavy.add(circle_values(chance.permutation(pages), groups[image]))
        heavy.fold()
        return heavy

    def sampled(self, fraction: float, seed: int) -> list[Tally]:
        """The tally of each image."""
        values = Seeded(fraction, seed).values(self.hashes)
        kept = np.flatnonzero(keep_below(values, threshold_of(fraction)))
        kept = kept[np.argsort(values[kept])]
        found = []
        for copies in self.copies:
            own = kept[copies[kept] > 0]
            found.append(Tally("image", int(copies.sum()), 0, values[own], copies[own]))
        return found

    def truth(self, groups: list[int]) -> int:
        """What sharing within the groups frees."""
        of_group = [self.copies[np.array(groups) == group].sum(axis=0) for group in set(groups)]
        return int(sum(np.maximum(copies - 1, 0).sum() for copies in of_group))


def contents_of(copies: npt.ArrayLike) -> Contents:
    counts = np.atleast_2d(np.asarray(copies, np.int64))
    chance = np.random.default_rng(counts.shape[1])
    hashes = np.asarray(chance.integers(1, 1 << 63, counts.shape[1], dtype=np.uint64))
    return Contents(hashes, counts)


def heavy_tailed() -> Contents:
    chance = np.random.default_rng(5)
    copies = np.minimum(chance.zipf(2.0, 400_000), 2_000)
    copies[:5] = (2_500, 5_000, 10_000, 20_000, 40_000)
    return contents_of(copies)


def flat() -> Contents:
    """600,000 pages, 2.7 % of which sharing would free."""
    copies = np.ones(585_000, np.int64)
    copies[:7_500] = np.random.default_rng(6).integers(2, 5, 7_500)
    return contents_of(copies)


def images() -> Contents:
    """Six images that have a system in common, and much of their own."""
    chance = np.random.default_rng(7)
    system = (chance.random((6, 60_000)) < 0.8) * np.minimum(chance.zipf(3.0, (6, 60_000)), 50)
    own = np.zeros((6, 240_000), np.int64)
    own[chance.integers(0, 6, 240_000), np.arange(240_000)] = 1
    return contents_of(np.hstack([system, own]))


def moved(heavy: Heavy, fraction: float, seed: int) -> Heavy:
    """The table as it would be of what the selection puts for each hash: that is a bijection."""
    values = Seeded(fraction, seed).values(heavy.hashes)
    order = np.argsort(values)
    table = Heavy(1 << 12, 1)
    table.hashes, table.dropped = values[order], heavy.dropped
    table.counted, table.missed = heavy.counted[order], heavy.missed[order]
    return table


def drawn(
    contents: Contents, groups: list[int], fraction: float, *, heavy: bool, seeds: int = SEEDS
) -> Iterator[SampledSharing]:
    table = contents.heavy(groups) if heavy else None
    for seed in range(seeds):
        yield estimate_of(
            contents.sampled(fraction, seed),
            groups,
            fraction=fraction,
            confidence=0.95,
            heavy=None if table is None else moved(table, fraction, seed),
        )


CASES = {
    "heavy-tailed-64": (heavy_tailed, 1 / 64, True, "difference"),
    "heavy-tailed-1024": (heavy_tailed, 1 / 1024, False, "difference"),
    "flat-64": (flat, 1 / 64, False, "difference"),
    "flat-64-heavy-ones-counted": (flat, 1 / 64, True, "horvitz-thompson"),
}


@pytest.mark.parametrize(("make", "fraction", "heavy", "method"), CASES.values(), ids=CASES)
def test_95_of_100_intervals_hold_the_truth(
    make: Callable[[], Contents], fraction: float, heavy: bool, method: str
) -> None:
    contents = make()
    pages, truth = int(contents.copies.sum()), contents.truth([0])
    found = [one.estimate for one in drawn(contents, [0], fraction, heavy=heavy)]
    errors = np.array([one.pages - truth for one in found]) / pages
    assert {one.method for one in found} == {method}
    assert 0.93 <= sum(one.low <= truth <= one.high for one in found) / SEEDS <= 0.97
    assert abs(errors.mean()) <= 4 * errors.std() / SEEDS**0.5  # unbiased
    if heavy:
        assert abs(errors).max() < 0.01


@pytest.mark.parametrize("groups", [[0, 0, 0, 1, 1, 2], [0, 1, 2, 3, 4, 5]], ids=["groups", "each"])
def test_the_interval_holds_where_several_groups_have_a_content(groups: list[int]) -> None:
    contents = images()
    truth, everything = contents.truth(groups), contents.truth([0] * 6)
    found = list(drawn(contents, groups, 1 / 64, heavy=False))
    assert 0.93 <= sum(one.estimate.low <= truth <= one.estimate.high for one in found) / SEEDS <= 0.97
    mean = np.mean([one.reclaimable for one in found], axis=0)
    assert mean[2:] == pytest.approx([truth, everything], rel=0.02)


@pytest.mark.parametrize("fraction", [1 / 4, 1 / 64, 1 / 1024])
@pytest.mark.parametrize("heavy", [False, True], ids=["", "heavy"])
def test_small_images_are_held_at_least_as_often(fraction: float, heavy: bool) -> None:
    contents = contents_of([1] * 800 + [3] * 40 + [60])
    truth = contents.truth([0])
    found = [one.estimate for one in drawn(contents, [0], fraction, heavy=heavy, seeds=150)]
    assert sum(one.low <= truth <= one.high for one in found) / 150 >= 0.92


def test_nothing_kept_says_that_anything_is_possible() -> None:
    tally = Tally("image", 100, 10, np.empty(0, np.uint64), np.empty(0, np.int64))
    found = estimate_of([tally], [0], fraction=1 / 1024, confidence=0.95)
    assert found.estimate == Estimate(90, 0, 90, 0.95, "difference", 1 / 1024)
    assert found.distinct == Estimate(0, 0, 90, 0.95, "distinct", 1 / 1024)
    assert found.attributed_pages == (90,)


def test_zero_pages_alone_leave_nothing_to_share() -> None:
    tally = Tally("image", 100, 100, np.empty(0, np.uint64), np.empty(0, np.int64))
    found = estimate_of([tally] * 2, [0, 1], fraction=1 / 64, confidence=0.95, heavy=Heavy(4, 4))
    assert found.estimate[:3] == (0, 0, 0)
    assert found.reclaimable == (200, 0, 0, 0)
    assert list(found.attributed_pages) == [0, 0]
