"""The slope of the excess error: least squares through the origin, and three intervals that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evalsuite.errors import ContractError
from evalsuite.statistics.slopes import slope, slope_over_images, slope_over_points, slope_over_seeds

RATIOS = np.array([0.5, 0.7, 0.8, 0.9, 0.95])


def test_it_is_least_squares_without_an_intercept() -> None:
    excess = np.array([0.3, 0.1, 1.2, 1.9, 2.5])
    (expected,), *_ = np.linalg.lstsq(RATIOS[:, None], excess, rcond=None)
    assert slope(RATIOS, excess) == pytest.approx(expected, abs=1e-12)


@given(st.floats(-10, 10), st.integers(1, 5))
def test_points_on_a_line_give_its_slope_and_no_doubt(truth: float, count: int) -> None:
    x = RATIOS[:count]
    assert slope(x, truth * x) == pytest.approx(truth, abs=1e-9)
    assert slope_over_points(x, truth * x, seed=0, replicates=50) == pytest.approx((truth, truth), abs=1e-9)


def test_the_interval_over_images_covers_the_truth_and_agrees_with_the_bootstrap() -> None:
    random = np.random.default_rng(1)
    truth, images, hits = 2.0, 400, 0
    for _ in range(400):
        effect = random.normal(truth, 30, images)  # every image has a slope of its own
        excess = RATIOS[:, None] * effect + random.normal(0, 20, (len(RATIOS), images))
        low, high = slope_over_images(RATIOS, excess)
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.98
    rows = random.integers(0, images, (2000, images))
    contributions = RATIOS @ excess / (RATIOS @ RATIOS)
    expected = np.quantile(contributions[rows].mean(axis=1), (0.025, 0.975))
    assert (low, high) == pytest.approx(tuple(expected), rel=0.1)


def test_the_interval_over_images_is_about_the_slope_of_the_means() -> None:
    excess = np.random.default_rng(0).normal(1, 5, (len(RATIOS), 300))
    low, high = slope_over_images(RATIOS, excess)
    assert (low + high) / 2 == pytest.approx(slope(RATIOS, excess.mean(axis=1)), abs=1e-12)
    assert slope_over_images(RATIOS, excess[:, :1]) == (-np.inf, np.inf)


def test_the_interval_over_seeds_is_students() -> None:
    slopes = np.array([1.7, 2.4, 2.0, 3.1])
    expected = stats.t.interval(0.95, 3, loc=slopes.mean(), scale=stats.sem(slopes))
    assert slope_over_seeds(slopes) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(slope_over_seeds(slopes[:2])).all()


def test_the_interval_of_the_method_counts_the_images_that_all_seeds_share() -> None:
    """Five seeds on the same 200 images; Student's t alone covers the slope on all images in a third of tests."""
    random, hits, alone = np.random.default_rng(3), 0, 0
    for _ in range(400):
        shared = random.normal(2.0, 30, 200)  # what each image says, whatever the seed
        effects = shared + random.normal(0, 0.5, (5, 1))
        means = effects.mean(axis=1)
        low, high = slope_over_images(np.array([1.0]), effects.mean(axis=0)[None])
        ends = slope_over_seeds(means, of_images=(high - low) / 2)
        hits += ends[0] <= 2 <= ends[1]
        ends = slope_over_seeds(means)
        alone += ends[0] <= 2 <= ends[1]
    assert hits / 400 > 0.92
    assert alone / 400 < 0.4


def test_the_published_interval_is_too_narrow_on_correlated_points() -> None:
    random = np.random.default_rng(2)
    hits = 0
    for draw in range(200):
        excess = RATIOS * random.normal(2, 1) + random.normal(
            0, 0.02, len(RATIOS)
        )  # one trajectory: one slope
        low, high = slope_over_points(RATIOS, excess, seed=draw, replicates=200)
        hits += low <= 2 <= high
    assert hits / 200 < 0.3


def test_points_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ContractError, match="2 ratios and 1 excess errors: expected one for each"):
        slope(np.array([0.5, 0.9]), np.array([1.0]))
    with pytest.raises(ContractError, match="0 ratios"):
        slope(np.array([]), np.array([]))
