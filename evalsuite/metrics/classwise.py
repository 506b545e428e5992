"""Calibration of all probabilities, not only that of the predicted class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import ContractError, DataError
from evalsuite.metrics.calibration import bin_of
from evalsuite.metrics.weighted import grouped, resampled, row_sums

if TYPE_CHECKING:
    from evalsuite.metrics.weighted import Weights
    from evalsuite.records import Array, Floats


def ece_classwise(table: Array, *, weights: Weights = None, bins: int = 15) -> Floats:
    """Returns the mean over classes of the binned error of a class's probability against being of that class.

    All images count for each class, so most of its images lie in the first bin, where errors are small: expect
    numbers about K/2 times smaller than the expected calibration error of the predictions.

    Args:
        table: Probabilities of the K classes and, last, the label in 0..K-1, shape (N, K + 1); float32 is
            enough: keep it so.
        weights: One array of multiplicities, shape (B, N).
        bins: Number M of bins of equal width, ((m-1)/M, m/M]; 0 belongs to the first.

    Returns:
        float64, fraction, shape () or (B,).

    Raises:
        DataError: If there is no image.
        ContractError: If the table holds anything else.

    References:
        Kull et al. 2019, "Beyond temperature scaling: obtaining well-calibrated multi-class probabilities with
        Dirichlet calibration", equation 2.

    >>> float(ece_classwise(np.array([[0.75, 0.25, 0.0]])))
    0.25
    """
    p, labels = _probabilities(table)
    classes = [(grouped(bin_of(column, bins)), (labels == k) - column) for k, column in enumerate(p.T)]

    def error(w: Floats) -> Floats:
        total = sum(row_sums(np.abs(by_bin(w * residual))) for by_bin, residual in classes)
        return total / (row_sums(w) * len(classes))

    return resampled(error, (len(p),), weights=weights)


def _probabilities(table: Array) -> tuple[Floats, Floats]:
    x = np.asarray(table, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] < 2:
        raise ContractError(
            f"the table has shape {x.shape}, expected the probabilities of all classes and the label per image"
        )
    if not len(x):
        raise DataError("the table is empty: a metric needs at least one image")
    p, labels = x[:, :-1], x[:, -1]
    if not (p.min() >= 0 and p.max() <= 1 and np.isfinite(p).all()):
        raise ContractError(f"found numbers from {p.min():g} to {p.max():g}, expected probabilities")
    if not np.isin(labels, np.arange(p.shape[1])).all():
        raise ContractError(f"the last column holds no labels: expected integers from 0 to {p.shape[1] - 1}")
    return p, labels
