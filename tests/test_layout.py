"""Layouts: page numbers count through the regions, and addresses find their way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.errors import SourceError
from vmckpt.layout import PAGE_BYTES, Layout, Region

PC = Layout([(4 << 30, 2 << 30), (0, 3 << 30)])


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any layout: regions of any size, anywhere, some adjacent, given in any order."""
    end, pieces = 0, []
    sizes = st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 20))
    for gap, pages in draw(st.lists(sizes, min_size=1, max_size=6)):
        gpa = end + gap * PAGE_BYTES
        end = gpa + pages * PAGE_BYTES
        pieces.append((gpa, pages * PAGE_BYTES))
    return Layout(draw(st.permutations(pieces)))


def test_page_numbers_leave_the_hole_below_4_gib_out() -> None:
    assert PC.regions == (Region(0, 786432, 0), Region(4 << 30, 524288, 786432))
    assert (PC.page_count, PC.memory_bytes) == (1310720, 5 << 30)
    assert PC.regions[1].size_bytes == 2 << 30


@pytest.mark.parametrize(
    ("page", "gpa"),
    [(0, 0), (1, 4096), (786431, (3 << 30) - 4096), (786432, 4 << 30), (1310719, (6 << 30) - 4096)],
)
def test_a_page_has_one_address_and_back(page: int, gpa: int) -> None:
    assert (PC.gpa_of(page), PC.page_of(gpa)) == (gpa, page)


@pytest.mark.parametrize("gpa", [-1, -4096, 3 << 30, (4 << 30) - 1, 6 << 30, 1 << 60])
def test_an_address_without_memory_has_no_page(gpa: int) -> None:
    assert PC.page_of(gpa) is None


@pytest.mark.parametrize("page", [-1, 1310720])
def test_there_is_no_page_outside_the_memory(page: int) -> None:
    for ask in (PC.gpa_of, PC.region_of):
        with pytest.raises(ValueError, match=f"page {page} is outside the 1310720 pages"):
            ask(page)


@given(layout=layouts(), data=st.data())
def test_page_of_undoes_gpa_of(layout: Layout, data: st.DataObject) -> None:
    page = data.draw(st.integers(0, layout.page_count - 1))
    within = data.draw(st.integers(0, PAGE_BYTES - 1))
    assert layout.page_of(layout.gpa_of(page) + within) == page
    region = layout.region_of(page)
    assert region.first_page <= page < region.first_page + region.pages


@given(layout=layouts(), gpa=st.integers(-10, 1 << 36))
def test_gpa_of_undoes_page_of(layout: Layout, gpa: int) -> None:
    page = layout.page_of(gpa)
    in_memory = any(region.gpa <= gpa < region.gpa + region.size_bytes for region in layout.regions)
    assert (page is not None) == in_memory
    if page is not None:
        assert layout.gpa_of(page) == gpa - gpa % PAGE_BYTES


@given(layout=layouts())
def test_a_layout_follows_from_its_pieces_in_any_order(layout: Layout) -> None:
    again = Layout([(region.gpa, region.size_bytes) for region in reversed(layout.regions)])
    assert again == layout
    assert hash(again) == hash(layout)
    assert eval(repr(layout)) == layout
    assert layout != layout.regions


def test_flat_memory_is_one_region_from_zero() -> None:
    assert Layout.flat(8192) == Layout([(0, 8192)])


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([], "there is no memory"),
        ([(0, 0)], "0 bytes long, is not a whole number"),
        ([(0, -4096)], "is not a whole number"),
        ([(0, 4097)], "is not a whole number"),
        ([(100, 4096)], "address 0x64, 4096 bytes long, is not a whole number"),
        ([(0, 8192), (4096, 4096)], "overlaps the region before it, which ends at 0x2000"),
        ([(4096, 4096), (4096, 4096)], "overlaps"),
        ([(-4096, 4096)], "overlaps"),
        ([((1 << 52) - 4096, 8192)], "ends past the highest address a processor has, 0x10000000000000"),
    ],
    ids=["none", "empty", "negative", "no pages", "unaligned", "overlap", "twice", "below zero", "too high"],
)
def test_pieces_that_are_no_memory_are_refused(pieces: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Layout(pieces)
