"""The noise floor of the calibration error: against exact sums, and against calibrated networks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from evalsuite import metrics
from evalsuite.errors import ContractError, DataError


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (10, 0.9), (100, 0.7), (1000, 0.99)])
def test_one_confidence_has_the_mean_deviation_of_a_binomial(n: int, p: float) -> None:
    k = np.arange(n + 1)
    deviation, weight = np.abs(k / n - p), binom.pmf(k, n, p)
    mean = float(deviation @ weight)
    spread = float(np.sqrt(np.square(deviation - mean) @ weight / 2000))
    floor, limit = metrics.ece_by_chance(np.full(n, p), seed=1, draws=2000)
    assert floor == pytest.approx(mean, abs=4 * spread + 1e-12)
    above = weight[deviation > limit + 1e-9].sum()
    assert above <= 0.05 + 0.02
    assert weight[deviation >= limit - 1e-9].sum() >= 0.05 - 0.02


def test_the_published_size_of_it() -> None:
    """About .022 at 500 images, .016 at 1,000 and .005 at 10,000: it falls as one over the root."""
    c = np.random.default_rng(0).beta(8, 1, 10_000)
    floors = [metrics.ece_by_chance(c[:n], seed=0)[0] for n in (500, 1000, 10_000)]
    ratios = np.divide(floors[:2], floors[2]) / np.sqrt([20, 10])
    assert (np.abs(ratios - 1) < 0.25).all()
    assert 0.015 < floors[0] < 0.045


def test_calibrated_networks_exceed_the_limit_in_one_of_twenty() -> None:
    random = np.random.default_rng(5)
    c = random.beta(5, 1, 300)
    floor, limit = metrics.ece_by_chance(c, seed=0)
    errors = np.array([metrics.ece_equal_width(c, random.random(300) < c) for _ in range(600)])
    assert errors.mean() == pytest.approx(floor, rel=0.05)
    assert 0.02 < (errors > limit).mean() < 0.09
    assert metrics.ece_equal_width(c, random.random(300) < c - 0.15) > limit


def test_draws_have_an_address() -> None:
    c = np.random.default_rng(6).random(200)
    assert metrics.ece_by_chance(c, seed=0) == metrics.ece_by_chance(c, seed=0)
    assert metrics.ece_by_chance(c, seed=0) != metrics.ece_by_chance(c, seed=1)


def test_no_error_by_chance_where_all_predictions_are_certain() -> None:
    assert metrics.ece_by_chance(np.array([0.0, 1.0, 1.0]), seed=0) == (0.0, 0.0)


def test_malformed_confidences_are_refused() -> None:
    with pytest.raises(ContractError, match=r"from 0.5 to 1.5, expected probabilities"):
        metrics.ece_by_chance(np.array([0.5, 1.5]), seed=0)
    with pytest.raises(DataError, match="confidence is empty"):
        metrics.ece_by_chance(np.array([]), seed=0)
    with pytest.raises(ContractError, match="0 bins"):
        metrics.ece_by_chance(np.array([0.5]), seed=0, bins=0)
