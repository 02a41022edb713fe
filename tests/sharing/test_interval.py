"""Intervals of binomial counts, against sums over the distribution itself."""

import math

import pytest

from vmckpt.sharing.interval import binomial_interval, normal_quantile, tail, weighted_interval


def summed(kept: int, total: int, fraction: float) -> float:
    """P(X >= kept), term by term."""
    return sum(
        math.comb(total, x) * fraction**x * (1 - fraction) ** (total - x) for x in range(kept, total + 1)
    )


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("total", [1, 7, 60, 300])
def test_the_tail_is_the_sum_of_its_terms(total: int, fraction: float) -> None:
    for kept in range(total + 1):
        assert tail(kept, total, fraction) == pytest.approx(summed(kept, total, fraction), abs=1e-12)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize("fraction", [1 / 4, 1 / 64, 1 / 1024])
@pytest.mark.parametrize("kept", [0, 1, 5, 40])
def test_few_kept_give_the_totals_whose_tails_are_not_too_unlikely(
    kept: int, fraction: float, confidence: float
) -> None:
    low, high = binomial_interval(kept, fraction, confidence)
    beyond = (1 - confidence) / 2
    if low > kept:  # no total is less than what was kept
        assert tail(kept, low, fraction) == pytest.approx(beyond, rel=1e-6)
    else:
        assert low == kept
        assert tail(kept, low, fraction) >= beyond or not kept
    assert 1 - tail(kept + 1, high, fraction) == pytest.approx(beyond, rel=1e-6)


@pytest.mark.parametrize("fraction", [1 / 4, 1 / 64, 1 / 1024])
def test_the_exact_and_the_normal_interval_meet(fraction: float) -> None:
    below, above = (binomial_interval(kept, fraction, 0.95) for kept in (120, 121))
    assert above[0] == pytest.approx(below[0], rel=0.02)
    assert above[1] == pytest.approx(below[1], rel=0.02)


@pytest.mark.parametrize(("total", "fraction"), [(40, 0.25), (300, 1 / 16), (3000, 1 / 16), (2000, 1 / 4)])
def test_the_interval_holds_the_truth_as_often_as_it_says(total: int, fraction: float) -> None:
    holds = 0.0
    for kept in range(total + 1):
        low, high = binomial_interval(kept, fraction, 0.95)
        if low <= total <= high:
            holds += math.exp(
                math.lgamma(total + 1)
                - math.lgamma(kept + 1)
                - math.lgamma(total - kept + 1)
                + kept * math.log(fraction)
                + (total - kept) * math.log1p(-fraction)
            )
    assert 0.94 <= holds <= 0.99


def test_a_fraction_of_one_leaves_no_doubt() -> None:
    assert binomial_interval(17, 1.0, 0.95) == (17, 17)


def test_equal_weights_give_the_binomial_interval_times_the_weight() -> None:
    low, high = binomial_interval(30, 0.1, 0.9)
    assert weighted_interval(90, 270, 0.1, 0.9, 3) == pytest.approx((3 * low, 3 * high))


def test_where_nothing_was_kept_the_heaviest_weight_counts() -> None:
    _, high = binomial_interval(0, 0.1, 0.9)
    assert weighted_interval(0, 0, 0.1, 0.9, 5) == pytest.approx((0, 5 * high))


def test_the_quantile_is_the_one_of_every_table() -> None:
    assert normal_quantile(0.95) == pytest.approx(1.959964, abs=1e-6)
