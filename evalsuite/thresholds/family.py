"""All thresholds of a method read at once: Holm's steps over ladders of ratios.

Each threshold of a table holds with 95 % for itself. Who looks for those that hold among many has many chances to be
wrong. Here the chance of *any* statement of the family that goes too far is 5 %: a member starts with an equal part
of it, tests its ratios in rising order with that part, and hands it on to the others once its last ratio has passed.
A group of conditions is one member, tested by its largest p-value: it passes if every condition does (intersection-
union test), and then all of them have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.thresholds.curves import longest_passing_prefix, marked_any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalsuite.thresholds.curves import Curves
    from evalsuite.types import Floats

ERROR = 0.05
"""Chance that any statement of a family goes too far."""
APART = "*"
"""Marks conditions that are reported beside the published ones and belong to no family: painted frost."""


def certified_jointly(curves: Curves, conditions: Sequence[str], groups: Sequence[Sequence[int]]) -> Floats:
    """Returns the ratios that are certified together, for each method and seed.

    Args:
        curves: Shape (methods, seeds, pairs, T): of single conditions, and behind them of means, which belong to none.
        conditions: Names of the single ones.
        groups: Indices of the pairs that are one member together; every other pair is one for itself.

    Returns:
        Shape (methods, seeds, pairs); NaN where there are no p-values, and for what belongs to no family.
    """
    grouped = {index for members in groups for index in members}
    alone = [[i] for i, name in enumerate(conditions) if i not in grouped and APART not in str(name)]
    family = [*groups, *alone]
    found = np.full(curves.limits.shape, np.nan)
    if not family or not found.size:
        return found
    tests = [_weakest(curves, members) for members in family]
    ratios, chances = (np.stack(one, axis=2) for one in zip(*tests, strict=True))
    ends = holm_ladders(ratios, chances)
    for place, members in enumerate(family):
        found[:, :, members] = np.where(curves.exist[:, :, members], ends[:, :, place, None], np.nan)
    return found


def _weakest(curves: Curves, members: Sequence[int]) -> tuple[Floats, Floats]:
    """Ratios and the largest p-value at each of them, (methods, seeds, T); NaN where one is unknown."""
    tested = curves.tested[:, :, members]
    largest = np.where(tested, curves.ps[:, :, members], -np.inf).max(axis=2)
    somewhere = marked_any(tested, 2)
    ratios = np.fmax.reduce(curves.ratios[:, :, members], axis=2)
    return ratios, np.where(somewhere, largest, np.nan)


def holm_ladders(ratios: Floats, chances: Floats) -> Floats:
    """Returns the largest ratio that each ladder certifies, if all are read at once.

    Args:
        ratios: Tested ratios, (..., F, T) in any order; NaN where nothing was tested.
        chances: p-values, (..., F, T); a NaN does not pass. A ladder without any is not in the family.

    Returns:
        Shape (..., F): 0 where nothing is certified, NaN for ladders that are not in the family.

    References:
        Holm 1979, "A simple sequentially rejective multiple test procedure"; with ladders: Bretz, Maurer, Brannath
        and Posch 2009, "A graphical approach to sequentially rejective multiple test procedures".

    >>> ratios = np.array([[0.5, 0.9], [0.5, 0.9]])
    >>> holm_ladders(ratios, np.array([[0.001, 0.02], [0.01, 0.04]])).tolist()  # the first is through at 2.5 %
    [0.9, 0.9]
    >>> holm_ladders(ratios, np.array([[0.001, 0.03], [0.01, 0.04]])).tolist()
    [0.5, 0.5]
    """
    inside = marked_any(~np.isnan(chances), -1)
    tested = ~np.isnan(ratios)
    waiting = inside
    while True:
        level = ERROR / np.maximum(1, waiting.sum(axis=-1))[..., None, None]
        passed = chances <= level
        through = waiting & ~marked_any(tested & ~passed, -1)
        if not through.any():
            return np.where(inside, longest_passing_prefix(ratios, passed), np.nan)
        waiting = waiting & ~through
