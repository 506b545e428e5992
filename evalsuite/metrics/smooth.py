"""Smooth calibration error: kernel smoothing in place of bins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.fft import dct, idct

from evalsuite.metrics.calibration import predictions
from evalsuite.metrics.weighted import resampled, row_sums

if TYPE_CHECKING:
    from evalsuite.metrics.weighted import Weights
    from evalsuite.types import Array, Floats

CELLS = 2048
"""Cells of [0, 1] over which residuals are distributed: narrow beside the widths that occur."""
HALVINGS = 26
"""Bisections of the interval that contains the fixed point: exact to 1.5e-8."""


def ece_smooth(confidence: Array, correct: Array, *, weights: Weights = None) -> Floats:
    """Returns the smooth calibration error: the one width at which smoothing leaves an error of that width.

    The residuals ``correct - confidence`` are smoothed over the confidence by a Gaussian that the ends of
    [0, 1] reflect; the integral of the absolute value is the error at this width. It falls as the width rises,
    so there is one width that it equals.

    A reflected Gaussian is a product of cosine coefficients, so smoothing is two discrete cosine transforms,
    of residuals shared between the two nearest of `CELLS` cells. Agrees with sums over images to 1e-6.

    Args:
        confidence: Probability of the predicted class in [0, 1], shape (N,).
        correct: Whether the prediction is right, 0 or 1, shape (N,).
        weights: One array of multiplicities, shape (B, N).

    Returns:
        float64, fraction, shape () or (B,).

    References:
        Blasiok and Nakkiran 2023, "Smooth ECE: principled reliability diagrams via kernel smoothing",
        definitions 1 and 3.

    >>> round(float(ece_smooth(np.full(4, 0.5), np.array([1, 1, 1, 0]))), 6)
    0.25
    """
    c, a = predictions(confidence, correct)
    place = np.clip(c * CELLS - 0.5, 0, CELLS - 1)  # beyond the outer centres, reflection leads back to them
    left = np.floor(place).astype(np.intp)
    share = place - left
    right = np.minimum(left + 1, CELLS - 1)
    frequencies = np.pi * np.arange(CELLS)

    def histogram(mass: Floats) -> Floats:
        parts = (np.bincount(left, mass * (1 - share), CELLS), np.bincount(right, mass * share, CELLS))
        cells: Floats = np.add(*parts, dtype=np.float64)
        return cells

    def error(w: Floats) -> Floats:
        shares = w * (a - c) / w.sum(axis=1, keepdims=True)
        spectrum = dct(np.stack([histogram(row) for row in shares]), axis=1)
        low, high = np.zeros(len(w)), np.ones(len(w))
        for _ in range(HALVINGS):
            width = (low + high) / 2
            smoothed = idct(spectrum * np.exp(-((frequencies * width[:, None]) ** 2) / 2), axis=1)
            too_wide = row_sums(np.abs(smoothed)) < width
            low, high = np.where(too_wide, low, width), np.where(too_wide, width, high)
        return (low + high) / 2

    return resampled(error, (c.size,), weights=weights)
