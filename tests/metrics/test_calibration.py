"""Calibration errors against netcal, torchmetrics and scikit-learn off the bin edges, and by hand on them."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite import metrics
from evalsuite.errors import ContractError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.types import Array


def imported(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oracles may warn about their own dependencies when imported
        return importlib.import_module(module)


@pytest.fixture(scope="module")
def sample() -> tuple[Array, Array]:
    """5,000 softmax outputs of ten classes, overconfident; no confidence lies on an edge."""
    random = np.random.default_rng(2)
    logits = random.normal(size=(5010, 10)) * 3
    labels = random.integers(0, 10, 5010)
    logits[np.arange(5010), labels] += 2
    return logits, labels


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_equal_width_agrees_with_netcal(sample: tuple[Array, Array], bins: int) -> None:
    c, a = metrics.confidence(sample[0]), metrics.correct(*sample)
    expected = imported("netcal.metrics").ECE(bins).measure(c, a.astype(int))
    assert float(metrics.ece_equal_width(c, a, bins=bins)) == pytest.approx(expected, abs=1e-12)


def test_equal_width_agrees_with_torchmetrics(sample: tuple[Array, Array]) -> None:
    torch, oracle = imported("torch"), imported("torchmetrics.functional.classification")
    p = torch.from_numpy(metrics.softmax(sample[0]))
    expected = oracle.multiclass_calibration_error(p, torch.from_numpy(sample[1]), num_classes=10, n_bins=15)
    c, a = metrics.confidence(sample[0]), metrics.correct(*sample)
    assert float(metrics.ece_equal_width(c, a)) == pytest.approx(float(expected), abs=1e-6)


def test_equal_width_agrees_with_the_curve_of_scikit_learn(sample: tuple[Array, Array]) -> None:
    c, a = metrics.confidence(sample[0]), metrics.correct(*sample)
    accuracy, mean = imported("sklearn.calibration").calibration_curve(a, c, n_bins=15)
    counts = np.histogram(c, np.linspace(0, 1, 16))[0]
    expected = np.average(np.abs(accuracy - mean), weights=counts[counts > 0])
    assert float(metrics.ece_equal_width(c, a)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_equal_mass_agrees_with_netcal(sample: tuple[Array, Array], bins: int) -> None:
    c, a = metrics.confidence(sample[0]), metrics.correct(*sample)
    assert len(c) % bins == 0
    expected = imported("netcal.metrics").ECE(bins, equal_intervals=False).measure(c, a.astype(int))
    assert float(metrics.ece_equal_mass(c, a, bins=bins)) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60)
@given(n=st.integers(1, 60), bins=st.integers(1, 20), seed=st.integers(0, 999))
def test_equal_mass_is_the_definition_over_array_split(n: int, bins: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    c, a = random.integers(0, 9, n) / 8, random.integers(0, 2, n)  # many ties
    groups = np.array_split(np.argsort(c, kind="stable"), bins)
    expected = sum(len(g) / n * abs(a[g].mean() - c[g].mean()) for g in groups if len(g))
    assert float(metrics.ece_equal_mass(c, a, bins=bins)) == pytest.approx(expected, abs=1e-12)


def test_confidence_of_exactly_one_belongs_to_the_last_bin() -> None:
    c, a = np.repeat([1.0, 0.99], 50), np.repeat([0, 1], 50)
    assert float(metrics.ece_equal_width(c, a)) == pytest.approx(
        0.495, abs=1e-12
    )  # a 16th bin would give .505
    assert [b.count for b in metrics.reliability(c, a)] == [0] * 14 + [100]


def test_a_bin_holds_its_upper_edge() -> None:
    c, a = np.repeat([0.75, 0.8], 50), np.repeat([1, 0], 50)
    assert float(metrics.ece_equal_width(c, a, bins=4)) == pytest.approx(0.525, abs=1e-12)  # [lo, hi): .275


def test_every_edge_belongs_to_the_bin_below_it() -> None:
    edges = np.linspace(0, 1, 16)
    bins = metrics.reliability(edges, np.ones(16))
    assert [b.count for b in bins] == [2] + [1] * 14  # 0 and 1/15 share the first bin
    assert [b.upper for b in bins] == edges[1:].tolist()
    just_above = np.nextafter(edges[1:-1], 1)
    assert [b.count for b in metrics.reliability(just_above, np.ones(14))] == [0] + [1] * 14


@pytest.mark.parametrize("function", [metrics.ece_equal_width, metrics.ece_equal_mass])
def test_worked_examples(function: Callable[..., Array]) -> None:
    assert float(function(np.array([0.75]), np.array([1]))) == 0.25
    assert float(function(np.array([1.0, 1.0]), np.array([1, 1]))) == 0.0
    assert float(function(np.array([0.5, 0.5]), np.array([0, 1]), bins=1)) == 0.0
    assert float(function(np.array([0.25, 0.75]), np.array([1, 0]), bins=2)) == 0.75


def test_equal_confidences_keep_the_order_of_the_images() -> None:
    c = np.full(4, 0.5)
    assert float(metrics.ece_equal_mass(c, np.array([1, 1, 0, 0]), bins=2)) == 0.5
    assert float(metrics.ece_equal_mass(c, np.array([1, 0, 1, 0]), bins=2)) == 0.0


def test_reliability_keeps_empty_bins_and_adds_up_to_the_error(sample: tuple[Array, Array]) -> None:
    c, a = metrics.confidence(sample[0]), metrics.correct(*sample)
    bins = metrics.reliability(c, a)
    assert len(bins) == 15
    assert sum(b.count for b in bins) == len(c)
    assert (bins[0].count, bins[0].confidence, bins[0].accuracy) == (0, None, None)  # K = 10: never below .1
    error = 0.0
    for b in bins:
        inside = (c > b.lower) & (c <= b.upper)
        assert b.count == inside.sum()
        if b.confidence is not None and b.accuracy is not None:
            assert b.confidence == pytest.approx(c[inside].mean(), abs=1e-12)
            assert b.accuracy == pytest.approx(a[inside].mean(), abs=1e-12)
            error += b.count / len(c) * abs(b.confidence - b.accuracy)
    assert float(metrics.ece_equal_width(c, a)) == pytest.approx(error, abs=1e-12)


@settings(max_examples=40)
@given(seed=st.integers(0, 999), n=st.integers(1, 50))
def test_the_order_of_the_images_does_not_matter(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    c, a = random.permutation(1024)[:n] / 1024, random.integers(0, 2, n)  # distinct, sums are exact
    turned = random.permutation(n)
    for function in (metrics.ece_equal_width, metrics.ece_equal_mass):
        assert function(c[turned], a[turned]) == function(c, a)
        assert 0 <= function(c, a) <= 1


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_maximum_agrees_with_netcal(sample: tuple[Array, Array], bins: int) -> None:
    c, a = metrics.confidence(sample[0]), metrics.correct(*sample)
    expected = imported("netcal.metrics").MCE(bins).measure(c, a.astype(int))
    assert float(metrics.mce(c, a, bins=bins)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("c", "a", "largest", "signed"),
    [
        ([1.0], [1], 0.0, 0.0),
        ([1.0], [0], 1.0, 1.0),
        ([0.0], [1], 1.0, -1.0),
        ([1.0, 0.99, 0.98], [0, 1, 1], 0.97 / 3, 0.97 / 3),  # one bin: confidence 1.0 is in the last
        ([0.5, 0.5, 0.9], [0, 1, 1], 0.1, -0.1 / 3),  # ties cancel; empty bins count for nothing
        ([0.25, 0.75], [1, 0], 0.75, 0.0),
    ],
)
def test_worked_maxima_and_signed_gaps(c: list[float], a: list[int], largest: float, signed: float) -> None:
    assert float(metrics.mce(np.array(c), np.array(a))) == pytest.approx(largest, abs=1e-15)
    assert float(metrics.signed_gap(np.array(c), np.array(a))) == pytest.approx(signed, abs=1e-15)


def test_a_bin_that_a_resample_leaves_empty_has_no_gap() -> None:
    c, a = np.array([0.25, 0.9]), np.array([1, 1])
    assert metrics.mce(c, a, weights=[np.array([[1, 1], [0, 2]])]) == pytest.approx([0.75, 0.1])


@pytest.mark.parametrize(
    "function",
    [
        metrics.ece_equal_width,
        metrics.ece_equal_mass,
        metrics.ece_l2_squared_debiased,
        metrics.ece_l2_debiased,
        metrics.ece_smooth,
        metrics.mce,
        metrics.signed_gap,
        metrics.reliability,
    ],
)
@pytest.mark.parametrize(
    ("c", "a", "error", "sentence"),
    [
        ([], [], DataError, "confidence is empty"),
        ([0.5], [0, 1], ContractError, "1 confidences but 2 of correct"),
        ([np.nan, 0.5], [0, 1], ContractError, "confidence is not finite for 1 of 2 images"),
        ([1.5, 0.5], [0, 1], ContractError, "from 0.5 to 1.5"),
        ([0.5, 0.5], [0, 2], ContractError, "other values than 0 and 1"),
        ([[0.5]], [[1]], ContractError, r"shape \(1, 1\)"),
    ],
)
def test_malformed_evidence_is_refused(
    function: Callable[..., Any], c: list[Any], a: list[Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        function(np.array(c), np.array(a))


@pytest.mark.parametrize(
    "function",
    [
        metrics.ece_equal_width,
        metrics.ece_equal_mass,
        metrics.ece_l2_debiased,
        metrics.mce,
        metrics.reliability,
    ],
)
def test_there_is_at_least_one_bin(function: Callable[..., Any]) -> None:
    with pytest.raises(ContractError, match="0 bins"):
        function(np.array([0.5]), np.array([1]), bins=0)


def test_replicates_are_sums_over_the_bins_of_each_resample() -> None:
    """The matrix product against the definition, image by image, with the weights of a bootstrap."""
    random = np.random.default_rng(11)
    c = random.random(300)
    a = (random.random(300) < c).astype(float)
    counts = random.multinomial(300, [1 / 300] * 300, 20)
    found = metrics.ece_equal_width(c, a, weights=[counts])
    largest = metrics.mce(c, a, weights=[counts])
    for row, w in enumerate(counts):
        gaps, shares = [], []
        for m in range(15):
            inside = (c > m / 15) & (c <= (m + 1) / 15) & (w > 0)
            if inside.any():
                gaps.append(abs(np.average(a[inside] - c[inside], weights=w[inside])))
                shares.append(w[inside].sum() / 300)
        assert found[row] == pytest.approx(np.dot(gaps, shares), abs=1e-12)
        assert largest[row] == pytest.approx(max(gaps), abs=1e-12)
