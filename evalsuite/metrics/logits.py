"""Functions of the logits of each image: probabilities, confidence, losses, out-of-distribution scores.

Everything is computed in float64 from the logits. In float32 the softmax reaches exactly 1 from a margin
of 17 on, which makes ties among the scores; in float64 that happens from 37 on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

from evalsuite.errors import CellError, ContractError, DataError, InvalidModelError
from evalsuite.metrics.weighted import row_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalsuite.types import Array, Floats

TEMPERATURES = (1e-4, 1e4)
"""Range searched by `temperature`, in units of the mean margin of the largest logit over the mean logit."""


def log_softmax(logits: Array) -> Floats:
    """Returns the logarithms of the softmax probabilities.

    Args:
        logits: Real, shape (N, K), finite.

    Returns:
        float64, nats, shape (N, K).

    Raises:
        InvalidModelError: If logits are not finite.
        ContractError: If they do not have two axes or no classes.
        DataError: If there is no image.
    """
    shifted = _shifted(logits)
    log_p: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def softmax(logits: Array) -> Floats:
    """Returns the softmax probabilities, float64, of logits of shape (N, K).

    >>> softmax(np.array([[0.0, 0.0]]))
    array([[0.5, 0.5]])
    """
    exponentials = np.exp(_shifted(logits))
    p: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return p


def confidence(logits: Array) -> Floats:
    """Returns the largest softmax probability of each image, float64 in [1/K, 1], shape (N,)."""
    largest: Floats = softmax(logits).max(axis=1)
    return largest


def correct(logits: Array, labels: Array) -> NDArray[np.bool_]:
    """Returns whether the largest logit is the label's, shape (N,); of equal logits the first counts."""
    z = _matrix(logits)
    hits: NDArray[np.bool_] = z.argmax(axis=1) == _labels(labels, z)
    return hits


def correct_among(logits: Array, labels: Array, k: int) -> NDArray[np.bool_]:
    """Returns whether the label's logit is among the `k` largest, shape (N,); of equal logits the first count.

    >>> correct_among(np.array([[3.0, 2.0, 2.0]]), np.array([2]), 2).tolist()
    [False]
    """
    z = _matrix(logits)
    true = _labels(labels, z)[:, None]
    true_logits = np.take_along_axis(z, true, axis=1)
    earlier = np.arange(z.shape[1]) < true
    before = ((z > true_logits) | ((z == true_logits) & earlier)).sum(axis=1)
    hits: NDArray[np.bool_] = before < k
    return hits


def nll(logits: Array, labels: Array) -> Floats:
    """Returns the negative log-likelihood of each label, float64, nats, shape (N,).

    Args:
        logits: Real, shape (N, K), finite.
        labels: Integer in 0..K-1, shape (N,).

    Raises:
        DataError: If there is no image, or labels are not one integer in 0..K-1 for each.
        InvalidModelError: If logits are not finite.
    """
    log_p = log_softmax(logits)
    return -log_p[np.arange(len(log_p)), _labels(labels, log_p)]


def brier(logits: Array, labels: Array) -> Floats:
    """Returns the squared distance between probabilities and one-hot label, float64 in [0, 2], shape (N,).

    This is the multi-class form, the sum over all classes; the halved form, in [0, 1], is another convention.

    References:
        Brier 1950, "Verification of forecasts expressed in terms of probability".

    >>> brier(np.array([[-1e3, 1e3], [0.0, 0.0]]), np.array([0, 0]))
    array([2. , 0.5])
    """
    errors = softmax(logits)
    errors[np.arange(len(errors)), _labels(labels, errors)] -= 1.0
    return row_sums(np.square(errors))


def msp(logits: Array) -> Floats:
    """Returns minus the maximum softmax probability: larger means more out of distribution, shape (N,).

    References:
        Hendrycks and Gimpel 2017, "A baseline for detecting misclassified and out-of-distribution examples".
    """
    return -confidence(logits)


def energy(logits: Array) -> Floats:
    """Returns the free energy at temperature 1: larger means more out of distribution, shape (N,).

    References:
        Liu et al. 2020, "Energy-based out-of-distribution detection".
    """
    z = _matrix(logits)
    top: Floats = z.max(axis=1)
    return -(top + np.log(row_sums(np.exp(z - top[:, None]))))


def temperature(logits: Array, labels: Array) -> float:
    """Returns the temperature T > 0 that minimises the mean negative log-likelihood of ``logits / T``.

    The loss is convex in 1/T, so the zero of its derivative is the one minimum. Where there is none, no
    number is returned: if every image is classified correctly the loss falls for ever as T falls, and if the
    logits predict the labels worse than chance it falls for ever as T rises. Fit T on images that no metric
    uses.

    Args:
        logits: Real, shape (N, K), finite.
        labels: Integer in 0..K-1, shape (N,).

    Raises:
        CellError: If the loss has no minimum inside `TEMPERATURES`.
        DataError: If there is no image, or labels are not one integer in 0..K-1 for each.

    References:
        Guo et al. 2017, "On calibration of modern neural networks", section 4.2.
    """
    z = _shifted(logits)
    label_logits = z[np.arange(len(z)), _labels(labels, z)]
    scale = -float(z.mean())

    def slope(log_t: float) -> float:  # derivative of the loss with respect to 1/T, per unit of scale
        tempered = np.exp(z / np.exp(log_t))
        expected = row_sums(tempered * z) / row_sums(tempered)
        return float((expected - label_logits).mean()) / scale

    if not scale > 0:
        raise CellError("every image has equal logits for all classes: no temperature changes them")
    low, high = (float(np.log(scale * edge)) for edge in TEMPERATURES)
    if slope(low) <= 0:
        raise CellError(
            "the negative log-likelihood falls for ever as the temperature falls, as it does when every "
            "image is classified correctly: fit the temperature on more images"
        )
    if slope(high) >= 0:
        raise CellError(
            "the negative log-likelihood falls for ever as the temperature rises: the logits predict these "
            "labels worse than chance; check that images and labels belong together"
        )
    return float(np.exp(brentq(slope, low, high, xtol=1e-12)))


def _shifted(logits: Array) -> Floats:
    z = _matrix(logits)
    shifted: Floats = z - z.max(axis=1, keepdims=True)
    return shifted


def _matrix(logits: Array) -> Floats:
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] == 0:
        raise ContractError(f"logits have shape {z.shape}, expected (images, classes)")
    if len(z) == 0:
        raise DataError("there are no logits: give at least one image")
    if bad := int((~np.isfinite(z).all(axis=1)).sum()):
        raise InvalidModelError(
            f"the logits of {bad} of {len(z)} images are not finite: no number may be computed from them"
        )
    return z


def _labels(labels: Array, logits: Floats) -> NDArray[np.int64]:
    y = np.asarray(labels)
    count, classes = logits.shape
    if y.shape != (count,) or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"labels have shape {y.shape} and type {y.dtype}, expected {count} integers")
    if y.min() < 0 or y.max() >= classes:
        raise DataError(
            f"labels run from {y.min()} to {y.max()}, expected 0 to {classes - 1} for these logits"
        )
    return y.astype(np.int64)
