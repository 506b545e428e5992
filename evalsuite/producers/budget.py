"""How many samples each filter gets under randomised SiPP: a convex program, solved through its dual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evalsuite.records import Array, Floats

FAILURE = 1e-16
"""Probability that a bound may fail."""
CONSTANT = 3.0
"""Factor between sensitivities over some images and over all: the constant of the theorems."""
_HALVINGS = 50
_NEWTON = 12
_LEAST, _MOST = -30.0, 30.0  # powers of ten between which any price lies


@dataclass(frozen=True, eq=False)
class Groups:
    """Is all weights of a network by filter and sign.

    Attributes:
        values: Sensitivity of each weight, float64; 0 for weights that are gone.
        of: Number of each weight's group.
        slack: Per group, the logarithmic factor of its error bound.
        weight: Per group, its weight in the sum of bounds: one over the number of filters of its layer.
    """

    values: Floats
    of: Array
    slack: Floats
    weight: Floats

    @cached_property
    def sums(self) -> Floats:
        """Sum of sensitivities per group."""
        return np.bincount(self.of, weights=self.values, minlength=len(self.slack)).astype(np.float64)

    @cached_property
    def alive(self) -> Floats:
        """Number of weights with any sensitivity per group."""
        return np.bincount(self.of, weights=self.values > 0, minlength=len(self.slack)).astype(np.float64)

    @cached_property
    def shares(self) -> Floats:
        """Each weight's part of its group's sensitivity: the probability that one sample draws it."""
        total = self.sums[self.of]
        found: Floats = np.divide(self.values, total, out=np.zeros_like(self.values), where=total > 0)
        return found

    @cached_property
    def order(self) -> Array:
        """Rank of each weight in its group, the most sensitive first, from 0; ties fall to the earlier."""
        order = np.lexsort((-self.values, self.of))
        starts = np.searchsorted(self.of[order], np.arange(len(self.slack)))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order)) - starts[self.of[order]]
        return ranks

    def bounds(self, counts: Floats) -> Floats:
        """Returns the relative error that each group has at most with so many samples.

        With S the group's sum of sensitivities and c = `slack` S / 3 it is
        ``(c / m + sqrt((c / m)^2 + 6 c / m)) / 2``.
        """
        part = self.slack * self.sums / 3 / np.maximum(counts, 1e-300)
        found: Floats = (part + np.sqrt(part * part + 6 * part)) / 2
        return found


def samples(groups: Groups, keep: int, sampled: Callable[[Groups, Floats], NDArray[np.bool_]]) -> Floats:
    """Returns real numbers of samples per group that minimise the weighted sum of all error bounds.

    Minimised over m is ``sum_g weight_g bound_g(m_g)`` with ``0 <= m_g <= alive_g``, under the number of
    different weights that are expected to stay. The program is separable and convex, so at the optimum all
    groups below their limit have the same slope, the price of a sample, which is found by bisection.

    Args:
        groups: The weights.
        keep: Weights that shall stay.
        sampled: Which groups are sampled at given counts; the others keep one weight per sample.

    References:
        The program is that of lucaslie/torchprune, which gives it to a general solver, limits the draws, and
        searches for the limit that leaves the wanted number of weights.
    """
    low, high = _LEAST, _MOST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        counts = _at_price(groups, 10.0**middle)
        if expected(groups, counts, sampled(groups, counts)) > keep:
            low = middle
        else:
            high = middle
    return _at_price(groups, 10.0**high)


def expected(groups: Groups, counts: Floats, sampled: NDArray[np.bool_]) -> float:
    """Returns how many different weights stay on average: ``1 - exp(-m p)`` of one with share p if sampled."""
    chance = -np.expm1(-counts[groups.of] * groups.shares)
    whole = np.minimum(counts, groups.alive)
    return float(chance[sampled[groups.of]].sum() + whole[~sampled].sum())


def _at_price(groups: Groups, price: float) -> Floats:
    """The counts at which one more sample lowers a group's weighted bound by `price`, within the group's limits.

    With c as in `Groups.bounds`, a bound e needs ``m = c (3 + 2 e) / (2 e^2)`` samples, so that at the price q
    ``e^3 = p (3 + e)`` with ``p = q c / weight``. Newton's method falls on the root from above.
    """
    c = groups.slack * groups.sums / 3
    p = price * c / groups.weight
    bound = np.cbrt(3 * p) + np.sqrt(p)
    with np.errstate(divide="ignore", invalid="ignore"):  # a group without sensitivity has no bound
        for _ in range(_NEWTON):
            bound -= (bound**3 - p * (3 + bound)) / (3 * bound**2 - p)
        counts = np.minimum(c * (3 + 2 * bound) / (2 * bound**2), groups.alive)
    return np.where(c > 0, counts, 0.0)
