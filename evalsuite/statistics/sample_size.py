"""Sample sizes: how many images, and how many seeds, a tolerance needs for a ratio to be certified."""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np
from scipy.special import nctdtr, ndtri, stdtrit

from evalsuite.errors import UserError
from evalsuite.statistics.limits import ONE_SIDED, Z_ONE_SIDED
from evalsuite.statistics.rates import checked_level, null_moments

FEWEST_SEEDS = 3
"""Fewer seeds do not show how much training runs differ."""


def required_images(
    tolerance: float, discordance: float, *, drop: float = 0.0, power: float = 0.8, level: float = ONE_SIDED
) -> int:
    """Returns how many images certify one ratio for a rate (accuracy and its kin).

    Solves the condition for the corrected score limit to lie below the tolerance with probability
    `power`, with the expected losses and gains in place of the counts.

    Args:
        tolerance: Largest drop that is commensurate, a fraction of the images above 0.
        discordance: Share of images on which one of parent and candidate is right; estimate it with a pilot run.
        drop: True drop of the candidate; below the tolerance.
        power: Probability that the ratio is certified; it is the same at the ratios below.
        level: One-sided confidence: 0.95 certifies, 0.975 is that of the verdict *non-inferior*.

    Returns:
        The number of images; simulated powers lie within 0.04 of the one asked for if ten discordant images or
        more are expected among them.

    Raises:
        UserError: If the numbers contradict each other.

    References:
        Liu et al. 2002, "Tests for equivalence or non-inferiority for paired binary data", section 5.

    >>> required_images(0.005, 0.06), required_images(0.02, 0.06)
    (15090, 1024)
    >>> required_images(0.01, 0.06, level=0.975)
    4875
    """
    _check_power(power)
    if not -1 < drop < tolerance < 1 or tolerance <= 0:
        raise UserError(
            f"the tolerance is {tolerance} and the drop {drop}; the tolerance must be above 0 and the drop, "
            "and both are fractions"
        )
    if not abs(drop) <= discordance <= 1:
        raise UserError(
            f"the discordance is {discordance}; it must be at least the drop {abs(drop)}, at most 1"
        )
    rates = np.asarray((discordance + drop) / 2), np.asarray((discordance - drop) / 2)
    variance, third = (float(x) for x in null_moments(np.asarray(tolerance), *rates, np.asarray(1.0)))
    margin = tolerance - drop
    z = Z_ONE_SIDED if level == ONE_SIDED else float(ndtri(checked_level(level)))
    deviations = z * sqrt(variance) + float(ndtri(power)) * sqrt(discordance - drop * drop)
    correction = 0.5 - (z**2 - 1) / 6 * third / variance  # images, as in `score_limit`
    root = (deviations + sqrt(max(deviations**2 + 4 * margin * correction, 0.0))) / (2 * margin)
    return ceil(root * root)


def required_seeds(tolerance: float, spread: float, *, drop: float = 0.0, power: float = 0.8) -> int:
    """Returns how many seeds certify one ratio for a method (scope *method*), given enough images.

    Args:
        tolerance: Largest mean drop that is commensurate, in the metric's unit.
        spread: Standard deviation of the drop over seeds, in the same unit.
        drop: True mean drop of the method; below the tolerance.
        power: Probability that the ratio is certified.

    Raises:
        UserError: If the numbers contradict each other.

    >>> required_seeds(0.01, 0.003), required_seeds(0.01, 0.01)
    (3, 8)
    """
    _check_power(power)
    if not drop < tolerance < np.inf or not 0 <= spread < np.inf:
        raise UserError(
            f"the tolerance is {tolerance}, the drop {drop}, the spread {spread}; the tolerance must be above "
            "the drop and the spread at least 0"
        )
    seeds = FEWEST_SEEDS
    while spread and _t_power((tolerance - drop) / spread, seeds) < power:
        seeds += 1
    return seeds


def _t_power(distance: float, seeds: int) -> float:
    """Power of the one-sided t test at `distance` standard deviations."""
    freedom = seeds - 1
    return 1 - float(nctdtr(freedom, distance * sqrt(seeds), stdtrit(freedom, ONE_SIDED)))


def _check_power(power: float) -> None:
    if not 0 < power < 1:
        raise UserError(f"the power is {power}; it must lie between 0 and 1, for example 0.8")
