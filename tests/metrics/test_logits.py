"""Functions of logits against scikit-learn, scipy and pytorch-ood, and at the edges by hand."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from evalsuite import metrics
from evalsuite.errors import CellError, ContractError, DataError, InvalidModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.types import Array


def imported(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oracles may warn about their own dependencies when imported
        return importlib.import_module(module)


@pytest.fixture(scope="module")
def sample() -> tuple[Array, Array]:
    random = np.random.default_rng(1)
    logits = random.normal(size=(5000, 10)) * 2
    labels = random.integers(0, 10, 5000)
    logits[np.arange(5000), labels] += 3
    return logits.astype(np.float32), labels


def test_losses_agree_with_scikit_learn(sample: tuple[Array, Array]) -> None:
    logits, labels = sample
    sklearn = imported("sklearn.metrics")
    p = metrics.softmax(logits)
    assert metrics.nll(logits, labels).mean() == pytest.approx(sklearn.log_loss(labels, p), rel=1e-9)
    brier = sklearn.brier_score_loss(labels, p, labels=range(10), scale_by_half=False)
    assert metrics.brier(logits, labels).mean() == pytest.approx(brier, rel=1e-9)
    accuracy = sklearn.accuracy_score(labels, logits.argmax(axis=1))
    assert metrics.correct(logits, labels).mean() == accuracy


@pytest.mark.parametrize(("score", "detector"), [("msp", "MaxSoftmax"), ("energy", "EnergyBased")])
def test_scores_agree_with_pytorch_ood(sample: tuple[Array, Array], score: str, detector: str) -> None:
    torch, oracle = imported("torch"), imported("pytorch_ood.detector")
    logits = sample[0].astype(np.float64)
    expected = getattr(oracle, detector)(None).predict_logits(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(getattr(metrics, score)(logits), expected, rtol=0, atol=1e-12)


def test_everything_is_float64_even_from_half_precision_logits() -> None:
    logits = np.array([[20.0, 0.0]], dtype=np.float16)
    for function in (metrics.log_softmax, metrics.softmax, metrics.confidence, metrics.msp, metrics.energy):
        assert function(logits).dtype == np.float64
    assert 1 - metrics.confidence(logits)[0] == pytest.approx(np.exp(-20.0), rel=1e-6)  # float32 says 0


def test_huge_logits_neither_overflow_nor_lose_the_loss() -> None:
    logits = np.array([[1e4, -1e4, 0.0]])
    assert metrics.nll(logits, np.array([1]))[0] == 2e4
    assert metrics.confidence(logits)[0] == 1.0
    assert metrics.energy(logits)[0] == -1e4
    assert metrics.energy(-logits)[0] == pytest.approx(-logsumexp(-logits[0]))


def test_of_equal_logits_the_first_counts() -> None:
    logits = np.zeros((2, 3))
    assert metrics.correct(logits, np.array([0, 1])).tolist() == [True, False]


def test_brier_reaches_both_ends() -> None:
    logits = np.array([[1e3, -1e3], [1e3, -1e3]])
    assert metrics.brier(logits, np.array([0, 1])).tolist() == [0.0, 2.0]


@settings(max_examples=40)
@given(shift=st.integers(-(2**20), 2**20), seed=st.integers(0, 999))
def test_adding_a_constant_to_all_logits_changes_nothing_but_the_energy(shift: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(-64, 64, (7, 4)) / 8  # exact in floating point when shifted
    labels = np.arange(7) % 4
    np.testing.assert_array_equal(metrics.nll(logits + shift, labels), metrics.nll(logits, labels))
    np.testing.assert_array_equal(metrics.softmax(logits + shift), metrics.softmax(logits))
    np.testing.assert_allclose(metrics.energy(logits + shift) + shift, metrics.energy(logits), atol=1e-9)


def test_temperature_agrees_with_a_search_for_the_smallest_loss(sample: tuple[Array, Array]) -> None:
    logits, labels = sample

    def loss(log_t: float) -> float:
        return float(metrics.nll(logits.astype(np.float64) / np.exp(log_t), labels).mean())

    expected = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)
    assert metrics.temperature(logits, labels) == pytest.approx(expected, rel=1e-6)


def test_temperature_by_hand() -> None:
    # three of four right with margin m: p = 3/4 is the best fit, so m / T = log 3
    logits = np.array([[6.0, 0.0]] * 4)
    assert metrics.temperature(logits, np.array([0, 0, 0, 1])) == pytest.approx(6 / np.log(3), rel=1e-10)


@pytest.mark.parametrize("factor", [2.0**-40, 0.5, 2.0**40])
def test_temperature_follows_the_scale_of_the_logits(sample: tuple[Array, Array], factor: float) -> None:
    logits, labels = sample[0][:300].astype(np.float64), sample[1][:300]
    expected = metrics.temperature(logits, labels) * factor
    assert metrics.temperature(logits * factor, labels) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("logits", "labels", "sentence"),
    [
        ([[5.0, 0.0], [0.0, 1.0]], [0, 1], "every image is classified correctly"),
        ([[5.0, 0.0], [0.0, 1.0]], [1, 0], "predict these labels worse than chance"),
        ([[2.0, 2.0], [0.0, 0.0]], [1, 0], "equal logits for all classes"),
        ([[5.0, 0.0]], [0], "every image is classified correctly"),
    ],
)
def test_without_a_finite_temperature_there_is_no_number(
    logits: list[list[float]], labels: list[int], sentence: str
) -> None:
    with pytest.raises(CellError, match=sentence):
        metrics.temperature(np.array(logits), np.array(labels))


LABELLED = (metrics.nll, metrics.brier, metrics.correct, metrics.temperature)
UNLABELLED = (metrics.softmax, metrics.log_softmax, metrics.confidence, metrics.msp, metrics.energy)


@pytest.mark.parametrize("function", UNLABELLED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(function: Callable[..., Array], bad: float) -> None:
    with pytest.raises(InvalidModelError, match="logits of 1 of 2 images are not finite"):
        function(np.array([[0.0, bad], [0.0, 1.0]]))


@pytest.mark.parametrize("function", LABELLED)
def test_nan_logits_have_no_loss_and_no_accuracy(function: Callable[..., Array]) -> None:
    with pytest.raises(InvalidModelError, match="not finite"):
        function(np.array([[np.nan, np.nan]]), np.array([0]))


@pytest.mark.parametrize("function", UNLABELLED)
def test_malformed_logits_are_refused(function: Callable[..., Array]) -> None:
    with pytest.raises(DataError, match="no logits"):
        function(np.zeros((0, 3)))
    with pytest.raises(ContractError, match=r"shape \(3,\)"):
        function(np.zeros(3))
    with pytest.raises(ContractError, match=r"shape \(3, 0\)"):
        function(np.zeros((3, 0)))


@pytest.mark.parametrize("function", LABELLED)
@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0, 3], "from 0 to 3, expected 0 to 2"),
        ([-1, 0], "from -1 to 0, expected 0 to 2"),
        ([0], r"shape \(1,\)"),
        ([[0], [1]], r"shape \(2, 1\)"),
        ([0.0, 1.0], "type float64"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    function: Callable[..., Array], labels: list[Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        function(np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 2.0]]), np.array(labels))


def test_one_image_is_enough() -> None:
    logits, labels = np.array([[0.0, np.log(3.0)]]), np.array([1])
    assert metrics.nll(logits, labels) == pytest.approx([np.log(4 / 3)])
    assert metrics.confidence(logits) == pytest.approx([0.75])
    assert metrics.energy(logits) == pytest.approx([-np.log(4)])


@pytest.mark.parametrize("k", [1, 5, 19])
def test_among_the_largest_agrees_with_scikit_learn(k: int) -> None:
    from sklearn.metrics import top_k_accuracy_score

    random = np.random.default_rng(k)
    logits, labels = random.normal(size=(400, 20)), random.permutation(np.arange(400) % 20)
    found = metrics.correct_among(logits, labels, k)
    assert found.mean() == top_k_accuracy_score(labels, logits, k=k)
    if k == 1:
        assert found.tolist() == metrics.correct(logits, labels).tolist()


def test_of_equal_logits_the_first_are_among_the_largest() -> None:
    logits, labels = np.zeros((4, 4)), np.arange(4)
    assert metrics.correct_among(logits, labels, 2).tolist() == [True, True, False, False]
    assert metrics.correct_among(logits, labels, 4).all()
