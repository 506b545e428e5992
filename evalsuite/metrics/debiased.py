"""Calibration errors less what chance adds to them: finite bins show gaps even where there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.metrics.calibration import bin_of, predictions
from evalsuite.metrics.weighted import group_sums, resampled, row_sums

if TYPE_CHECKING:
    from evalsuite.metrics.weighted import Weights
    from evalsuite.records import Array, Floats


def ece_l2_squared_debiased(
    confidence: Array, correct: Array, *, weights: Weights = None, bins: int = 15
) -> Floats:
    """Returns an unbiased estimate of the mean over images of the squared gap of the image's bin.

    Each bin adds ``n_b / N * (gap^2 - accuracy * (1 - accuracy) / (n_b - 1))``; bins with fewer than two images
    add nothing. It may be negative, and is for half of all calibrated networks: cutting it at 0 would bias it.
    It is the calibration term of the binary Brier score of "the prediction is right".

    Args:
        confidence: Probability of the predicted class in [0, 1], shape (N,).
        correct: Whether the prediction is right, 0 or 1, shape (N,).
        weights: One array of multiplicities, shape (B, N); a weight w is w images.
        bins: Number M of bins of equal width, ((m-1)/M, m/M].

    Returns:
        float64, squared fraction, shape () or (B,).

    References:
        Kumar, Liang and Ma 2019, "Verified uncertainty calibration", section 4; Ferro and Fricker 2012, "A
        bias-corrected decomposition of the Brier score".

    >>> float(ece_l2_squared_debiased(np.full(4, 0.5), np.array([1, 1, 0, 0])))  # 0 - 0.25 / 3
    -0.08333333333333333
    """
    c, a = predictions(confidence, correct)
    by_bin = group_sums(bin_of(c, bins), np.ones_like(c), a, a - c)

    def error(w: Floats) -> Floats:
        counts, gaps, accuracy = _bins(*by_bin(w))
        chance = np.divide(accuracy * (1 - accuracy), counts - 1, out=np.zeros_like(gaps), where=counts >= 2)
        return row_sums(counts * np.where(counts >= 2, gaps**2 - chance, 0.0)) / row_sums(w)

    return resampled(error, (c.size,), weights=weights)


def ece_l2_debiased(confidence: Array, correct: Array, *, weights: Weights = None, bins: int = 15) -> Floats:
    """Returns the root of `ece_l2_squared_debiased`, 0 where that is negative: in the unit of confidences.

    The arguments are those of `ece_l2_squared_debiased`. It is at least the L1 error (`ece_equal_width`) of the
    same bins, up to chance.

    References:
        Kumar, Liang and Ma 2019, "Verified uncertainty calibration", section 4.
    """
    squared = ece_l2_squared_debiased(confidence, correct, weights=weights, bins=bins)
    return np.sqrt(np.maximum(squared, 0.0))


def _bins(counts: Floats, right: Floats, surplus: Floats) -> tuple[Floats, Floats, Floats]:
    """Counts, absolute gaps and accuracies of the bins, each (b, bins that occur); 0 in empty ones."""
    some = np.maximum(counts, np.finfo(np.float64).tiny)
    return counts, np.abs(surplus) / some, right / some
