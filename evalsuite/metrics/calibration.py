"""Calibration: does a network that says 90 % come true nine times in ten?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import ContractError
from evalsuite.metrics.weighted import columns, cumulated, group_sums, resampled, row_sums, vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalsuite.metrics.weighted import Weights
    from evalsuite.records import Array, Floats


def ece_equal_width(confidence: Array, correct: Array, *, weights: Weights = None, bins: int = 15) -> Floats:
    """Returns the expected calibration error over bins ((m-1)/M, m/M], m = 1..M; 0 belongs to the first bin.

    Args:
        confidence: Probability of the predicted class in [0, 1], shape (N,). Compute it in float64: in
            float32, k/15 lies beside its edge.
        correct: Whether the prediction is right, 0 or 1, shape (N,).
        weights: One array of multiplicities, shape (B, N).
        bins: Number M of bins.

    Returns:
        The mean over images of the absolute gap between accuracy and mean confidence of the image's bin,
        float64, fraction, shape () or (B,).

    References:
        Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning"; Guo et al. 2017,
        "On calibration of modern neural networks", equation 3.
    """
    c, a = predictions(confidence, correct)
    by_bin = group_sums(bin_of(c, bins), a - c)

    def error(w: Floats) -> Floats:
        (surplus,) = by_bin(w)
        return row_sums(np.abs(surplus)) / row_sums(w)

    return resampled(error, (c.size,), weights=weights)


def ece_equal_mass(confidence: Array, correct: Array, *, weights: Weights = None, bins: int = 15) -> Floats:
    """Returns the expected calibration error over M groups of images of neighbouring confidence.

    The images are sorted by confidence and cut into groups whose sizes differ by at most one, the larger ones
    first, as `numpy.array_split` does. The tie rule: equal confidences keep the
    order of the images. An image of weight w takes w places in a row; a border may cut through it.

    Args:
        confidence: Probability of the predicted class in [0, 1], shape (N,).
        correct: Whether the prediction is right, 0 or 1, shape (N,).
        weights: One array of multiplicities, shape (B, N).
        bins: Number M of groups.

    References:
        Nguyen and O'Connor 2015, "Posterior calibration and exploratory analysis for natural language
        processing models"; Roelofs et al. 2022, "Mitigating bias in calibration error estimation".
    """
    c, a = predictions(confidence, correct)
    _check_bins(bins)
    order = np.argsort(c, kind="stable")
    residual = (a - c)[order]

    def error(w: Floats) -> Floats:
        w = columns(w, order)
        places, sums = cumulated(w), cumulated(w * residual)
        size, larger = np.divmod(places[:, -1:], bins)
        borders = size * np.arange(bins + 1) + np.minimum(larger, np.arange(bins + 1))
        at_borders = np.stack([np.interp(*row) for row in zip(borders, places, sums, strict=True)])
        return row_sums(np.abs(np.diff(at_borders, axis=1))) / places[:, -1]

    return resampled(error, (c.size,), weights=weights)


def mce(confidence: Array, correct: Array, *, weights: Weights = None, bins: int = 15) -> Floats:
    """Returns the maximum calibration error: the largest gap among the bins of `ece_equal_width` that have images.

    One image alone in its bin may decide it, so it is very noisy. The arguments are those of `ece_equal_width`.

    References:
        Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning".
    """
    c, a = predictions(confidence, correct)
    by_bin = group_sums(bin_of(c, bins), a - c, np.ones_like(c))

    def largest(w: Floats) -> Floats:
        surplus, counts = by_bin(w)
        gaps = np.abs(surplus)
        found: Floats = np.divide(gaps, counts, out=np.zeros_like(gaps), where=counts > 0).max(axis=1)
        return found

    return resampled(largest, (c.size,), weights=weights)


def signed_gap(confidence: Array, correct: Array, *, weights: Weights = None) -> Floats:
    """Returns mean confidence minus accuracy: above 0 means over-confident.

    >>> float(signed_gap(np.array([0.75, 0.75]), np.array([0, 1])))
    0.25
    """
    c, a = predictions(confidence, correct)
    return resampled(lambda w: row_sums(w * (c - a)) / row_sums(w), (c.size,), weights=weights)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Is one bar of a reliability diagram: the images with a confidence in (lower, upper].

    Attributes:
        lower: Lower edge.
        upper: Upper edge.
        count: Number of images.
        confidence: Their mean confidence; ``None`` if there are none.
        accuracy: The share of them that is right; ``None`` if there are none.
    """

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


def reliability(confidence: Array, correct: Array, *, bins: int = 15) -> tuple[ReliabilityBin, ...]:
    """Returns the bins of `ece_equal_width`, rising, empty ones included."""
    c, a = predictions(confidence, correct)
    place = bin_of(c, bins)
    edges = np.linspace(0.0, 1.0, bins + 1)
    counts = np.bincount(place, minlength=bins)
    means = (np.bincount(place, x, bins) / np.maximum(counts, 1) for x in (c, a))
    rows = zip(edges, edges[1:], counts, *means, strict=False)  # one edge more than bins
    return tuple(
        ReliabilityBin(float(lo), float(hi), int(n), float(x) if n else None, float(y) if n else None)
        for lo, hi, n, x, y in rows
    )


def predictions(confidence: Array, correct: Array) -> tuple[Floats, Floats]:
    """Returns both in float64.

    Raises:
        DataError: If there is no image.
        ContractError: If they are not a probability, and 0 or 1, for each image.
    """
    c, a = vector("confidence", confidence), vector("correct", correct)
    if c.size != a.size:
        raise ContractError(
            f"there are {c.size} confidences but {a.size} of correct, expected one of each an image"
        )
    if c.min() < 0 or c.max() > 1:
        raise ContractError(f"confidence runs from {c.min():g} to {c.max():g}, expected probabilities")
    if not np.isin(a, (0.0, 1.0)).all():
        raise ContractError(
            "correct holds other values than 0 and 1, expected whether each prediction is right"
        )
    return c, a


def bin_of(confidence: Floats, bins: int) -> NDArray[np.intp]:
    """Returns the bin of each probability, 0 to `bins` - 1: ((m-1)/M, m/M], and 0 in the first."""
    _check_bins(bins)
    inner = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    return np.searchsorted(inner, confidence, side="left")


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ContractError(f"there are {bins} bins, expected at least 1")
