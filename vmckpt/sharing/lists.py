"""What stands in lists: the images, the best large pages, and what Linux KSM would count.

Pure. Called by `figures`.
"""

import math
from collections.abc import Sequence

from vmckpt.charts.axes import memory_text
from vmckpt.charts.listing import beam, listing
from vmckpt.charts.markup import joined
from vmckpt.charts.page import Figure
from vmckpt.charts.plots import Key, legend
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.outcome import ImageShare, SharingReport
from vmckpt.sharing.wording import names_of, shortened, size_text
from vmckpt.units import format_count, format_share, format_size

__all__ = ["images_list", "ksm_list", "top_list"]

_MOST_IMAGES = 200
_MOST_TOP = 50


def images_list(report: SharingReport) -> Figure:
    """What each image brings."""
    kind = "Images"
    text = (
        "What each brings to what sharing frees; of equal pages, each of c counts 1 - 1/c, so that all images add up to the "
        "whole. Alone: what sharing within it frees, without zero pages."
    )
    if len(report.images) == 1:
        text = "What sharing within it frees: zero pages, and of equal pages all but one."
    if len(report.images) > _MOST_IMAGES:
        text += f" The first {_MOST_IMAGES} of {format_count(len(report.images))} images are listed."
    grouped = report.trust not in {"each", "all"}
    group = ["trust group"] if grouped else []
    heads = ["image", *group, "of its memory", "memory", "zero", "equal", "alone"]
    equal = math.fsum(image.attributed_pages for image in report.images)
    keys = [
        Key("zero pages", "grey", size_text(sum(image.zero_pages for image in report.images))),
        Key("its part of equal pages" if len(report.images) > 1 else "equal pages", "blue", size_text(equal)),
        Key("stays", "pale"),
    ]
    names = names_of([image.source for image in report.images], 48)
    pairs = zip(report.images[:_MOST_IMAGES], names, strict=False)
    grid = listing(
        kind, heads, [_row(image, name, grouped=grouped) for image, name in pairs], range(2 + grouped)
    )
    return Figure(_images_title(report, names), text, joined([legend(keys), grid]), kind=kind)


def _images_title(report: SharingReport, names: Sequence[str]) -> str:
    freed = [image.zero_pages + image.attributed_pages for image in report.images]
    if len(freed) == 1:
        return f"Of the image, {format_share(freed[0] / max(report.images[0].pages, 1))} would be free"
    best = freed.index(max(freed))
    if not freed[best]:
        return "No image brings anything"
    return f"{shortened(names[best], 34)} brings the most: {size_text(freed[best])}"


def _row(image: ImageShare, name: str, *, grouped: bool) -> list[str]:
    pages = max(image.pages, 1)
    group = [shortened(image.trust_group, 24)] if grouped else []
    bar = beam([("grey", image.zero_pages / pages), ("blue", image.attributed_pages / pages)])
    sizes = (image.pages, image.zero_pages, image.attributed_pages, image.exclusive_pages)
    return [name, *group, bar, *map(size_text, sizes)]


def top_list(report: SharingReport) -> Figure:
    """The large pages that are worth breaking up most."""
    kind = "Best large pages"
    top = report.top[:_MOST_TOP]
    sources = [image.source for image in report.images]
    names = dict(zip(sources, names_of(sources), strict=True))
    known = any(share.activity is not None for share in top)
    per = report.large_page_bytes // PAGE_BYTES
    title = f"The {format_count(len(top))} best would free {size_text(math.fsum(share.gain_pages for share in top))}"
    if len(top) == 1:
        title = f"The best large page would free {size_text(top[0].gain_pages)}"
    text = (
        f"Large pages that are worth breaking up, the best first. Of {format_count(per)} small pages each, shareable are those "
        "that are zero or have an equal one."
    )
    if len(report.top) > len(top):
        text += f" The first {len(top)} of {format_count(len(report.top))} are listed."
    heads = ["image", "at", "of its small pages", "would free", "shareable", *(["touched"] if known else [])]
    rows = [
        [
            names.get(share.source, shortened(share.source, 28)),
            memory_text(share.large_page * report.large_page_bytes),
            beam([("blue", min(share.gain_pages / per, 1))]),
            size_text(share.gain_pages),
            f"{format_count(share.shareable_pages)} pages",
            *(["–" if share.activity is None else format_share(share.activity)] if known else []),
        ]
        for share in top
    ]
    return Figure(title, text, listing(kind, heads, rows, (0, 2)), kind=kind)


def ksm_list(report: SharingReport) -> Figure:
    """The counters that KSM would come to."""
    kind = "Linux KSM"
    ksm = report.ksm
    title = f"KSM would save {format_size(ksm.general_profit_bytes)} by its own count"
    if ksm.general_profit_bytes <= 0:
        title = "KSM would save nothing by its own count"
    text = (
        "What its counters would come to, were all images merged on one host. It knows no trust groups, and breaks up every "
        "large page in which it finds a match."
    )
    rows = [
        ["pages_shared", "frames that serve several pages", format_count(ksm.pages_shared)],
        ["pages_sharing", "further pages that they serve", format_count(ksm.pages_sharing)],
        ["pages_unshared", "pages that have no equal, looked at in vain", format_count(ksm.pages_unshared)],
        [
            "ksm_zero_pages",
            "pages on the kernel’s zero page, with use_zero_pages on",
            format_count(ksm.zero_pages),
        ],
        ["general_profit", "saved, less what keeping track takes", format_size(ksm.general_profit_bytes)],
    ]
    return Figure(title, text, listing(kind, ["counter", "meaning", "value"], rows, (0, 1)), kind=kind)
