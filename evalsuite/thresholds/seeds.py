"""Several seeds: the curve of the mean drop, its bounds, and bounds for the method.

There are two scopes. *These networks*: the seeds at hand are fixed, images are the sample; bounds on the
mean drop come from the evidence of all seeds (`evalsuite.statistics.mean_bounds`). *This method*: the seeds are
a sample too; the spread of the drops over the seeds joins the noise of the images, from three seeds on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri, stdtrit

from evalsuite.errors import UserError
from evalsuite.thresholds.curves import Curves, any_along, concatenated, is_test_against, mean_curves
from evalsuite.thresholds.long_table import BOUND_COLUMNS, TEST_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from evalsuite.thresholds.long_table import TableAxes
    from evalsuite.types import Array, Floats

ALL_SEEDS = "all"
"""Value of the column seed in headline rows, which are over all seeds."""

FEWEST_SEEDS = 3
"""Fewer seeds do not show how much training runs differ."""

LARGEST_QUANTILE = 30.0
BISECTION_STEPS = 50
KEYS = ("method", "metric", "condition", "target_ratio")


def with_seed_means(axes: TableAxes, curves: Curves, over_seeds: pd.DataFrame | None) -> Curves:
    """Returns the curves with one seed more: the mean over all seeds of the method.

    Args:
        axes: Labels of the curves.
        curves: Curves of shape (methods, seeds, pairs, ratio indices).
        over_seeds: See `evalsuite.thresholds.threshold.thresholds`.

    Raises:
        UserError: If a seed is called like the mean, if seeds have no ratio in common, or if `over_seeds` does
            not fit.
    """
    if ALL_SEEDS in axes.seeds:
        raise UserError(
            f"a seed is called {ALL_SEEDS!r}, which is the name of the mean over the seeds; rename it"
        )
    runs = any_along(curves.exist, 2)  # (methods, seeds)
    tested = any_along(curves.tested, 2)  # (methods, seeds, ratio indices)
    shared = any_along(np.logical_and.reduce(tested | ~runs[..., None], axis=1), -1)
    if not shared.all():
        method = axes.methods[int(shared.argmin())]
        raise UserError(
            f"the seeds of method {method!r} have no ratio in common; give a column target_ratio, equal for "
            "ratios that belong together"
        )
    means = mean_curves(curves, 1, expected=runs.sum(axis=1)[:, None, None])
    if over_seeds is not None:
        means = with_bounds(means, _bounds_by_index(axes, over_seeds, means.drops.shape))
    return concatenated([curves, replace(means, method_uppers=_method_upper_bounds(curves, means))], axis=1)


def with_bounds(curves: Curves, columns: Mapping[str, Floats]) -> Curves:
    """Returns curves with the bounds of a table, in arrays of their shape; what these do not know stays."""
    same = is_test_against(columns["drop_tolerance"], curves.limits)
    bounds = {
        "widths": columns["drop_high"] - columns["drop_low"],
        "highs": columns["drop_high"],
        "uppers": columns["drop_upper_95"],
        "simultaneous_lowers": columns["drop_lower_simultaneous"],
        "noninferiority_ps": np.where(same, columns["noninferiority_p"], np.nan),
        "inferiority_ps": np.where(same, columns["inferiority_p"], np.nan),
        "codes": columns["test"],
    }
    known = {name: np.where(np.isnan(x), getattr(curves, name), x) for name, x in bounds.items()}
    return replace(curves, **known)


def potential_any_over_seeds(potential_any: Floats, exist: Array) -> dict[str, Array]:
    """Returns mean and standard deviation over seeds of each seed's own potential, at the last index of axis 1."""
    by_seed = np.where(exist, potential_any, np.nan)[:, :-1]
    count = (~np.isnan(by_seed)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 1, np.nansum(by_seed, axis=1) / count, np.nan)
        std = np.sqrt(np.nansum((by_seed - mean[:, None]) ** 2, axis=1) / count)
    columns = {
        name: np.full(potential_any.shape, np.nan) for name in ("potential_any_mean", "potential_any_std")
    }
    columns["potential_any_mean"][:, -1] = mean
    columns["potential_any_std"][:, -1] = np.where(count > 1, std, np.nan)
    return columns


def _method_upper_bounds(curves: Curves, means: Curves) -> Floats:
    """One-sided 95 % upper bounds on the drop of the method; NaN below three seeds or where one is missing.

    The margin for the seeds (Student's t over the drops of the seeds) and the margin for the images (that of
    the mean over fixed seeds) are added as squares, as if independent. Each seed's own image noise is in both,
    so the bound is conservative. What varies over the seeds is the drop minus the seed's own limit, which moves
    with its parent where the tolerance is relative.
    """
    exist = curves.exist[..., None]
    count = exist.sum(axis=1, keepdims=True)
    degrees = np.maximum(count - 1, 1)
    with np.errstate(invalid="ignore"):  # infinite drops have no spread
        excess = curves.drops - curves.limits[..., None]
        deviations = np.where(exist, excess - (means.drops - means.limits[..., None]), 0.0)
        spread = np.sqrt((deviations**2).sum(axis=1, keepdims=True) / degrees)
        of_images = np.maximum(means.uppers - means.drops, 0.0)
        of_seeds = stdtrit(degrees, 0.95) * spread / np.sqrt(np.maximum(count, 1))
        bound: Floats = means.drops + np.hypot(of_seeds, of_images)
    return np.where(count >= FEWEST_SEEDS, bound, np.nan)


def _bounds_by_index(axes: TableAxes, frame: pd.DataFrame, shape: tuple[int, ...]) -> dict[str, Floats]:
    """The bounds of a table in arrays of `shape`; rows of metrics without a tolerance are left out."""
    if missing := [name for name in (*KEYS, *BOUND_COLUMNS) if name not in frame]:
        raise UserError(
            f"over_seeds has no column {missing[0]}; it needs {', '.join((*KEYS, *BOUND_COLUMNS))}"
        )
    pairs = pd.MultiIndex.from_frame(axes.pairs[["metric", "condition"]])
    pair = pairs.get_indexer(pd.MultiIndex.from_frame(frame[["metric", "condition"]]))
    rows = frame[pair >= 0]
    method, index = _places(axes, rows)
    return _spread(rows, (method, np.zeros_like(method), pair[pair >= 0], index), shape)


def with_group_bounds(
    axes: TableAxes, means: Curves, over_groups: pd.DataFrame, names: Sequence[tuple[str, str]]
) -> Curves:
    """Returns the curves of means over groups with their bounds.

    Args:
        axes: Labels of the curves.
        means: Curves of shape (methods, seeds and their mean, groups, ratio indices).
        over_groups: See `evalsuite.thresholds.threshold.thresholds`.
        names: Metric and name of each group.

    Raises:
        UserError: If `over_groups` has ratios which the curves have not.
    """
    seeds = {seed: place for place, seed in enumerate((*axes.seeds, ALL_SEEDS))}
    groups = {name: place for place, name in enumerate(names)}
    keys = zip(over_groups["seed"], over_groups["metric"], over_groups["condition"], strict=True)
    places = [(seeds.get(seed, -1), groups.get((metric, name), -1)) for seed, metric, name in keys]
    seed, group = np.array(places, dtype=np.intp).reshape(-1, 2).T
    known = (seed >= 0) & (group >= 0) & over_groups["method"].isin(axes.methods).to_numpy()
    rows = over_groups[known]
    method, index = _places(axes, rows)
    bounds = _spread(rows, (method, seed[known], group[known], index), means.drops.shape)
    if len(axes.seeds) == 1:  # the mean over one seed is that seed
        bounds = {name: np.repeat(array[:, :1], 2, axis=1) for name, array in bounds.items()}
    return with_bounds(means, bounds)


def tests_over_seeds(p_values: Floats, margins: Floats, errors: Floats, seeds: Floats) -> Floats:
    """Returns one-sided p-values for the method, whose seeds are a sample, from those for the mean of these networks.

    At a confidence with the quantiles z (normal) and t (Student, one degree of freedom less than seeds), the margin of
    the images takes the share z / z_0 of the distance to the tolerance, where z_0 is the quantile of the test for the
    networks, and that of the seeds t times their standard error. A claim holds where their squares add up to
    at most the whole distance: as `certified_method`, at any level.

    Args:
        p_values: Of the mean over the networks at hand, (K,).
        margins: Distance from the mean drop to the tolerance in the direction of the claim, (K,).
        errors: Standard errors of the mean drop over the seeds, (K,).
        seeds: Number of seeds, (K,).
    """
    of_images = -ndtri(p_values)
    low, high = np.zeros_like(margins), np.full_like(margins, LARGEST_QUANTILE)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(BISECTION_STEPS):
            z = (low + high) / 2
            share = (z / of_images) ** 2 + (-stdtrit(seeds - 1, ndtr(-z)) * errors / margins) ** 2
            inside = (share <= 1) & (margins > 0) & (of_images > 0)
            low, high = np.where(inside, z, low), np.where(inside, high, z)
    return np.where(np.isnan(p_values), np.nan, np.where(low > 0, ndtr(-low), 1.0))


def _places(axes: TableAxes, rows: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the method and of the target ratio of each row."""
    indices = {
        (method, target): (place, index)
        for place, (method, grid) in enumerate(zip(axes.methods, axes.grids, strict=True))
        for index, target in enumerate(grid)
    }
    keys = list(zip(rows["method"], rows["target_ratio"], strict=True))
    if unknown := [key for key in keys if key not in indices]:
        raise UserError(
            f"over_seeds has method {unknown[0][0]}, target_ratio {unknown[0][1]}, which the table has not; "
            "give bounds for what was measured"
        )
    method, index = np.array([indices[key] for key in keys], dtype=np.intp).reshape(-1, 2).T
    return method, index


def _spread(rows: pd.DataFrame, places: tuple[Any, ...], shape: tuple[int, ...]) -> dict[str, Floats]:
    """The bounds of rows as arrays; NaN elsewhere."""
    arrays = {}
    for name in (*BOUND_COLUMNS, *TEST_COLUMNS):
        arrays[name] = np.full(shape, np.nan)
        if name in rows:
            arrays[name][places] = rows[name].to_numpy(dtype=np.float64)
    return arrays
