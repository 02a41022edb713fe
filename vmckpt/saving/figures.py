"""The figures of a save: what a finished checkpoint's directories say in, drawings with their numbers out.

    kinds of pages, active pages ─▶ page map        sizes of blocks ─▶ compression        active pages ─▶ order of access

`contents_of` reads, no page among it; all else is pure. Called by `report`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vmckpt.charts.axes import count_axis, memory_axis, memory_text, order_axis, share_axis
from vmckpt.charts.bins import Bins, counted, tallied
from vmckpt.charts.map import MOST_COLUMNS, Kind, Overlay, PageMap, page_map
from vmckpt.charts.markup import joined
from vmckpt.charts.page import Figure
from vmckpt.charts.plots import Key, bars, heat, hits, legend, line, nothing, outline, plot, table
from vmckpt.checkpoint.file import CheckpointFile
from vmckpt.checkpoint.format import DUPLICATE, PATTERN, STORED, ZERO
from vmckpt.pages import PAGE_BYTES
from vmckpt.units import format_count, format_share, format_size

__all__ = ["BlockSize", "Contents", "contents_of", "figures_of"]

_KINDS = (
    (STORED, Kind("stored", "blue")),
    (DUPLICATE, Kind("duplicate", "green")),
    (PATTERN, Kind("one byte repeated", "amber")),
    (ZERO, Kind("zero", "pale")),
)
_MOST_WINDOWS = 128
_RATIO_STEPS = 20
_HEAT = (64, 32)  # columns, cells of a column


@dataclass(frozen=True, slots=True)
class BlockSize:
    """A memory block that stores pages."""

    first_page: int
    plain_bytes: int
    """Of its stored pages."""
    stored_bytes: int
    """Of these, compressed."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint holds."""

    kinds: bytes | bytearray
    """For each page, as a byte: ZERO, STORED, PATTERN or DUPLICATE."""
    blocks: Sequence[BlockSize]
    """In page order."""
    active: Sequence[int]
    """Page numbers in the order in which they were first touched."""
    created: str
    """When the memory was taken."""


def contents_of(checkpoint: CheckpointFile, created: str) -> Contents:
    """Read the directories of a checkpoint.

    Raises:
        CorruptionError: they are damaged.
        IoError: they cannot be read.
    """
    header = checkpoint.header
    kinds = bytearray(header.page_count)
    blocks = []
    for number, place in checkpoint.places():
        block = checkpoint.memory_block(place)
        start = number * header.block_pages
        kinds[start : start + len(block.kinds)] = block.kinds
        if block.stored:
            blocks.append(BlockSize(start, block.stored * PAGE_BYTES, block.stored_bytes))
    active = [page for page in checkpoint.active_pages() if page < header.page_count]
    return Contents(kinds, blocks, active, created)


def figures_of(contents: Contents, memory_block_bytes: int) -> list[Figure]:
    """All that have something to show; those that a reader looks for, in any case."""
    always = [_page_map(contents), _compression(contents), _ratios(contents, memory_block_bytes)]
    return [*always, _order(contents)] if contents.active else always


def _page_map(contents: Contents) -> Figure:
    bins = Bins.at_most(len(contents.kinds), MOST_COLUMNS)
    found = tallied(contents.kinds, 1 + max(kind for kind, _ in _KINDS), bins)
    counts = [[column[kind] for kind, _ in _KINDS] for column in found]
    overlay = Overlay("active", "orange", counted(contents.active, bins))
    pages = PageMap(bins, [kind for _, kind in _KINDS], counts, PAGE_BYTES, overlay)
    size = memory_text(bins.size * PAGE_BYTES)
    many = f"{size}, in proportion; a kind that is there at all is drawn" if bins.size > 1 else "one page"
    rug = " Below it, active pages: the stronger, the more of the column." if contents.active else ""
    return Figure(
        "Page map",
        f"All of memory, from its start (top left) to its end, by what the file has of a page. A column is {many}.{rug}",
        page_map("Pages of memory by kind; the table has the numbers", pages),
    )


def _compression(contents: Contents) -> Figure:
    title = "Compression along memory"
    text = "What the stored pages take in the file, of what they take in memory. Gaps: nothing is stored."
    if not contents.blocks:
        return Figure(title, text, nothing("No page is stored: all are zero, or one byte repeated."))
    bins = Bins.at_most(len(contents.kinds), _MOST_WINDOWS)
    plain, packed = [0] * bins.count, [0] * bins.count
    for block in contents.blocks:
        plain[block.first_page // bins.size] += block.plain_bytes
        packed[block.first_page // bins.size] += block.stored_bytes
    total = len(contents.kinds)
    edges = [bins.span(index)[0] / total for index in range(bins.count)] + [1.0]
    shares = [part / whole if whole else None for part, whole in zip(packed, plain, strict=True)]
    mean = sum(packed) / sum(plain)
    spans = [
        " – ".join(format_size(page * PAGE_BYTES) if page else "0" for page in bins.span(index))
        for index in range(bins.count)
    ]
    texts = [
        "" if share is None else f"{span}\n{format_size(part)} of {format_size(whole)}: {format_share(share)}"
        for span, share, part, whole in zip(spans, shares, packed, plain, strict=True)
    ]
    drawn = plot(
        title,
        memory_axis("place in memory", total * PAGE_BYTES),
        share_axis("compressed size, of the plain one"),
        outline(edges, [None if share is None else min(share, 1.0) for share in shares], "blue"),
        line([(0, min(mean, 1)), (1, min(mean, 1))], "ink", 1),
        hits(edges, texts),
    )
    rows = (
        [span, format_size(whole), format_size(part), "–" if share is None else format_share(share)]
        for span, share, part, whole in zip(spans, shares, packed, plain, strict=True)
        if whole
    )
    keys = legend(
        [
            Key(f"stretches of {memory_text(bins.size * PAGE_BYTES)}", "blue", "", "line"),
            Key("all of it", "ink", format_share(mean), "thin"),
        ]
    )
    return Figure(title, text, joined([keys, drawn, table(["memory", "plain", "compressed", "share"], rows)]))


def _ratios(contents: Contents, memory_block_bytes: int) -> Figure:
    title = "How well blocks compressed"
    text = f"Memory blocks of {format_size(memory_block_bytes)} that store pages, by their compressed size."
    half = bool(contents.active)
    if not contents.blocks:
        return Figure(title, text, nothing("No block stores a page."), half=half)
    counts = [0] * _RATIO_STEPS
    for block in contents.blocks:
        share = block.stored_bytes / block.plain_bytes
        counts[min(int(share * _RATIO_STEPS), _RATIO_STEPS - 1)] += 1
    edges = [index / _RATIO_STEPS for index in range(_RATIO_STEPS + 1)]
    spans = [
        f"{100 * index // _RATIO_STEPS} – {100 * (index + 1) // _RATIO_STEPS} %"
        for index in range(_RATIO_STEPS)
    ]
    y = count_axis("memory blocks", max(counts))
    texts = [f"{span}\n{format_count(count)} blocks" for span, count in zip(spans, counts, strict=True)]
    drawn = plot(
        title,
        share_axis("compressed size, of the plain one", 5),
        y,
        bars(edges, [("blue", [y.at(count) for count in counts])]),
        hits(edges, texts),
        tall=half,
    )
    rows = ([span, format_count(count)] for span, count in zip(spans, counts, strict=True))
    return Figure(title, text, joined([drawn, table(["compressed to", "blocks"], rows)]), half=half)


def _order(contents: Contents) -> Figure:
    columns, cells = _HEAT
    total, active = len(contents.kinds), len(contents.active)
    columns = min(columns, active)
    counts = [[0] * cells for _ in range(columns)]
    for index, page in enumerate(contents.active):
        counts[index * columns // active][page * cells // total] += 1
    drawn = plot(
        "Order of access",
        order_axis("order of the first touch", active),
        memory_axis("place in memory", total * PAGE_BYTES),
        heat(counts, "orange"),
        tall=True,
    )
    stripe = total * PAGE_BYTES // cells
    rows = (
        [f"from {format_size(stripe * cell)}", format_count(sum(column[cell] for column in counts))]
        for cell in range(cells)
    )
    return Figure(
        "Order of access",
        "Active pages, from the first that was touched (left) to the last. A lazy restore brings them first.",
        joined([drawn, table(["place in memory", "active pages"], rows)]),
        half=True,
    )
