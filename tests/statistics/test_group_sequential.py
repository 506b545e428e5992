"""Early looks cost no error: critical values against another integral, p-values, bounds, and simulated checks."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import multivariate_normal

from evalsuite.errors import ContractError
from evalsuite.statistics import bootstrap_weights
from evalsuite.statistics.bounds import PairedDrops, bounds_of_many
from evalsuite.statistics.group_sequential import SequentialDesign, predictive_power, stage_sizes
from evalsuite.statistics.repeated_bounds import remaining_power, repeated_bounds
from evalsuite.tolerances import Limit
from evalsuite.types import Array, Metric

ACCURACY = Metric("accuracy", higher_is_better=True, unit="fraction", text="")
SIZES = (250, 500, 1000)


def pair(losses: int, gains: int, n: int) -> tuple[dict[str, Array], dict[str, Array]]:
    parent, candidate = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    candidate[:losses] = False
    parent[losses : losses + gains] = False
    return {"test": parent}, {"test": candidate}


def drops(losses: int, gains: int, n: int, limit: Limit) -> PairedDrops:
    parent, candidate = pair(losses, gains, n)
    return PairedDrops(ACCURACY, [parent], [[candidate]], limit)


def no_weights() -> Any:
    raise AssertionError("rates need no resampling")


@pytest.mark.parametrize("power", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("error", [0.05, 0.001])
def test_the_looks_spend_the_error_together(power: float, error: float) -> None:
    """The joint normal distribution, integrated by another method."""
    design = SequentialDesign(SIZES, power)
    times = design.shares
    correlation = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    critical = design.critical_values(error)
    for looks in (1, 2, 3):
        mean, covariance = np.zeros(looks), correlation[:looks, :looks]
        kept = multivariate_normal.cdf(critical[:looks], mean, covariance, abseps=1e-9, releps=1e-9)
        assert 1 - kept == pytest.approx(error * times[looks - 1] ** power, rel=2e-3)


def test_larger_errors_have_smaller_critical_values_at_every_look() -> None:
    """So that p-values exist, and Holm's procedure may take them."""
    design = SequentialDesign(stage_sizes(10_000))
    table = np.stack([design.critical_values(error) for error in (1e-8, 1e-5, 0.001, 0.025, 0.05, 0.3)])
    assert (np.diff(table, axis=0) < 0).all()


@pytest.mark.parametrize("error", [3e-7, 0.0004, 0.025, 0.05, 0.4])
def test_a_repeated_p_value_is_the_error_at_which_the_look_rejects(error: float) -> None:
    design = SequentialDesign(SIZES)
    for look, z in enumerate(design.critical_values(error)):
        assert design.repeated_p_values(look, ndtr(-z)) == pytest.approx(error, rel=2e-3)


def test_repeated_p_values_are_no_smaller_and_keep_what_is_unknown() -> None:
    design, p = SequentialDesign(SIZES), np.array([0.0, 1e-9, 0.01, 0.2, 0.9, 1.0, np.nan])
    for look in range(3):
        found = design.repeated_p_values(look, p)
        assert (found[:-1] >= p[:-1]).all()
        assert (np.diff(found[:-1]) >= 0).all()
        assert np.isnan(found[-1])
    np.testing.assert_array_equal(SequentialDesign((1000,)).repeated_p_values(0, p), p)


def test_looks_must_rise() -> None:
    with pytest.raises(ContractError, match="rising"):
        SequentialDesign((500, 500))


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (3, 1), (20, 2), (40, 8), (15, 30)])
@pytest.mark.parametrize("look", [0, 1, 2])
def test_limits_and_p_values_of_a_rate_agree(losses: int, gains: int, look: int) -> None:
    design, n = SequentialDesign(SIZES), SIZES[look]
    for tolerance in (0.004, 0.02, 0.05):
        question = drops(losses, gains, n, Limit(tolerance))
        bounds = repeated_bounds(question, design=design, look=look, weights=no_weights)
        if abs(bounds.noninferiority_p[0] - 0.05) > 1e-4:
            assert (bounds.noninferiority_p[0] <= 0.05) == (bounds.upper[0] <= tolerance)
        if abs(bounds.inferiority_p[0] - 0.025) > 1e-4:
            assert (bounds.inferiority_p[0] <= 0.025) == (bounds.lower_simultaneous[0] > tolerance)
        assert bounds.low[0] <= bounds.drop[0] == (losses - gains) / n <= bounds.high[0]


@pytest.mark.parametrize("limit", [Limit(0.02), Limit(0.05, relative=True)])
def test_looking_again_widens_the_bounds_of_any_mean(limit: Limit) -> None:
    random = np.random.default_rng(0)
    parent = random.random(500)
    candidate = np.clip(parent - 0.01 * random.standard_normal(500) - 0.002, 0, 1)
    question = PairedDrops(ACCURACY, [{"test": parent}], [[{"test": candidate}]], limit)
    weights = bootstrap_weights({"test": 500}, replicates=1000, seed=0)
    (once,) = bounds_of_many([question], weights=weights)
    bounds = repeated_bounds(
        question, design=SequentialDesign(SIZES), look=1, weights=lambda: weights, family=3
    )
    assert bounds.low[0] < once.low[0] < once.drop[0] < once.high[0] < bounds.high[0]
    assert bounds.upper[0] > once.upper[0]
    assert bounds.lower_simultaneous[0] < once.lower_simultaneous[0]
    assert bounds.noninferiority_p[0] > once.noninferiority_p[0]
    assert bounds.tolerance == once.tolerance


def test_the_power_that_is_left_is_how_often_a_later_look_decides() -> None:
    """The future drawn at true drops that are as likely as what was measured makes them (a flat prior)."""
    design, errors = SequentialDesign((250, 1000)), (0.025, 0.0025)
    random, deviation = np.random.default_rng(1), 0.25
    truth = 0.01 + deviation / np.sqrt(250) * random.standard_normal(200_000)
    rest = truth + deviation / np.sqrt(750) * random.standard_normal(200_000)
    z = (0.25 * 0.01 + 0.75 * rest) / (deviation / np.sqrt(1000))
    decided = (z > design.critical_values(errors[0])[1]).mean()
    found = predictive_power(design, 0, margin=0.01, deviation=deviation, errors=errors)
    assert found == pytest.approx(decided, abs=0.004)
    assert predictive_power(design, 1, margin=0.01, deviation=deviation, errors=errors) == 0


def test_what_is_clear_is_not_given_up_and_what_lies_at_the_tolerance_is() -> None:
    design, errors = SequentialDesign(SIZES), (0.025, 0.001)
    clear, hopeless = drops(0, 0, 250, Limit(0.02)), drops(60, 50, 500, Limit(0.02))
    assert remaining_power(clear, design=design, look=0, errors=errors) > 0.9
    assert remaining_power(hopeless, design=design, look=1, errors=errors) < 0.05


def simulation() -> Any:
    path = Path(__file__).parents[1] / "benchmarks" / "simulate_sequential.py"
    spec = spec_from_file_location("simulate_sequential", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


RUNS = 400


@pytest.mark.parametrize("shape", ["all at the tolerance", "three fail by .03, others at the tolerance"])
def test_looking_early_costs_no_error(shape: str) -> None:
    """A small version of the benchmark, whose table is in docs/statistics.md."""
    found = simulation().outcome(shape, images=2000, tolerance=0.01, runs=RUNS, seed=5)
    error = np.sqrt(0.025 * 0.975 / RUNS)
    assert found.wrong_inferior <= 0.025 + 3 * error
    assert found.wrong_noninferior <= 0.025 + 3 * error
    assert found.images < 0.9


def test_clear_failures_take_a_quarter_of_the_images() -> None:
    found = simulation().outcome("all fail by .03", images=10_000, tolerance=0.01, runs=100, seed=5)
    assert found.inferior == 1
    assert found.images < 1 / 4


def test_uncorrected_looks_would_err_more_often() -> None:
    """The same simulation without the correction exceeds its level: it can see what it is for."""

    class OneLook(SequentialDesign):
        def repeated_p_values(self, look: int, p_values: Any) -> Any:  # noqa: ARG002
            return np.asarray(p_values)

    module, sizes, runs = simulation(), stage_sizes(2000), 2000
    tolerances = np.full(module.CHECKS, 0.01)
    lost, gained = module.counts(np.random.default_rng(0), runs, sizes, tolerances)
    within, _, _ = module.sequential(OneLook(sizes), lost, gained, 0.01, family=module.CHECKS)
    assert (within <= 0.025).mean() > 0.04
    assert float(ndtri(0.975)) < SequentialDesign(sizes).critical_values(0.025).min()
