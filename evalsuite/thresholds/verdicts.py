"""Verdicts of checks: non-inferior, inferior or undecided, each at a stated level.

A *check* is a metric on a condition with a tolerance; its verdict at a ratio is one of three. There is one level for
each claim:

* *non-inferior*: the drop is shown to be within the tolerance, at one-sided 97.5 % for the check itself;
* *inferior*: the drop is shown to be above the tolerance. Named failures are acted upon, so the level is familywise:
  any of them is wrong in at most 2.5 % of samples, over all checks and ratios of one method and scope (Holm).

Holm's procedure needs p-values alone. The alternative, step-down max-T over the replicates of all checks, found the
same failures in simulations (99 and 99, 86 and 85, 38 and 37 % of true ones; critical values of 75 checks at five
ratios 3.80 and 3.82), since checks correlate little; and it would have to keep every replicate.

Tests on the same evidence are one test: a check that is there twice, or two target ratios that made one network, do
not count twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from evalsuite.thresholds.curves import Flags
    from evalsuite.types import Array, Floats

NONINFERIOR, INFERIOR, UNDECIDED = "non-inferior", "inferior", "undecided"
ERROR = 0.025
"""Probability of a wrong claim of one kind: of the whole table to be inferior, of one check to be non-inferior."""
INFERIOR_LEVEL = "97.5 % for all checks and ratios of the method together (Holm)"
NONINFERIOR_LEVEL = "97.5 % for the check itself"
FAMILY = ("method", "scope", "seed")
"""Columns whose values name one family of claims."""


def holm(p_values: Floats, tests: Array, *, error: float = ERROR, count: int = 0) -> Flags:
    """Returns which hypotheses are rejected with control of the familywise error.

    Args:
        p_values: Shape (K,); NaN where there is no test, which is never rejected.
        tests: Codes of the evidence, (K,): equal codes are one test, a NaN is one by itself.
        error: Familywise error.
        count: Size of the family where it is larger than the number of tests: a search chose them from so many.

    References:
        Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm(np.array([0.001, 0.02, 0.5]), np.full(3, np.nan)).tolist()
    [True, False, False]
    >>> holm(np.array([0.012, 0.012, 0.02]), np.array([1.0, 1.0, 2.0])).tolist()
    [True, True, True]
    """
    known = np.flatnonzero(~np.isnan(p_values))
    _, first, inverse = np.unique(_codes(tests[known]), return_index=True, return_inverse=True)
    p = p_values[known][first]
    order = np.argsort(p, kind="stable")
    left = max(count, len(p)) - np.arange(len(p))
    passed = np.logical_and.accumulate(p[order] <= error / np.maximum(left, 1))
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order] = passed
    flags = np.zeros(p_values.shape, dtype=bool)
    flags[known] = rejected[inverse.reshape(-1)]
    return flags


def _codes(tests: Array) -> Floats:
    """The codes, with one of its own for each that is not known."""
    codes = np.asarray(tests, dtype=np.float64).copy()
    unknown = np.isnan(codes)
    codes[unknown] = -1.0 - np.arange(int(unknown.sum()))
    return codes


def distinct(tests: Array) -> int:
    """Returns how many different tests there are, by the codes of their evidence.

    >>> distinct(np.array([1.0, 1.0, np.nan, np.nan]))
    3
    """
    return len(np.unique(_codes(tests)))


def verdicts(table: pd.DataFrame) -> Array:
    """Returns the verdict of each row; empty where a row has no tolerance.

    Args:
        table: With columns method, scope, seed, ``noninferiority_p`` and ``inferiority_p``, ``drop_tolerance`` (NaN: no
            check), ``test`` (codes of the evidence), and ``grid`` (number of ratios that a search chose from, else 0).

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"noninferiority_p": [0.01, 1, 0.04], "inferiority_p": [1, 0.001, 1], "test": np.nan})
    >>> verdicts(rows.assign(method="m", scope="s", seed=0, drop_tolerance=0.01, grid=0)).tolist()
    ['non-inferior', 'inferior', 'undecided']
    """
    checked = table["drop_tolerance"].notna().to_numpy()
    noninferior = (table["noninferiority_p"] <= ERROR).to_numpy()
    inferior = inferior_flags(table, FAMILY)
    states: list[Any] = [INFERIOR, NONINFERIOR, UNDECIDED]
    return np.select([inferior & checked, noninferior & checked, checked], states, "")


def inferior_flags(table: pd.DataFrame, family: Sequence[str]) -> Flags:
    """Returns which rows are inferior, each family of rows with equal values in the columns `family` on its own."""
    flags = np.zeros(len(table), dtype=bool)
    p, tests = (table[name].to_numpy(dtype=np.float64) for name in ("inferiority_p", "test"))
    for rows in map(np.asarray, table.groupby(list(family), sort=False).indices.values()):
        grid = int(table["grid"].to_numpy()[rows].max(initial=0))
        flags[rows] = holm(p[rows], tests[rows], count=grid * _checks(table, rows) if grid else 0)
    return flags


def _checks(table: pd.DataFrame, rows: Array) -> int:
    """How many checks a family has, whatever the ratio."""
    return len(table.iloc[rows][["metric", "condition", "aggregate"]].drop_duplicates())
