"""Score intervals of rates against scipy, published tables and brute force, and their coverage."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from scipy.stats import binomtest, multinomial

from evalsuite import statistics
from evalsuite.errors import DataError
from evalsuite.statistics import mcnemar
from evalsuite.statistics.rates import lower_score_quantile, score_limit, score_quantile

if TYPE_CHECKING:
    from evalsuite.types import Array


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 50), (920, 1000), (1, 10**6)])
def test_wilson_agrees_with_scipy(k: int, n: int, level: float) -> None:
    expected = binomtest(k, n).proportion_ci(level, method="wilson")
    assert statistics.wilson(k, n, level=level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_is_exact_at_the_ends() -> None:
    for n in (1, 16, 29, 1000):  # centre plus half-width rounds to less or more than 1 for 16 and 29
        assert statistics.wilson(0, n)[0] == 0.0
        assert statistics.wilson(n, n)[1] == 1.0
        assert statistics.wilson(0, n)[1] == pytest.approx(1.959964**2 / (n + 1.959964**2))


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_have_no_wilson_interval(k: int, n: int) -> None:
    with pytest.raises(DataError, match="successes of"):
        statistics.wilson(k, n)


@pytest.mark.parametrize(
    ("losses", "gains", "n", "level", "expected"),
    [
        # Airway hyper-responsiveness before and after transplantation (Bentur et al. 2009), in Fagerland,
        # Lydersen, Laake 2014, "Recommended tests and confidence intervals for paired binomial proportions"
        (1, 7, 21, 0.95, (-0.517, -0.026)),
        # Complete response before and after consolidation (Cavo et al. 2012), in Fagerland, Lydersen and
        # Laake 2017, "Statistical analysis of contingency tables", chapter 8 (R package contingencytables)
        (6, 16, 161, 0.95, (-0.1240, -0.0054)),
        # R package PropCIs, scoreci.mp(25, 28, 618, 0.90); it reports second rate minus first
        (28, 25, 618, 0.90, (-0.0148, 0.0247)),
    ],
)
def test_tango_agrees_with_published_tables(
    losses: int, gains: int, n: int, level: float, expected: tuple[float, float]
) -> None:
    digits = 3 if n == 21 else 4
    found = statistics.paired_rate_interval(losses, gains, n=n, level=level)
    assert tuple(round(limit, digits) for limit in found) == expected


def log_likelihood(gain_rate: Array, losses: int, gains: int, n: int, difference: float) -> Array:
    rates = np.stack([gain_rate + difference, gain_rate, 1 - 2 * gain_rate - difference], axis=-1)
    return np.asarray(multinomial.logpmf([losses, gains, n - losses - gains], n, np.clip(rates, 0, 1)))


@pytest.mark.parametrize(("losses", "gains", "n"), [(5, 2, 40), (0, 4, 30), (1, 0, 12), (9, 9, 60)])
def test_tango_limits_are_where_the_score_test_turns(losses: int, gains: int, n: int) -> None:
    """The constrained maximum-likelihood rate is found by brute force instead of by Tango's quadratic."""
    z = 1.959963984540054
    for difference in statistics.paired_rate_interval(losses, gains, n=n):
        grid = np.linspace(max(0, -difference), (1 - difference) / 2, 200_001)[1:-1]
        rate = grid[np.nanargmax(log_likelihood(grid, losses, gains, n, difference))]
        variance = (2 * rate + difference - difference**2) / n
        score = ((losses - gains) / n - difference) / np.sqrt(variance)
        assert abs(score) == pytest.approx(z, abs=2e-3)


def test_perfect_agreement_still_has_a_width() -> None:
    low, high = statistics.paired_rate_interval(0, 0, n=1000)
    assert high == pytest.approx(1.959964**2 / (1000 + 1.959964**2), rel=1e-6)
    assert low == -high


def test_tango_at_the_ends() -> None:
    assert statistics.paired_rate_interval(8, 0, n=8)[1] == 1.0
    assert statistics.paired_rate_interval(0, 8, n=8)[0] == -1.0
    low, high = statistics.paired_rate_interval(1, 0, n=1)
    assert -1 < low < 1 == high


@settings(max_examples=100)
@given(data=st.data(), n=st.integers(1, 3000))
def test_tango_is_ordered_antisymmetric_and_nested(data: st.DataObject, n: int) -> None:
    losses = data.draw(st.integers(0, n))
    gains = data.draw(st.integers(0, n - losses))
    low, high = statistics.paired_rate_interval(losses, gains, n=n)
    assert -1 <= low <= (losses - gains) / n <= high <= 1
    assert low < high
    swapped = statistics.paired_rate_interval(gains, losses, n=n)
    assert swapped == (-high, -low)
    inner_low, inner_high = statistics.paired_rate_interval(losses, gains, n=n, level=0.8)
    assert low <= inner_low < inner_high <= high


@pytest.mark.parametrize(("losses", "gains", "n"), [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_have_no_paired_interval(losses: int, gains: int, n: int) -> None:
    with pytest.raises(DataError, match="discordant of"):
        statistics.paired_rate_interval(losses, gains, n=n)


@pytest.mark.parametrize("rates", [(0.03, 0.03), (0.06, 0.02), (0.01, 0.0)])
def test_tango_covers_the_truth(rates: tuple[float, float]) -> None:
    random = np.random.default_rng(10)
    draws = random.multinomial(300, [*rates, 1 - sum(rates)], 2000)
    truth, covered = rates[0] - rates[1], 0
    for (losses, gains, _), times in Counter(map(tuple, draws.tolist())).items():
        low, high = statistics.paired_rate_interval(losses, gains, n=300)
        covered += times * (low <= truth <= high)
    assert 0.935 <= covered / 2000 <= 0.985


Z = 1.6448536269514722


@pytest.mark.parametrize(("losses", "gains", "n"), [(5, 2, 40), (0, 4, 30), (1, 0, 60), (9, 9, 60)])
def test_corrected_limits_are_where_the_corrected_score_test_turns(losses: int, gains: int, n: int) -> None:
    """Rates by brute force, moments from the distribution itself, and Cornish and Fisher's quantile."""
    difference = float(statistics.score_limit(losses, gains, n=n, z=Z, corrected=True))
    grid = np.linspace(max(0, -difference), (1 - difference) / 2, 200_001)[1:-1]
    gain = grid[np.nanargmax(log_likelihood(grid, losses, gains, n, difference))]
    rates = np.array([gain + difference, gain, 1 - 2 * gain - difference])
    deviations = np.array([1.0, -1.0, 0.0]) - difference
    variance, third = (float(rates @ deviations**power) for power in (2, 3))
    score = ((losses - gains + 0.5) / n - difference) / np.sqrt(variance / n)
    skewness = third / variance**1.5 / np.sqrt(n)
    assert score == pytest.approx(-Z + (Z * Z - 1) / 6 * skewness, abs=3e-3)


def error_rate(n: int, tolerance: float, gain: float, *, z: float, lower: bool, corrected: bool) -> float:
    """How often the limit of a candidate that loses just the tolerance is on its wrong side, by exact sums."""
    loss = gain + tolerance
    lost, gained = (
        np.arange(max(0, int(n * p - 8 * np.sqrt(n * p) - 2)), int(n * p + 8 * np.sqrt(n * p) + 12))
        for p in (loss, gain)
    )
    if not gain:
        gained = np.zeros(1, dtype=int)
    x, y = np.meshgrid(lost, gained, indexing="ij")
    counts = np.stack([x, y, n - x - y], axis=-1)
    shares = np.exp(multinomial.logpmf(counts, n, [loss, gain, 1 - loss - gain]))
    assert shares.sum() == pytest.approx(1, abs=1e-9)
    if lower:
        wrong = -statistics.score_limit(y, x, n=n, z=z, corrected=corrected) > tolerance
    else:
        wrong = statistics.score_limit(x, y, n=n, z=z, corrected=corrected) < tolerance
    return float(shares[wrong].sum())


@pytest.mark.parametrize("gain", [0.0, 0.0005, 0.005, 0.03])
@pytest.mark.parametrize(
    ("n", "tolerance"), [(100, 0.05), (300, 0.01), (900, 0.005), (1000, 0.02), (3000, 0.02)]
)
def test_corrected_limits_never_err_more_often_than_they_say(n: int, tolerance: float, gain: float) -> None:
    assert error_rate(n, tolerance, gain, z=Z, lower=False, corrected=True) <= 0.05
    assert error_rate(n, tolerance, gain, z=1.959964, lower=True, corrected=True) <= 0.025


def test_plain_limits_do_where_few_losses_are_expected() -> None:
    assert error_rate(900, 0.005, 0.0, z=Z, lower=False, corrected=False) > 0.06
    assert error_rate(300, 0.01, 0.005, z=1.959964, lower=True, corrected=False) > 0.04


def test_corrected_limits_of_no_discordance_follow_the_rule_of_three() -> None:
    limit = statistics.score_limit([0], [0], n=10_000, z=Z, corrected=True)
    assert float(limit[0]) == pytest.approx(-np.log(0.05) / 10_000, rel=0.05)


def test_limits_broadcast_and_take_effective_numbers() -> None:
    many = statistics.score_limit([3.5, 7], [1, 2], n=[100, 200], z=[[1.0], [2.0]])
    assert many.shape == (2, 2)
    assert float(many[1, 1]) == pytest.approx(
        statistics.paired_rate_interval(7, 2, n=200, level=0.9545)[1], abs=1e-4
    )


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (1, 7), (7, 1), (5, 5), (40, 12), (0, 9)])
def test_mcnemars_p_value_is_that_of_an_exact_binomial_test(losses: int, gains: int) -> None:
    expected = binomtest(losses, losses + gains).pvalue if losses + gains else 1.0
    assert mcnemar(losses, gains) == pytest.approx(expected, abs=1e-12)
    assert mcnemar(losses, gains) == mcnemar(gains, losses)


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([120, 900, 10_000]), st.floats(0.2, 3.0))
def test_a_quantile_is_where_the_corrected_limit_meets_it(losses: int, gains: int, n: int, z: float) -> None:
    """Back and forth, where the correction is far from its end."""
    meets = float(score_limit(losses, gains, n=n, z=z, corrected=True))
    found = float(score_quantile(losses, gains, n=n, limit=meets))
    assert found == pytest.approx(z, abs=1e-6) or found < z


def test_every_difference_is_within_one() -> None:
    assert score_quantile([0, 50], [0, 3], n=50, limit=[1.0, 2.0]).tolist() == [np.inf, np.inf]
    assert score_quantile(0, 0, n=50, limit=0.0) < -10


def size_of_inferiority(n: int, tolerance: float, gains: float, error: float) -> float:
    """How often a drop that equals the tolerance is called inferior, summed over all outcomes."""
    losses = gains + tolerance
    lost = np.arange(int(n * losses + 12 * np.sqrt(n * losses + 1) + 30))
    gained = np.arange(int(n * gains + 12 * np.sqrt(n * gains + 1) + 30))
    chance = stats.binom.pmf(lost, n, losses)[:, None] * stats.binom.pmf(
        gained[None], n - lost[:, None], gains / (1 - losses)
    )
    z = lower_score_quantile(lost[:, None], gained[None], n=n, limit=tolerance)
    return float(chance[z >= -special.ndtri(error)].sum())


@pytest.mark.parametrize("error", [0.025, 6.7e-5, 3e-6])
@pytest.mark.parametrize("tolerance", [0.002, 0.01, 0.05])
@pytest.mark.parametrize(("n", "gains"), [(100, 0.0), (300, 0.01), (1000, 0.001), (3000, 0.0), (3000, 0.04)])
def test_inferiority_errs_at_most_as_often_as_stated_far_into_the_tail(
    n: int, gains: float, tolerance: float, error: float
) -> None:
    assert size_of_inferiority(n, tolerance, gains, error) <= error


def test_no_drop_is_above_a_tolerance_of_one() -> None:
    assert lower_score_quantile(5, 0, n=5, limit=1.0) == -np.inf
