"""The k-th nearest of many directions: exactly, and without multiplying every pair out.

Features of a trained classifier crowd around a few class means and spread in a few directions. So a short form of
them rules nearly all pairs out, once it is known how near the k-th nearest is at least; and that is seen among the
directions of the same crowd. Of 50,000 training images a ResNet-20 leaves 5,000 to be compared in full with a batch of
test images, of which each has some 200 near it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalsuite.records import Array

BLOCK = 1 << 20
"""Cosines that are in memory at once: 4 MB of float32."""

ROWS = 96
"""Queries that are answered together: more of them share fewer of the directions that can be near."""

HOME = 10
"""Directions in a home, as a multiple of the rank."""

HOMES = 64
"""The most homes."""

SHORT = 4
"""Coordinates of a direction for each one of its short form."""

GROUPS = 4
"""Groups of columns for each neighbour that is looked for."""


@dataclass(frozen=True)
class Sketch:
    """Is a short form of directions, whose products are never smaller than the cosines.

    It keeps the leading principal coordinates and the length of all others together. By the inequality of Cauchy and
    Schwarz ``q . x = q1 . x1 + q2 . x2 <= q1 . x1 + |q2| |x2|``.

    Attributes:
        axes: Principal directions, the leading ones first, float32 (D, D).
    """

    axes: Array

    def __call__(self, directions: Array) -> Array:
        """Returns the short form of directions (N, D), float32 (N, n)."""
        kept = max(0, self.axes.shape[0] // SHORT - 1)
        turned = directions @ self.axes
        return np.column_stack([turned[:, :kept], np.linalg.norm(turned[:, kept:], axis=1)])


@dataclass(frozen=True)
class Nearest:
    """Are directions, in which the `rank`-th nearest to others is looked up.

    Attributes:
        bank: Directions of length 1 (or 0), home after home, float32 (M, D).
        order: Where each stood before, int (M,).
        homes: Where each home is; it has at least `rank` directions.
        centers: Direction of the middle of each home, float32 (H, D).
        rank: Which neighbour counts, k.
    """

    bank: Array
    order: Array
    homes: tuple[slice, ...]
    centers: Array
    rank: int

    @cached_property
    def sketch(self) -> Sketch:
        """The short form that fits the bank."""
        _, axes = np.linalg.eigh(self.bank.T @ self.bank)
        return Sketch(np.ascontiguousarray(axes[:, ::-1]))

    @cached_property
    def _short(self) -> Array:
        """That of the bank, as matrix products want it, float32 (n, M)."""
        return np.ascontiguousarray(self.sketch(self.bank).T)

    @property
    def _rounding(self) -> float:
        """More than two ways to compute a cosine in float32 can differ."""
        width: int = self.bank.shape[1]
        return 4 * width * float(np.finfo(np.float32).eps)

    def places(self, queries: Array) -> Array:
        """Returns where the `rank`-th nearest direction to each query stood, int (N,).

        Args:
            queries: Directions, float32 (N, D). Of directions whose cosines differ by the rounding of float32, any
                may be the one.
        """
        found = np.empty(len(queries), np.intp)
        for home, rows in self._visits(queries):
            asked = queries[rows]
            cosines, near = asked @ self.bank[home].T, np.arange(len(self.bank))
            if len(self.homes) > 1:
                near = self._within(asked, reached(cosines, self.rank) - self._rounding)
                cosines = asked @ self.bank[near].T
            found[rows] = near[kth_largest(cosines, self.rank)]
        return self.order[found]

    def _visits(self, queries: Array) -> Iterator[tuple[slice, Array]]:
        """Batches of queries with the home that they share, inner ones apart from those that belong nowhere."""
        cosines = queries @ self.centers.T
        home = cosines.argmax(axis=1)
        order = np.lexsort((cosines.max(axis=1), home))
        step = ROWS if len(self.homes) > 1 else max(1, BLOCK // len(self.bank))
        edges = np.searchsorted(home[order], np.arange(1, len(self.homes)))
        for place, rows in zip(self.homes, np.split(order, edges), strict=True):
            for at in range(0, len(rows), step):
                yield place, rows[at : at + step]

    def _within(self, asked: Array, floor: Array) -> Array:
        """Places of the directions whose cosine with any of those that are asked for may reach its floor."""
        short, step = self.sketch(asked), BLOCK // len(asked)
        reaches = [
            (short @ self._short[:, at : at + step] >= floor[:, None]).any(axis=0)
            for at in range(0, len(self.bank), step)
        ]
        return np.flatnonzero(np.concatenate(reaches))


def nearest(bank: Array, rank: int) -> Nearest:
    """Returns directions (M, D), float32 of length 1 or 0, in which the `rank`-th nearest can be looked up."""
    centers = _centers(bank, min(HOMES, len(bank) // (HOME * rank)))
    home = (bank @ centers.T).argmax(axis=1)
    order = np.argsort(home, kind="stable")
    edges = np.searchsorted(home[order], np.arange(len(centers) + 1))
    kept = np.flatnonzero(np.diff(edges) >= rank)  # the largest home has HOME * rank or more
    homes = tuple(slice(int(edges[k]), int(edges[k + 1])) for k in kept)
    return Nearest(bank[order], order, homes, centers[kept], rank)


def _centers(bank: Array, count: int) -> Array:
    """Middles of at least one home: two steps of spherical k-means on a part of the bank (Dhillon and Modha 2001)."""
    count = max(1, count)
    sample = bank[:: max(1, len(bank) // (32 * count))]
    centers = sample[:: len(sample) // count][:count]
    for _ in range(3):
        member = np.equal.outer(np.arange(len(centers)), (sample @ centers.T).argmax(axis=1))
        sums = member.astype(np.float32) @ sample
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centers = np.divide(sums, length, out=np.zeros_like(sums), where=length > 0)
    return centers


def reached(numbers: Array, rank: int) -> Array:
    """Returns a number for each row that at least `rank` numbers of it reach, and not many more, (N,).

    The columns are dealt into groups. The `rank`-th largest of the groups' maxima is one: `rank` groups have a
    number that reaches it.
    """
    rows, count = numbers.shape
    size = max(1, count // (GROUPS * rank))
    groups = count // size  # at least rank of them; columns that are left over belong to none
    maxima = numbers[:, : groups * size].reshape(rows, size, groups).max(axis=1)
    maxima.sort(axis=1)  # faster than a partition of so few
    least: Array = maxima[:, groups - rank]
    return least


def kth_largest(numbers: Array, rank: int) -> Array:
    """Returns where the `rank`-th largest number of each row stands, int (N,).

    Only numbers that may be it are looked at closely: a little more than `rank` numbers instead of all.

    >>> kth_largest(np.array([[5.0, 9.0, 7.0, 1.0]]), 2).tolist()
    [2]
    """
    rows, count = numbers.shape
    place = np.flatnonzero(numbers >= reached(numbers, rank)[:, None])
    row = place // count
    start = np.searchsorted(row, np.arange(rows))
    width = int(np.bincount(row).max())
    near = np.full((rows, width), -np.inf, numbers.dtype)
    near[row, np.arange(len(place)) - start[row]] = numbers.ravel()[place]
    chosen = np.argpartition(near, width - rank, axis=1)[:, width - rank]
    found: Array = place[start + chosen] - np.arange(rows) * count
    return found
