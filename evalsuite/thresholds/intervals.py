"""The interval of the true potential, of one check, of a group of checks, or of all of them together.

The true potential of several checks is the largest tested ratio such that all of them are commensurate there and at
every smaller tested ratio. ``noninferior_up_to`` is its lower limit, and ``inferior_from`` the first tested ratio above
its upper limit; together they hold it in at least 95 % of samples of images:

* lower: every check at every ratio so far is non-inferior at one-sided 97.5 %. It goes too far only if the first ratio
  that truly fails passes in the check that fails there (intersection-union test, Berger 1982).
* upper: "the potential is at least r" are nested hypotheses, so they are tested from the largest ratio downwards, each
  at 2.5 %, until the first that is kept (fixed sequence, Maurer, Hothorn and Lehmacher 1995). Each is rejected if any
  check at any ratio up to r is inferior, with Bonferroni's correction for so many tests; means over the conditions
  of a group are tests too, since a mean above its tolerance has a member above its own.

A point estimate cannot lie outside. The smallest of the upper limits of the single checks is no limit for all of them:
it was below the true potential in 24 to 59 % of simulated samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evalsuite.thresholds.verdicts import ERROR, distinct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalsuite.thresholds.curves import Curves, Flags
    from evalsuite.types import Array, Floats


@dataclass(frozen=True, slots=True)
class PotentialInterval:
    """An interval of the true potential.

    Attributes:
        noninferior_up_to: Lower limit: 0 where not even the smallest ratio is shown to hold.
        largest_undecided: Upper limit: the largest tested ratio below `inferior_from`; 0 if there is none.
        inferior_from: The first ratio above the upper limit; NaN where no ratio is shown to fail.
        median: The upper limit at 50 % instead of 97.5 %, for where one number is needed: it is below the true
            potential in at most half of the samples (Chernozhukov, Lee and Rosen 2013, "Intersection Bounds").
    """

    noninferior_up_to: float
    largest_undecided: float
    inferior_from: float
    median: float


@dataclass(frozen=True, slots=True)
class RatioTests:
    """The tests of several checks over the ratios of one method and seed.

    Attributes:
        ratios: Measured ratios in any order, (T,); NaN where nothing was tested.
        tested: Which checks were tested at which ratio, measured or not, (K, T).
        noninferiority: One-sided p-values of the checks, (K, T).
        inferiority: The same of the checks and of means over them, (M, T).
        codes: Codes of the evidence behind the latter, (M, T); see `evalsuite.thresholds.verdicts.holm`.
        grid: Number of ratios that a search chose from; 0 if they were fixed before.
    """

    ratios: Floats
    tested: Flags
    noninferiority: Floats
    inferiority: Floats
    codes: Floats
    grid: int = 0


def potential_interval(tests: RatioTests) -> PotentialInterval:
    """Returns the interval of the true potential of several checks together.

    >>> ratios, p = np.array([0.5, 0.7, 0.9]), np.array([[0.001, 0.2, 1.0]])
    >>> tests = RatioTests(ratios, p >= 0, p, np.array([[1.0, 1.0, 0.001]]), np.full((1, 3), np.nan))
    >>> potential_interval(tests)
    PotentialInterval(noninferior_up_to=0.5, largest_undecided=0.7, inferior_from=0.9, median=0.7)
    """
    steps = np.unique(tests.ratios[~np.isnan(tests.ratios)])
    lower = 0.0
    with np.errstate(invalid="ignore"):
        failing = tests.tested & ~(tests.noninferiority <= ERROR)
    for ratio in steps:
        if failing[:, tests.ratios == ratio].any():
            break
        lower = float(ratio)
    below = np.concatenate([[0.0], steps])
    first, median = (_first_inferior(tests, steps, error) for error in (ERROR, 0.5))
    upper = float(steps[first]) if first < len(steps) else float("nan")
    return PotentialInterval(lower, float(below[first]), upper, float(below[median]))


def _first_inferior(tests: RatioTests, steps: Floats, error: float) -> int:
    """Index of the first ratio above the upper limit; the number of steps where there is none."""
    decidable = ~np.isnan(tests.inferiority)
    if tests.grid:  # the tested ratios are chosen by their drops: one level for the whole grid
        level = error / (max(1, len(tests.inferiority)) * tests.grid)
        failed = (decidable & (np.where(decidable, tests.inferiority, 1.0) <= level)).any(axis=0)
        first = np.min(tests.ratios[failed], initial=np.inf)
        return int(np.searchsorted(steps, first))
    index = len(steps)
    while index:
        inside = decidable & (tests.ratios <= steps[index - 1])
        if not inside.any() or tests.inferiority[inside].min() > error / distinct(tests.codes[inside]):
            break
        index -= 1
    return index


def intervals_of_members(
    curves: Curves, members: Sequence[int], means: Sequence[int] = ()
) -> dict[str, Array]:
    """Returns the intervals of several checks together, for each method and seed.

    Args:
        curves: Shape (methods, seeds and their mean, pairs, T).
        members: Indices of the checks.
        means: Indices of means over some of them, which are tested for inferiority as well.

    Returns:
        Arrays (methods, seeds) by the names of `PotentialInterval`; NaN where a check has no p-values or is missing.
    """
    shape = curves.limits.shape[:2]
    arrays = {name: np.full(shape, np.nan) for name in PotentialInterval.__slots__}
    one_seed = shape[1] == 2  # the mean over one seed is that seed
    for place in np.ndindex(shape[0], 1 if one_seed else shape[1]):
        if not _is_decidable(curves, place, members):
            continue
        interval = potential_interval(_tests_at(curves, place, members, means))
        for name, array in arrays.items():
            array[place] = getattr(interval, name)
    return {name: np.repeat(array[:, :1], 2, axis=1) if one_seed else array for name, array in arrays.items()}


def _is_decidable(curves: Curves, place: tuple[int, ...], members: Sequence[int]) -> bool:
    """Whether there is a curve of every member, each with p-values."""
    of_members: Any = (*place, list(members))
    has_p_values = (~np.isnan(curves.noninferiority_ps[of_members])).any(axis=1)
    return bool(len(members)) and bool(has_p_values.all()) and not curves.partial[of_members].any()


def _tests_at(
    curves: Curves, place: tuple[int, ...], members: Sequence[int], means: Sequence[int]
) -> RatioTests:
    of_members: Any = (*place, list(members))
    together: Any = (*place, [*members, *means])
    return RatioTests(
        ratios=np.fmax.reduce(curves.ratios[of_members], axis=0),
        tested=curves.tested[of_members],
        noninferiority=curves.noninferiority_ps[of_members],
        inferiority=curves.inferiority_ps[together],
        codes=curves.codes[together],
        grid=int(curves.grid[place].max(initial=0)),
    )
