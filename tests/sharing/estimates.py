"""Estimates of small fleets, counted in plain Python: what the page of an estimate is made from."""

import itertools
from collections import Counter
from collections.abc import Sequence

from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.outcome import (
    Break,
    Curve,
    Estimate,
    ImageMap,
    ImageShare,
    KsmForecast,
    Ladder,
    LargeShare,
    PlanOutcome,
    SharingDetail,
    SharingReport,
)

__all__ = ["PER_LARGE", "report_of"]

PER_LARGE = 4
"""Small pages of a large page."""

Contents = Sequence[Sequence[int]]


def _saved(contents: Contents, groups: Sequence[object]) -> int:
    """Of each content that is not zero all copies but one, within each group."""
    copies = Counter(
        (group, value) for image, group in zip(contents, groups, strict=True) for value in image if value
    )
    return copies.total() - len(copies)


def report_of(
    contents: Contents,
    *,
    trust: str = "each",
    groups: Sequence[str] | None = None,
    active: bool = True,
    target: int | None = None,
    names: Sequence[str] | None = None,
) -> SharingReport:
    """An exact estimate with its detail.

    Args:
        contents: of each image, what each page holds; 0: a zero page.
        trust: as asked for.
        groups: of each image; None: as `trust` says.
        active: whether it is known; then the part of large page n that was touched is n / 10, 1 at most.
        target: pages to free by a plan, which takes large pages by their gain, then by address.
        names: of the sources.
    """
    count = len(contents)
    names = names or [f"/srv/vm-{at}.raw" for at in range(count)]
    groups = groups or (["all"] * count if trust == "all" else [str(at) for at in range(count)])
    pages = sum(map(len, contents))
    zero = [sum(not value for value in image) for image in contents]
    copies = Counter(value for image in contents for value in image if value)
    trusted = Counter(
        (group, value) for image, group in zip(contents, groups, strict=True) for value in image if value
    )

    def gain(image: int, page: int) -> float:
        value = contents[image][page]
        return 1 - 1 / trusted[groups[image], value] if value else 1.0

    maps, top = [], []
    for at, image in enumerate(contents):
        large = [
            range(start, min(start + PER_LARGE, len(image))) for start in range(0, len(image), PER_LARGE)
        ]
        gains = [sum(gain(at, page) for page in inside) for inside in large]
        touched = [min(number / 10, 1.0) for number in range(len(large))] if active else None
        maps.append(
            ImageMap(
                names[at],
                range(len(large)),
                list(map(len, large)),
                gains,
                [sum(not image[page] for page in inside) for inside in large],
                touched,
                [False] * len(large),
            )
        )
        for number, freed in enumerate(gains):
            shareable = sum(gain(at, page) > 0 for page in large[number])
            if freed:
                top.append(
                    LargeShare(names[at], number, shareable, freed, touched[number] if touched else None)
                )
    top.sort(key=lambda share: -share.gain_pages)
    plan = None if target is None else _plan(target, top)
    if plan is not None:
        broken = set(plan.breaks)
        maps = [
            found._replace(broken=[Break(found.source, number) in broken for number in found.large_pages])
            for found in maps
        ]
    intra, trust_pages = _saved(contents, range(count)), _saved(contents, groups)
    return SharingReport(
        pages=pages,
        large_pages=sum(len(found.large_pages) for found in maps),
        large_page_bytes=PER_LARGE * PAGE_BYTES,
        zero_pages=sum(zero),
        distinct_pages=len(copies),
        reclaimable=Ladder(sum(zero), intra, trust_pages, _saved(contents, ["all"] * count)),
        estimate=Estimate(trust_pages, trust_pages, trust_pages, 0.95, "exact", 1.0),
        trust=trust,
        histogram=Counter(copies.values()),
        images=tuple(
            ImageShare(
                names[at],
                groups[at],
                len(image),
                zero[at],
                sum(gain(at, page) for page, value in enumerate(image) if value),
                _saved([image], [0]),
            )
            for at, image in enumerate(contents)
        ),
        ksm=KsmForecast(
            sum(many > 1 for many in copies.values()),
            sum(many - 1 for many in copies.values()),
            sum(many == 1 for many in copies.values()),
            sum(zero),
            sum(many - 1 for many in copies.values()) * PAGE_BYTES - 64 * pages,
        ),
        top=tuple(top),
        plan=plan,
        elapsed_s=1.25,
        detail=SharingDetail(tuple(maps), _matrix(contents)),
    )


def _plan(target: int, top: Sequence[LargeShare]) -> PlanOutcome:
    freed = [int(added) for added in itertools.accumulate(share.gain_pages for share in top)]
    enough = next((at + 1 for at, added in enumerate(freed) if added >= target), len(top))
    points = list(enumerate(freed, 1))
    slow = [(broken, added // 2) for broken, added in points]
    return PlanOutcome(
        target,
        freed[enough - 1] if top else 0,
        tuple(Break(share.source, share.large_page) for share in top[:enough]),
        "gain",
        (Curve("gain", points), Curve("<address>", slow)),
    )


def _matrix(contents: Contents) -> list[list[float]]:
    counts = [Counter(value for value in image if value) for image in contents]
    return [
        [float((one & other).total() if y != x else one.total() - len(one)) for x, other in enumerate(counts)]
        for y, one in enumerate(counts)
    ]
