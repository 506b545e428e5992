"""Smooth calibration error: no bins, and no bin edges to be on the wrong side of."""

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
"""Cells of [0, 1] that residuals are put into: narrow beside the widths that matter."""
HALVINGS = 26
"""Of the interval that holds the fixed point: exact to 1.5e-8."""


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
    place = np.clip(
        c * CELLS - 0.5, 0, CELLS - 1
    )  # what lies beyond the outer middles is reflected onto them
    left = np.floor(place).astype(np.intp)
    share = place - left
    right = np.minimum(left + 1, CELLS - 1)
    frequencies = np.pi * np.arange(CELLS)

    def put(mass: Floats) -> Floats:
        parts = (np.bincount(left, mass * (1 - share), CELLS), np.bincount(right, mass * share, CELLS))
        filled: Floats = np.add(*parts, dtype=np.float64)
        return filled

    def error(w: Floats) -> Floats:
        shares = w * (a - c) / w.sum(axis=1, keepdims=True)
        spectrum = dct(np.stack([put(row) for row in shares]), axis=1)
        low, high = np.zeros(len(w)), np.ones(len(w))
        for _ in range(HALVINGS):
            width = (low + high) / 2
            smoothed = idct(spectrum * np.exp(-((frequencies * width[:, None]) ** 2) / 2), axis=1)
            wide = row_sums(np.abs(smoothed)) < width
            low, high = np.where(wide, low, width), np.where(wide, width, high)
        return (low + high) / 2

    return resampled(error, (c.size,), weights=weights)
