"""Resampling: weights that parent, candidates and metrics share, and intervals from the replicates."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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
BLOCK = 1 << 16
"""Counts that are processed at once: arrays that fit the processor's cache, and that the allocator keeps."""
ROWS = 16
"""Rows of counts that are compared at once."""
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
        self._bytes: dict[str, SmallCounts | None] = {}
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
        if functional == "auroc" and resample and (counts := self._small(evidence)) is not None:
            negative, positive = evidence.values()
            return auroc_replicates(negative, positive, *counts)
        return evaluate(functional, evidence, weights=self.weights if resample else None)

    def _small(self, evidence: Mapping[str, Array]) -> list[SmallCounts] | None:
        """The counts of the populations as bytes, once for all networks; ``None`` where they do not fit."""
        counts = []
        for population, values in evidence.items():
            if population not in self._bytes:
                drawn = self.weights.get(population)
                self._bytes[population] = None if drawn is None else small_counts(drawn)
            small = self._bytes[population]
            if small is None or small.drawn.shape[1:] != np.shape(values) or values.size >= EXACT:
                return None
            counts.append(small)
        return counts


class SmallCounts(NamedTuple):
    """How often each image is drawn, for sums over ranks.

    Attributes:
        drawn: Bytes, (B, N).
        totals: Sums of the rows, (B,).
    """

    drawn: NDArray[np.uint8]
    totals: Floats


def small_counts(counts: Array) -> SmallCounts | None:
    """Returns counts as bytes; ``None`` where one does not fit or is no whole number."""
    small = counts.astype(np.uint8)
    if any((small[at : at + ROWS] != counts[at : at + ROWS]).any() for at in range(0, len(counts), ROWS)):
        return None
    return SmallCounts(
        small, counts.sum(axis=1).astype(np.float64)
    )  # exact below 2^24 in single precision too


def auroc_replicates(negative: Array, positive: Array, n: SmallCounts, p: SmallCounts) -> Floats:
    """Returns bootstrap replicates of the AUROC, as `evalsuite.metrics.ood.auroc` with weights, to the last digit.

    The outliers are ranked once. Each replicate is then a sum over ranks of counts: in bytes, which are gathered four
    times as fast as single precision, and cumulated as whole numbers, which processors add five times as fast.

    Args:
        negative: Scores of the images in the distribution, (N,).
        positive: Scores of the outliers, (P,).
        n: How often each image in the distribution is drawn, B times.
        p: The same of the outliers.

    Returns:
        Shape (B,).
    """
    scores, outliers = (vector("scores", values) for values in (negative, positive))
    order = np.argsort(outliers)
    places = [np.searchsorted(outliers[order], scores, side=side) for side in ("left", "right")]
    places = places[: 1 if np.array_equal(places[0], places[1]) else 2]
    rows = max(1, BLOCK // max(scores.size, outliers.size))
    # arrays that are used again: new ones of this size would be pages that the system clears each time
    ranked, smaller = np.empty((rows, outliers.size), np.uint8), np.empty((rows, scores.size), np.int32)
    cumulated, products = np.zeros((rows, outliers.size + 1), np.int32), np.empty((rows, scores.size))
    lost = np.zeros(len(n.drawn))
    for at in range(0, len(lost), rows):
        drawn, k = n.drawn[at : at + rows], len(n.drawn[at : at + rows])
        np.take(p.drawn[at : at + rows], order, axis=1, out=ranked[:k], mode="clip")  # it only skips a check
        np.cumsum(ranked[:k], axis=1, dtype=np.int32, out=cumulated[:k, 1:])
        for place in places:  # ties count one half
            np.take(cumulated[:k], place, axis=1, out=smaller[:k], mode="clip")
            np.multiply(drawn, smaller[:k], out=products[:k], dtype=np.float64)
            lost[at : at + rows] += products[:k].sum(axis=1) / len(places)
    pairs = n.totals * p.totals
    areas: Floats = (pairs - lost) / pairs
    return areas


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
