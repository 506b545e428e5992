"""The smooth calibration error against sums over images: no cells, no transforms, another root finder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from evalsuite import metrics

if TYPE_CHECKING:
    from evalsuite.types import Array


def smoothed(confidence: Array, correct: Array, width: float, points: int = 2001) -> float:
    """The definition: kernels of all mirror images of each confidence, summed, and the trapezoidal rule."""
    t = np.linspace(0, 1, points)
    density = np.zeros(points)
    for shift in range(-2 - int(6 * width), 3 + int(6 * width)):
        for mirrored in (confidence, -confidence):
            distance = t[:, None] - (mirrored + 2 * shift)[None, :]
            kernel = np.exp(-((distance / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
            density += kernel @ (correct - confidence) / len(confidence)
    return float(np.trapezoid(np.abs(density), t))


def slow(confidence: Array, correct: Array) -> float:
    def excess(width: float) -> float:
        return smoothed(confidence, correct, width) - width

    return float(brentq(excess, 2e-3, 1.0, xtol=1e-9))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [4, 40, 150])
def test_it_agrees_with_the_definition(n: int, seed: int) -> None:
    random = np.random.default_rng([n, seed])
    c = random.beta(3, 1, n) if seed % 2 else np.round(random.random(n) * 8) / 8  # ties, 0 and 1 among them
    a = (random.random(n) < 0.6).astype(float)
    assert float(metrics.ece_smooth(c, a)) == pytest.approx(slow(c, a), abs=1e-5)


@pytest.mark.parametrize("c", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("right", [0.0, 0.25, 1.0])
def test_one_confidence_has_the_error_of_its_gap(c: float, right: float) -> None:
    """Whatever the width, the residual of one place keeps its sign, and its integral is the gap."""
    a = np.arange(8) < 8 * right
    assert float(metrics.ece_smooth(np.full(8, c), a)) == pytest.approx(abs(c - right), abs=1e-7)


def test_opposite_residuals_cancel_if_they_are_near_and_count_if_they_are_far() -> None:
    a = np.array([1, 0])
    near, far = metrics.ece_smooth(np.array([0.5, 0.51]), a), metrics.ece_smooth(np.array([0.1, 0.9]), a)
    assert float(near) < 0.08
    assert float(far) == pytest.approx(slow(np.array([0.1, 0.9]), a), abs=1e-5)
    assert float(far) > 0.4


@settings(max_examples=25)
@given(seed=st.integers(0, 999), n=st.integers(1, 60))
def test_order_and_reflection_change_nothing(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    c, a = random.random(n), random.integers(0, 2, n)
    value = float(metrics.ece_smooth(c, a))
    turned = random.permutation(n)
    assert float(metrics.ece_smooth(c[turned], a[turned])) == pytest.approx(value, abs=1e-7)
    assert float(metrics.ece_smooth(1 - c, 1 - a)) == pytest.approx(value, abs=1e-6)
    assert abs(float(metrics.signed_gap(c, a))) - 1e-7 <= value <= 1


def test_a_calibrated_network_has_hardly_any() -> None:
    random = np.random.default_rng(0)
    c = random.beta(5, 1, 20_000)
    a = random.random(20_000) < c
    assert float(metrics.ece_smooth(c, a)) < 0.015
    assert float(metrics.ece_smooth(c, random.random(20_000) < c - 0.1)) == pytest.approx(0.1, abs=0.012)
