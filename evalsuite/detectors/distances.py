"""Detectors that measure how far features are from those of training images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.detectors.nearest_neighbours import Nearest, nearest
from evalsuite.errors import SkippedError

if TYPE_CHECKING:
    from evalsuite.types import Array, Floats

NEIGHBORS = 50
"""Rank of the neighbour whose distance counts, as published for CIFAR-10 (CIFAR-100: 200, ImageNet: 1000)."""


@dataclass(frozen=True)
class Gaussians:
    """Are Gaussians that share a covariance: one for each class, and one for all images together.

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
    # features are float32: variances below what their rounding makes tell nothing
    noise = float(np.finfo(np.float32).eps) ** 2 * float(np.square(h).sum(axis=1).mean())
    center = h.mean(axis=0)
    h = h - center
    _, place = np.unique(labels, return_inverse=True)
    member = np.equal.outer(np.arange(place.max() + 1), place)
    means = member @ h / member.sum(axis=1, keepdims=True)
    within, total = (_whitening(x, noise=noise) for x in (h - means[place], h))
    return Gaussians(center, within, total, means @ within)


def _whitening(deviations: Floats, *, noise: float) -> Floats:
    """Directions over standard deviations, (D, rank): distances after it are those of the pseudo-inverse."""
    values, directions = np.linalg.eigh(deviations.T @ deviations / len(deviations))
    real = values > noise
    if not real.any():
        raise SkippedError(
            "the penultimate features of the training images do not vary within classes: there is no covariance "
            "to measure distances by; fit on more images (fit_images)"
        )
    whitening: Floats = directions[:, real] / np.sqrt(values[real])
    return whitening


@dataclass(frozen=True)
class Neighbors:
    """Are the directions of training features.

    Features that are all zero have no direction. They are a point of their own, at distance 1 from every direction.

    Attributes:
        bank: Features of length 1, float64 (M, D).
        dead: How many more features are all zero.
        rank: Which neighbour counts, k.
    """

    bank: Floats
    dead: int
    rank: int

    def distances(self, features: Array) -> Floats:
        """Returns the Euclidean distance of each normalised feature to its k-th nearest, float64 (N,).

        References:
            Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors", section 3.
        """
        queries = directions(features)
        found = np.full(len(queries), 0.0 if self.dead >= self.rank else 1.0)
        alive = queries.any(axis=1)
        if alive.any():
            found[alive] = self._of_directions(queries[alive])
        return found

    def _of_directions(self, queries: Floats) -> Floats:
        """Of the sorted distances and as many ones as there are dead features the k-th, float64 (N,)."""
        farther = self._kth(queries, self.rank)
        if not self.dead:
            return farther
        nearer = self._kth(queries, self.rank - self.dead)
        return np.maximum(nearer, np.minimum(farther, 1.0))

    def _kth(self, queries: Floats, rank: int) -> Floats:
        if rank < 1:
            return np.zeros(len(queries))
        if rank > len(self.bank):
            return np.full(len(queries), np.inf)
        return self._nearest[rank].distances(queries)

    @cached_property
    def _nearest(self) -> dict[int, Nearest]:
        """The searches for both ranks that may be asked for."""
        ranks = {self.rank, self.rank - self.dead}
        return {rank: nearest(self.bank, rank) for rank in ranks if 1 <= rank <= len(self.bank)}


def neighbors(features: Array, *, rank: int = NEIGHBORS) -> Neighbors:
    """Returns the directions of training features (M, D), of which the `rank`-th nearest will count.

    Raises:
        SkippedError: If there are fewer features.
    """
    if rank > len(features):
        raise SkippedError(
            f"there are {len(features)} training images and the {rank}th nearest of them is asked for; "
            "fit on more images (fit_images), or lower neighbors"
        )
    bank = directions(features)
    alive = bank.any(axis=1)
    return Neighbors(bank[alive], int((~alive).sum()), rank)


def directions(features: Array) -> Floats:
    """Returns features (N, D) divided by their lengths, float64; zero features stay zero.

    >>> directions(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    h = np.asarray(features, np.float64)
    length = np.linalg.norm(h, axis=1, keepdims=True)
    unit: Floats = np.divide(h, length, out=np.zeros_like(h), where=length > 0)
    return unit
