"""The median of a weighted sample, and its number of distinct values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.metrics.weighted import columns, cumulated, grouped, resampled, row_sums, vector

if TYPE_CHECKING:
    from evalsuite.metrics.weighted import Weights
    from evalsuite.types import Array, Floats


def median(values: Array, *, weights: Weights = None) -> Floats:
    """Returns the weighted median: with counts as weights, the median of the sample in which images repeat.

    Half of the weight lies at or below it and half at or above it; where a whole interval has this property,
    its middle is returned.

    Args:
        values: One finite number per image, shape (N,).
        weights: One array of multiplicities, shape (B, N).

    Returns:
        float64, shape () or (B,).

    >>> float(median(np.array([3.0, 1.0, 10.0, 2.0])))
    2.5
    >>> median(np.array([3.0, 1.0, 10.0, 2.0]), weights=[np.array([[0.0, 0.0, 2.0, 1.0]])])
    array([10.])
    """
    x = vector("values", values)
    order = np.argsort(x, kind="stable")
    ranked = x[order]

    def middle(w: Floats) -> Floats:
        cumulative = cumulated(columns(w, order))[:, 1:]
        half = cumulative[:, -1:] / 2
        low, high = (cumulative >= half).argmax(axis=1), (cumulative > half).argmax(axis=1)
        halves: Floats = (ranked[low] + ranked[high]) / 2
        return halves

    return resampled(middle, (x.size,), weights=weights)


def distinct(values: Array, *, weights: Weights = None) -> Floats:
    """Returns the number of distinct values; with weights, among the images with a positive weight.

    Args:
        values: One finite number per image, shape (N,): the predicted class, for example.
        weights: One array of multiplicities, shape (B, N).

    Returns:
        float64, shape () or (B,).

    >>> float(distinct(np.array([3, 1, 3])))
    2.0
    >>> distinct(np.array([3, 1, 3]), weights=[np.array([[1.0, 0.0, 2.0]])])
    array([1.])
    """
    x = vector("values", values)
    by_value = grouped(np.unique(x, return_inverse=True)[1])
    return resampled(lambda w: row_sums((by_value(w) > 0).astype(np.float64)), (x.size,), weights=weights)
