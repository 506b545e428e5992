"""The k-th nearest of many directions: exactly, and without multiplying every pair out.

Features of a trained classifier crowd around a few class means and spread in a few directions. So a short form of
them rules nearly all pairs out, once it is known how near the k-th nearest is at least; and that is seen among the
directions of the same crowd, its home. Where features do not crowd, every pair is multiplied out after all.

Cosines are of single precision, which is too coarse for neighbours that are close together: those that may be the
k-th nearest are told apart in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalsuite.types import Array, Floats

BLOCK = 1 << 20
"""Cosines that are worked on at once: 4 MB of float32."""

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

WORTH = 0.4
"""Share of all directions that a batch may have to be compared with if ruling out the others is to pay."""


_UNTROUBLED = np.errstate(invalid="ignore")
"""Products of small matrices now and then report what the processor did beside the numbers, in unused lanes."""


@dataclass(frozen=True)
class Sketch:
    """Is a short form of directions, whose products are not smaller than the cosines, but for rounding.

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
        bank: Directions of length 1, home after home, float64 (M, D).
        homes: Where each home is; it has at least `rank` directions.
        centers: Direction of the middle of each home, float32 (H, D).
        rank: Which neighbour counts, k.
    """

    bank: Floats
    homes: tuple[slice, ...]
    centers: Array
    rank: int

    @cached_property
    def single(self) -> Array:
        """The bank in single precision, float32 (M, D)."""
        return self.bank.astype(np.float32)

    @cached_property
    def sketch(self) -> Sketch:
        """The short form that fits the bank."""
        _, axes = np.linalg.eigh(self.single.T @ self.single)
        return Sketch(np.ascontiguousarray(axes[:, ::-1]))

    @cached_property
    def _short(self) -> Array:
        """That of the bank, as matrix products want it, float32 (n, M)."""
        return np.ascontiguousarray(self.sketch(self.single).T)

    @cached_property
    def _columns(self) -> Array:
        """The bank where nothing is ruled out, as matrix products want it, float32 (D, M)."""
        return np.ascontiguousarray(self.single.T)

    @property
    def _rounding(self) -> float:
        """More than two ways to compute a cosine in float32 can differ."""
        width: int = self.bank.shape[1]
        return 4 * width * float(np.finfo(np.float32).eps)

    @_UNTROUBLED
    def distances(self, queries: Floats) -> Floats:
        """Returns the Euclidean distance of each query to its `rank`-th nearest direction, float64 (N,).

        Args:
            queries: Directions of length 1, float64 (N, D).
        """
        found = np.empty(len(queries))
        single = queries.astype(np.float32)
        for home, rows in self._visits(single):
            near = self.near(single[rows], home)
            columns = self._columns if len(near) == len(self.bank) else self.single[near].T
            close = doubtful(single[rows] @ columns, self.rank, self._rounding)
            found[rows] = self._measured(queries[rows], near, close)
        return found

    def near(self, asked: Array, home: slice) -> Array:
        """Places of all directions that may be among the `rank` nearest of any query, int (n,).

        Args:
            asked: Directions, float32 (N, D).
            home: Directions that are near them for a start.
        """
        if home.stop - home.start == len(self.bank):
            return np.arange(len(self.bank))
        floor = reached(asked @ self.single[home].T, self.rank) - self._rounding
        short, step = self.sketch(asked), max(1, BLOCK // len(asked))
        reaches = [
            (short @ self._short[:, at : at + step] >= floor[:, None]).any(axis=0)
            for at in range(0, len(self.bank), step)
        ]
        return np.flatnonzero(np.concatenate(reaches))

    def _measured(self, asked: Floats, near: Array, close: Doubtful) -> Floats:
        """Distances to the `rank`-th nearest, of which those that are `close` may be it, float64 (N,)."""
        apart, step = np.empty(len(close.place)), max(1, BLOCK // self.bank.shape[1])
        for at in range(0, len(apart), step):
            part = slice(at, at + step)
            apart[part] = np.linalg.norm(asked[close.row[part]] - self.bank[near[close.place[part]]], axis=1)
        order = np.lexsort((apart, close.row))
        start = np.searchsorted(close.row, np.arange(len(asked)))
        found: Floats = apart[order[start + close.rank - 1]]
        return found

    def _visits(self, queries: Array) -> Iterator[tuple[slice, Array]]:
        """Batches of queries with the home that they share, inner ones apart from those that belong nowhere."""
        cosines = queries @ self.centers.T
        home = cosines.argmax(axis=1)
        order = np.lexsort((cosines.max(axis=1), home))
        step = max(1, min(ROWS, 16 * BLOCK // len(self.bank)))
        if self.homes[0].stop - self.homes[0].start == len(self.bank):
            step = max(1, BLOCK // len(self.bank))
        edges = np.searchsorted(home[order], np.arange(1, len(self.homes)))
        for place, rows in zip(self.homes, np.split(order, edges), strict=True):
            for at in range(0, len(rows), step):
                yield place, rows[at : at + step]


@_UNTROUBLED
def nearest(bank: Floats, rank: int) -> Nearest:
    """Returns directions (M, D), float64 of length 1, in which the `rank`-th nearest can be looked up."""
    found = _homed(bank, rank)
    some = found.single[:: max(1, len(bank) // ROWS)][:ROWS]
    kept = sum(len(found.near(some[rows], home)) * len(rows) for home, rows in found._visits(some))
    if len(found.homes) > 1 and kept > WORTH * len(bank) * len(some):
        return Nearest(bank, (slice(0, len(bank)),), found.centers[:1], rank)
    return found


def _homed(bank: Floats, rank: int) -> Nearest:
    """The bank in the order of its homes."""
    single = bank.astype(np.float32)
    centers = _centers(single, min(HOMES, len(bank) // (HOME * rank)))
    home = (single @ centers.T).argmax(axis=1)
    order = np.argsort(home, kind="stable")
    edges = np.searchsorted(home[order], np.arange(len(centers) + 1))
    kept = np.flatnonzero(np.diff(edges) >= rank)  # the largest home has HOME * rank or more
    homes = tuple(slice(int(edges[k]), int(edges[k + 1])) for k in kept)
    return Nearest(bank[order], homes, centers[kept], rank)


def _centers(bank: Array, count: int) -> Array:
    """Middles of at least one home: three steps of spherical k-means on a part of the bank (Dhillon and Modha 2001)."""
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


class Doubtful(NamedTuple):
    """Are the numbers of each row that may be the largest but so many, if all are a little wrong.

    Attributes:
        row: Row of each, in rising order, int (n,).
        place: Its column, int (n,).
        rank: Which of those of a row it is, counted from the largest, int (N,).
    """

    row: Array
    place: Array
    rank: Array


def doubtful(numbers: Array, rank: int, rounding: float) -> Doubtful:
    """Returns which numbers (N, M) may be the `rank`-th largest of their rows, if each is wrong by half the `rounding`.

    Only numbers that are large enough are looked at closely: a little more than `rank` of a row instead of all.

    >>> doubtful(np.array([[5.0, 9.0, 7.0, 6.9, 1.0]]), 2, 0.2)
    Doubtful(row=array([0, 0]), place=array([2, 3]), rank=array([1]))
    """
    rows, count = numbers.shape
    flat = np.flatnonzero(numbers >= (reached(numbers, rank) - rounding)[:, None])
    row = flat // count
    start = np.searchsorted(row, np.arange(rows))
    width = int(np.bincount(row).max())
    close = np.full((rows, width), -np.inf, numbers.dtype)
    large = numbers.ravel()[flat]
    close[row, np.arange(len(flat)) - start[row]] = large
    kth = np.partition(close, width - rank, axis=1)[:, width - rank]
    above = (close > (kth + rounding)[:, None]).sum(axis=1)
    chosen = np.abs(large - kth[row]) <= rounding
    return Doubtful(row[chosen], flat[chosen] - row[chosen] * count, rank - above)
