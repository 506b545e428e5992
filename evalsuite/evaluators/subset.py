"""Which test images a test looks at that does not look at all of them."""

from __future__ import annotations

import numpy as np

from evalsuite.evaluators.accuracy import POPULATION
from evalsuite.evaluators.base import sorted_by_class
from evalsuite.types import Array

_GOLDEN = (5**0.5 - 1) / 2


def subset_rows(labels: Array, count: int) -> Array:
    """Returns the rows of `count` test images: the first ones, or evenly spaced ones of a set sorted by class.

    Data sets in one file are shuffled as a rule, and published numbers are of their first images. Folders of classes
    are not: their first images would be those of a few classes.

    Args:
        labels: Of all test images, int (N,).
        count: How many are looked at; 0 for all.

    Returns:
        int64 (min(count, N),); the beginnings of evenly spaced rows are about evenly spaced as well (multiples of
        the golden ratio, modulo 1), for checks that look at a part of them.

    >>> subset_rows(np.tile(np.arange(10), 100), 5)
    array([0, 1, 2, 3, 4])
    >>> subset_rows(np.repeat(np.arange(4), 100), 40)[:8] // 100
    array([0, 2, 1, 3, 1, 0, 2, 1])
    """
    total = len(labels)
    if not 0 < count < total:
        return np.arange(total)
    if not sorted_by_class(labels, count):
        return np.arange(count)
    ranks = np.argsort(np.argsort(np.arange(count) * _GOLDEN % 1))
    return ranks * total // count


def population_of(rows: Array, total: int) -> str:
    """Returns the name of the population of some rows of `total` test images; that of all of them if they are all."""
    if len(rows) == total:
        return POPULATION
    return (
        f"{POPULATION}[:{len(rows)}]"
        if int(rows.max()) < len(rows)
        else f"{POPULATION}[{len(rows)} evenly spaced]"
    )
