"""Sizes, counts, durations and names: from what a person writes, and to what a person reads. Binary units throughout."""

import re

from vmckpt.errors import UsageError

__all__ = ["format_count", "format_duration", "format_share", "format_size", "parse_size", "printable"]

# ASCII, or the Kelvin sign would be a K; bounded, as int() refuses very long numbers and float() makes them infinite.
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMGTP]?)(?:I?B)?", re.IGNORECASE | re.ASCII)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}


def parse_size(text: str) -> int:
    """The bytes that `4096`, `64K`, `512M`, `1.5G` or `2GiB` stand for.

    Raises:
        UsageError: it is no size, or no whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{text!r} is not a size: expected bytes, or a number with K, M, G or T, such as 64K or 2G"
        )
    number, unit = match.groups()
    if "." not in number:
        return int(number) << _SHIFTS[unit.upper()]
    size = float(number) * (1 << _SHIFTS[unit.upper()])
    if size != int(size):
        raise UsageError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size_bytes: float) -> str:
    """`size_bytes` for a person: `4096 B`, `64.0 KiB`, `1.53 GiB`."""
    if abs(size_bytes) < 10000:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size_bytes /= 1024
        if abs(size_bytes) < 1000 or unit == "TiB":
            break
    digits = 0 if abs(size_bytes) >= 100 else 1 if abs(size_bytes) >= 10 else 2
    return f"{size_bytes:.{digits}f} {unit}"


def format_count(count: int) -> str:
    """`count` with thin groups of three: `131 072`."""
    return f"{count:,}".replace(",", " ")


def format_duration(duration_s: float) -> str:
    """`duration_s` for a person: `430 µs`, `12.5 ms`, `3.21 s`, `4 min 05 s`."""
    if duration_s < 0.001:
        return f"{duration_s * 1e6:.0f} µs"
    if duration_s < 1:
        return f"{duration_s * 1e3:.{1 if duration_s < 0.1 else 0}f} ms"
    if duration_s < 60:
        return f"{duration_s:.2f} s"
    return f"{int(duration_s) // 60} min {int(duration_s) % 60:02d} s"


def format_share(part: float) -> str:
    """A part of a whole, from 0 to 1, for a person: `12.5 %`."""
    return f"{100 * part:.1f} %"


def printable(text: str) -> str:
    """`text` with control characters escaped: names and metadata may come from a hostile file."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a file name that is no UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
