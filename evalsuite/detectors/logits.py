"""Detectors that need the logits alone; MSP and energy are in `evalsuite.metrics.logits`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.metrics.logits import log_softmax

if TYPE_CHECKING:
    from evalsuite.types import Array, Floats

GAMMA = 0.1
"""Exponent of GEN, as published."""
LARGEST = 100
"""Number of classes that GEN sums over, as published."""


def max_logit(logits: Array) -> Floats:
    """Returns minus the largest logit, float64 (N,).

    References:
        Hendrycks et al. 2022, "Scaling out-of-distribution detection for real-world settings", arXiv 1911.11132.
    """
    top: Floats = -np.asarray(logits, np.float64).max(axis=1)
    return top


def entropy(logits: Array) -> Floats:
    """Returns the entropy of the softmax probabilities in nats, float64 in [0, log K], shape (N,).

    >>> entropy(np.array([[0.0, 0.0]])).round(6).tolist() == [round(float(np.log(2)), 6)]
    True
    """
    log_p = log_softmax(logits)
    total: Floats = (-np.exp(log_p) * log_p).sum(axis=1)
    return total


def gen(logits: Array, *, gamma: float = GAMMA, largest: int = LARGEST) -> Floats:
    """Returns the generalised entropy of the largest probabilities, float64 (N,).

    It is the sum of ``p**gamma * (1 - p)**gamma`` over the `largest` largest probabilities p of an image.

    Args:
        logits: Real, shape (N, K), finite.
        gamma: In (0, 1); the smaller, the more unlikely classes count.
        largest: Number of classes that count, M; all if there are fewer.

    References:
        Liu et al. 2023, "GEN: Pushing the limits of softmax-based out-of-distribution detection", equation 4.
    """
    log_p = log_softmax(logits)
    if largest < log_p.shape[1]:
        log_p = np.partition(log_p, -largest, axis=1)[:, -largest:]
    # 1 - p is the probability of all other classes, which must not be rounded below zero
    log_rest = np.log(np.maximum(-np.expm1(log_p), np.finfo(np.float64).tiny))
    total: Floats = np.exp(gamma * (log_p + log_rest)).sum(axis=1)
    return total
