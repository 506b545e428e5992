"""Debiased calibration errors against uncertainty-calibration, by hand, and on average against the truth."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite import metrics

if TYPE_CHECKING:
    from evalsuite.types import Array


def oracle(confidence: Array, correct: Array, bins: int) -> Any:
    """Kumar's own square, over his own bins of equal width."""
    utils: Any = importlib.import_module("calibration.utils")
    data = list(zip(confidence.tolist(), correct.astype(int).tolist(), strict=True))
    return utils.unbiased_square_ce(utils.bin(data, utils.get_equal_prob_bins(confidence, num_bins=bins)))


@pytest.mark.parametrize("n", [5000, 60, 7])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_square_agrees_with_its_authors_package(n: int, bins: int) -> None:
    random = np.random.default_rng(n)
    c, a = random.beta(6, 1, n), random.random(n) < 0.8
    expected = oracle(c, a, bins)
    assert float(metrics.ece_l2_squared_debiased(c, a, bins=bins)) == pytest.approx(expected, abs=1e-12)
    root = float(metrics.ece_l2_debiased(c, a, bins=bins))
    assert root == pytest.approx(max(expected, 0.0) ** 0.5, abs=1e-9)


@settings(max_examples=60)
@given(n=st.integers(1, 40), bins=st.integers(1, 20), seed=st.integers(0, 999))
def test_the_square_is_its_definition(n: int, bins: int, seed: int) -> None:
    """Ties, edges, empty bins and fewer images than bins."""
    random = np.random.default_rng(seed)
    edge = random.integers(0, bins + 1, n)
    c, a = np.linspace(0, 1, bins + 1)[edge], random.integers(0, 2, n)
    place = np.maximum(edge, 1)  # (lo, hi]: k/M is in bin k, 0 in the first
    expected = 0.0
    for b in range(1, bins + 1):
        inside = place == b
        if (size := int(inside.sum())) >= 2:
            gap, rate = a[inside].mean() - c[inside].mean(), a[inside].mean()
            expected += size / n * (gap**2 - rate * (1 - rate) / (size - 1))
    assert float(metrics.ece_l2_squared_debiased(c, a, bins=bins)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("c", "a", "square"),
    [
        ([1.0, 1.0], [1, 1], 0.0),
        ([1.0, 1.0], [0, 0], 1.0),
        ([1.0, 1.0], [0, 1], 0.25 - 0.25),
        ([0.5], [1], 0.0),  # one image alone tells nothing
        ([0.5, 0.5, 1.0], [1, 1, 0], 2 / 3 * 0.25),  # nor does the one beside a bin of two
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 1], 1 / 16 - 3 / 16 / 3),
    ],
)
def test_worked_squares(c: list[float], a: list[int], square: float) -> None:
    found = metrics.ece_l2_squared_debiased(np.array(c), np.array(a))
    assert float(found) == pytest.approx(square, abs=1e-15)


@pytest.mark.parametrize("gap", [0.0, 0.05])
def test_it_is_right_on_average_where_the_plain_error_is_not(gap: float) -> None:
    random = np.random.default_rng(3)
    draws = 600
    c = np.full(200, 0.7)
    right = random.random((draws, 200)) < 0.7 - gap
    squares = np.array([metrics.ece_l2_squared_debiased(c, a) for a in right])
    plain = np.array([metrics.ece_equal_width(c, a) for a in right]) ** 2
    error = squares.std() / np.sqrt(draws)
    assert abs(squares.mean() - gap**2) < 4 * error
    assert plain.mean() - gap**2 > 4 * error
    assert (squares < 0).any()
