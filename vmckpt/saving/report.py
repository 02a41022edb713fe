"""A save as a page to look at: its report and the finished checkpoint in, the text of an HTML file out.

    SaveReport ─▶ headline, tiles, facts        Contents ─▶ figures (`figures`)        both ─▶ document

Pure. Called by `api.save_page`.
"""

from vmckpt.charts.axes import memory_text
from vmckpt.charts.page import Fact, Page, Tile, document
from vmckpt.pages import PAGE_BYTES
from vmckpt.reports import LiveReport, SaveReport
from vmckpt.saving.figures import Contents, figures_of
from vmckpt.units import format_count, format_duration, format_share, format_size
from vmckpt.version import __version__

__all__ = ["page_of"]


def page_of(name: str, report: SaveReport, contents: Contents) -> str:
    """The page: the text of an HTML file; `name` is the checkpoint's."""
    live = report.live
    return document(
        Page(
            title=f"{'Save' if live is None else 'Live save'} to {name}",
            eyebrow=f"{format_size(report.memory_bytes)} · {report.codec}, blocks of "
            f"{format_size(report.memory_block_bytes)}",
            lead=_lead(report),
            tiles=_tiles(report, contents),
            figures=figures_of(contents, report.memory_block_bytes),
            facts=_facts(report, contents),
            footer=f"vmckpt {__version__}. A duplicate is a page that equals one stored elsewhere in the checkpoint.",
        )
    )


def _lead(report: SaveReport) -> str:
    made = (
        f"{format_size(report.memory_bytes)} of memory became a file of {format_size(report.file_bytes)} "
        f"in {format_duration(report.elapsed_s)}."
    )
    if report.live is None:
        return made
    if report.live.mode == "suspend":
        return f"{made} The machine worked on meanwhile; then it paused for {format_duration(report.live.pause_s)}, and ended."
    return f"{made} The machine paused for {format_duration(report.live.pause_s)} and worked on meanwhile."


def _tiles(report: SaveReport, contents: Contents) -> list[Tile]:
    pages, total = report.pages, max(report.pages.total, 1)
    plain = sum(block.plain_bytes for block in contents.blocks)
    packed = sum(block.stored_bytes for block in contents.blocks)
    rate = f"{format_size(report.memory_bytes / report.elapsed_s)}/s" if report.elapsed_s > 0 else ""
    tiles = [
        Tile("File", format_size(report.file_bytes), f"of {format_size(report.memory_bytes)} of memory"),
        Tile("Times smaller", _ratio_text(report.ratio), "memory to file"),
        Tile("Time", format_duration(report.elapsed_s), rate),
        Tile(
            "Stored pages",
            format_count(pages.stored),
            f"{format_share(pages.stored / total)} of memory",
        ),
        Tile(
            "Compressed to",
            format_share(packed / plain) if plain else "–",
            f"{format_size(packed)} of {format_size(plain)}" if plain else "nothing to compress",
        ),
    ]
    if report.live is not None:
        tiles += _live_tiles(report.live)
    if report.active_pages:
        active = f"{format_share(report.active_pages / total)} of memory"
        tiles.append(Tile("Active pages", format_count(report.active_pages), active))
    duplicates = f"{format_size(pages.duplicate * PAGE_BYTES)} not stored twice"
    if len(tiles) % 5:  # else it would stand in a row by itself
        tiles.append(Tile("Duplicates", format_count(pages.duplicate), duplicates))
    return tiles


def _live_tiles(live: LiveReport) -> list[Tile]:
    tiles = [Tile("Pause", format_duration(live.pause_s), "the vCPUs stood still")]
    if live.trace != "off":
        traps = live.read_traps + live.write_traps
        tiles.append(
            Tile(
                "Traps",
                format_count(traps),
                f"{format_count(live.read_traps)} reads, {format_count(live.write_traps)} writes",
            )
        )
    if live.trace != "off" and live.ops_per_s_before > 0:
        speed = live.ops_per_s_during / live.ops_per_s_before
        tiles.append(Tile("Speed meanwhile", format_share(speed), "of the operations/s before"))
    if live.mode == "suspend":
        tiles.append(
            Tile("Saved again", format_count(live.resaved_pages), "pages of blocks written to meanwhile")
        )
    return tiles


def _facts(report: SaveReport, contents: Contents) -> list[Fact]:
    facts = [
        Fact("Memory taken", contents.created),
        Fact("Codec", f"{report.codec}, memory blocks of {format_size(report.memory_block_bytes)}"),
        Fact(
            "Storage blocks",
            f"{format_count(report.storage_blocks)} of up to {format_size(report.storage_block_bytes)}",
        ),
        Fact("Pages", f"{format_count(report.pages.total)}, {memory_text(PAGE_BYTES)} each"),
    ]
    live = report.live
    if live is not None:
        facts += [
            Fact("Mode", live.mode),
            Fact("Traces", f"{live.trace}, by {live.mechanism}"),
            Fact("Operations", f"{format_count(sum(live.ops_at_checkpoint))} of all vCPUs at the checkpoint"),
            Fact("Stopped for", live.stopped_for),
        ]
    return [*facts, Fact("Digest", report.digest)]


def _ratio_text(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 100 else format_count(round(ratio))
