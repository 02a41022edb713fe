"""How sure a count is that was made of a sample: intervals for binomial counts, in plain Python.

Of `total` contents each was kept with probability `fraction`, and `kept` were. The interval for `total` is exact
(Clopper and Pearson, by the tails of the binomial distribution) where few were kept, and the score interval of the
normal distribution above: DataSketches' theta sketches draw the line at 120 as well.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

__all__ = ["binomial_interval", "normal_quantile", "tail", "weighted_interval"]

_EXACT_BELOW = 120
_STEPS = 45


def normal_quantile(confidence: float) -> float:
    """How many standard deviations to either side hold `confidence` of a normal distribution: 1.96 of 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def binomial_interval(kept: float, fraction: float, confidence: float) -> tuple[float, float]:
    """The interval for the total, `kept` of which were kept; `kept` need be no whole number."""
    if fraction >= 1:
        return kept, kept
    if kept > _EXACT_BELOW:
        return _score_interval(kept, fraction, normal_quantile(confidence))
    beyond = (1 - confidence) / 2
    low = 0.0 if kept <= 0 else _solve(lambda total: tail(kept, total, fraction) - beyond, kept)
    return low, _solve(lambda total: beyond - 1 + tail(kept + 1, total, fraction), kept)


def weighted_interval(
    total_weight: float, total_square: float, fraction: float, confidence: float, heaviest: float
) -> tuple[float, float]:
    """The interval for the sum of weights of all contents, from those that were kept.

    A binomial count of contents of one weight, which is chosen so that the variance is the estimate of the true one; where
    all weights are the same this is `binomial_interval`.

    Args:
        total_weight: the sum of the weights that were kept.
        total_square: the sum of their squares.
        fraction: that was kept.
        confidence: of the interval.
        heaviest: the most that one content may weigh; stands in where nothing was kept.
    """
    weight = total_square / total_weight if total_weight else heaviest
    low, high = binomial_interval(total_weight / weight if weight else 0.0, fraction, confidence)
    return low * weight, high * weight


def tail(kept: float, total: float, fraction: float) -> float:
    """P(X >= kept) of a binomial X of `total` trials: the incomplete beta function I_fraction(kept, total - kept + 1)."""
    if kept <= 0:
        return 1.0
    a, b = kept, total - kept + 1
    if b <= 0:
        return 0.0
    scale = math.exp(
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(fraction)
        + b * math.log1p(-fraction)
    )
    if fraction < (a + 1) / (a + b + 2):
        return scale * _continued(a, b, fraction) / a
    return 1 - scale * _continued(b, a, 1 - fraction) / b


def _continued(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method (Numerical Recipes, 6.4)."""
    tiny = 1e-300
    c, d = 1.0, 1 / _apart(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _apart(1 + term * d, tiny)
            c = _apart(1 + term / c, tiny)
            result *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return result


def _apart(number: float, tiny: float) -> float:
    return number if abs(number) > tiny else tiny


def _score_interval(kept: float, fraction: float, quantile: float) -> tuple[float, float]:
    # The totals whose expected count lies `quantile` of its own standard deviations from `kept`.
    middle = 2 * kept + quantile**2 * (1 - fraction)
    spread = math.sqrt(middle**2 - 4 * kept**2)
    return (middle - spread) / (2 * fraction), (middle + spread) / (2 * fraction)


def _solve(ascending: Callable[[float], float], low: float) -> float:
    """Where a function that ascends with the total becomes positive, from `low` on."""
    if ascending(low) >= 0:
        return low
    high = max(2 * low, 1.0)
    while ascending(high) < 0:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if ascending(middle) < 0 else (low, middle)
    return high
