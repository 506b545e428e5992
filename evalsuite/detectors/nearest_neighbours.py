"""Distance to the k-th nearest training feature, computed exactly without multiplying every pair out.

Features of a trained classifier cluster around a few class means and spread in a few directions. So a short form of
them (`Sketch`) rules out nearly all pairs, given a lower bound of the k-th largest cosine; the cluster of a query has
one. Where features do not cluster, every pair is multiplied out after all.

Cosines are of single precision, which is too coarse for neighbours that are close together: those that may be the
k-th nearest are compared in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from evalsuite.errors import SkippedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalsuite.types import Array, Floats

NEIGHBORS = 50
"""Rank of the neighbour whose distance counts, as published for CIFAR-10 (CIFAR-100: 200, ImageNet: 1000)."""

COSINES_AT_ONCE = 1 << 20
"""Cosines that are computed at once: 4 MB of float32."""

QUERIES_AT_ONCE = 96
"""Queries that are answered together: the more, the more directions may be near one of them."""

CLUSTER_SIZE = 10
"""Mean number of directions in a cluster, as a multiple of the rank."""

MOST_CLUSTERS = 64

SKETCH_FACTOR = 4
"""Coordinates of a direction for each one of its sketch."""

GROUPS_PER_RANK = 4
"""Groups of columns for each neighbour that is searched."""

WORTHWHILE = 0.4
"""Largest share of all directions that a batch may have to be compared with for the sketch to save time."""

_IGNORE_INVALID = np.errstate(invalid="ignore")
"""Some processors report invalid operations in unused lanes of products of small matrices."""


@dataclass(frozen=True)
class Neighbors:
    """The directions of training features, in which the distance to the k-th nearest is measured.

    Features that are all zero have no direction. They are a point of their own, at distance 1 from every direction.

    Attributes:
        bank: Features of length 1, float64 (M, D).
        zeros: Number of further features that are all zero.
        rank: Rank of the neighbour that counts, k.
    """

    bank: Floats
    zeros: int
    rank: int

    def distances(self, features: Array) -> Floats:
        """Returns the Euclidean distance of each normalised feature to its k-th nearest, float64 (N,).

        References:
            Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors", section 3.
        """
        queries = directions(features)
        distances = np.full(len(queries), 0.0 if self.zeros >= self.rank else 1.0)
        nonzero = queries.any(axis=1)
        if nonzero.any():
            distances[nonzero] = self._of_directions(queries[nonzero])
        return distances

    def _of_directions(self, queries: Floats) -> Floats:
        """The k-th of the sorted distances and of a distance 1 for each zero feature, float64 (N,)."""
        farther = self._kth(queries, self.rank)
        if not self.zeros:
            return farther
        nearer = self._kth(queries, self.rank - self.zeros)
        return np.maximum(nearer, np.minimum(farther, 1.0))

    def _kth(self, queries: Floats, rank: int) -> Floats:
        if rank < 1:
            return np.zeros(len(queries))
        if rank > len(self.bank):
            return np.full(len(queries), np.inf)
        return self._indexes[rank].distances(queries)

    @cached_property
    def _indexes(self) -> dict[int, NeighborIndex]:
        """The indexes for both ranks that may be needed."""
        ranks = {self.rank, self.rank - self.zeros}
        return {rank: neighbor_index(self.bank, rank) for rank in ranks if 1 <= rank <= len(self.bank)}


def neighbors(features: Array, *, rank: int = NEIGHBORS) -> Neighbors:
    """Returns the directions of training features (M, D), among which the `rank`-th nearest counts.

    Raises:
        SkippedError: If there are fewer features.
    """
    if rank > len(features):
        raise SkippedError(
            f"found {len(features)} training images, expected at least {rank}, the rank of the neighbour that counts; "
            "fit on more images (fit_images), or lower neighbors"
        )
    bank = directions(features)
    nonzero = bank.any(axis=1)
    return Neighbors(bank[nonzero], int((~nonzero).sum()), rank)


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


@dataclass(frozen=True)
class Sketch:
    """A short form of directions whose products are upper bounds of the cosines, except for rounding.

    It keeps the leading principal coordinates and the length of all others together. By the inequality of Cauchy and
    Schwarz ``q . x = q1 . x1 + q2 . x2 <= q1 . x1 + |q2| |x2|``.

    Attributes:
        axes: Principal directions, the leading ones first, float32 (D, D).
    """

    axes: Array

    def __call__(self, directions: Array) -> Array:
        """Returns the short form of directions (N, D), float32 (N, n)."""
        leading = max(0, self.axes.shape[0] // SKETCH_FACTOR - 1)
        coordinates = directions @ self.axes
        return np.column_stack([coordinates[:, :leading], np.linalg.norm(coordinates[:, leading:], axis=1)])


@dataclass(frozen=True)
class NeighborIndex:
    """A search index for the `rank`-th nearest direction.

    Attributes:
        bank: Directions of length 1, cluster after cluster, float64 (M, D).
        clusters: Rows of each cluster; it has at least `rank` directions.
        centers: Direction of the middle of each cluster, float32 (C, D).
        rank: Rank of the neighbour that counts, k.
    """

    bank: Floats
    clusters: tuple[slice, ...]
    centers: Array
    rank: int

    @cached_property
    def single(self) -> Array:
        """The bank in single precision, float32 (M, D)."""
        return self.bank.astype(np.float32)

    @cached_property
    def sketch(self) -> Sketch:
        """The sketch along the principal directions of the bank."""
        _, axes = np.linalg.eigh(self.single.T @ self.single)
        return Sketch(np.ascontiguousarray(axes[:, ::-1]))

    @cached_property
    def _sketched_columns(self) -> Array:
        """The sketch of the bank, contiguous for matrix products, float32 (n, M)."""
        return np.ascontiguousarray(self.sketch(self.single).T)

    @cached_property
    def _columns(self) -> Array:
        """The complete bank, contiguous for matrix products, float32 (D, M)."""
        return np.ascontiguousarray(self.single.T)

    @property
    def _rounding(self) -> float:
        """An upper bound of the difference between two ways to compute a cosine in float32."""
        width: int = self.bank.shape[1]
        return 4 * width * float(np.finfo(np.float32).eps)

    @_IGNORE_INVALID
    def distances(self, queries: Floats) -> Floats:
        """Returns the Euclidean distance of each query to its `rank`-th nearest direction, float64 (N,).

        Args:
            queries: Directions of length 1, float64 (N, D).
        """
        distances = np.empty(len(queries))
        single = queries.astype(np.float32)
        for cluster, rows in self._batches(single):
            near = self.candidates(single[rows], cluster)
            columns = self._columns if len(near) == len(self.bank) else self.single[near].T
            close = undecided(single[rows] @ columns, self.rank, self._rounding)
            distances[rows] = self._kth_distances(queries[rows], near, close)
        return distances

    def candidates(self, queries: Array, cluster: slice) -> Array:
        """Returns the rows of all directions that may be among the `rank` nearest of any query, int (n,).

        Args:
            queries: Directions, float32 (N, D).
            cluster: Directions near them, from which the bound is taken.
        """
        if cluster.stop - cluster.start == len(self.bank):
            return np.arange(len(self.bank))
        bound = kth_lower_bound(queries @ self.single[cluster].T, self.rank) - self._rounding
        sketches, step = self.sketch(queries), max(1, COSINES_AT_ONCE // len(queries))
        near = [
            (sketches @ self._sketched_columns[:, start : start + step] >= bound[:, None]).any(axis=0)
            for start in range(0, len(self.bank), step)
        ]
        return np.flatnonzero(np.concatenate(near))

    def _kth_distances(self, queries: Floats, near: Array, close: Undecided) -> Floats:
        """Distances to the `rank`-th nearest, which is one of those that are `close`, float64 (N,)."""
        distances, step = np.empty(len(close.column)), max(1, COSINES_AT_ONCE // self.bank.shape[1])
        for start in range(0, len(distances), step):
            part = slice(start, start + step)
            neighbors = self.bank[near[close.column[part]]]
            distances[part] = np.linalg.norm(queries[close.row[part]] - neighbors, axis=1)
        order = np.lexsort((distances, close.row))
        first = np.searchsorted(close.row, np.arange(len(queries)))
        kth: Floats = distances[order[first + close.rank - 1]]
        return kth

    def _batches(self, queries: Array) -> Iterator[tuple[slice, Array]]:
        """Batches of queries with their cluster, those near its centre apart from those far from any."""
        cosines = queries @ self.centers.T
        nearest = cosines.argmax(axis=1)
        order = np.lexsort((cosines.max(axis=1), nearest))
        step = max(1, min(QUERIES_AT_ONCE, 16 * COSINES_AT_ONCE // len(self.bank)))
        if self.clusters[0].stop - self.clusters[0].start == len(self.bank):
            step = max(1, COSINES_AT_ONCE // len(self.bank))
        edges = np.searchsorted(nearest[order], np.arange(1, len(self.clusters)))
        for cluster, rows in zip(self.clusters, np.split(order, edges), strict=True):
            for start in range(0, len(rows), step):
                yield cluster, rows[start : start + step]


@_IGNORE_INVALID
def neighbor_index(bank: Floats, rank: int) -> NeighborIndex:
    """Returns an index of directions (M, D), float64 of length 1, for the `rank`-th nearest."""
    index = _clustered(bank, rank)
    sample = index.single[:: max(1, len(bank) // QUERIES_AT_ONCE)][:QUERIES_AT_ONCE]
    compared = sum(
        len(index.candidates(sample[rows], cluster)) * len(rows) for cluster, rows in index._batches(sample)
    )
    if len(index.clusters) > 1 and compared > WORTHWHILE * len(bank) * len(sample):
        return NeighborIndex(bank, (slice(0, len(bank)),), index.centers[:1], rank)
    return index


def _clustered(bank: Floats, rank: int) -> NeighborIndex:
    """The bank in the order of its clusters."""
    single = bank.astype(np.float32)
    centers = _centers(single, min(MOST_CLUSTERS, len(bank) // (CLUSTER_SIZE * rank)))
    nearest = (single @ centers.T).argmax(axis=1)
    order = np.argsort(nearest, kind="stable")
    edges = np.searchsorted(nearest[order], np.arange(len(centers) + 1))
    large = np.flatnonzero(np.diff(edges) >= rank)  # the largest cluster has CLUSTER_SIZE * rank or more
    clusters = tuple(slice(int(edges[k]), int(edges[k + 1])) for k in large)
    return NeighborIndex(bank[order], clusters, centers[large], rank)


def _centers(bank: Array, count: int) -> Array:
    """Middles of clusters, at least one: three steps of spherical k-means on a sample (Dhillon and Modha 2001)."""
    count = max(1, count)
    sample = bank[:: max(1, len(bank) // (32 * count))]
    centers = sample[:: len(sample) // count][:count]
    for _ in range(3):
        member = np.equal.outer(np.arange(len(centers)), (sample @ centers.T).argmax(axis=1))
        sums = member.astype(np.float32) @ sample
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centers = np.divide(sums, length, out=np.zeros_like(sums), where=length > 0)
    return centers


def kth_lower_bound(numbers: Array, rank: int) -> Array:
    """Returns a close lower bound of the `rank`-th largest number of each row, (N,).

    The columns are split into groups. The `rank`-th largest of the groups' maxima is such a bound, since `rank`
    groups have a number that is at least as large.
    """
    rows, count = numbers.shape
    size = max(1, count // (GROUPS_PER_RANK * rank))
    groups = count // size  # at least rank of them; columns that are left over belong to none
    maxima = numbers[:, : groups * size].reshape(rows, size, groups).max(axis=1)
    maxima.sort(axis=1)  # faster than a partition of so few
    bound: Array = maxima[:, groups - rank]
    return bound


class Undecided(NamedTuple):
    """The numbers of each row that may be its k-th largest, if all are rounded.

    Attributes:
        row: Row of each, in rising order, int (n,).
        column: Column of each, int (n,).
        rank: Rank of the k-th largest among those of its row, counted from the largest, int (N,).
    """

    row: Array
    column: Array
    rank: Array


def undecided(numbers: Array, rank: int, rounding: float) -> Undecided:
    """Returns which numbers (N, M) may be the `rank`-th largest of their rows, if each is off by half the `rounding`.

    Only numbers that are large enough are sorted: a few more than `rank` of a row instead of all.

    >>> undecided(np.array([[5.0, 9.0, 7.0, 6.9, 1.0]]), 2, 0.2)
    Undecided(row=array([0, 0]), column=array([2, 3]), rank=array([1]))
    """
    rows, count = numbers.shape
    flat = np.flatnonzero(numbers >= (kth_lower_bound(numbers, rank) - rounding)[:, None])
    row = flat // count
    start = np.searchsorted(row, np.arange(rows))
    width = int(np.bincount(row).max())
    close = np.full((rows, width), -np.inf, numbers.dtype)
    large = numbers.ravel()[flat]
    close[row, np.arange(len(flat)) - start[row]] = large
    kth = np.partition(close, width - rank, axis=1)[:, width - rank]
    above = (close > (kth + rounding)[:, None]).sum(axis=1)
    chosen = np.abs(large - kth[row]) <= rounding
    return Undecided(row[chosen], flat[chosen] - row[chosen] * count, rank - above)
