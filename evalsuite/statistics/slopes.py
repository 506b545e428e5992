"""Slopes of the excess error over the prune ratio, and their confidence intervals.

The excess error of a network is its error on shifted images minus its error on clean ones. The excess that pruning
adds, in percentage points, is regressed through the origin (an unpruned network adds nothing) on the ratio in
[0, 1]: a slope of 2 means two points at a ratio of 100 %.

References:
    Liebenwein et al. 2021, "Lost in Pruning", section 5 and its published code, which resamples points; points of
    one prune-retrain trajectory are correlated, so the intervals here resample images or whole seeds instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri, stdtrit

from evalsuite.errors import ContractError
from evalsuite.random_streams import generator
from evalsuite.statistics.sample_size import FEWEST_SEEDS

if TYPE_CHECKING:
    from evalsuite.types import Floats


def slope(ratios: Floats, excess: Floats) -> float:
    """Returns the least-squares slope through the origin, ``sum(x y) / sum(x x)``.

    Args:
        ratios: Prune ratios in (0, 1), shape (R,).
        excess: Excess error that pruning added, in percentage points, shape (R,).

    Raises:
        ContractError: If there is no point, or shapes differ.

    >>> slope(np.array([0.5, 1.0]), np.array([1.0, 2.0]))
    2.0
    """
    x, y = _points(ratios, excess)
    return float(x @ y / (x @ x))


def slope_over_images(ratios: Floats, excess: Floats, *, level: float = 0.95) -> tuple[float, float]:
    """Returns an interval for the slope of these networks: the images are the sample.

    The slope is linear in the images, so it is the mean of one number per image, and its interval that of a mean.

    Args:
        ratios: Prune ratios, shape (R,).
        excess: Contribution of each image to the excess error at each ratio, in percentage points, shape (R, N).
        level: Confidence of the two-sided interval.
    """
    x, each = _points(ratios, excess)
    slopes = x @ each / (x @ x)
    margin = ndtri((1 + level) / 2) * slopes.std(ddof=1) / np.sqrt(slopes.size) if slopes.size > 1 else np.inf
    return float(slopes.mean() - margin), float(slopes.mean() + margin)


def slope_over_seeds(slopes: Floats, *, of_images: float = 0.0, level: float = 0.95) -> tuple[float, float]:
    """Returns an interval for the slope of the method: whole seeds are a sample, and so are the images.

    Student's t over the slopes of the seeds, with one degree of freedom less than seeds; NaN below three seeds. All
    seeds see the same images, so their spread does not contain the noise of the images: that margin is added, as
    squares. Each seed's own image noise is in both, so the interval is conservative.

    Args:
        slopes: One per seed, shape (S,).
        of_images: Half-width of the interval over images of their mean.
        level: Confidence of the two-sided interval.

    >>> [round(end, 2) for end in slope_over_seeds(np.array([1.0, 2.0, 3.0]))]
    [-0.48, 4.48]
    """
    values = np.asarray(slopes, dtype=np.float64)
    if values.size < FEWEST_SEEDS:
        return float("nan"), float("nan")
    of_seeds = stdtrit(values.size - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(values.size)
    margin = np.hypot(of_seeds, of_images)
    return float(values.mean() - margin), float(values.mean() + margin)


def slope_over_points(
    ratios: Floats, excess: Floats, *, seed: int, replicates: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Returns the published interval, a percentile bootstrap over points; too narrow, since points are correlated.

    Args:
        ratios: Prune ratios, shape (R,).
        excess: Excess error that pruning added, in percentage points, shape (R,).
        seed: Address of the draws.
        replicates: Resamples; the published number is 10,000.
        level: Confidence of the two-sided interval.
    """
    x, y = _points(ratios, excess)
    rows = generator(seed, "slope").integers(0, x.size, (replicates, x.size))
    slopes = (x[rows] * y[rows]).sum(axis=1) / (x[rows] ** 2).sum(axis=1)
    low, high = np.quantile(slopes, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _points(ratios: Floats, excess: Floats) -> tuple[Floats, Floats]:
    x, y = np.asarray(ratios, dtype=np.float64), np.asarray(excess, dtype=np.float64)
    if x.ndim != 1 or not x.size or x.size != len(y):
        raise ContractError(
            f"{x.size} ratios and {len(y)} excess errors: expected one for each, at least one"
        )
    return x, y
