"""Limits on mean drops from one number per image: of rates, and of any other means.

* The mean of zeros and ones: corrected score limits (`score_limit`). With several seeds the losses and gains
  of all seeds are divided by their design effect: the variance of the images' mean differences over that of
  as many images that each seed saw alone.
* The mean of other numbers: bootstrap-t. Replicates of mean and variance are one matrix product.

Simultaneous lower bounds are max-T: one critical value for all candidates, from the largest standardised
deviation among them in each replicate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtri

from evalsuite.statistics.rates import score_limit, score_quantile
from evalsuite.statistics.resampling import interval, resampled_means

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalsuite.types import Array, Floats


class Limits(NamedTuple):
    """Are limits on R drops.

    Attributes:
        low: As in `records.Bounds`, (R,); so are the next three.
        high: Upper ends of intervals.
        upper: One-sided upper limits at 95 %.
        floor: Simultaneous lower limits.
        quantile: From tolerances (R,) to the largest normal quantiles (R,) at which upper limits are within them; NaN
            where there are no limits.
    """

    low: Floats
    high: Floats
    upper: Floats
    floor: Floats
    quantile: Callable[[Floats], Floats]


ONE_SIDED = 0.95
SIMULTANEOUS = 0.975
Z_ONE_SIDED, Z_LIMIT = float(ndtri(ONE_SIDED)), float(ndtri(SIMULTANEOUS))
FEWEST = 10
"""Images on which parent and candidate must differ before resampling, or a design effect, tells anything."""


def of_rates(differences: Floats, weights: Array) -> Limits:
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
    z = critical(deviations / np.sqrt(variance[moving] / images))
    z = min(max(z, Z_LIMIT), together(len(variance)))
    return Limits(
        -score_limit(gained, lost, n=n, z=Z_LIMIT),
        score_limit(lost, gained, n=n, z=Z_LIMIT),
        score_limit(lost, gained, n=n, z=Z_ONE_SIDED, corrected=True),
        -score_limit(gained, lost, n=n, z=z, corrected=True),
        lambda most: score_quantile(lost, gained, n=n, limit=most),
    )


def of_means(differences: Floats, weights: Array, *, unit: bool) -> Limits:
    """Bootstrap-t bounds, and percentile intervals, of the means of any numbers, shape (S, N, R).

    Means of numbers in [0, 1] that differ on few images have the bounds of their rates of losses and of gains.
    """
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
    few = (each != 0).sum(axis=0) < FEWEST
    known = ~equal & ~few
    reach, farthest = np.full(mean.shape, -np.inf), critical(deviations[:, known])
    reach[known] = ordered(deviations[:, known], 1 - ONE_SIDED)
    with np.errstate(invalid="ignore"):
        upper = np.where(equal, mean, mean - reach * error)
        floor = np.where(equal, mean, np.where(known, mean - farthest * error, -np.inf))
    low, high = interval((first + mean).T)
    if unit:
        upper, floor = (np.where(few, a, b) for a, b in zip(_of_few(each), (upper, floor), strict=True))
        low, high = np.where(few, np.minimum(low, floor), low), np.where(few, np.maximum(high, upper), high)

    def quantile(most: Floats) -> Floats:
        found = np.where(equal & (mean <= most), np.inf, -np.inf)
        found[known] = _studentised(deviations[:, known], ((mean - most)[known]) / error[known])
        return np.where(few, _of_few_within(each, most), found) if unit else found

    return Limits(low, high, upper, floor, quantile)


def _studentised(deviations: Floats, at: Floats) -> Floats:
    """The largest normal quantiles at which `ordered` deviations (B, R) are not below some numbers (R,)."""
    tail = 1 + (deviations < at).sum(axis=0)
    found: Floats = -ndtri(np.minimum(tail / (len(deviations) + 1), 1.0))
    return found


def _of_few(differences: Floats) -> tuple[Floats, Floats]:
    """Bounds on means of numbers in [-1, 1], shape (N, R): no more is lost than if every loss were a whole one."""
    lost, gained = ((differences * sign > 0).sum(axis=0) for sign in (1, -1))
    n = len(differences)
    return (
        score_limit(lost, np.zeros_like(lost), n=n, z=Z_ONE_SIDED, corrected=True),
        -score_limit(gained, np.zeros_like(gained), n=n, z=together(differences.shape[1]), corrected=True),
    )


def _of_few_within(differences: Floats, most: Floats) -> Floats:
    """The largest normal quantiles at which the upper bounds of `_of_few` are within tolerances (R,)."""
    lost = (differences > 0).sum(axis=0)
    return score_quantile(lost, np.zeros_like(lost), n=len(differences), limit=most)


def critical(deviations: Floats) -> float:
    """Quantile of the largest deviation in each replicate, shape (B, R)."""
    if not deviations.shape[1]:
        return 0.0
    return float(ordered(deviations.max(axis=1, keepdims=True), SIMULTANEOUS)[0])


def ordered(replicates: Floats, share: float) -> Floats:
    """The quantile of each column that is one of its numbers: of B + 1 equally likely places the outer."""
    count = len(replicates)
    place = np.ceil((count + 1) * share) if share > 0.5 else np.floor((count + 1) * share)
    ranked: Floats = np.sort(replicates, axis=0)[int(np.clip(place, 1, count)) - 1]
    return ranked


def together(count: int) -> float:
    """Returns the normal quantile at which bounds on `count` drops hold together, whatever they have in common."""
    return -float(ndtri((1 - SIMULTANEOUS) / count))


def added_variance(drops: Floats, moving: Floats) -> Floats:
    """Variance of rows of drops minus a moving tolerance, less that of the drops alone, shape (R,)."""
    centred = moving - moving.mean()
    added: Floats = centred.var() - 2 * (centred @ (drops - drops.mean(axis=0))) / len(centred)
    return added
