"""Sizes and durations, as a person writes and reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.errors import UsageError
from vmckpt.units import format_count, format_duration, format_share, format_size, parse_size, printable


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64K", 64 << 10),
        ("64k", 64 << 10),
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("1.5G", 3 << 29),
        ("2GiB", 2 << 30),
        ("2GB", 2 << 30),
        (" 3 T ", 3 << 40),
        ("1P", 1 << 50),
        ("7B", 7),
        ("2.0", 2),
    ],
)
def test_a_size_is_parsed_in_binary_units(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "K", "-1", "+1", "1.5", "0.3K", "1e3", "64 X", "1,5G", "0x10", "1K 2K", ".5G", "5.G", "nan", "inf"],
    ids=repr,
)
def test_what_is_no_size_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is not a"):
        parse_size(text)


@pytest.mark.parametrize(
    "text",
    ["9" * 5000, "9" * 400 + ".5", "64\N{KELVIN SIGN}", "\N{ARABIC-INDIC DIGIT FOUR}K"],
    ids=["more digits than int takes", "infinite as a float", "Kelvin sign", "other digits"],
)
def test_what_python_alone_would_trip_over_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


@given(count=st.integers(0, 1 << 20), unit=st.sampled_from(["", "K", "M", "G", "T"]))
def test_whole_numbers_of_units_are_exact(count: int, unit: str) -> None:
    assert parse_size(f"{count}{unit}") == count << (10 * ("", "K", "M", "G", "T").index(unit))


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (4096, "4096 B"),
        (65536, "64.0 KiB"),
        (1 << 20, "1.00 MiB"),
        (1643000000, "1.53 GiB"),
        (300 << 20, "300 MiB"),
        (5000 << 40, "5000 TiB"),
        (-65536, "-64.0 KiB"),
    ],
)
def test_a_size_is_written_with_three_digits(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(size_bytes=st.integers(0, 1 << 55))
def test_a_written_size_is_close_to_the_size(size_bytes: int) -> None:
    number, unit = format_size(size_bytes).split()
    value = float(number) * (1 << 10 * ["B", "KiB", "MiB", "GiB", "TiB"].index(unit))
    assert value == pytest.approx(size_bytes, rel=0.006)


@pytest.mark.parametrize(
    ("count", "digits"), [(0, "0"), (999, "999"), (131072, "131,072"), (10**9, "1,000,000,000")]
)
def test_a_count_is_grouped_by_three(count: int, digits: str) -> None:
    text = format_count(count)
    assert digits.split(",") == text.split()
    assert "," not in text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0, "0 µs"),
        (0.00043, "430 µs"),
        (0.0125, "12.5 ms"),
        (0.5, "500 ms"),
        (3.21, "3.21 s"),
        (245, "4 min 05 s"),
        (3600, "60 min 00 s"),
    ],
)
def test_a_duration_is_written_in_its_own_unit(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.raw", "plain name.raw"),
        ("größe 5 µs", "größe 5 µs"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\udcfe", "\\xfe"),
        ("\u202egnp", "\\u202egnp"),
    ],
)
def test_control_characters_are_shown_not_sent(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(("part", "text"), [(0, "0.0 %"), (0.125, "12.5 %"), (1, "100.0 %")])
def test_a_part_is_written_in_per_cent(part: float, text: str) -> None:
    assert format_share(part) == text
