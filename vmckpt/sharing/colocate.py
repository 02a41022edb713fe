"""Which images to put on one host, by what they would share there.

    tallies (of sketches, or of samples) ─▶ contents that several images have ─▶ pairs ─▶ greedy ─▶ swaps ─▶ hosts

A host of images frees its pages less its different contents. So the sum over hosts is greatest where the contents, each
counted once for every host that has it, are fewest: copies within an image do not matter, and a content that one image
alone has does not either. Greedy fills host after host with the image that has most contents in common with it, starting
at the one with most in common with all; then images are swapped between hosts (an empty place counts as an image without
content) as long as that saves contents. Each swap is scored exactly; pairs only propose. No image is read again.

Cost: 4 bytes for each pair of images; each content that k images have, k up to 64, adds k^2 / 2 steps of numpy to the
pairs. A content that more images have says little about who belongs together: it is left out of the pairs, and counted in
every score. Pure, on numpy arrays.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vmckpt.errors import UsageError
from vmckpt.sharing.hashes import Hashes
from vmckpt.sharing.horvitz import circle_values
from vmckpt.sharing.table import Numbers
from vmckpt.sharing.tally import Tally, copies_of, thinned

__all__ = ["CoLocation", "Host", "co_locate", "freed_by"]

_MOST_HOLDERS = 64  # of a content that says something about who belongs together
_SEARCHED_CONTENTS = 600  # of each image, in the mean
_ROUNDS = 10
_HOSTS_TRIED = 3
_PARTNERS_TRIED = 3
_RANDOM_DRAWS = 5
_SMALL = 64  # images: what is tried out of thoroughness

Pairs = npt.NDArray[np.float32]


class Host(NamedTuple):
    """Images that are to run on one host."""

    images: tuple[int, ...]
    """Their numbers, as they were given, ascending."""
    sources: tuple[str, ...]
    """Their names."""
    reclaimable_pages: float
    """What sharing among them would free, zero pages left out."""


class CoLocation(NamedTuple):
    """Images in hosts."""

    hosts: tuple[Host, ...]
    reclaimable_pages: float
    """Over all hosts."""
    alone_pages: float
    """What each image by itself would free, over all images."""
    random_pages: float
    """What images put together at random would free, the mean of some draws."""


def co_locate(
    tallies: Sequence[Tally],
    images_each: int,
    *,
    fraction: float,
    groups: Sequence[int] | None = None,
    seed: int = 0,
) -> CoLocation:
    """Put images into as few hosts as hold them, so that they share as much as we can find.

    Args:
        tallies: one for each image, all of one selection and of this `fraction`.
        images_each: images that a host holds.
        fraction: of contents that the selection keeps.
        groups: the trust group of each image, by numbers from 0; None: all may share.
        seed: of the draws at random that the result is compared with.

    Raises:
        UsageError: a host is to hold no image, or there are no images.
    """
    if images_each < 1 or not tallies:
        raise UsageError(
            f"cannot put {len(tallies)} images into hosts of {images_each}: expected 1 or more of each"
        )
    values = _values_of(tallies, groups)
    places = -(-len(tallies) // images_each) * images_each
    shared = _shared(_values_of(_thin(tallies), groups), places)
    pairs = _pairs_of(shared, places)
    given = np.arange(places).reshape(-1, images_each)
    found = [given, _swapped(shared, pairs, _greedy(shared, pairs, len(tallies), images_each))]
    if places <= _SMALL:
        found.append(_swapped(shared, pairs, given))
    best = min(found, key=lambda hosts: _contents(shared, hosts))
    return _outcome(tallies, values, best, fraction, _drawn(len(tallies), places, images_each, seed))


def freed_by(tallies: Sequence[Tally], fraction: float) -> float:
    """What sharing frees on a host of these images, zero pages left out."""
    return _freed(tallies, [tally.values for tally in tallies], range(len(tallies)), fraction)


def _freed(
    tallies: Sequence[Tally], values: Sequence[Hashes], images: Sequence[int] | range, fraction: float
) -> float:
    data_pages = sum(tallies[image].data_pages for image in images)
    contents = len(np.unique(np.concatenate([values[image] for image in images])))
    return max(0.0, data_pages - contents / fraction)


def _values_of(tallies: Sequence[Tally], groups: Sequence[int] | None) -> list[Hashes]:
    # Contents of different groups never equal.
    group_of = groups or [0] * len(tallies)
    return [circle_values(tally.values, group) for tally, group in zip(tallies, group_of, strict=True)]


def _thin(tallies: Sequence[Tally]) -> list[Tally]:
    # The search looks at a part of what the sample keeps; what it finds is scored by all.
    most = max((int(tally.values[-1]) for tally in tallies if len(tally.values)), default=0)
    mean = sum(len(tally.values) for tally in tallies) / len(tallies)
    if mean <= _SEARCHED_CONTENTS:
        return list(tallies)
    return [thinned(tally, int(most * (_SEARCHED_CONTENTS / mean))) for tally in tallies]


def _shared(values: Sequence[Hashes], places: int) -> list[Numbers]:
    """Of each place, the contents that other images have as well, by numbers from 0, ascending."""
    copies = copies_of([Tally("", 0, 0, np.sort(own), np.ones(len(own), np.int64)) for own in values])
    holders = np.diff(copies.starts)
    kept = np.repeat(holders > 1, holders)
    numbers = np.repeat(np.cumsum(holders > 1) - 1, holders)[kept]
    images = copies.images[kept]
    order = np.argsort(images, kind="stable")
    ends = np.searchsorted(images[order], np.arange(1, places))
    return np.split(numbers[order], ends)


def _pairs_of(shared: Sequence[Numbers], places: int) -> Pairs:
    """Contents that two places have in common, [places, places]; the diagonal is 0."""
    numbers = np.concatenate(shared)
    images = np.repeat(np.arange(places), [len(own) for own in shared])
    order = np.argsort(numbers, kind="stable")
    numbers, images = numbers[order], images[order]
    telling = np.bincount(numbers)[numbers] <= _MOST_HOLDERS if len(numbers) else np.empty(0, np.bool_)
    numbers, images = numbers[telling], images[telling]
    pairs = np.zeros((places, places), np.float32)
    # Each holder of a content with the next, then with the one after that, and so on.
    for apart in range(1, min(_MOST_HOLDERS, len(numbers))):
        same = np.flatnonzero(numbers[apart:] == numbers[:-apart])
        if not len(same):
            break
        np.add.at(pairs, (images[same], images[same + apart]), np.float32(1))
    return pairs + pairs.T


def _greedy(shared: Sequence[Numbers], pairs: Pairs, images: int, images_each: int) -> Numbers:
    """Hosts, [hosts, images_each]: each takes the image that has most in common with it, until it is full."""
    left = np.zeros(len(shared), np.bool_)
    left[:images] = True
    hosts: list[list[int]] = []
    while left.any():
        first = int(np.argmax(np.where(left, pairs[:, left].sum(axis=1), -1)))
        host, left[first] = [first], False
        held = shared[first]
        while len(host) < images_each and left.any():
            # The pairs name those that are worth a look; what the host has twice counts twice in them.
            near = np.where(left, pairs[:, host].sum(axis=1), -1)
            looked = np.argsort(-near, kind="stable")[: min(8, int(left.sum()))]
            gains = [len(np.intersect1d(held, shared[image], assume_unique=True)) for image in looked]
            best = int(looked[int(np.argmax(gains))])
            host.append(best)
            left[best] = False
            held = np.union1d(held, shared[best])
        hosts.append(host)
    empty = iter(range(images, len(shared)))
    for host in hosts:
        host.extend(next(empty) for _ in range(images_each - len(host)))
    return np.array(hosts, np.int64)


class _Holding:
    """The contents of one host, and how many of its images have each."""

    __slots__ = ("contents", "holders")

    def __init__(self, shared: Sequence[Numbers], images: Numbers) -> None:
        self.contents, self.holders = np.unique(
            np.concatenate([shared[image] for image in images]), return_counts=True
        )

    def of(self, contents: Numbers) -> Numbers:
        """How many images have each of `contents`."""
        if not len(self.contents):
            return np.zeros(len(contents), np.int64)
        at = np.minimum(np.searchsorted(self.contents, contents), len(self.contents) - 1)
        return np.where(self.contents[at] == contents, self.holders[at], 0)


def _swapped(shared: Sequence[Numbers], pairs: Pairs, start: Numbers) -> Numbers:
    """Swap images between hosts until no swap that looks promising saves contents."""
    hosts = start.copy()
    holdings = [_Holding(shared, host) for host in hosts]
    host_of = np.empty(len(shared), np.int64)
    host_of[hosts.ravel()] = np.repeat(np.arange(len(hosts)), hosts.shape[1])
    for _ in range(_ROUNDS):
        better = False
        for image in range(len(shared)):
            for other in _partners(image, hosts, host_of, pairs):
                mine, theirs = int(host_of[image]), int(host_of[other])
                if _saved(shared, holdings[mine], holdings[theirs], image, other) <= 0:
                    continue
                hosts[mine][hosts[mine] == image] = other
                hosts[theirs][hosts[theirs] == other] = image
                host_of[image], host_of[other] = theirs, mine
                for host in (mine, theirs):
                    holdings[host] = _Holding(shared, hosts[host])
                better = True
                break
        if not better:
            break
    return hosts


def _partners(image: int, hosts: Numbers, host_of: Numbers, pairs: Pairs) -> Iterator[int]:
    """Whom to swap an image with, the most promising first, by pairs."""
    mine = int(host_of[image])
    near = pairs[image][hosts].sum(axis=1)
    for theirs in np.argsort(-near, kind="stable")[: _HOSTS_TRIED + 1].tolist():
        if theirs == mine:
            continue
        others = hosts[theirs]
        attached = pairs[others[:, None], hosts[mine]].sum(axis=1) - pairs[others[:, None], others].sum(
            axis=1
        )
        promise = attached - 2 * pairs[image, others] + near[theirs] - near[mine]
        best = np.argsort(-promise, kind="stable")[:_PARTNERS_TRIED]
        # Pairs promise too much rather than too little; few images can afford a look at the rest as well.
        yield from others[best[(promise[best] > 0) | (len(pairs) <= _SMALL)]].tolist()


def _saved(shared: Sequence[Numbers], mine: _Holding, theirs: _Holding, image: int, other: int) -> int:
    """Contents fewer once `image` (of the host `mine`) and `other` (of `theirs`) have changed places."""
    own, others = shared[image], shared[other]
    both = np.intersect1d(own, others, assume_unique=True)
    own, others = np.setdiff1d(own, both, assume_unique=True), np.setdiff1d(others, both, assume_unique=True)
    gone = (mine.of(own) == 1).sum() + (theirs.of(others) == 1).sum()
    new = (theirs.of(own) == 0).sum() + (mine.of(others) == 0).sum()
    return int(gone - new)


def _contents(shared: Sequence[Numbers], hosts: Numbers) -> int:
    return sum(len(_Holding(shared, host).contents) for host in hosts)


def _drawn(images: int, places: int, images_each: int, seed: int) -> list[Numbers]:
    chance = np.random.default_rng(seed)
    order = [np.append(chance.permutation(images), np.arange(images, places)) for _ in range(_RANDOM_DRAWS)]
    return [one.reshape(-1, images_each) for one in order]


def _outcome(
    tallies: Sequence[Tally],
    values: Sequence[Hashes],
    hosts: Numbers,
    fraction: float,
    drawn: Sequence[Numbers],
) -> CoLocation:
    def pages(host: Sequence[int]) -> float:
        return _freed(tallies, values, host, fraction) if host else 0.0

    named = [sorted(image for image in host if image < len(tallies)) for host in hosts.tolist()]
    found = tuple(
        Host(tuple(host), tuple(tallies[image].source for image in host), pages(host))
        for host in sorted(host for host in named if host)
    )
    at_random = [
        sum(pages([image for image in host if image < len(tallies)]) for host in draw.tolist())
        for draw in drawn
    ]
    return CoLocation(
        found,
        sum(host.reclaimable_pages for host in found),
        sum(pages([image]) for image in range(len(tallies))),
        sum(at_random) / len(at_random),
    )
