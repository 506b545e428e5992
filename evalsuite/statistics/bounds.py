"""Bounds on the drops of all candidates of one method: what certifies a ratio, and what rules it out.

The networks at hand are fixed and the images are the sample (scope *networks*). With several seeds the drop is
the mean over the seeds; all seeds see the same images, so their evidence is averaged image by image.

* The mean of zeros and ones: corrected score limits (`score_limit`). With several seeds the losses and gains
  of all seeds are divided by their design effect: the variance of the images' mean differences over that of
  as many images that each seed saw alone.
* The mean of other numbers: bootstrap-t. Replicates of mean and variance are one matrix product.
* Other functionals (AUROC and its kin): percentiles of the replicates, and their standard deviation.

Simultaneous lower bounds are max-T: one critical value for all candidates, from the largest standardised
deviation among them in each replicate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from evalsuite.errors import ContractError
from evalsuite.metrics import evaluate
from evalsuite.records import Bounds
from evalsuite.statistics.paired import BIASED, check_paired, direction, is_rate
from evalsuite.statistics.rates import score_limit
from evalsuite.statistics.resampling import drop, interval, resampled_means

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalsuite.records import Array, Floats, Metric

ONE_SIDED = 0.95
SIMULTANEOUS = 0.975
Z_ONE_SIDED, Z_LIMIT = float(ndtri(ONE_SIDED)), float(ndtri(SIMULTANEOUS))
FEWEST = 10
"""Images on which parent and candidate must differ before resampling, or a design effect, tells anything."""


def bounds(
    metric: Metric,
    parent: Mapping[str, Array],
    candidates: Sequence[Mapping[str, Array]],
    *,
    weights: Mapping[str, Array],
) -> Bounds:
    """Returns bounds on the drops of the candidates of one parent, made by one method.

    Args:
        metric: What is compared; it says which direction is worse.
        parent: The parent's evidence, population to per-image outputs.
        candidates: Evidence of the candidates for the same images in the same order, at rising ratios: all
            that were measured, for `Bounds.floor` holds for exactly these together.
        weights: What `bootstrap_weights` drew for these populations; at least 1,000 replicates.

    Returns:
        Bounds over the candidates. `low` and `high` are those of `paired_drop_interval`. `upper` and `floor`
        are NaN for functionals in `BIASED`; they are infinite where a mean that is no rate differs on
        fewer than `FEWEST` images, because such a sample shows no tail.

    Raises:
        ContractError: If the metric has no direction, there are no candidates, weights are missing, or
            parent and candidates do not have the same images.

    References:
        Romano and Wolf 2005, "Exact and approximate stepdown methods for multiple hypothesis testing" (max-T);
        Efron and Tibshirani 1993, "An introduction to the bootstrap", section 12.5 (bootstrap-t).
    """
    return mean_bounds(metric, [parent], [candidates], weights=weights)


def mean_bounds(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
    *,
    weights: Mapping[str, Array],
) -> Bounds:
    """Returns bounds on the mean drops over seeds: the seeds are fixed, the images a sample.

    Args:
        metric: What is compared; it says which direction is worse.
        parents: Evidence of the parent of each seed, all on the same images.
        candidates: For each seed its candidates; those at one place belong to one target ratio.
        weights: See `bounds`.

    Returns:
        Bounds over the places.

    Raises:
        ContractError: As `bounds`; or if the seeds differ in their images or numbers of candidates.

    References:
        Kish 1965, "Survey sampling", section 8.2 (design effect); Rao and Scott 1992, "A simple method for
        the analysis of clustered binary data" (counts divided by it).
    """
    _check(parents, candidates)
    higher = direction(metric)
    estimate = np.mean(
        [
            [drop(_point(metric, parent), _point(metric, c), higher_is_better=higher) for c in seed]
            for parent, seed in zip(parents, candidates, strict=True)
        ],
        axis=0,
    )
    if metric.functional != "mean":
        low, high, upper, floor = _of_functional(metric, parents, candidates, weights=weights)
    else:
        everything = (*parents, *(evidence for seed in candidates for evidence in seed))
        rule = _of_rates if all(is_rate(evidence) for evidence in everything) else _of_means
        differences = _differences(parents, candidates) * (1 if higher else -1)
        low, high, upper, floor = rule(differences, _weights_of(parents[0], weights))
    return Bounds(estimate, low, high, np.maximum(upper, estimate), np.minimum(floor, estimate))


def _point(metric: Metric, evidence: Mapping[str, Array]) -> float:
    return float(evaluate(metric.functional, evidence))


def _check(
    parents: Sequence[Mapping[str, Array]], candidates: Sequence[Sequence[Mapping[str, Array]]]
) -> None:
    counts = {len(seed) for seed in candidates}
    if len(parents) != len(candidates) or len(counts) != 1 or counts == {0}:
        raise ContractError(
            f"there are {len(parents)} parents and {[len(seed) for seed in candidates]} candidates, "
            "expected for each parent the same number of candidates, at least one"
        )
    for evidence in (*parents[1:], *(one for seed in candidates for one in seed)):
        check_paired(parents[0], evidence)


def _weights_of(parent: Mapping[str, Array], weights: Mapping[str, Array]) -> Array:
    """The weights of the only population of a mean."""
    ((population, values),) = parent.items()
    if population not in weights or np.shape(weights[population])[1:] != (len(values),):
        raise ContractError(
            f"there are no weights for the {len(values)} images of population {population!r}: "
            "draw them for all populations"
        )
    return weights[population]


def _differences(
    parents: Sequence[Mapping[str, Array]], candidates: Sequence[Sequence[Mapping[str, Array]]]
) -> Floats:
    """Parent minus candidate for each seed, image and candidate, shape (S, N, R)."""

    def values(evidence: Mapping[str, Array]) -> Floats:
        return np.ravel(np.asarray(next(iter(evidence.values())), dtype=np.float64))

    return np.stack(
        [
            values(parent)[:, None] - np.stack([values(candidate) for candidate in seed], axis=1)
            for parent, seed in zip(parents, candidates, strict=True)
        ]
    )


def _of_rates(differences: Floats, weights: Array) -> tuple[Floats, ...]:
    """Score limits of -1, 0 and 1, shape (S, N, R)."""
    seeds, images, _ = differences.shape
    losses, gains = ((differences * sign > 0).sum(axis=(0, 1)) for sign in (1, -1))
    mean = differences.mean(axis=0)
    variance = mean.var(axis=0)
    alone = (losses + gains) / (seeds * images) - mean.mean(axis=0) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = np.where(losses + gains < FEWEST, seeds, np.clip(seeds * variance / alone, 1, seeds))
    lost, gained, n = losses / effect, gains / effect, seeds * images / effect
    moving = variance > 0
    deviations = resampled_means(weights, (mean - mean.mean(axis=0))[:, moving])
    z = _critical(deviations / np.sqrt(variance[moving] / images))
    z = min(max(z, Z_LIMIT), -float(ndtri((1 - SIMULTANEOUS) / len(variance))))  # Bonferroni is enough
    return (
        -score_limit(gained, lost, n=n, z=Z_LIMIT),
        score_limit(lost, gained, n=n, z=Z_LIMIT),
        score_limit(lost, gained, n=n, z=Z_ONE_SIDED, corrected=True),
        -score_limit(gained, lost, n=n, z=z, corrected=True),
    )


def _of_means(differences: Floats, weights: Array) -> tuple[Floats, ...]:
    """Bootstrap-t bounds, and percentile intervals, of the means of any numbers, shape (S, N, R)."""
    each = differences.mean(axis=0)
    mean = each.mean(axis=0)
    centred = each - mean
    error = centred.std(axis=0) / np.sqrt(len(each))
    replicates = resampled_means(weights, np.concatenate([centred, centred**2], axis=1))
    first, second = np.split(replicates, 2, axis=1)
    errors = np.sqrt(np.maximum(second - first**2, 0.0) / len(each))
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = first / errors  # infinite where a resample has no spread: it then allows no bound
    equal = error <= np.finfo(np.float64).eps * np.abs(each).max(axis=0)
    known = ~equal & ((each != 0).sum(axis=0) >= FEWEST)
    reach, critical = np.full(mean.shape, -np.inf), _critical(deviations[:, known])
    reach[known] = _ordered(deviations[:, known], 1 - ONE_SIDED)
    with np.errstate(invalid="ignore"):
        upper = np.where(equal, mean, mean - reach * error)
        floor = np.where(equal, mean, np.where(known, mean - critical * error, -np.inf))
    low, high = interval((first + mean).T)
    return low, high, upper, floor


def _of_functional(
    metric: Metric,
    parents: Sequence[Mapping[str, Array]],
    candidates: Sequence[Sequence[Mapping[str, Array]]],
    *,
    weights: Mapping[str, Array],
) -> tuple[Floats, ...]:
    """Limits from the replicates of any functional; those of a parent are computed once."""
    higher = direction(metric)

    def drops(parent: Mapping[str, Array], seed: Sequence[Mapping[str, Array]], drawn: Any) -> Floats:
        reference = evaluate(metric.functional, parent, weights=drawn)
        values = (evaluate(metric.functional, candidate, weights=drawn) for candidate in seed)
        return np.stack([drop(reference, value, higher_is_better=higher) for value in values], axis=-1)

    pairs = list(zip(parents, candidates, strict=True))
    estimate = np.mean([drops(*pair, None) for pair in pairs], axis=0)
    replicates = np.mean([drops(*pair, weights) for pair in pairs], axis=0)
    if metric.functional in BIASED:
        unknown = np.full(estimate.shape, np.nan)
        return (*interval((replicates - 2 * (replicates.mean(axis=0) - estimate)).T), unknown, unknown)
    error = replicates.std(axis=0)
    moving = error > 0
    critical = _critical((replicates - estimate)[:, moving] / error[moving])
    return (*interval(replicates.T), _ordered(replicates, ONE_SIDED), estimate - critical * error)


def _critical(deviations: Floats) -> float:
    """Quantile of the largest deviation in each replicate, shape (B, R)."""
    if not deviations.shape[1]:
        return 0.0
    return float(_ordered(deviations.max(axis=1, keepdims=True), SIMULTANEOUS)[0])


def _ordered(replicates: Floats, share: float) -> Floats:
    """The quantile of each column that is one of its numbers: of B + 1 equally likely places the outer."""
    count = len(replicates)
    place = np.ceil((count + 1) * share) if share > 0.5 else np.floor((count + 1) * share)
    ranked: Floats = np.sort(replicates, axis=0)[int(np.clip(place, 1, count)) - 1]
    return ranked
