"""Group-sequential tests: early looks at a growing sample that cost no error.

A test statistic is looked at when ``n_1 < ... < n_K`` images have been seen. At each look a part of the error may be
spent, ``error * (n_k / n_K) ** POWER`` up to there, and the critical values are those with which a normal statistic
with independent increments spends exactly that. Read the other way round, a look has the smallest error at which it
rejects: a **repeated p-value**. Of a true hypothesis the probability that any of its repeated p-values is at most
``a`` is at most ``a``, so that a test may stop whenever it likes, for whatever reason, and the p-value of the last
look may go into Holm's procedure like any other.

References:
    Lan and DeMets 1983, "Discrete sequential boundaries for clinical trials"; Kim and DeMets 1987, "Design and analysis
    of group sequential tests based on the type I error spending rate function"; Jennison and Turnbull 2000, "Group
    sequential methods with applications to clinical trials", chapters 7, 9 and 19 (repeated confidence intervals, and
    the recursion of Armitage, McPherson and Rowe 1969).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from evalsuite.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from evalsuite.types import Floats

POWER = 1.5
"""Power of the share of images in the error that may be spent up to there.

Of .5 to 3, 1.5 decides clear cases with nearly as few images as 1, and unclear ones nearly as often as all images in
one look (`tests/benchmarks/simulate_sequential.py --designs`, docs/statistics.md).
"""
MOST_LOOKS = 5
SMALLEST_STAGE = 200
"""Images below which a look decides next to nothing: at a tolerance of .02 two equal networks need more."""
_LEGENDRE = np.polynomial.legendre.leggauss(120)
"""Nodes and weights of the quadrature between two looks: critical values are exact to 1e-9."""
_FARTHEST = 9.0
"""Standard deviations beyond which a normal statistic is not followed."""
_ERRORS = np.concatenate([np.logspace(-12, -2, 41), np.linspace(0.015, 0.9, 60)])
"""Errors at which critical values are computed; between them they are interpolated."""


def stage_sizes(total: int) -> tuple[int, ...]:
    """Returns how many images have been seen at each look: doubling up to all, from `SMALLEST_STAGE` on.

    >>> stage_sizes(10_000), stage_sizes(899), stage_sizes(300)
    ((625, 1250, 2500, 5000, 10000), (225, 450, 899), (300,))
    """
    sizes = [total]
    while len(sizes) < MOST_LOOKS and -(-sizes[-1] // 2) >= SMALLEST_STAGE:
        sizes.append(-(-sizes[-1] // 2))
    return tuple(reversed(sizes))


@dataclass(frozen=True)
class SequentialDesign:
    """The looks of a one-sided test at a growing sample, and what each may spend.

    Attributes:
        sizes: Images seen at each look, rising; the last look is at all.
        power: Power of the share of images in the error spent.
    """

    sizes: tuple[int, ...]
    power: float = POWER

    def __post_init__(self) -> None:
        if not self.sizes or any(b <= a for a, b in zip((0, *self.sizes), self.sizes, strict=False)):
            raise ContractError(f"found looks at {self.sizes} images, expected rising positive numbers")

    @cached_property
    def shares(self) -> Floats:
        """Share of the images seen at each look, (K,)."""
        return np.asarray(self.sizes, dtype=np.float64) / self.sizes[-1]

    def critical_values(self, error: float) -> Floats:
        """Returns the normal quantiles at which each look rejects, (K,), for a one-sided error in (0, 1).

        >>> SequentialDesign((100,)).critical_values(0.025).round(3).tolist()
        [1.96]
        >>> SequentialDesign((1, 2, 3, 4, 5), power=1.0).critical_values(0.025).round(2).tolist()
        [2.58, 2.49, 2.41, 2.34, 2.28]
        """
        return np.array(_critical_values(self.sizes, self.power, error))

    @cached_property
    def _table(self) -> Floats:
        """Critical values at each of the tabulated errors, (errors, K); larger errors have smaller ones."""
        return np.stack([self.critical_values(float(error)) for error in _ERRORS])

    def repeated_p_values(self, look: int, p_values: ArrayLike) -> Floats:
        """Returns the smallest errors at which a look rejects.

        Args:
            look: Index of the look, from 0.
            p_values: One-sided p-values of the images seen so far, as if there were no other look; NaN stays.

        Returns:
            Same shape; never smaller than those given.

        >>> design = SequentialDesign((250, 500, 1000), power=1.0)
        >>> design.repeated_p_values(2, [0.01, 1.0]).round(4).tolist()
        [0.016, 1.0]
        """
        p = np.asarray(p_values, dtype=np.float64)
        if len(self.sizes) == 1:
            return p.copy()
        column = self._table[::-1, look]  # rising
        inverse = PchipInterpolator(column, np.log(_ERRORS[::-1]), extrapolate=False)
        z = -ndtri(np.clip(p, 1e-300, 1.0))
        repeated = np.exp(inverse(np.clip(z, column[0], column[-1])))
        repeated = np.where(z < column[0], 1.0, repeated)
        return np.where(np.isnan(p), np.nan, np.maximum(repeated, p))


@lru_cache(maxsize=4096)
def _critical_values(sizes: tuple[int, ...], power: float, error: float) -> tuple[float, ...]:
    """The recursion over the looks; results are kept, since all checks of a run share a few."""
    times = np.asarray(sizes, dtype=np.float64) / sizes[-1]
    spent = error * times**power
    values = [float(-ndtri(spent[0]))]
    nodes, masses = _below(values[0], times[0], None)
    for k in range(1, len(times)):
        step = float(np.sqrt(times[k] - times[k - 1]))
        values.append(_critical_value(nodes, masses, times[k], step, spent[k] - spent[k - 1]))
        nodes, masses = _below(values[k], times[k], (nodes, masses, step))
    return tuple(values)


def _below(
    critical: float, time: float, before: tuple[Floats, Floats, float] | None
) -> tuple[Floats, Floats]:
    """Nodes and masses of the sum statistic at a look, where no look so far has rejected."""
    x, w = _LEGENDRE
    low, high = -_FARTHEST * np.sqrt(time), critical * np.sqrt(time)
    nodes = (low + high) / 2 + (high - low) / 2 * x
    weights = (high - low) / 2 * w
    if before is None:
        return nodes, weights * _density(nodes / np.sqrt(time)) / np.sqrt(time)
    earlier, masses, step = before
    density = _density((nodes[:, None] - earlier) / step) / step
    return nodes, weights * (density @ masses)


def _critical_value(nodes: Floats, masses: Floats, time: float, step: float, spend: float) -> float:
    """The quantile above which the statistic has the probability `spend`, where no look before has rejected."""

    def excess(z: float) -> float:
        crossed = float(masses @ ndtr((nodes - z * np.sqrt(time)) / step))
        return float(np.log(max(crossed, 1e-300)) - np.log(spend))

    return float(brentq(excess, -_FARTHEST, _FARTHEST + 6))


def _density(z: Floats) -> Floats:
    density: Floats = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return density


def predictive_power(
    design: SequentialDesign,
    look: int,
    *,
    margin: ArrayLike,
    deviation: ArrayLike,
    errors: Sequence[float],
) -> Floats:
    """Returns the probability that a later look still rejects, given what has been seen.

    It is the conditional power, averaged over what the images so far leave open of the true difference (a flat prior):
    with the measured difference taken for the true one, an early look would give up what more images would decide.

    Args:
        design: The looks.
        look: Index of the last one.
        margin: How far the measured drop is below its tolerance, any shape; negative where it is above.
        deviation: Standard deviation of one image's difference, same shape.
        errors: One-sided errors of the claims that the true margin is above 0, and that it is below.

    Returns:
        The larger of the probabilities of the two claims, same shape; 0 after the last look.

    References:
        Spiegelhalter, Freedman and Blackburn 1986, "Monitoring clinical trials: conditional or predictive power?"
    """
    measured, error_of_one = np.asarray(margin, dtype=np.float64), np.asarray(deviation, dtype=np.float64)
    power, n = np.zeros(measured.shape), design.sizes[look]
    for sign, error in zip((1, -1), errors, strict=True):
        for size, z in zip(design.sizes[look + 1 :], design.critical_values(error)[look + 1 :], strict=True):
            needed = z * error_of_one / np.sqrt(size)
            spread = error_of_one * np.sqrt(1 / n - 1 / size)
            power = np.maximum(power, ndtr((sign * measured - needed) / spread))
    return power
