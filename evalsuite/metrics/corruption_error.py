"""Errors on several sets of images at once: relative to a parent's, at worst, and as a gap between two sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import ContractError
from evalsuite.metrics.weighted import resampled, row_sums, vector

if TYPE_CHECKING:
    from evalsuite.metrics.weighted import Weights
    from evalsuite.types import Array, Floats


def mean_ratio(table: Array, *, weights: Weights = None) -> Floats:
    """Returns the mean over k kinds of the ratio of two sums over the images: the mean corruption error.

    Args:
        table: The k numerators, then the k denominators in the same order, shape (N, 2 k): at how many
            severities a network misclassifies each image, and a reference does.
        weights: One array of multiplicities, shape (B, N).

    Raises:
        ContractError: If the columns do not come in pairs, or a sum of denominators is 0: there is no ratio.

    References:
        Hendrycks and Dietterich 2019, arXiv 1903.12261, section 4: CE_c, with any reference.

    >>> float(mean_ratio(np.array([[1, 2, 1, 2], [0, 2, 1, 0]])))
    1.25
    """
    x = _numbers(table)
    kinds, rest = divmod(x.shape[1], 2)
    if rest:
        raise ContractError(f"found {x.shape[1]} columns, expected numerators and as many denominators")

    def ratio(w: Floats) -> Floats:
        sums: Floats = w @ x
        if not sums[:, kinds:].all():
            raise ContractError("a sum of denominators is 0, so a ratio does not exist: leave that kind out")
        means: Floats = row_sums(sums[:, :kinds] / sums[:, kinds:]) / kinds
        return means

    return resampled(ratio, (len(x),), weights=weights)


def smallest_mean(table: Array, *, weights: Weights = None) -> Floats:
    """Returns the smallest of the weighted means of several columns: the worst of several accuracies.

    Args:
        table: One number per image in each column, shape (N, k).
        weights: One array of multiplicities, shape (B, N).

    >>> float(smallest_mean(np.array([[True, True], [True, False]])))
    0.5
    """
    x = _numbers(table)

    def smallest(w: Floats) -> Floats:
        lowest: Floats = (w @ x).min(axis=1)
        return lowest / row_sums(w)

    return resampled(smallest, (len(x),), weights=weights)


def mean_difference(reference: Array, values: Array, *, weights: Weights = None) -> Floats:
    """Returns the weighted mean of one population minus that of another: the effect of a shift.

    Args:
        reference: One number per image of the first population, shape (N,).
        values: One number per image of the second, shape (P,).
        weights: Multiplicities, shapes (B, N) and (B, P).

    >>> float(mean_difference(np.array([1, 1]), np.array([1, 0, 0, 0])))
    0.75
    """
    first, second = vector("reference", reference), vector("values", values)

    def difference(w: Floats, v: Floats) -> Floats:
        return row_sums(w * first) / row_sums(w) - row_sums(v * second) / row_sums(v)

    return resampled(difference, (first.size, second.size), weights=weights)


def _numbers(table: Array) -> Floats:
    """One row per image; sums of whole numbers are exact in any order, as a matrix product needs."""
    x = np.asarray(table, dtype=np.float64)
    if x.ndim != 2 or not x.shape[1]:
        raise ContractError(f"the table has shape {x.shape}, expected (images, columns)")
    for place, column in enumerate(x.T):
        vector(f"column {place} of the table", column)
    return x
