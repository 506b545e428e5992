"""Calibration: whether the confidence of predictions agrees with their accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import ContractError, DataError
from evalsuite.metrics.weighted import columns, cumulated, group_sums, grouped, resampled, row_sums, vector
from evalsuite.random_streams import BLOCK, blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalsuite.metrics.weighted import Weights
    from evalsuite.types import Array, Floats


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
        maxima: Floats = np.divide(gaps, counts, out=np.zeros_like(gaps), where=counts > 0).max(axis=1)
        return maxima

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
    """One bar of a reliability diagram: the images with a confidence in (lower, upper].

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
    """Returns confidence and correctness in float64, checked.

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
    divisors = np.maximum(counts, np.finfo(np.float64).tiny)
    return counts, np.abs(surplus) / divisors, right / divisors


DRAWS = 400
"""Simulated tests: the floor is then known to about 2 %, the limit to about 4 %."""


def ece_by_chance(confidence: Array, *, seed: int, bins: int = 15, draws: int = DRAWS) -> tuple[float, float]:
    """Returns mean and 95 % quantile of `ece_equal_width` under perfect calibration.

    Whether the prediction of image i is right is drawn with its confidence as the probability. The mean is the
    expected error of a perfectly calibrated network on so many images, which exceeds the quantile in 5 % of samples.

    Args:
        confidence: Probability of the predicted class in [0, 1], shape (N,).
        seed: Address of the draws; an image's depend on it and on its place, so they are the same for all candidates.
        bins: Number of bins.
        draws: Number of simulated tests.

    References:
        Brocker and Smith 2007, "Increasing the reliability of reliability diagrams" (consistency resampling).

    >>> ece_by_chance(np.ones(10), seed=0)
    (0.0, 0.0)
    """
    c = vector("confidence", confidence)
    if c.min() < 0 or c.max() > 1:
        raise ContractError(f"confidence runs from {c.min():g} to {c.max():g}, expected probabilities")
    place = bin_of(c, bins)
    gaps = np.zeros((draws, bins))
    for rows, random in blocks(c.size, seed, "calibrated"):
        drawn = random.random((BLOCK, draws))[: rows.stop - rows.start]
        members = place[rows, None] == np.arange(bins)
        gaps += ((drawn < c[rows, None]) - c[rows, None]).T @ members
    errors = np.abs(gaps).sum(axis=1) / c.size
    return float(errors.mean()), float(np.quantile(errors, 0.95))
