"""Mahalanobis distances of features to those of training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import SkippedError

if TYPE_CHECKING:
    from evalsuite.types import Array, Floats


@dataclass(frozen=True)
class Gaussians:
    """Gaussians of training features: one for each class, with a shared covariance, and one for all images together.

    Distances are Euclidean after whitening. Directions without variance in the training images, those of dead
    units and of more units than images, are left out: the pseudo-inverse of the covariance.

    Attributes:
        center: Mean of all features, (D,).
        within: Whitening by the pooled covariance within classes, (D, r).
        total: Whitening by the covariance of all images, (D, s).
        means: Class means after centring and whitening, (C, r).
    """

    center: Floats
    within: Floats
    total: Floats
    means: Floats

    @property
    def rank(self) -> int:
        """Rank r of the covariance within classes."""
        rank: int = self.within.shape[1]
        return rank

    def mahalanobis(self, features: Array) -> Floats:
        """Returns the squared distance to the nearest class mean, float64 (N,).

        References:
            Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial
            attacks", equation 2; features of the penultimate layer alone.
        """
        white = self._centered(features) @ self.within
        cross = np.square(white).sum(axis=1)[:, None] - 2 * white @ self.means.T
        squares: Floats = (cross + np.square(self.means).sum(axis=1)).min(axis=1)
        return np.maximum(squares, 0.0)

    def relative(self, features: Array) -> Floats:
        """Returns the same minus the squared distance under the Gaussian of all images, float64 (N,).

        References:
            Ren et al. 2021, "A simple fix to Mahalanobis distance for improving near-OOD detection", equation 3.
        """
        background = self._centered(features) @ self.total
        squares: Floats = self.mahalanobis(features) - np.square(background).sum(axis=1)
        return squares

    def _centered(self, features: Array) -> Floats:
        centered: Floats = np.asarray(features, np.float64) - self.center
        return centered


def gaussians(features: Array, labels: Array) -> Gaussians:
    """Returns the Gaussians of training images.

    Args:
        features: (N, D).
        labels: Their classes, (N,); classes without images have no Gaussian.

    Raises:
        SkippedError: If no direction has any variance.
    """
    h = np.asarray(features, np.float64)
    # features are float32: variances below those of their rounding carry no information
    noise = float(np.finfo(np.float32).eps) ** 2 * float(np.square(h).sum(axis=1).mean())
    center = h.mean(axis=0)
    h = h - center
    _, index = np.unique(labels, return_inverse=True)
    member = np.equal.outer(np.arange(index.max() + 1), index)
    means = member @ h / member.sum(axis=1, keepdims=True)
    within, total = (_whitening(x, noise=noise) for x in (h - means[index], h))
    return Gaussians(center, within, total, means @ within)


def _whitening(deviations: Floats, *, noise: float) -> Floats:
    """Directions over standard deviations, (D, rank): distances after it are those of the pseudo-inverse."""
    values, directions = np.linalg.eigh(deviations.T @ deviations / len(deviations))
    significant = values > noise
    if not significant.any():
        raise SkippedError(
            "the penultimate features of the training images do not vary within classes: there is no covariance "
            "to measure distances by; fit on more images (fit_images)"
        )
    whitening: Floats = directions[:, significant] / np.sqrt(values[significant])
    return whitening
