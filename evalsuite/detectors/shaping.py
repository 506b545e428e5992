"""Detectors that shape the penultimate features and take the energy of the resulting logits; and GradNorm.

ReAct clips large activations; ASH keeps only the largest; SCALE multiplies all by a function of the share of the
largest in their sum. GradNorm needs the same inputs but changes no feature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from evalsuite.errors import SkippedError
from evalsuite.metrics.logits import energy, softmax

if TYPE_CHECKING:
    from evalsuite.models.features import Head
    from evalsuite.types import Array, Floats

REACT = 90.0
"""Percentile of the training activations at which ReAct clips."""
ASH = 90.0
"""Percentile of the activations of each image that ASH removes."""
SCALE = 85.0
"""Percentile of the activations of each image above which they are the largest for SCALE."""


def react_limit(features: Array, *, percentile: float = REACT) -> float:
    """Returns the percentile of all activations of training images, (N, D) taken together."""
    return float(np.percentile(np.asarray(features), percentile))


def react(features: Array, head: Head, *, limit: float) -> Floats:
    """Returns the energy of the logits of activations clipped at `limit`, float64 (N,).

    References:
        Sun et al. 2021, "ReAct: Out-of-distribution detection with rectified activations", equation 1.
    """
    return energy(logits_of_features(np.minimum(np.asarray(features), limit), head))


def ash(
    features: Array, head: Head, *, variant: Literal["b", "p", "s"] = "b", percentile: float = ASH
) -> Floats:
    """Returns the energy of the logits of the largest activations of each image, float64 (N,).

    Of D activations the ``D - round(D * percentile / 100)`` largest are kept (of equal ones the first), at
    least one, and the others become 0. Variant P leaves those that are kept as they are, B makes them all equal with
    the sum that all had, S multiplies them by exp(sum of all / sum of the kept).

    Args:
        features: Non-negative, (N, D): pooled features, as OpenOOD does it.
        head: The classifier.
        variant: ``b``, ``p`` or ``s``.
        percentile: Share of activations that are removed, in percent; OpenOOD chooses among 65 to 95.

    Raises:
        SkippedError: If features are negative, so that shares of their sum are undefined.

    References:
        Djurisic et al. 2023, "Extremely simple activation shaping for out-of-distribution detection", algorithms 1
        to 3.
    """
    h = _activations(features)
    largest = _largest(h, percentile)
    if variant == "b":
        total, count = h.sum(axis=1, keepdims=True), largest.sum(axis=1, keepdims=True)
        shaped = largest * (total / count)
    elif variant == "s":
        shaped = h * largest * np.exp(_sum_ratio(h, largest))
    else:
        shaped = h * largest
    return energy(logits_of_features(shaped, head))


def scale(features: Array, head: Head, *, percentile: float = SCALE) -> Floats:
    """Returns the energy of the logits of all activations times exp(sum of all / sum of the largest), (N,).

    The arguments are those of `ash`.

    References:
        Xu et al. 2024, "Scaling for training time and post-hoc out-of-distribution detection enhancement",
        equation 5.
    """
    h = _activations(features)
    ratio = _sum_ratio(h, _largest(h, percentile))
    return energy(logits_of_features(h * np.exp(ratio), head))


def gradnorm(features: Array, logits: Array) -> Floats:
    """Returns minus the L1 norm of the gradient of the classifier's weights, float64 (N,).

    The loss is the cross-entropy to the uniform distribution; for the last layer its gradient is an outer
    product, so the norm is ``sum(abs(h)) * sum(abs(p - 1/K))`` and no backward pass is needed.

    References:
        Huang et al. 2021, "On the importance of gradients for detecting distributional shifts in the wild",
        equation 5.
    """
    p = softmax(logits)
    size = np.abs(np.asarray(features, np.float64)).sum(axis=1)
    norms: Floats = -size * np.abs(p - 1 / p.shape[1]).sum(axis=1)
    return norms


def logits_of_features(features: Array, head: Head) -> Floats:
    """Returns the logits of features (N, D), float64 (N, K)."""
    z: Floats = np.asarray(features, np.float64) @ head.weight.astype(np.float64).T + head.bias
    return z


def _activations(features: Array) -> Floats:
    h = np.asarray(features, np.float64)
    if h.min() < 0:
        raise SkippedError(
            f"found penultimate features down to {h.min():.3g}, expected none below 0 (the output of a ReLU): ASH "
            "and SCALE take shares of their sum; use other detectors"
        )
    return h


def _largest(h: Floats, percentile: float) -> Array:
    """Which activations of each image are the largest, bool (N, D)."""
    count = max(1, h.shape[1] - round(h.shape[1] * percentile / 100))
    last = np.partition(h, -count, axis=1)[:, -count, None]
    largest: Array = h >= last
    rows = np.flatnonzero(largest.sum(axis=1) > count)  # images with ties at the edge, seldom any
    above, tied = h[rows] > last[rows], h[rows] == last[rows]
    missing = count - above.sum(axis=1, keepdims=True)
    largest[rows] = above | (tied & (np.cumsum(tied, axis=1) <= missing))
    return largest


def _sum_ratio(h: Floats, largest: Array) -> Floats:
    """Sum of all activations over that of the largest, at least 1, (N, 1); 0 for an image without any activation."""
    total, part = h.sum(axis=1, keepdims=True), (h * largest).sum(axis=1, keepdims=True)
    ratio: Floats = np.divide(total, part, out=np.zeros_like(total), where=part > 0)
    return ratio
