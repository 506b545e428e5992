"""Intervals of single numbers: closed forms, the bootstrap, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr

from evalsuite.metrics import evaluate
from evalsuite.statistics import bootstrap_weights, marginal_interval, wilson


def test_a_rate_has_wilsons_interval() -> None:
    right = np.arange(200) < 104
    assert marginal_interval("mean", {"test": right}) == wilson(104, 200)
    assert marginal_interval("mean", {"test": right}, level=0.8) == wilson(104, 200, level=0.8)


def test_a_mean_has_the_normal_one() -> None:
    losses = np.random.default_rng(0).exponential(size=500)
    low, high = marginal_interval("mean", {"test": losses}) or (0, 0)
    assert (low, high) == pytest.approx(
        stats.norm.interval(0.95, losses.mean(), stats.sem(losses)), abs=1e-12
    )


def test_what_is_certain_in_all_images_is_not_certain_of_others() -> None:
    for value in (0.0, 1.0):
        expected = wilson(int(40 * value), 40)
        assert marginal_interval("mean", {"test": np.full(40, value)}) == expected
        scores = {"test": np.zeros(40), "far": np.full(60, 2 * value - 1)}
        assert marginal_interval("auroc", scores) == expected
    assert marginal_interval("mean", {"test": np.array([0.4])}) is None
    assert marginal_interval("auroc", {"test": np.array([0.4]), "far": np.arange(9)}) is None


@pytest.mark.parametrize("functional", ["mean_auroc", "mean_aupr_out", "mean_aupr_in"])
@pytest.mark.parametrize("names", [("near",), ("near", "far")])
def test_a_ranking_has_the_spread_of_the_bootstrap(functional: str, names: tuple[str, ...]) -> None:
    """Of one set with ties, and of the mean over two that share the in-distribution images."""
    random = np.random.default_rng(1)
    sets = {"near": random.normal(0.6, size=900), "far": random.normal(1.5, 2, size=2400)}
    evidence = {"test": np.round(random.normal(size=1800), 1)}
    evidence |= {name: np.round(sets[name], 1) for name in names}
    sizes = {name: len(values) for name, values in evidence.items()}
    weights = bootstrap_weights(sizes, replicates=1000, seed=0)
    spread = float(evaluate(functional, evidence, weights=weights).std())
    low, high = marginal_interval(functional, evidence) or (0, 0)
    value = float(evaluate(functional, evidence))
    assert (high - low) / 2 == pytest.approx(1.959964 * spread, rel=0.1)
    assert (high + low) / 2 == pytest.approx(value, abs=0.3 * spread)


def test_the_truth_is_inside_as_often_as_promised() -> None:
    """2,000 samples: 93 to 97 of a hundred."""
    random = np.random.default_rng(2)
    truth = float(ndtr(1 / np.sqrt(2)))  # P(N(1, 1) > N(0, 1))
    held = {"area": 0, "mean": 0}
    for _ in range(2000):
        low, high = marginal_interval(
            "auroc", {"t": random.normal(size=80), "f": random.normal(1, size=60)}
        ) or (
            2,
            2,
        )
        held["area"] += low <= truth <= high
        low, high = marginal_interval("mean", {"t": random.binomial(5, 0.7, 100) / 5}) or (2, 2)
        held["mean"] += low <= 0.7 <= high
    assert all(0.93 < count / 2000 < 0.97 for count in held.values()), held


@pytest.mark.parametrize("functional", ["auroc", "aupr_in", "mean_auroc"])
def test_the_truth_is_inside_where_hardly_an_image_is_in_doubt(functional: str) -> None:
    """A separation of 0.998, for which a normal interval is too short."""
    random = np.random.default_rng(5)
    truth = {
        "auroc": float(ndtr(4 / np.sqrt(2))),
        "aupr_in": 0.9988185784730476,
    }  # as simulate_intervals.py has it
    truth["mean_auroc"] = (truth["auroc"] + float(ndtr(5 / np.hypot(1, 1.5)))) / 2
    held = 0
    for _ in range(800):
        evidence = {"t": random.normal(size=400), "f": random.normal(4, size=200)}
        if functional.startswith("mean"):
            evidence["g"] = random.normal(5, 1.5, size=200)
        low, high = marginal_interval(functional, evidence) or (2, 2)
        held += low <= truth[functional] <= high
    assert held > 0.95 * 800


@pytest.mark.parametrize("functional", ["auroc", "aupr_in", "aupr_out"])
def test_one_error_narrows_no_interval(functional: str) -> None:
    """Of 20 outliers, one below one of 2,000 test images: it tells little of where others may be."""
    test = np.linspace(0, 1, 2000)
    few = np.linspace(2, 3, 20)
    none = marginal_interval(functional, {"t": test, "f": few}) or (0, 0)
    few[0] = test[-2] + 1e-9
    one = marginal_interval(functional, {"t": test, "f": few}) or (0, 0)
    assert one[0] < 0.95
    assert none[0] < one[0]  # Wilson's interval of 20 images


def test_constant_scores_of_a_few_images_say_little() -> None:
    for functional in ("auroc", "aupr_out"):
        low, high = marginal_interval(functional, {"t": np.zeros(3), "f": np.zeros(3)}) or (0, 0)
        assert low < 0.3
        assert high > 0.7


SIXTEENTHS = st.lists(st.integers(0, 16), min_size=2, max_size=20)


@settings(max_examples=60)
@given(SIXTEENTHS, SIXTEENTHS)
def test_the_number_is_inside_and_both_are_shares(first: list[int], second: list[int]) -> None:
    one, other = np.array(first) / 16, np.array(second) / 16
    pair = {"t": one, "f": other}
    for functional, evidence in (("mean", {"t": one}), *((name, pair) for name in (*RANKED, *RATES))):
        low, high = marginal_interval(functional, evidence) or (-1, -1)
        assert 0 <= low <= float(evaluate(functional, evidence)) + 1e-12
        assert float(evaluate(functional, evidence)) - 1e-12 <= high <= 1


def test_the_others_have_none() -> None:
    sure = np.column_stack([np.full(9, 0.7), np.ones(9)])
    assert marginal_interval("ece_equal_width", {"test": sure}) is None
    assert marginal_interval("median", {"test": np.arange(9.0)}) is None
    assert marginal_interval("relative_mce", {"test": np.arange(9.0), "far": np.arange(9.0)}) is None


RANKED = ("auroc", "aupr_out", "aupr_in")
RATES = ("fpr95_ood_positive", "fpr95_id_positive")


@pytest.mark.parametrize("apart", [0.5, 2.0])
def test_the_truth_of_a_false_positive_rate_is_inside(apart: float) -> None:
    """More sizes and distances: `tests/benchmarks/simulate_intervals.py`."""
    random = np.random.default_rng(3)
    cut = ndtr(-apart - stats.norm.ppf(0.05)), ndtr(stats.norm.ppf(0.95) - apart)
    wider = (ndtr(-apart - 1 - 1.5 * stats.norm.ppf(0.05)), ndtr((stats.norm.ppf(0.95) - apart - 1) / 1.5))
    held = dict.fromkeys((*RATES, *(f"mean_{name}" for name in RATES)), 0)
    for _ in range(400):
        test, far = random.normal(size=400), random.normal(apart, size=300)
        farther = random.normal(apart + 1, 1.5, size=200)
        for name, one, other in zip(RATES, cut, wider, strict=True):
            for functional, evidence, truth in (
                (name, {"t": test, "f": far}, one),
                (f"mean_{name}", {"t": test, "f": far, "g": farther}, (one + other) / 2),
            ):
                low, high = marginal_interval(functional, evidence) or (2, 2)
                held[functional] += bool(low <= truth <= high)
    assert all(count > 0.93 * 400 for count in held.values()), held


def test_both_conventions_are_one_with_sides_and_signs_swapped() -> None:
    random = np.random.default_rng(4)
    test, far = random.normal(size=90), random.normal(1, size=70)
    for out, inside in (("fpr95_ood_positive", "fpr95_id_positive"), ("aupr_out", "aupr_in")):
        there = marginal_interval(out, {"t": test, "f": far})
        assert there == pytest.approx(marginal_interval(inside, {"t": -far, "f": -test}), abs=1e-12)
        assert there == pytest.approx(marginal_interval(f"mean_{out}", {"t": test, "f": far}), abs=1e-12)


def test_the_images_that_are_counted_have_wilsons_interval_where_the_others_set_no_doubt() -> None:
    """The outliers all have one score, so that only the share of the test images beyond it is in doubt."""
    test = np.arange(200.0)
    low, high = marginal_interval("fpr95_ood_positive", {"t": test, "f": np.full(500, 180.0)}) or (0, 0)
    assert (low, high) == pytest.approx(wilson(20, 200))


def test_few_outliers_say_little_about_their_quantile() -> None:
    """The score that 95 % of all outliers reach may lie below all of 30: every test image may be flagged."""
    low, high = marginal_interval(
        "fpr95_ood_positive", {"t": np.arange(40.0), "f": np.arange(30.0) + 50}
    ) or (
        0,
        0,
    )
    assert (low, high) == (0, 1)
