"""Resampling: weights that parent, candidates and metrics share, and intervals from the replicates."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from evalsuite.errors import ContractError, DataError
from evalsuite.metrics.functionals import FUNCTIONALS, evaluate
from evalsuite.metrics.weighted import vector
from evalsuite.random_streams import generator
from evalsuite.statistics.rates import checked_level

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from evalsuite.types import Array, Floats

Number = TypeVar("Number", float, "Floats")

MEAN_OVER_SETS = "mean_"
"""Start of the names of functionals that are means of another one over several sets of outliers."""
EXACT = 1 << 24
"""Whole numbers up to this one are exact in single precision."""
BLOCK = 1 << 15
"""Counts that are processed at once: arrays that fit the processor's cache, and that the allocator keeps."""
CHUNK = 1 << 21
"""Weights that are converted to float64 at once: bounds the memory."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keeps matrix products on one thread: their sums, and so the last digits of a bound, depend on the number.

    The same cells then give the same tables on every number of processors.
    """
    with _blas_pools().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas_pools() -> ThreadpoolController:
    return ThreadpoolController()  # searches all loaded libraries, so it is made once


def bootstrap_weights(
    sizes: Mapping[str, int], *, replicates: int, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Returns how often each image is drawn when a population is resampled with replacement.

    The draw of a population depends on its name and size alone: draw once and use it for the parent, for all
    candidates and for all metrics, so that their replicates are paired. The first rows do not depend on
    `replicates`.

    Args:
        sizes: Population to number of images.
        replicates: Number B of rows. The 95 % limits of 500 replicates are uncertain by 6 % of the interval's
            half-width, those of 2,000 by 3 %.
        seed: Seed of the suite.

    Returns:
        Population to multinomial counts, float32 (they are exact), shape (B, N); each row sums to N.

    Raises:
        DataError: If a population is empty or there are no replicates.

    References:
        Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    if replicates < 1:
        raise DataError(f"there are {replicates} bootstrap replicates, expected at least 1")
    for population, size in sizes.items():
        if size < 1:
            raise DataError(f"population {population!r} has {size} images, expected at least 1")
    return {
        population: _counts(population, size, replicates=replicates, seed=seed)
        for population, size in sizes.items()
    }


def _counts(population: str, size: int, *, replicates: int, seed: int) -> NDArray[np.float32]:
    random = generator(seed, "bootstrap", population)
    counts = np.empty((replicates, size), dtype=np.float32)
    for row in counts:
        row[:] = np.bincount(random.integers(0, size, size), minlength=size)
    counts.flags.writeable = False  # they are shared, and what cannot change is checked once
    return counts


class Replicates:
    """Values and their bootstrap replicates under shared weights, each computed once.

    Evidence is known by its arrays, so that scores which share them share the work: the mean over several sets of
    outliers takes the replicates of each set from there.

    Args:
        weights: What `bootstrap_weights` drew.
    """

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        self._known: dict[tuple[Any, ...], tuple[Mapping[str, Array], Floats]] = {}

    def __call__(self, functional: str, evidence: Mapping[str, Array]) -> Floats:
        """Returns the replicates (B,) of a functional of some evidence."""
        return self._computed(functional, evidence, resample=True)

    def value(self, functional: str, evidence: Mapping[str, Array]) -> float:
        """Returns the functional of the sample itself."""
        return float(self._computed(functional, evidence, resample=False))

    def _computed(self, functional: str, evidence: Mapping[str, Array], *, resample: bool) -> Floats:
        key = (functional, resample, *((name, id(values)) for name, values in evidence.items()))
        if key not in self._known:  # the evidence is kept as well, so that its address stays its own
            self._known[key] = evidence, self._evaluated(functional, evidence, resample=resample)
        return self._known[key][1]

    def _evaluated(self, functional: str, evidence: Mapping[str, Array], *, resample: bool) -> Floats:
        if functional in FUNCTIONALS and FUNCTIONALS[functional].repeated and len(evidence) > 1:
            single, (shared, *others) = functional.removeprefix(MEAN_OVER_SETS), evidence.items()
            parts = [self._computed(single, dict((shared, other)), resample=resample) for other in others]
            return np.asarray(np.mean(parts, axis=0, dtype=np.float64))
        if functional == "auroc" and resample and all(name in self.weights for name in evidence):
            return auroc_replicates(*evidence.values(), *(self.weights[name] for name in evidence))
        return evaluate(functional, evidence, weights=self.weights if resample else None)


def auroc_replicates(negative: Array, positive: Array, counts_n: Array, counts_p: Array) -> Floats:
    """Returns bootstrap replicates of the AUROC, as `evalsuite.metrics.ood.auroc` with weights, to the last digit.

    Scores are ranked once; each replicate is then a sum over ranks of counts, which single precision holds exactly.

    Args:
        negative: Scores of the images in the distribution, (N,).
        positive: Scores of the outliers, (P,).
        counts_n: How often each image is drawn, whole numbers in single precision, (B, N).
        counts_p: The same of the outliers, (B, P).

    Returns:
        Shape (B,).
    """
    n, p = (vector("scores", values) for values in (negative, positive))
    order_n, order_p = np.argsort(n), np.argsort(p)
    below, up_to = (np.searchsorted(p[order_p], n[order_n], side=side) for side in ("left", "right"))
    tied = not np.array_equal(below, up_to)
    if np.shape(counts_n)[1:] != n.shape or np.shape(counts_p)[1:] != p.shape or 2 * p.size >= EXACT:
        return evaluate("auroc", {"n": n, "p": p}, weights={"n": counts_n, "p": counts_p})
    rows, areas = max(1, BLOCK // max(n.size, p.size)), []
    for at in range(0, len(counts_n), rows):
        drawn = np.take(counts_n[at : at + rows], order_n, axis=1)
        cumulated = np.zeros((len(drawn), p.size + 1), dtype=np.float32)
        np.cumsum(np.take(counts_p[at : at + rows], order_p, axis=1), axis=1, out=cumulated[:, 1:])
        smaller: Array = np.take(cumulated, below, axis=1)
        if tied:
            smaller = (smaller + np.take(cumulated, up_to, axis=1)) / 2
        pairs = drawn.sum(axis=1, dtype=np.float64) * cumulated[:, -1]
        areas.append((pairs - np.multiply(drawn, smaller, dtype=np.float64).sum(axis=1)) / pairs)
    return np.concatenate(areas)


def resampled_means(weights: Array, values: Floats) -> Floats:
    """Returns the mean of each column in each resample, one matrix product for all of them.

    Args:
        weights: Multiplicities of one population, shape (B, N).
        values: Numbers per image, shape (N, R); centre them where they are far from 0.

    Returns:
        Shape (B, R).
    """
    rows = max(1, CHUNK // weights.shape[1])
    counted = np.column_stack([values, np.ones(len(values))])  # the last product is the number of images
    chunks = (np.asarray(weights[at : at + rows], np.float64) for at in range(0, len(weights), rows))
    sums = np.concatenate([chunk @ counted for chunk in chunks])
    means: Floats = sums[:, :-1] / sums[:, -1:]
    return means


def drop(parent: Number, candidate: Number, *, higher_is_better: bool) -> Number:
    """Returns how much worse the candidate is, in the metric's unit: positive means worse.

    >>> drop(0.75, 0.5, higher_is_better=True)
    0.25
    >>> drop(0.75, 0.5, higher_is_better=False)
    -0.25
    """
    return parent - candidate if higher_is_better else candidate - parent


def interval(replicates: Floats, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Returns the percentile interval of bootstrap replicates.

    Args:
        replicates: One number per replicate along the last axis, shape (..., B).
        level: Confidence of the two-sided interval; each end is a one-sided limit at (1 + level) / 2.

    Returns:
        Lower and upper limits, shape (...).

    Raises:
        ContractError: If the level is not in (0, 1), or there are no replicates, or they are not finite.

    References:
        Efron and Tibshirani 1993, "An introduction to the bootstrap", section 13.3.
    """
    x = np.asarray(replicates, dtype=np.float64)
    if x.ndim == 0 or x.shape[-1] == 0 or not np.isfinite(x).all():
        raise ContractError(
            f"bootstrap replicates have shape {x.shape}, expected finite numbers, at least one"
        )
    tail = (1 - checked_level(level)) / 2
    low, high = np.quantile(x, (tail, 1 - tail), axis=-1)
    return low, high
