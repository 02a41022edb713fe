import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sharing.memories import Memory, memories
from vmckpt.errors import UsageError
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine.large import LargePages
from vmckpt.pages import PageRange


@given(memory=memories(), per=st.sampled_from([2, 4, 8, 16]))
def test_each_page_is_in_the_large_page_of_its_address(memory: Memory, per: int) -> None:
    large = LargePages(memory.layout, per * PAGE_BYTES)
    expected: dict[int, list[int]] = {}
    for page in range(memory.layout.page_count):
        expected.setdefault(memory.layout.gpa_of(page) // (per * PAGE_BYTES), []).append(page)
    assert large.numbers == list(expected)
    assert len(large) == len(expected)
    for number, pages in expected.items():
        assert list(range(*large.pages_of(number))) == pages
        assert {large.of(page) for page in pages} == {number}


def test_the_hole_below_4_gib_has_no_large_pages() -> None:
    large = LargePages(Layout([(0, 4 << 20), (4 << 30, 2 << 20)]))
    assert large.numbers == [0, 1, 2048]
    assert large.pages_of(2048) == PageRange(1024, 1536)
    with pytest.raises(UsageError, match="no large page 2: expected one of 3, the last of which is 2048"):
        large.pages_of(2)


@pytest.mark.parametrize("size", [0, -4096, 4096, 12288, 4095])
def test_sizes_that_no_large_page_has_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match="power of two above 4096"):
        LargePages(Layout.flat(PAGE_BYTES), size)
