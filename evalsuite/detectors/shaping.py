"""Detectors that change the penultimate features and look at the logits which the classifier makes of them.

ReAct cuts off large activations; ASH keeps the largest alone; SCALE multiplies all by how much of the sum the
largest hold. GradNorm changes nothing but needs the same ingredients.
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
ASH = 90.0
SCALE = 85.0
"""Percentiles: ReAct's of the training activations, the others' of the activations of each image."""


def react_limit(features: Array, *, percentile: float = REACT) -> float:
    """Returns the percentile of all activations of training images, (N, D) taken together."""
    return float(np.percentile(np.asarray(features), percentile))


def react(features: Array, head: Head, *, limit: float) -> Floats:
    """Returns the energy of the logits of activations cut off at `limit`, float64 (N,).

    References:
        Sun et al. 2021, "ReAct: Out-of-distribution detection with rectified activations", equation 1.
    """
    return energy(applied(np.minimum(np.asarray(features), limit), head))


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
        percentile: Share of activations that go, in percent; OpenOOD chooses among 65 to 95.

    Raises:
        SkippedError: If features are negative: shares of their sum mean nothing then.

    References:
        Djurisic et al. 2023, "Extremely simple activation shaping for out-of-distribution detection", algorithms 1
        to 3.
    """
    h = _activations(features)
    kept = _kept(h, percentile)
    total, left = h.sum(axis=1, keepdims=True), (h * kept).sum(axis=1, keepdims=True)
    if variant == "b":
        shaped = kept * (total / kept.sum(axis=1, keepdims=True))
    elif variant == "s":
        shaped = h * kept * np.exp(_ratio(total, left))
    else:
        shaped = h * kept
    return energy(applied(shaped, head))


def scale(features: Array, head: Head, *, percentile: float = SCALE) -> Floats:
    """Returns the energy of the logits of all activations times exp(sum of all / sum of the largest), (N,).

    The arguments are those of `ash`.

    References:
        Xu et al. 2024, "Scaling for training time and post-hoc out-of-distribution detection enhancement",
        equation 5.
    """
    h = _activations(features)
    total, left = h.sum(axis=1, keepdims=True), (h * _kept(h, percentile)).sum(axis=1, keepdims=True)
    return energy(applied(h * np.exp(_ratio(total, left)), head))


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


def applied(features: Array, head: Head) -> Floats:
    """Returns the logits of features (N, D), float64 (N, K)."""
    z: Floats = np.asarray(features, np.float64) @ head.weight.astype(np.float64).T + head.bias
    return z


def _activations(features: Array) -> Floats:
    h = np.asarray(features, np.float64)
    if h.min() < 0:
        raise SkippedError(
            f"found penultimate features down to {h.min():.3g}, expected none below 0 (what a ReLU returns): ASH and "
            "SCALE take shares of their sum; use other detectors"
        )
    return h


def _kept(h: Floats, percentile: float) -> Array:
    """Which activations of each image are the largest, bool (N, D)."""
    count = max(1, h.shape[1] - round(h.shape[1] * percentile / 100))
    last = np.partition(h, -count, axis=1)[:, -count, None]
    kept: Array = h >= last
    many = np.flatnonzero(kept.sum(axis=1) > count)  # images with ties at the edge, seldom any
    above, tied = h[many] > last[many], h[many] == last[many]
    missing = count - above.sum(axis=1, keepdims=True)
    kept[many] = above | (tied & (np.cumsum(tied, axis=1) <= missing))
    return kept


def _ratio(total: Floats, left: Floats) -> Floats:
    """Sum of all over sum of the kept, at least 1; 0 for an image without any activation."""
    return np.divide(total, left, out=np.zeros_like(total), where=left > 0)
