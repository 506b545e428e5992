"""Out-of-distribution metrics against scikit-learn, pytorch-ood and scipy, ties included."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from evalsuite import metrics
from evalsuite.errors import ContractError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.types import Array

    Functional = Callable[..., Array]

ALL = (
    metrics.auroc,
    metrics.aupr_out,
    metrics.aupr_in,
    metrics.fpr95_ood_positive,
    metrics.fpr95_id_positive,
)


def imported(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oracles may warn about their own dependencies when imported
        return importlib.import_module(module)


def scores(kind: str) -> tuple[Array, Array]:
    random = np.random.default_rng(3)
    negative, positive = random.normal(size=1500), random.normal(1, 1.5, size=900)
    if kind == "ties":
        return np.round(negative), np.round(positive)
    if kind == "few":
        return negative[:7], positive[:3]
    if kind == "saturated":  # as the confidence of an overconfident network
        return np.minimum(negative, 0.2), np.minimum(positive, 0.2)
    return negative, positive


KINDS = ("distinct", "ties", "few", "saturated")


def joined(negative: Array, positive: Array) -> tuple[Array, Array]:
    truth = np.repeat([0, 1], [len(negative), len(positive)])
    return truth, np.concatenate([negative, positive])


def sklearn_fpr95(truth: Array, score: Array, weight: Array | None = None) -> float:
    roc_curve = imported("sklearn.metrics").roc_curve
    fpr, tpr, _ = roc_curve(truth, score, sample_weight=weight, drop_intermediate=False)
    return float(fpr[np.flatnonzero(tpr >= 0.95)[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_all_agree_with_scikit_learn(kind: str) -> None:
    sklearn = imported("sklearn.metrics")
    negative, positive = scores(kind)
    truth, score = joined(negative, positive)
    expected = {
        metrics.auroc: sklearn.roc_auc_score(truth, score),
        metrics.aupr_out: sklearn.average_precision_score(truth, score),
        metrics.aupr_in: sklearn.average_precision_score(1 - truth, -score),
        metrics.fpr95_ood_positive: sklearn_fpr95(truth, score),
        metrics.fpr95_id_positive: sklearn_fpr95(1 - truth, -score),
    }
    for function, value in expected.items():
        assert float(function(negative, positive)) == pytest.approx(value, abs=1e-12), function.__name__


@pytest.mark.parametrize("kind", KINDS)
def test_weighted_replicates_agree_with_the_sample_weights_of_scikit_learn(kind: str) -> None:
    sklearn = imported("sklearn.metrics")
    negative, positive = scores(kind)
    truth, score = joined(negative, positive)
    random = np.random.default_rng(4)
    weights = [random.integers(0, 4, (3, len(x))) for x in (negative, positive)]
    weights[1][:, 0] += 1  # scikit-learn wants a positive of positive weight
    for row in range(3):
        w = np.concatenate([weights[0][row], weights[1][row]])
        expected = {
            metrics.auroc: sklearn.roc_auc_score(truth, score, sample_weight=w),
            metrics.aupr_out: sklearn.average_precision_score(truth, score, sample_weight=w),
            metrics.aupr_in: sklearn.average_precision_score(1 - truth, -score, sample_weight=w),
            metrics.fpr95_ood_positive: sklearn_fpr95(truth, score, w),
            metrics.fpr95_id_positive: sklearn_fpr95(1 - truth, -score, w),
        }
        for function, value in expected.items():
            found = function(negative, positive, weights=weights)
            assert found.shape == (3,)
            assert found[row] == pytest.approx(value, abs=1e-12), function.__name__


@pytest.mark.parametrize("kind", KINDS)
def test_auroc_and_fpr95_agree_with_pytorch_ood(kind: str) -> None:
    torch, oracle = imported("torch"), imported("pytorch_ood.metrics.functional")
    negative, positive = scores(kind)
    truth, score = joined(negative, positive)
    s, y = torch.from_numpy(score), torch.from_numpy(-truth)  # labels below 0 are out of distribution
    assert float(metrics.auroc(negative, positive)) == pytest.approx(float(oracle.auroc(s, y)), abs=1e-12)
    assert float(metrics.fpr95_ood_positive(negative, positive)) == float(oracle.fpr_at_tpr(s, y))
    swapped = float(oracle.fpr_at_tpr(-s, -1 - y))
    assert float(metrics.fpr95_id_positive(negative, positive)) == swapped


@pytest.mark.parametrize("kind", KINDS)
def test_auroc_is_the_statistic_of_mann_and_whitney(kind: str) -> None:
    negative, positive = scores(kind)
    u = mannwhitneyu(positive, negative).statistic
    assert float(metrics.auroc(negative, positive)) == u / (len(negative) * len(positive))


def test_the_two_false_positive_rates_differ_as_published() -> None:
    random = np.random.default_rng(0)
    negative, positive = random.normal(0, 1, 200_000), random.normal(1, 1.5, 200_000)
    # closed forms: OOD flagged above 1 - 1.645 * 1.5, and ID kept below 1.645
    assert float(metrics.fpr95_ood_positive(negative, positive)) == pytest.approx(0.9288, abs=0.003)
    assert float(metrics.fpr95_id_positive(negative, positive)) == pytest.approx(0.6664, abs=0.004)


def test_a_hundred_tied_pairs() -> None:
    # pair i has both its scores at i: whatever flags 95 of one side flags 95 of the other
    ties = np.arange(100.0)
    assert float(metrics.auroc(ties, ties)) == 0.5
    assert float(metrics.fpr95_ood_positive(ties, ties)) == 0.95
    assert float(metrics.fpr95_id_positive(ties, ties)) == 0.95
    assert float(metrics.aupr_out(ties, ties)) == 0.5


def test_constant_scores_flag_everything_or_nothing() -> None:
    same = np.zeros(10)
    assert [float(f(same, same)) for f in ALL] == [0.5, 0.5, 0.5, 1.0, 1.0]


def test_perfect_and_inverted_separation() -> None:
    low, high = np.arange(5.0), np.arange(10.0, 15.0)
    assert [float(f(low, high)) for f in ALL] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert [float(f(high, low)) for f in (metrics.auroc, *ALL[3:])] == [0.0, 1.0, 1.0]


def test_worked_example() -> None:
    negative, positive = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])
    assert float(metrics.auroc(negative, positive)) == 4.5 / 6
    # falling scores: 3 finds one of two at precision 1; 2 finds none; 1 finds the other at precision 2/4
    assert float(metrics.aupr_out(negative, positive)) == 0.5 * 1 + 0.5 * 2 / 4
    # rising: 0 finds 1/3 at precision 1; 1 another at 2/3; 2 the last at 3/4
    assert float(metrics.aupr_in(negative, positive)) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3, abs=1e-15)
    assert float(metrics.fpr95_ood_positive(negative, positive)) == 2 / 3  # flagged from 1 on
    assert float(metrics.fpr95_id_positive(negative, positive)) == 1 / 2  # kept up to 2


def test_exactly_95_percent_is_enough() -> None:
    negative, positive = np.array([0.5, 4.5]), np.arange(20.0)
    assert float(metrics.fpr95_ood_positive(negative, positive)) == 0.5  # 19 of 20 from 1 on
    assert float(metrics.fpr95_ood_positive(negative, positive[:19])) == 1.0  # 18 of 19 are fewer


def test_one_image_on_each_side() -> None:
    assert [float(f(np.array([0.0]), np.array([1.0]))) for f in ALL] == [1.0, 1.0, 1.0, 0.0, 0.0]


SCORES = st.lists(st.integers(-8, 8), min_size=1, max_size=12).map(lambda x: np.array(x, dtype=np.float64))


@settings(max_examples=80)
@given(negative=SCORES, positive=SCORES)
def test_auroc_counts_pairs(negative: Array, positive: Array) -> None:
    wins = (positive[:, None] > negative).sum() + 0.5 * (positive[:, None] == negative).sum()
    assert float(metrics.auroc(negative, positive)) == wins / (len(negative) * len(positive))


@settings(max_examples=80)
@given(negative=SCORES, positive=SCORES, power=st.integers(-60, 60), seed=st.integers(0, 99))
def test_only_the_order_of_the_scores_counts(negative: Array, positive: Array, power: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    turned = random.permutation(negative), random.permutation(positive)
    for function in ALL:
        value = float(function(negative, positive))
        assert 0 <= value <= 1
        assert float(function(np.ldexp(negative, power), np.ldexp(positive, power))) == value
        assert float(function(*turned)) == value


@settings(max_examples=80)
@given(negative=SCORES, positive=SCORES)
def test_swapping_sides_and_sign(negative: Array, positive: Array) -> None:
    assert metrics.auroc(-positive, -negative) == metrics.auroc(negative, positive)
    assert float(metrics.auroc(positive, negative)) == pytest.approx(
        1 - metrics.auroc(negative, positive), abs=1e-15
    )
    assert metrics.fpr95_id_positive(negative, positive) == metrics.fpr95_ood_positive(-positive, -negative)
    assert metrics.aupr_in(negative, positive) == metrics.aupr_out(-positive, -negative)


@pytest.mark.parametrize("function", ALL)
def test_one_class_or_nan_is_refused(function: Functional) -> None:
    fine = np.array([0.0, 1.0])
    with pytest.raises(DataError, match="positive is empty"):
        function(fine, np.array([]))
    with pytest.raises(DataError, match="negative is empty"):
        function(np.array([]), fine)
    with pytest.raises(ContractError, match="negative is not finite for 1 of 2 images"):
        function(np.array([np.nan, 0.0]), fine)
    with pytest.raises(ContractError, match="positive is not finite for 2 of 2 images"):
        function(fine, np.array([np.inf, -np.inf]))
    with pytest.raises(ContractError, match="one number per image"):
        function(np.eye(2), fine)


MEANS = {
    metrics.mean_auroc: metrics.auroc,
    metrics.mean_aupr_out: metrics.aupr_out,
    metrics.mean_aupr_in: metrics.aupr_in,
    metrics.mean_fpr95_ood_positive: metrics.fpr95_ood_positive,
    metrics.mean_fpr95_id_positive: metrics.fpr95_id_positive,
}


@pytest.mark.parametrize("function", MEANS, ids=lambda f: f.__name__)
def test_means_count_every_set_alike_whatever_its_size(function: Functional) -> None:
    one = MEANS[function]
    negative, positive = scores("distinct")
    small = positive[:5] + 2
    expected = (one(negative, positive) + one(negative, small)) / 2
    assert float(function(negative, positive, small)) == pytest.approx(float(expected), abs=1e-15)
    assert float(function(negative, positive)) == float(one(negative, positive))
    evidence = {"test": negative, "svhn": positive, "letters": small}
    assert float(metrics.evaluate(function.__name__, evidence)) == float(function(negative, positive, small))
    random = np.random.default_rng(0)
    weights = {name: random.integers(1, 4, (3, len(x))) for name, x in evidence.items()}
    replicates = metrics.evaluate(function.__name__, evidence, weights=weights)
    parts = [
        one(negative, evidence[name], weights=[weights["test"], weights[name]])
        for name in ("svhn", "letters")
    ]
    np.testing.assert_allclose(replicates, np.mean(parts, axis=0), atol=1e-15)
    assert len(set(replicates.tolist())) == 3


def test_a_mean_needs_a_set() -> None:
    with pytest.raises(DataError, match="there is no out-of-distribution set"):
        metrics.mean_auroc(np.array([0.0]))
    with pytest.raises(ContractError, match="mean_auroc takes 2 populations of images, found 1"):
        metrics.evaluate("mean_auroc", {"test": np.array([0.0])})
    with pytest.raises(ContractError, match="auroc takes 2 populations of images, found 3"):
        metrics.evaluate("auroc", {name: np.array([0.0]) for name in "abc"})
