"""What a perfectly calibrated network would show: the expected calibration error that is chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import ContractError
from evalsuite.metrics.calibration import bin_of
from evalsuite.metrics.weighted import vector
from evalsuite.randomness import BLOCK, blocks

if TYPE_CHECKING:
    from evalsuite.records import Array

DRAWS = 400
"""Simulated tests: the floor is then known to about 2 %, the limit to about 4 %."""


def ece_by_chance(confidence: Array, *, seed: int, bins: int = 15, draws: int = DRAWS) -> tuple[float, float]:
    """Returns mean and 95 % quantile of `ece_equal_width` if each prediction is right as often as it says.

    Whether image i would have been right is drawn anew, with its confidence as the probability. An error at the
    mean is what a perfectly calibrated network shows on so many images; one above the quantile is no chance.

    Args:
        confidence: Probability of the predicted class in [0, 1], shape (N,).
        seed: Address of the draws; an image's depend on it and on its place, so candidates meet the same.
        bins: Number of bins.
        draws: Number of simulated tests.

    References:
        Brocker and Smith 2007, "Increasing the reliability of reliability diagrams" (consistency resampling).

    >>> ece_by_chance(np.ones(10), seed=0)
    (0.0, 0.0)
    """
    c = vector("confidence", confidence)
    if c.min() < 0 or c.max() > 1:
        raise ContractError(f"confidence runs from {c.min():g} to {c.max():g}, expected probabilities")
    place = bin_of(c, bins)
    gaps = np.zeros((draws, bins))
    for rows, random in blocks(c.size, seed, "calibrated"):
        drawn = random.random((BLOCK, draws))[: rows.stop - rows.start]
        members = place[rows, None] == np.arange(bins)
        gaps += ((drawn < c[rows, None]) - c[rows, None]).T @ members
    errors = np.abs(gaps).sum(axis=1) / c.size
    return float(errors.mean()), float(np.quantile(errors, 0.95))
