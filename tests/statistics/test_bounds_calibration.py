"""Bounds on drops of the debiased calibration error hold; those of the others would not, so there are none.

A quick version of `tests/benchmarks/simulate_calibration.py`, whose table is in docs/statistics.md.
"""

from __future__ import annotations

import numpy as np
import pytest

from evalsuite.metrics import FUNCTIONALS, evaluate
from evalsuite.statistics import BIASED, bootstrap_weights, mean_bounds
from evalsuite.types import Array, Metric

N, TESTS = 600, 120
WEIGHTS = bootstrap_weights({"test": N}, replicates=200, seed=0)
SQUARED, PLAIN = (
    Metric(name, higher_is_better=False, unit="", text="", functional=name)
    for name in ("ece_l2_squared_debiased", "ece_equal_width")
)


def sample(gap: float, random: np.random.Generator) -> Array:
    """Images whose true accuracy is their confidence less `gap`."""
    sure = 0.3 + 0.7 * random.beta(3, 1, N)
    return np.column_stack([sure, random.random(N) < sure - gap])


@pytest.mark.parametrize(("parent", "candidate"), [(0.0, 0.05), (0.0, 0.1), (0.1, 0.03)])
def test_the_bounds_of_the_debiased_square_hold(parent: float, candidate: float) -> None:
    random = np.random.default_rng([round(100 * parent), round(100 * candidate)])
    truth = candidate**2 - parent**2
    held = []
    for _ in range(TESTS):
        pair = [{"test": sample(gap, random)} for gap in (parent, candidate)]
        bounds = mean_bounds(SQUARED, pair[:1], [pair[1:]], weights=WEIGHTS)
        low, high = bounds.low[0], bounds.high[0]
        held.append((bounds.upper[0] >= truth, low <= truth <= high, bounds.lower_simultaneous[0] <= truth))
    upper, inside, floor = np.mean(held, axis=0)
    error = np.sqrt(0.05 * 0.95 / TESTS)
    assert upper >= 0.95 - 2 * error
    assert inside >= 0.95 - 2 * error
    assert floor >= 0.975 - 2 * error


def test_such_a_bound_of_the_plain_error_would_not_hold() -> None:
    """Noise hides the parent's calibration: its error is too high, and in each resample even higher."""
    random = np.random.default_rng(1)
    held = []
    for _ in range(TESTS):
        pair = [
            evaluate(PLAIN.functional, {"test": sample(gap, random)}, weights=WEIGHTS) for gap in (0.0, 0.05)
        ]
        held.append(np.quantile(pair[1] - pair[0], 0.95) >= 0.05)
    assert np.mean(held) < 0.8
    pair_of = {"test": sample(0.0, random)}
    bounds = mean_bounds(PLAIN, [pair_of], [[{"test": sample(0.05, random)}]], weights=WEIGHTS)
    assert np.isnan([bounds.upper[0], bounds.lower_simultaneous[0]]).all()


def test_every_calibration_error_but_the_debiased_square_is_called_biased() -> None:
    errors = {name for name in FUNCTIONALS if name.startswith("ece") or name == "mce"}
    assert errors - BIASED == {"ece_l2_squared_debiased"}
    assert errors | {"smallest_mean"} >= BIASED


def test_a_worse_candidate_is_not_certified_and_an_equal_one_is() -> None:
    random = np.random.default_rng(2)
    parent, equal, worse = (sample(gap, random) for gap in (0.0, 0.0, 0.2))
    bounds = mean_bounds(
        SQUARED, [{"test": parent}], [[{"test": parent}, {"test": equal}, {"test": worse}]], weights=WEIGHTS
    )
    assert bounds.upper[0] == bounds.lower_simultaneous[0] == 0
    assert bounds.upper[1] < 0.015 < bounds.lower_simultaneous[2] < 0.04 < bounds.upper[2]
