"""Confidence limits of mean drops from one number per image: of rates, and of any other means.

* The mean of zeros and ones: corrected score limits (`score_limit`). With several seeds the losses and gains
  of all seeds are divided by their design effect: the variance of the images' mean differences over that of
  as many images that each seed saw alone.
* The mean of other numbers: bootstrap-t. Replicates of mean and variance are one matrix product.

Simultaneous lower bounds are max-T: one critical value for all candidates, from the largest standardised
deviation among them in each replicate.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtri, stdtr

from evalsuite.statistics.rates import lower_score_quantile, score_limit, score_quantile
from evalsuite.statistics.resampling import interval, resampled_means

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evalsuite.types import Array, Floats


class Limits(NamedTuple):
    """Confidence limits of R drops.

    Attributes:
        low: Lower ends of two-sided 95 % intervals, (R,), as in `evalsuite.types.Bounds`.
        high: Upper ends of these, (R,).
        upper: One-sided upper limits at 95 %, (R,).
        lower_simultaneous: Lower limits that hold together at 97.5 %, (R,).
        quantile: From tolerances (R,) to the largest normal quantiles (R,) at which upper limits are within them; NaN
            where there are no limits.
        lower_quantile: The same for lower limits that are above them; the tails of normal distributions, since a
            family of hundreds of tests needs quantiles that ranks of replicates do not resolve.
    """

    low: Floats
    high: Floats
    upper: Floats
    lower_simultaneous: Floats
    quantile: Callable[[Floats], Floats]
    lower_quantile: Callable[[Floats], Floats]


ONE_SIDED = 0.95
SIMULTANEOUS = 0.975
Z_ONE_SIDED, Z_LIMIT = float(ndtri(ONE_SIDED)), float(ndtri(SIMULTANEOUS))
FEWEST_DIFFERENCES = 10
"""Images on which parent and candidate must differ for resampling, or a design effect, to be meaningful."""
UNSEEN_IMAGES = 2
"""Images that are counted in where numbers have no bound: a sample may have none of those that make the mean.

Without them *non-inferior* of a log-normal loss was wrong in 3.5 to 6.4 % of samples at a stated 2.5 %, with them in
1.6 to 2.3 (docs/statistics.md).
"""


def limits_of_rates(differences: Sequence[Floats], weights: Array) -> list[Limits]:
    """Returns score limits of differences -1, 0 and 1, for each of several groups of drops that hold together.

    All limits are one bisection, and all replicates one matrix product.

    Args:
        differences: Shape (S, N, R) each, with R of its own: the candidates of one method on one condition.
        weights: Multiplicities of the images, (B, N).
    """
    together = np.concatenate(differences, axis=2)
    edges = np.cumsum([0, *(group.shape[2] for group in differences)])
    lost, gained, n = effective_counts(together)
    groups = [slice(start, end) for start, end in pairwise(edges)]
    z = np.repeat(_critical_values(together.mean(axis=0), groups, weights), np.diff(edges))
    columns = np.stack(
        [
            -score_limit(gained, lost, n=n, z=Z_LIMIT),
            score_limit(lost, gained, n=n, z=Z_LIMIT),
            score_limit(lost, gained, n=n, z=Z_ONE_SIDED, corrected=True),
            -score_limit(gained, lost, n=n, z=z, corrected=True),
        ]
    )
    return [_limits_of_counts(columns[:, own], lost[own], gained[own], n[own]) for own in groups]


def _limits_of_counts(columns: Floats, lost: Floats, gained: Floats, n: Floats) -> Limits:
    low, high, upper, lower = columns
    return Limits(
        low,
        high,
        upper,
        lower,
        lambda largest: score_quantile(lost, gained, n=n, limit=largest),
        lambda largest: lower_score_quantile(lost, gained, n=n, limit=largest),
    )


def _critical_values(mean: Floats, groups: Sequence[slice], weights: Array) -> Floats:
    """Normal quantiles at which the limits of each group of columns of mean differences (N, R) hold together."""
    variance = mean.var(axis=0)
    deviations = resampled_means(weights, mean - mean.mean(axis=0))
    values = []
    for own in groups:
        varying = variance[own] > 0
        error = np.sqrt(variance[own][varying] / len(mean))
        z = max_t_critical_value(deviations[:, own][:, varying] / error)
        values.append(min(max(z, Z_LIMIT), bonferroni_quantile(len(varying))))
    return np.array(values)


def effective_counts(differences: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns losses, gains and images over their design effect, each (R,), of differences -1, 0 and 1, (S, N, R)."""
    seeds, images, _ = differences.shape
    losses, gains = ((differences * sign > 0).sum(axis=(0, 1)) for sign in (1, -1))
    if seeds == 1:
        return losses.astype(np.float64), gains.astype(np.float64), np.full(losses.shape, float(images))
    mean = differences.mean(axis=0)
    independent = (losses + gains) / (seeds * images) - mean.mean(axis=0) ** 2  # variance if seeds differed
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = np.where(
            losses + gains < FEWEST_DIFFERENCES,
            seeds,
            np.clip(seeds * mean.var(axis=0) / independent, 1, seeds),
        )
    return losses / effect, gains / effect, seeds * images / effect


def limits_of_means(differences: Floats, weights: Array, *, unit: bool) -> Limits:
    """Returns bootstrap-t limits, and percentile intervals, of the means of any numbers, shape (S, N, R).

    Means of numbers in [0, 1] that differ on few images have the limits of their rates of losses and of gains.
    """
    per_image = differences.mean(axis=0)
    mean = per_image.mean(axis=0)
    centred = per_image - mean
    error = centred.std(axis=0) / np.sqrt(len(per_image))
    replicates = resampled_means(weights, np.concatenate([centred, centred**2], axis=1))
    first, second = np.split(replicates, 2, axis=1)
    errors = np.sqrt(np.maximum(second - first**2, 0.0) / len(per_image))
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = first / errors  # infinite where a resample has no spread: it then allows no bound
    equal = error <= np.finfo(np.float64).eps * np.abs(per_image).max(axis=0)
    few = (per_image != 0).sum(axis=0) < FEWEST_DIFFERENCES
    regular = ~equal & ~few
    unseen = np.zeros(mean.shape) if unit else unseen_tail(per_image)
    tail, critical_value = np.full(mean.shape, -np.inf), max_t_critical_value(deviations[:, regular])
    tail[regular] = order_statistic(deviations[:, regular], 1 - ONE_SIDED)
    with np.errstate(invalid="ignore"):
        upper = np.where(equal, mean, mean - tail * error)
        lower = np.where(equal, mean, np.where(regular, mean - critical_value * error, -np.inf))
    low, high = interval((first + mean).T)
    if unit:
        upper_of_few, lower_of_few = _limits_of_few(per_image)
        upper, lower = np.where(few, upper_of_few, upper), np.where(few, lower_of_few, lower)
        low, high = np.where(few, np.minimum(low, lower), low), np.where(few, np.maximum(high, upper), high)

    def quantile(largest: Floats) -> Floats:
        quantiles = np.where(equal & (mean <= largest), np.inf, -np.inf)
        # `upper` at 95 % is right without the unseen tail; at the 97.5 % of a verdict it would not be
        studentised = (mean + unseen - largest)[regular] / error[regular]
        quantiles[regular] = _studentised_quantile(deviations[:, regular], studentised)
        return np.where(few, _quantile_of_few(per_image, largest), quantiles) if unit else quantiles

    def lower_quantile(largest: Floats) -> Floats:
        quantiles = np.where(equal & (mean > largest), np.inf, -np.inf)
        quantiles[regular] = mean_quantile(per_image[:, regular], largest[regular])
        return quantiles

    return Limits(low, high, upper, lower, quantile, lower_quantile)


def unseen_tail(values: Floats) -> Floats:
    """Returns what `UNSEEN_IMAGES` more images as bad as the worst would add to means of numbers without a bound, (R,).

    Args:
        values: How much worse each image is, (N, R).
    """
    tail: Floats = UNSEEN_IMAGES * np.maximum(values.max(axis=0), 0.0) / len(values)
    return tail


def mean_quantile(values: Floats, limit: Floats) -> Floats:
    """Returns the largest normal quantiles at which lower limits of means are above a limit, by Student's t.

    Of skewed numbers, t has a longer tail to one side. Johnson's statistic corrects it to first order; the smaller
    of the two is taken.

    Args:
        values: One number per image that is not constant, (N, R).
        limit: Shape (R,).

    References:
        Johnson 1978, "Modified t tests and confidence intervals for asymmetrical populations".
    """
    n = len(values)
    centred = values - values.mean(axis=0)
    variance = (centred**2).sum(axis=0) / (n - 1)
    third = (centred**3).mean(axis=0) / variance
    above = values.mean(axis=0) - limit
    corrected = above + third / (6 * n) + third * above**2 / (3 * variance)
    t = np.minimum(above, corrected) / np.sqrt(variance / n)
    quantiles: Floats = -ndtri(stdtr(n - 1, -t))
    return quantiles


def _studentised_quantile(deviations: Floats, at: Floats) -> Floats:
    """The largest normal quantiles at which `order_statistic` deviations (B, R) are not below some numbers (R,)."""
    rank = 1 + (deviations < at).sum(axis=0)
    quantiles: Floats = -ndtri(np.minimum(rank / (len(deviations) + 1), 1.0))
    return quantiles


def _limits_of_few(differences: Floats) -> tuple[Floats, Floats]:
    """Upper and lower limits of means of numbers in [-1, 1], shape (N, R), as if every loss or gain were 1."""
    lost, gained = ((differences * sign > 0).sum(axis=0) for sign in (1, -1))
    n = len(differences)
    return (
        score_limit(lost, np.zeros_like(lost), n=n, z=Z_ONE_SIDED, corrected=True),
        -score_limit(
            gained, np.zeros_like(gained), n=n, z=bonferroni_quantile(differences.shape[1]), corrected=True
        ),
    )


def _quantile_of_few(differences: Floats, largest: Floats) -> Floats:
    """The largest normal quantiles at which the upper limits of `_limits_of_few` are within tolerances (R,)."""
    lost = (differences > 0).sum(axis=0)
    return score_quantile(lost, np.zeros_like(lost), n=len(differences), limit=largest)


def max_t_critical_value(deviations: Floats) -> float:
    """Returns the 97.5 % quantile of the largest standardised deviation in each replicate (B, R); 0 if R is 0."""
    if not deviations.shape[1]:
        return 0.0
    return float(order_statistic(deviations.max(axis=1, keepdims=True), SIMULTANEOUS)[0])


def order_statistic(replicates: Floats, share: float) -> Floats:
    """Returns the quantile of each column that is one of its B numbers: of B + 1 equally likely ranks the outer."""
    count = len(replicates)
    rank = np.ceil((count + 1) * share) if share > 0.5 else np.floor((count + 1) * share)
    ranked: Floats = np.sort(replicates, axis=0)[int(np.clip(rank, 1, count)) - 1]
    return ranked


def bonferroni_quantile(count: int) -> float:
    """Returns the normal quantile at which limits of `count` drops hold together, however they depend on each other."""
    return -float(ndtri((1 - SIMULTANEOUS) / count))


def added_variance(drops: Floats, moving: Floats) -> Floats:
    """Returns the variance of drops (B, R) minus a moving tolerance (B,), less that of the drops alone, shape (R,)."""
    centred = moving - moving.mean()
    added: Floats = centred.var() - 2 * (centred @ (drops - drops.mean(axis=0))) / len(centred)
    return added
