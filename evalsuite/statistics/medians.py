"""The interval of a median, whatever the distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr

from evalsuite.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

LEAST = 6
"""Fewer values cannot bound their median at 95 %: all of five lie on one side of it with a chance of 1 in 16."""


def median_interval(values: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Returns an interval that holds the median of the population with at least the confidence `level`.

    Its ends are order statistics: how many of n values lie below the median is binomial with 1/2, whatever the
    distribution. Values are taken as independent.

    Args:
        values: Finite, shape (N,).
        level: Confidence of the two-sided interval.

    Raises:
        DataError: If there are too few values: the smallest and the largest would not do.

    References:
        Hahn and Meeker 1991, "Statistical Intervals", section 5.2.

    >>> median_interval([3.0, 1.0, 4.0, 1.5, 9.0, 2.0])
    (1.0, 9.0)
    """
    ranked = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ranked)
    cut = int(
        (bdtr(np.arange(n), n, 0.5) <= (1 - level) / 2).sum()
    )  # values that may be left out at each end
    if not cut:
        raise DataError(f"found {n} values, too few for an interval of their median at {level:.0%}")
    return float(ranked[cut - 1]), float(ranked[n - cut])
