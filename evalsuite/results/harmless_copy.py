"""How many checks a harmless copy of a candidate would fail by chance: the reference for a count of measured failures.

A harmless copy differs from its parent on as many images as the candidate does, but is no worse: parent and
candidate are exchanged image by image with probability 1/2, in all conditions of an image together, so that every
true drop is 0 and what conditions have in common stays. Where a metric is no mean of one number per image, the
deviation of its bootstrap replicates from their mean is the drop of such a copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.random_streams import generator
from evalsuite.statistics.paired import direction
from evalsuite.statistics.resampling import drop, one_thread
from evalsuite.thresholds.seeds import ALL_SEEDS
from evalsuite.types import SYNTHETIC_FROST

if TYPE_CHECKING:
    from evalsuite.results.comparison import Comparison
    from evalsuite.runs.store import Key
    from evalsuite.types import Array, Floats

DRAWS = 400
COLUMNS = ("harmless_median", "harmless_upper_95")
"""Median and 95 % quantile of the number of checks that a harmless copy fails by measurement."""
ROUNDING = 1e-6
"""Relative difference up to which a mean of single-precision numbers equals its tolerance."""


def harmless_counts(comparison: Comparison, *, draws: int = DRAWS) -> pd.DataFrame:
    """Returns the counts of measured failures of a harmless copy, one row per method, seed and target ratio.

    Args:
        comparison: The scores of a run with their evidence.
        draws: Number of exchanges.

    Returns:
        Columns method, seed (``all`` for the mean over several), target_ratio and `COLUMNS`.
    """
    signs = _Signs(comparison.seed, draws)
    rows: list[dict[str, Any]] = []
    with one_thread():
        for (method, seed), tests in _tests_by_scope(comparison).items():
            ratios = sorted({ratio for _, keys in tests for ratio in keys})
            counts = _counts(comparison, tests, ratios, signs)
            for index, ratio in enumerate(ratios):
                median, upper = np.quantile(counts[:, index], (0.5, 0.95), method="higher")
                labels = {"method": method, "seed": seed, "target_ratio": ratio}
                rows.append({**labels, **dict(zip(COLUMNS, (int(median), int(upper)), strict=True))})
    return pd.DataFrame(rows, columns=["method", "seed", "target_ratio", *COLUMNS])


class _Signs:
    """Whether parent and candidate are exchanged, -1 or 1 for each draw and image; a part has those of the whole."""

    def __init__(self, seed: int, draws: int) -> None:
        self._seed, self.draws = seed, draws
        self._known: dict[str, Array] = {}

    def __call__(self, population: str, size: int) -> Array:
        whole = population.partition("[")[0]
        signs = self._known.get(whole)
        if signs is None or signs.shape[1] < size:
            random = generator(self._seed, "exchange", whole)
            flips = (
                random.random((size, self.draws), dtype=np.float32) < 0.5
            )  # rows do not depend on the size
            signs = self._known[whole] = np.ascontiguousarray(
                np.where(flips, np.float32(-1), np.float32(1)).T
            )
        return signs[:, :size]


Test = tuple[tuple[str, str], Mapping[float, Sequence["Key"]]]
"""Metric and condition, and at each target ratio the candidate of each seed."""


def _tests_by_scope(comparison: Comparison) -> dict[tuple[str, Any], list[Test]]:
    """The tests of each method and seed, and of the mean over all seeds."""
    places: dict[tuple[str, Any, str, str], dict[float, list[Key]]] = defaultdict(lambda: defaultdict(list))
    seeds = {key.seed for key, *_ in comparison.tested}
    for key, metric, condition in comparison.tested:
        if SYNTHETIC_FROST in condition:  # in no group, and in no count
            continue
        for scope in (key.seed, *([ALL_SEEDS] if len(seeds) > 1 else [])):
            places[key.method, scope, metric, condition][key.target_ratio].append(key)
    tests: dict[tuple[str, Any], list[Test]] = defaultdict(list)
    for (method, scope, metric, condition), by_ratio in places.items():
        full = {r: keys for r, keys in by_ratio.items() if scope != ALL_SEEDS or len(keys) == len(seeds)}
        tests[method, scope].append(((metric, condition), full))
    return tests


def _counts(comparison: Comparison, tests: Sequence[Test], ratios: Sequence[float], signs: _Signs) -> Floats:
    """The number of failed checks in each draw at each ratio, (draws, R)."""
    counts = np.zeros((signs.draws, len(ratios)))
    columns: dict[str, list[tuple[Array, float, int]]] = defaultdict(list)
    for of, by_ratio in tests:
        for ratio, keys in by_ratio.items():
            index, tolerance = ratios.index(ratio), _tolerance(comparison, keys, of)
            if comparison.metrics[of[0]].functional == "mean":
                population, differences = _mean_differences(comparison, keys, of)
                columns[population].append((differences, tolerance, index))
            else:
                deviations = _deviations(comparison, keys, of)[: signs.draws]
                counts[: len(deviations), index] += deviations > tolerance
    for population, entries in columns.items():
        for index in range(len(ratios)):
            of_ratio = [entry for entry in entries if entry[2] == index]
            if of_ratio:
                values, tolerances, _ = zip(*of_ratio, strict=True)
                counts[:, index] += _exchanged_failures(values, tolerances, signs, population)
    return counts


def _exchanged_failures(
    values: Sequence[Array], tolerances: Sequence[float], signs: _Signs, population: str
) -> Floats:
    """How many of the checks fail in each exchange, (draws,)."""
    table = np.stack(values, axis=1)
    n = len(table)
    different = np.flatnonzero(table.any(axis=1))
    sums = signs(population, n)[:, different] @ table[different]
    largest = n * np.asarray(tolerances) * (1 + ROUNDING)
    failures: Floats = (sums > largest).sum(axis=1)
    return failures


def _tolerance(comparison: Comparison, keys: Sequence[Key], of: tuple[str, str]) -> float:
    return float(np.mean([comparison.tolerance_of(key, *of) for key in keys]))


def _pairs(
    comparison: Comparison, keys: Sequence[Key], of: tuple[str, str]
) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    for key in keys:
        parent = comparison.parent_of(key, *of)
        if parent is not None:  # what was tested has one
            yield parent.evidence, comparison.scores[key, *of].evidence


def _mean_differences(comparison: Comparison, keys: Sequence[Key], of: tuple[str, str]) -> tuple[str, Array]:
    """The population, and how much worse the candidates are on each image, mean over the seeds."""
    sign = np.float32(1 if direction(comparison.metrics[of[0]]) else -1)
    parts = []
    for parent, candidate in _pairs(comparison, keys, of):
        ((population, before),) = parent.items()
        (after,) = candidate.values()
        parts.append(sign * (np.ravel(before).astype(np.float32) - np.ravel(after).astype(np.float32)))
    return population, parts[0] if len(parts) == 1 else np.mean(parts, axis=0)


def _deviations(comparison: Comparison, keys: Sequence[Key], of: tuple[str, str]) -> Floats:
    """Replicates of the drop about their mean, (B,)."""
    metric = comparison.metrics[of[0]]
    draws = [
        drop(
            comparison.replicates(metric.functional, parent),
            comparison.replicates(metric.functional, candidate),
            higher_is_better=direction(metric),
        )
        for parent, candidate in _pairs(comparison, keys, of)
    ]
    mean = np.mean(draws, axis=0)
    deviations: Floats = mean - mean.mean()
    return deviations
