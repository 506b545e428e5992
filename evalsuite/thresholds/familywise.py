"""Familywise error over all thresholds of a method: Holm's procedure over fixed sequences of ratios.

Each threshold of a table holds with 95 % confidence by itself; of many, some are wrong. Here the probability that
*any* statement of the family is wrong is at most 5 %: a member starts with an equal share of this error, tests its
ratios in rising order at that level, and passes its share on to the others once its last ratio has passed. A group of
conditions is one member, tested by its largest p-value: it passes if every condition does (intersection-union test),
and then all of them have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.legacy_names import current_condition
from evalsuite.thresholds.curves import any_along, longest_passing_prefix
from evalsuite.types import SYNTHETIC_FROST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalsuite.thresholds.curves import Curves
    from evalsuite.types import Floats

FAMILYWISE_ERROR = 0.05
"""Probability that any statement of a family is wrong."""


def certified_jointly(
    curves: Curves,
    conditions: Sequence[str],
    groups: Sequence[Sequence[int]],
    *,
    error: float = FAMILYWISE_ERROR,
) -> Floats:
    """Returns the ratios that are certified jointly, for each method and seed.

    Args:
        curves: Shape (methods, seeds, pairs, T): of single conditions, then of means, which belong to no family.
        conditions: Names of the single ones.
        groups: Indices of the pairs that are one member together; every other pair is a member by itself.
        error: Familywise error.

    Returns:
        Shape (methods, seeds, pairs); NaN where there are no p-values, and for what belongs to no family.
    """
    grouped = {index for members in groups for index in members}
    published = [not current_condition(str(name)).startswith(SYNTHETIC_FROST) for name in conditions]
    single = [[i] for i in range(len(conditions)) if i not in grouped and published[i]]
    family = [*groups, *single]
    certified = np.full(curves.limits.shape, np.nan)
    if not family or not certified.size:
        return certified
    tests = [_largest_p_values(curves, members) for members in family]
    ratios, p_values = (np.stack(arrays, axis=2) for arrays in zip(*tests, strict=True))
    ends = holm_fixed_sequences(ratios, p_values, error=error)
    for index, members in enumerate(family):
        certified[:, :, members] = np.where(curves.exist[:, :, members], ends[:, :, index, None], np.nan)
    return certified


def _largest_p_values(curves: Curves, members: Sequence[int]) -> tuple[Floats, Floats]:
    """Ratios and the largest p-value at each of them, (methods, seeds, T); NaN where one is unknown."""
    tested = curves.tested[:, :, members]
    largest = np.where(tested, curves.noninferiority_ps[:, :, members], -np.inf).max(axis=2)
    any_tested = any_along(tested, 2)
    ratios = np.fmax.reduce(curves.ratios[:, :, members], axis=2)
    return ratios, np.where(any_tested, largest, np.nan)


def holm_fixed_sequences(ratios: Floats, p_values: Floats, *, error: float = FAMILYWISE_ERROR) -> Floats:
    """Returns the largest ratio that each sequence of tests certifies, with control of the familywise error.

    Args:
        ratios: Tested ratios, (..., F, T) in any order; NaN where nothing was tested.
        p_values: Shape (..., F, T); a NaN does not pass. A sequence without any p-value is not in the family.
        error: Familywise error.

    Returns:
        Shape (..., F): 0 where nothing is certified, NaN for sequences that are not in the family.

    References:
        Holm 1979, "A simple sequentially rejective multiple test procedure"; with sequences: Bretz, Maurer,
        Brannath and Posch 2009, "A graphical approach to sequentially rejective multiple test procedures".

    >>> ratios = np.array([[0.5, 0.9], [0.5, 0.9]])
    >>> holm_fixed_sequences(ratios, np.array([[0.001, 0.02], [0.01, 0.04]])).tolist()  # the first passes at 2.5 %
    [0.9, 0.9]
    >>> holm_fixed_sequences(ratios, np.array([[0.001, 0.03], [0.01, 0.04]])).tolist()
    [0.5, 0.5]
    """
    in_family = any_along(~np.isnan(p_values), -1)
    tested = ~np.isnan(ratios)
    active = in_family
    while True:
        level = error / np.maximum(1, active.sum(axis=-1))[..., None, None]
        passed = p_values <= level
        complete = active & ~any_along(tested & ~passed, -1)
        if not complete.any():
            return np.where(in_family, longest_passing_prefix(ratios, passed), np.nan)
        active = active & ~complete
