"""Images into hosts, against trying all ways on small fleets."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from vmckpt.errors import UsageError
from vmckpt.sharing.colocate import co_locate, freed_by
from vmckpt.sharing.tally import Tally


def fleet(seed: int, images: int, systems: int, contents: int = 40, fraction: float = 1.0) -> list[Tally]:
    """Images of several systems, with a little of another, much of their own, and some that nearly all have."""
    chance = np.random.default_rng(seed)

    def new(count: int) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
        return np.asarray(chance.integers(0, int(fraction * 2**64), count, dtype=np.uint64))

    bases = [new(contents) for _ in range(systems)]
    everywhere = new(contents // 4)
    found = []
    for number in range(images):
        system, other = chance.integers(0, systems, 2)
        parts = [
            bases[system][chance.random(contents) < 0.7],
            bases[other][chance.random(contents) < 0.2],
            everywhere[chance.random(len(everywhere)) < 0.8],
            new(contents),
        ]
        values = np.unique(np.concatenate(parts))
        pages = round(len(values) / fraction)
        found.append(Tally(f"{system}: {number}", pages, 0, values, np.ones(len(values), np.int64)))
    return found


def ways(images: list[int], each: int, hosts: int) -> Iterator[list[tuple[int, ...]]]:
    """All ways to put images into so many hosts."""
    if not images:
        yield []
        return
    first, *rest = images
    for count in range(min(each, len(images))):
        for others in itertools.combinations(rest, count):
            left = [image for image in rest if image not in others]
            if -(-len(left) // each) <= hosts - 1:
                for way in ways(left, each, hosts - 1):
                    yield [(first, *others), *way]


def best_of_all(tallies: Sequence[Tally], each: int) -> float:
    hosts = -(-len(tallies) // each)
    freed = {
        host: freed_by([tallies[image] for image in host], 1.0)
        for count in range(1, each + 1)
        for host in itertools.combinations(range(len(tallies)), count)
    }
    return max(sum(freed[host] for host in way) for way in ways(list(range(len(tallies))), each, hosts))


def test_on_small_fleets_it_is_the_best_of_all_ways() -> None:
    optimal = 0
    for seed in range(40):
        tallies = fleet(seed, 4 + seed % 5, 2 + seed % 3)
        found = co_locate(tallies, 2 + seed % 2, fraction=1.0)
        best = best_of_all(tallies, 2 + seed % 2)
        assert 0.95 * best <= found.reclaimable_pages <= best
        optimal += found.reclaimable_pages == best
    assert optimal >= 38


def test_on_a_larger_fleet_it_finds_the_systems_again() -> None:
    tallies = fleet(1, 120, 12, contents=1500, fraction=1 / 16)
    found = co_locate(tallies, 10, fraction=1 / 16)
    assert sorted(image for host in found.hosts for image in host.images) == list(range(120))
    assert max(len(host.images) for host in found.hosts) == 10
    assert len(found.hosts) == 12
    assert found.reclaimable_pages > 1.4 * found.random_pages > found.alone_pages
    for host in found.hosts:
        assert host.sources == tuple(tallies[image].source for image in host.images)
        own = freed_by([tallies[image] for image in host.images], 1 / 16)
        assert host.reclaimable_pages == pytest.approx(own)
    assert sum(host.reclaimable_pages for host in found.hosts) == pytest.approx(found.reclaimable_pages)


def test_it_is_never_worse_than_the_order_given() -> None:
    for seed in range(5):
        tallies = fleet(seed, 70, 5, contents=100)
        found = co_locate(tallies, 7, fraction=1.0)
        given = sum(freed_by(tallies[start : start + 7], 1.0) for start in range(0, 70, 7))
        assert found.reclaimable_pages >= given


def test_groups_that_do_not_trust_each_other_gain_nothing_by_being_together() -> None:
    tallies = fleet(3, 6, 1)
    found = co_locate(tallies, 3, fraction=1.0, groups=list(range(6)))
    assert found.reclaimable_pages == found.alone_pages == found.random_pages
    paired = co_locate(tallies, 2, fraction=1.0, groups=[0, 1, 2, 0, 1, 2])
    assert [host.images for host in paired.hosts] == [(0, 3), (1, 4), (2, 5)]


@pytest.mark.parametrize(("images", "each", "hosts"), [(1, 5, 1), (5, 1, 5), (5, 2, 3), (5, 5, 1)])
def test_every_image_has_one_place(images: int, each: int, hosts: int) -> None:
    found = co_locate(fleet(1, images, 2), each, fraction=1.0)
    assert len(found.hosts) == hosts
    assert sorted(image for host in found.hosts for image in host.images) == list(range(images))


def test_images_without_content_have_a_place_too() -> None:
    nothing = Tally("zero", 10, 10, np.empty(0, np.uint64), np.empty(0, np.int64))
    found = co_locate([nothing] * 3, 2, fraction=1 / 64)
    assert found.reclaimable_pages == 0
    assert len(found.hosts) == 2


def test_no_images_or_no_room_is_refused() -> None:
    for tallies, each in (([], 2), (fleet(1, 2, 1), 0)):
        with pytest.raises(UsageError, match="cannot put"):
            co_locate(tallies, each, fraction=1.0)
