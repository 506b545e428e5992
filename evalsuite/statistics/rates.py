"""Rates: score intervals of one rate and of the difference of two rates over the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr, ndtri

from evalsuite.errors import ContractError, DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from evalsuite.types import Floats

BISECTION_STEPS = 52
"""Steps of the bisection of [-1, 1]: the limits are exact to 5e-16."""


def wilson(successes: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Returns Wilson's score interval for a rate.

    Args:
        successes: Number of successes in 0..n.
        n: Number of trials, at least 1.
        level: Confidence of the two-sided interval.

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> tuple(round(limit, 4) for limit in wilson(0, 100))
    (0.0, 0.037)
    """
    if not 0 <= successes <= n or n < 1:
        raise DataError(f"found {successes} successes of {n}, expected 0 to n of at least 1")
    z2 = two_sided_quantile(level) ** 2
    centre = (successes + z2 / 2) / (n + z2)
    half = float(np.sqrt(z2 * (successes * (n - successes) / n + z2 / 4))) / (n + z2)
    high = 1.0 if successes == n else centre + half  # rounding may miss 1; the lower end meets 0 exactly
    return centre - half, high


def mcnemar(losses: int, gains: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test: are losses and gains equally likely?

    Under the hypothesis the losses are binomial among the discordant images; the smaller tail counts twice. It tests
    whether two rates differ at all, not whether they differ by more than is tolerated.

    Args:
        losses: Number of images on which only the first of the two succeeds.
        gains: Number of images on which only the second succeeds.

    References:
        McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages".

    >>> mcnemar(1, 7), mcnemar(0, 0)
    (0.0703125, 1.0)
    """
    return min(1.0, 2 * float(bdtr(min(losses, gains), losses + gains, 0.5)))


def paired_rate_interval(losses: int, gains: int, *, n: int, level: float = 0.95) -> tuple[float, float]:
    """Returns Tango's score interval for the difference of two rates over the same images.

    It holds the differences that a score test does not reject, so it stays inside [-1, 1] and has a width
    even where parent and candidate agree on every image: ``z**2 / (n + z**2)`` to either side of 0.

    Args:
        losses: Number of images on which only the first of the two succeeds.
        gains: Number of images on which only the second succeeds.
        n: Number of all images, the concordant ones included.
        level: Confidence of the two-sided interval; each end is a one-sided limit at (1 + level) / 2.

    Returns:
        Limits of the first rate minus the second, estimated by ``(losses - gains) / n``.

    References:
        Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design"; Fagerland, Lydersen and Laake 2014, "Recommended tests and confidence intervals
        for paired binomial proportions".

    >>> tuple(round(limit, 3) for limit in paired_rate_interval(1, 7, n=21))
    (-0.517, -0.026)
    """
    if min(losses, gains) < 0 or losses + gains > n or n < 1:
        raise DataError(f"found {losses} + {gains} discordant of {n} images, expected at most all of them")
    z = two_sided_quantile(level)
    return -float(score_limit(gains, losses, n=n, z=z)), float(score_limit(losses, gains, n=n, z=z))


def score_limit(
    losses: ArrayLike, gains: ArrayLike, *, n: ArrayLike, z: ArrayLike, corrected: bool = False
) -> Floats:
    """Returns the upper limit of the first rate minus the second: the largest that a score test keeps.

    The lower limit is the negative of this with losses and gains exchanged. Corrected limits allow for the
    skewness of rare events and for counts being whole: of all combinations of 100 to 10,000 images, tolerances
    from 0.002 to 0.05 and gains from 0 to 4 % they err at most as often as stated (exact sums over all
    outcomes; `tests/statistics/test_rates.py`). The plain limits err up to 1.2 times as often on the upper
    side (at 95 %, one-sided) and 1.8 times on the lower side (at 97.5 %), where the expected loss is a few
    images.

    Args:
        losses: Images on which only the first succeeds; may be fractions: effective numbers of images.
        gains: Images on which only the second succeeds.
        n: Number of all images.
        z: Quantile of the standard normal distribution for the one-sided confidence.
        corrected: Moves the limit outwards by half an image, and corrects the quantile of the statistic for
            its skewness (Cornish-Fisher, first order). Without it the limit is Tango's.

    Returns:
        Limits in [-1, 1], the arguments broadcast together.

    References:
        Tango 1998, as in `paired_rate_interval`; Gart and Nam 1990, "Approximate interval estimation of the
        difference in binomial parameters: correction for skewness and extension to multiple tables"; Laud
        2017, "Equal-tailed confidence intervals for comparison of rates".
    """
    numbers = (np.asarray(x, dtype=np.float64) for x in (losses, gains, n, z))
    lost, gained, size, quantiles = np.broadcast_arrays(*numbers)
    inside = np.minimum((lost - gained + 0.5 * corrected) / size, 1.0)
    outside = np.ones(inside.shape)
    for _ in range(BISECTION_STEPS):
        middle = (inside + outside) / 2
        accepted = _excess(middle, (lost, gained, size), quantiles, corrected=corrected) < 0
        inside, outside = np.where(accepted, middle, inside), np.where(accepted, outside, middle)
    limit: Floats = np.where(lost == size, 1.0, (inside + outside) / 2)
    return limit


def score_quantile(losses: ArrayLike, gains: ArrayLike, *, n: ArrayLike, limit: ArrayLike) -> Floats:
    """Returns the largest `z` at which the corrected `score_limit` is still within `limit`.

    Args:
        losses: Images on which only the first succeeds; may be fractions.
        gains: Images on which only the second succeeds.
        n: Number of all images.
        limit: Largest tolerated difference, above -1; from 1 on every difference is tolerated.

    Returns:
        Quantiles, the arguments broadcast together: ``ndtr(-z)`` is the one-sided p-value of "the first rate
        exceeds the second by more than the limit".

    References:
        As `score_limit`. The corrected statistic is a quadratic in the quantile; where it has no root the expansion
        behind the correction does not hold any more, and no larger quantile than that is claimed.

    >>> z = score_quantile(3, 1, n=1000, limit=0.01)
    >>> round(float(score_limit(3, 1, n=1000, z=z, corrected=True)), 9)
    0.01
    """
    numbers = (np.asarray(x, dtype=np.float64) for x in (losses, gains, n, limit))
    lost, gained, size, largest = np.broadcast_arrays(*numbers)
    certain = largest >= 1
    largest = np.where(certain, 0.0, largest)
    variance, third = null_moments(largest, lost, gained, size)
    quadratic, linear = third / variance / 6, np.sqrt(size * variance)
    constant = size * largest - (lost - gained) - 0.5 - quadratic
    root = np.sqrt(np.maximum(linear**2 - 4 * quadratic * constant, 0.0))
    quantiles: Floats = np.where(certain, np.inf, 2 * constant / (linear + root))
    return quantiles


def lower_score_quantile(losses: ArrayLike, gains: ArrayLike, *, n: ArrayLike, limit: ArrayLike) -> Floats:
    """Returns the largest `z` at which the corrected lower score limit is still above `limit`.

    Args:
        losses: Images on which only the first succeeds; may be fractions.
        gains: Images on which only the second succeeds.
        n: Number of all images.
        limit: Largest tolerated difference, at least 0; from 1 on no difference is above it.

    Returns:
        Quantiles, the arguments broadcast together: ``ndtr(-z)`` is the one-sided p-value of "the first rate
        exceeds the second by at most the limit". It errs at most as often as stated down to p = 3e-6 (exact sums over
        all outcomes; `tests/statistics/test_rates.py`).

    >>> z = lower_score_quantile(40, 5, n=1000, limit=0.01)
    >>> round(-float(score_limit(5, 40, n=1000, z=z, corrected=True)), 9)
    0.01
    """
    largest = np.asarray(limit, dtype=np.float64)
    quantiles = score_quantile(gains, losses, n=n, limit=-np.minimum(largest, 0.999))
    return np.where(largest < 1, quantiles, -np.inf)


def null_moments(difference: Floats, losses: Floats, gains: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Returns variance and third central moment of one image's difference, if their mean is `difference`.

    The rate of gains is the most likely one given the counts and the difference (Tango 1998, section 3).
    """
    spread = difference * (1 - difference)
    b = (2 * n - losses + gains) * difference - losses - gains
    root = np.sqrt(np.maximum(0.0, b * b + 8 * n * gains * spread))
    variance = np.maximum((root - b) / (2 * n) + spread, np.finfo(np.float64).tiny)
    return variance, difference * (1 - 3 * variance - difference * difference)


def _excess(
    difference: Floats, counts: tuple[Floats, Floats, Floats], z: Floats, *, corrected: bool
) -> Floats:
    """How far the score statistic of losses, gains and n exceeds its quantile, in images; negative if not rejected."""
    losses, gains, n = counts
    variance, third = null_moments(difference, losses, gains, n)
    excess: Floats = n * difference - (losses - gains) - z * np.sqrt(n * variance)
    return excess - 0.5 + (z * z - 1) / 6 * third / variance if corrected else excess


def two_sided_quantile(level: float) -> float:
    """Returns the normal quantile of each end of a two-sided interval."""
    return float(ndtri((1 + checked_level(level)) / 2))


def checked_level(level: float) -> float:
    """Returns the level if it is one.

    Raises:
        ContractError: If it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ContractError(
            f"the confidence level is {level}, expected a number between 0 and 1, for example 0.95"
        )
    return level
