"""What a figure is: a quantity of a contender, alone or against a peer, and the bound that it has to keep. Pure."""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from tests.benchmarks.images import Image
from tests.benchmarks.results import Outcome, Reading, ratio

__all__ = ["Bound", "Quantity", "ReadingTarget", "Target"]


class Bound(Enum):
    """On which side of its bound a value has to lie."""

    AT_LEAST = "≥"
    MORE_THAN = ">"
    AT_MOST = "≤"
    LESS_THAN = "<"

    def holds(self, value: float, bound: float) -> bool:
        """Whether `value` keeps `bound`."""
        if self is Bound.AT_LEAST:
            return value >= bound
        if self is Bound.MORE_THAN:
            return value > bound
        return value <= bound if self is Bound.AT_MOST else value < bound


Quantity = Literal["speed", "size", "time", "memory"]


@dataclass(frozen=True, slots=True)
class Target:
    """One figure: a quantity of one contender, alone or against a peer, on some images."""

    experiment: str
    """Id of the experiment."""
    subject: str
    """Id of the contender that is judged."""
    quantity: Quantity
    """`speed`: the peer's median time over the subject's; `size`: the subject's file over the peer's;
    `time`: seconds; `memory`: bytes of peak proportional set size."""
    bound: Bound
    """On which side of `limit` the value has to lie."""
    limit: float
    """A ratio, seconds or bytes, as the quantity has it."""
    peer: str = ""
    """Id of the contender it is compared with, for the two ratios."""
    sizes_bytes: tuple[int, ...] = ()
    """Sizes of memory it is asked for; empty for all."""
    real_only: bool = True
    """Whether it is asked for real guests only."""

    def applies(self, image: Image) -> bool:
        """Whether it is asked for on `image`."""
        if self.real_only and not image.real:
            return False
        return not self.sizes_bytes or any(image.about(size) for size in self.sizes_bytes)


@dataclass(frozen=True, slots=True)
class ReadingTarget:
    """One figure that was read off: alone, or as so many times a peer's."""

    experiment: str
    """Id of the experiment."""
    subject: str
    """Id of the contender that is judged."""
    quantity: str
    """The reading's; where it ends in `*`, every one that begins so."""
    bound: Bound
    """On which side of `limit` the value has to lie."""
    limit: float
    """In the reading's unit; a ratio where there is a peer."""
    peer: str = ""
    """Id of the contender that it is divided by."""
    image: str = ""
    """Where it is asked for; empty: everywhere."""
    peer_image: str = ""
    """Where the same contender has what it is divided by."""
    every_run: bool = False
    """The worst run is judged, not the median."""

    def applies(self, reading: Reading) -> bool:
        """Whether it is asked of `reading`."""
        stem = self.quantity.removesuffix("*")
        same = reading.quantity.startswith(stem) if stem != self.quantity else reading.quantity == stem
        ids = (reading.experiment, reading.contender)
        return same and ids == (self.experiment, self.subject) and self.image in {"", reading.image}

    def value(self, outcome: Outcome, reading: Reading) -> float | None:
        """What is judged of `reading`; None where there is nothing to divide by."""
        if (spread := reading.spread) is None:
            return None
        if not self.peer and not self.peer_image:
            worst = spread.low if self.bound in {Bound.AT_LEAST, Bound.MORE_THAN} else spread.high
            return worst if self.every_run else spread.median
        peer = outcome.reading(
            self.experiment, self.peer_image or reading.image, self.peer or self.subject, reading.quantity
        )
        return None if peer is None or peer.spread is None else ratio(spread.median, peer.spread.median)
