"""The palette of the pages, and how well one colour stands out on another."""

import re

from vmckpt.charts.style import STYLE

__all__ = ["blend", "contrast", "palettes"]


def palettes() -> list[dict[str, str]]:
    """Colours by name: of the light theme, and of the dark one."""
    texts = re.findall(r"^--page:.*?color-scheme", STYLE, flags=re.MULTILINE | re.DOTALL)[:2]
    return [dict(re.findall(r"--([a-z]+):(#[0-9a-f]+)", text)) for text in texts]


def _parts(colour: str) -> list[int]:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    return [int(digits[at : at + 2], 16) for at in (0, 2, 4)]


def blend(colour: str, ground: str, opacity: float) -> str:
    """What a colour that is not opaque looks like on its ground."""
    pairs = zip(_parts(colour), _parts(ground), strict=True)
    return "#" + "".join(f"{round(opacity * one + (1 - opacity) * other):02x}" for one, other in pairs)


def contrast(one: str, other: str) -> float:
    """WCAG 2.1's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
            for part in (value / 255 for value in _parts(colour))
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
