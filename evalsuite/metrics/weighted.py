"""The weighted sample: images with multiplicities, and statistics over all replicates at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import ContractError, DataError
from evalsuite.types import Array, Floats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Places = NDArray[np.intp] | None

Weights = Sequence[Array] | None
"""One array of multiplicities, shape (B, N), per population of images; ``None`` counts every image once."""

CHUNK = 1 << 16
"""Weights that are processed at once, to bound the memory; arrays that fit the processor's cache are fastest."""


def resampled(statistic: Callable[..., Floats], sizes: tuple[int, ...], *, weights: Weights) -> Floats:
    """Returns `statistic` of the weights: shape () if they are ``None``, else one number per row.

    Args:
        statistic: Takes for each population multiplicities of shape (b, N) and returns shape (b,).
        sizes: Number of images of each population.
        weights: See `Weights`.

    Raises:
        ContractError: If the weights do not fit the populations, or are negative, or a row has none.
    """
    if weights is None:
        return statistic(*(np.ones((1, size)) for size in sizes)).reshape(())
    rows = _rows(weights, sizes)
    step = max(1, CHUNK // max(sizes))
    parts = [
        statistic(*(np.asarray(w[start : start + step], dtype=np.float64) for w in weights))
        for start in range(0, rows, step)
    ]
    return np.concatenate(parts)


def cumulated(weights: Floats) -> Floats:
    """Returns the sums over the first 0, 1, ..., N columns of (b, N) numbers, shape (b, N + 1)."""
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def ordered(scores: Floats, weights: Weights) -> tuple[Floats, Places]:
    """Returns the scores (N,) in rising order, and the original place of each; ``None`` without weights.

    Without weights the places are not needed, and sorting alone is faster.
    """
    if weights is None:
        return np.sort(scores), None
    order = np.argsort(scores)
    return scores[order], order


def columns(numbers: Floats, places: Places) -> Floats:
    """Returns the columns at `places`, row after row in memory; all of them for ``None``.

    Indexing with ``[:, places]`` lays the columns out one after another; sums along a row then add their
    terms in an order that depends on the number of rows, so replicates would depend on the chunks.
    """
    return numbers if places is None else np.take(numbers, places, axis=1)


def grouped(place: NDArray[np.intp]) -> Callable[[Floats], Floats]:
    """Returns the function that sums the columns of (b, N) numbers by group: (b, number of groups that occur).

    Args:
        place: Group of each column, shape (N,).
    """
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))

    def sums(numbers: Floats) -> Floats:
        totals: Floats = np.add.reduceat(columns(numbers, order), starts, axis=1)
        return totals

    return sums


def group_sums(place: NDArray[np.intp], *values: Floats) -> Callable[[Floats], list[Floats]]:
    """Returns the function that sums numbers of the images by group: one matrix product for all of them.

    For few groups and many rows it is several times faster than `grouped`.

    Args:
        place: Group of each image, shape (N,).
        values: Numbers of the images, each (N,).

    Returns:
        Takes weights (b, N); returns one (b, number of groups that occur) for each of the values.
    """
    member = np.equal.outer(place, np.unique(place))
    table = np.column_stack([member * x[:, None] for x in values])

    def sums(weights: Floats) -> list[Floats]:
        return np.split(weights @ table, len(values), axis=1)

    return sums


def row_sums(numbers: Floats) -> Floats:
    """Returns the sum of each row, shape (b,)."""
    sums: Floats = numbers.sum(axis=1)
    return sums


def vector(name: str, values: Array) -> Floats:
    """Returns `values` in float64 if they are one finite number per image.

    Raises:
        DataError: If there are none.
        ContractError: If they have several columns or are not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ContractError(f"{name} has shape {x.shape}, expected one number per image")
    if x.size == 0:
        raise DataError(f"{name} is empty: a metric needs at least one image of each population")
    if bad := int((~np.isfinite(x)).sum()):
        raise ContractError(
            f"{name} is not finite for {bad} of {x.size} images: no metric may be computed from it"
        )
    return x


def _rows(weights: Sequence[Array], sizes: tuple[int, ...]) -> int:
    shapes = [np.shape(w) for w in weights]
    rows = shapes[0][0] if shapes and shapes[0] else 0
    if rows == 0 or shapes != [(rows, size) for size in sizes]:
        expected = ", ".join(f"(B, {size})" for size in sizes)
        raise ContractError(
            f"weights have shapes {shapes}, expected {expected} with the same B of at least 1"
        )
    for w in weights:
        if not (w.min() >= 0 and np.isfinite(w.max()) and w.sum(axis=1).min() > 0):
            raise ContractError(
                "weights must be finite and not negative, with at least one image in each row"
            )
    return rows


def mean(values: Array, *, weights: Weights = None) -> Floats:
    """Returns the weighted mean: accuracy, negative log-likelihood, Brier score and other averages.

    >>> mean(np.array([0.0, 1.0]), weights=[np.array([[3.0, 1.0]])])
    array([0.25])
    """
    x = vector("values", values)
    return resampled(lambda w: row_sums(w * x) / row_sums(w), (x.size,), weights=weights)
