"""Resampling weights, percentile intervals, and intervals of paired drops."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from evalsuite import metrics, statistics
from evalsuite.errors import ContractError, DataError
from evalsuite.types import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalsuite.types import Array

SIZES = {"clean": 200, "letters": 50}


def test_each_row_of_weights_is_a_sample_with_replacement() -> None:
    weights = statistics.bootstrap_weights(SIZES, replicates=400, seed=0)
    for name, n in SIZES.items():
        w = weights[name]
        assert w.shape == (400, n)
        assert (w.sum(axis=1) == n).all()
        assert w.min() == 0
        assert (w == np.round(w)).all()
        assert w.mean(axis=0) == pytest.approx(np.ones(n), abs=5 / np.sqrt(400))
        assert w.var(axis=0).mean() == pytest.approx(1 - 1 / n, rel=0.03)  # multinomial


def test_two_images_are_drawn_by_the_binomial_law() -> None:
    first = statistics.bootstrap_weights({"x": 2}, replicates=4000, seed=1)["x"][:, 0]
    counts = Counter(first.tolist())
    assert [counts[k] / 4000 for k in (0, 1, 2)] == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_weights_depend_on_population_and_seed_and_on_nothing_else() -> None:
    first = statistics.bootstrap_weights(SIZES, replicates=20, seed=3)
    alone = statistics.bootstrap_weights({"letters": 50}, replicates=20, seed=3)
    fewer = statistics.bootstrap_weights(SIZES, replicates=7, seed=3)
    np.testing.assert_array_equal(first["letters"], alone["letters"])
    np.testing.assert_array_equal(first["clean"][:7], fewer["clean"])
    other = statistics.bootstrap_weights({"clean": 50, "letters": 50}, replicates=20, seed=3)
    assert (other["clean"] != other["letters"]).any()
    assert (statistics.bootstrap_weights(SIZES, replicates=20, seed=4)["clean"] != first["clean"]).any()


def test_weights_of_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="population 'letters' has 0 images"):
        statistics.bootstrap_weights({"clean": 1, "letters": 0}, replicates=1, seed=0)
    with pytest.raises(DataError, match="0 bootstrap replicates"):
        statistics.bootstrap_weights(SIZES, replicates=0, seed=0)


def test_drop_is_positive_where_the_candidate_is_worse() -> None:
    assert statistics.drop(0.75, 0.5, higher_is_better=True) == 0.25
    assert statistics.drop(0.75, 0.5, higher_is_better=False) == -0.25
    many = statistics.drop(np.array([1.0, 2.0]), np.array([3.0, 1.0]), higher_is_better=False)
    assert many.tolist() == [2.0, -1.0]


def test_interval_holds_the_middle_of_the_replicates_along_the_last_axis() -> None:
    replicates = np.stack([np.arange(1001.0), 5 - np.arange(1001.0)])
    low, high = statistics.interval(replicates)
    assert low.tolist() == pytest.approx([25, 5 - 975])
    assert high.tolist() == pytest.approx([975, 5 - 25])
    low, high = statistics.interval(replicates[0], level=0.9)
    assert (float(low), float(high)) == pytest.approx((50, 950))


@pytest.mark.parametrize("bad", [[], [np.nan, 1.0], [np.inf], 1.0])
def test_interval_of_no_finite_replicates_is_refused(bad: list[float] | float) -> None:
    with pytest.raises(ContractError, match="bootstrap replicates"):
        statistics.interval(np.array(bad))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_levels_are_fractions(level: float) -> None:
    for refused in (
        lambda: statistics.interval(np.ones(3), level=level),
        lambda: statistics.wilson(1, 2, level=level),
        lambda: statistics.paired_rate_interval(1, 0, n=2, level=level),
    ):
        with pytest.raises(ContractError, match="expected a number between 0 and 1"):
            refused()


ACCURACY = Metric("accuracy", higher_is_better=True, unit="fraction", text="")
ERROR = Metric("error", higher_is_better=False, unit="fraction", text="")
NLL = Metric("nll", higher_is_better=False, unit="nats", text="")
ECE = Metric("ece", higher_is_better=False, unit="fraction", text="", functional="ece_equal_width")
AUROC = Metric("auroc", higher_is_better=True, unit="fraction", text="", functional="auroc")


def drop_interval(
    metric: Metric, parent: Mapping[str, Array], candidate: Mapping[str, Array], *, seed: int = 0
) -> tuple[float, float]:
    sizes = {name: len(x) for name, x in parent.items()}
    weights = statistics.bootstrap_weights(sizes, replicates=300, seed=seed)
    return statistics.paired_drop_interval(metric, parent=parent, candidate=candidate, weights=weights)


def test_rates_get_the_score_interval_with_the_direction_of_the_metric() -> None:
    parent = np.repeat([True, True, False, False], [900, 30, 10, 60])
    candidate = np.repeat([True, False, True, False], [900, 30, 10, 60])
    low, high = drop_interval(ACCURACY, {"clean": parent}, {"clean": candidate})
    assert (low, high) == statistics.paired_rate_interval(30, 10, n=1000)
    wrong = drop_interval(ERROR, {"clean": ~parent}, {"clean": ~candidate})
    assert wrong == (low, high)
    assert drop_interval(ACCURACY, {"clean": candidate}, {"clean": parent}) == (-high, -low)


def test_a_rate_without_discordant_images_is_not_certain() -> None:
    ten = {"clean": np.ones(10)}
    assert drop_interval(ACCURACY, ten, ten) == statistics.paired_rate_interval(0, 0, n=10)


def test_scores_of_zero_and_one_are_no_rate() -> None:
    random = np.random.default_rng(15)
    parent = {"clean": random.random(80) < 0.1, "letters": random.random(60) < 0.9}
    candidate = {"clean": random.random(80) < 0.3, "letters": random.random(60) < 0.7}
    low, high = drop_interval(AUROC, parent, candidate)
    estimate = float(metrics.evaluate("auroc", parent) - metrics.evaluate("auroc", candidate))
    assert low < estimate < high
    assert (low, high) != statistics.paired_rate_interval(
        int((parent["clean"] & ~candidate["clean"]).sum()),
        int((candidate["clean"] & ~parent["clean"]).sum()),
        n=80,
    )


def test_the_score_interval_and_the_bootstrap_agree_on_many_discordant_images() -> None:
    random = np.random.default_rng(11)
    parent, candidate = random.random(2000) < 0.9, random.random(2000) < 0.85
    weights = statistics.bootstrap_weights({"clean": 2000}, replicates=2000, seed=0)["clean"]
    replicates = metrics.mean(parent, weights=[weights]) - metrics.mean(candidate, weights=[weights])
    expected = statistics.interval(replicates)
    found = drop_interval(ACCURACY, {"clean": parent}, {"clean": candidate})
    assert found == pytest.approx([float(limit) for limit in expected], abs=0.002)


def test_means_of_other_numbers_get_the_paired_bootstrap() -> None:
    random = np.random.default_rng(12)
    parent = random.exponential(size=400)
    candidate = parent + random.normal(0.05, 0.1, 400)
    low, high = drop_interval(NLL, {"clean": parent}, {"clean": candidate})
    gain = candidate - parent
    half = 1.96 * gain.std() / 20
    assert (low, high) == pytest.approx((gain.mean() - half, gain.mean() + half), abs=0.15 * half)
    assert half < 0.02 < 1.96 * parent.std() / 20  # an unpaired interval would be ten times as wide
    assert drop_interval(NLL, {"clean": parent}, {"clean": parent}) == (0.0, 0.0)


def test_two_populations_are_resampled_each_by_its_own_weights() -> None:
    random = np.random.default_rng(13)
    parent = {"clean": random.normal(size=300), "letters": random.normal(2, 1, 200)}
    candidate = {name: x + random.normal(0, 0.7, len(x)) for name, x in parent.items()}
    low, high = drop_interval(AUROC, parent, candidate)
    estimate = float(metrics.evaluate("auroc", parent) - metrics.evaluate("auroc", candidate))
    assert 0 < low < estimate < high < 0.2


def calibrated(n: int, seed: int) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    c = random.uniform(0.5, 0.9, n)
    return c, random.random(n) < c


def test_the_interval_of_a_calibration_error_is_corrected_for_the_noise_of_resampling() -> None:
    """The parent is calibrated, the candidate 0.1 too sure; percentile intervals lie below the true drop."""
    covered = percentile = 0
    for seed in range(40):
        c, a = calibrated(500, seed)
        parent = {"clean": np.stack([c, a], axis=1)}
        candidate = {"clean": np.stack([c + 0.1, a], axis=1)}
        low, high = drop_interval(ECE, parent, candidate, seed=seed)
        covered += low <= 0.1 <= high
        weights = statistics.bootstrap_weights({"clean": 500}, replicates=300, seed=seed)
        pair = [metrics.evaluate("ece_equal_width", x, weights=weights) for x in (parent, candidate)]
        percentile += float(statistics.interval(pair[1] - pair[0])[1]) >= 0.1
    assert covered >= 28
    assert percentile <= covered - 8


def test_the_level_moves_both_limits() -> None:
    random = np.random.default_rng(14)
    parent = {"clean": random.random(100)}
    candidate = {"clean": random.random(100)}
    weights = statistics.bootstrap_weights({"clean": 100}, replicates=300, seed=0)
    wide, narrow = (
        statistics.paired_drop_interval(NLL, parent=parent, candidate=candidate, weights=weights, level=level)
        for level in (0.95, 0.5)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_metric_without_direction_has_no_drop() -> None:
    described = Metric("temperature", higher_is_better=None, unit="1", text="")
    with pytest.raises(ContractError, match="without a direction there is no drop"):
        drop_interval(described, {"clean": np.ones(2)}, {"clean": np.ones(2)})


@pytest.mark.parametrize(
    "candidate",
    [{"clean": np.ones(3)}, {"other": np.ones(2)}, {"clean": np.ones((2, 1))}, {}],
)
def test_a_drop_needs_the_same_images(candidate: dict[str, Array]) -> None:
    with pytest.raises(ContractError, match="measured on the same images"):
        drop_interval(ACCURACY, {"clean": np.ones(2)}, candidate)


def test_populations_in_another_order_are_not_the_same_evidence() -> None:
    a, b = np.ones(2), np.zeros(2)
    with pytest.raises(ContractError, match="measured on the same images"):
        drop_interval(AUROC, {"id": a, "ood": b}, {"ood": b, "id": a})


def test_rates_in_two_columns_are_refused_as_everywhere() -> None:
    two = {"clean": np.ones((5, 2))}
    with pytest.raises(ContractError, match="expected 1 per image"):
        drop_interval(ACCURACY, two, two)
