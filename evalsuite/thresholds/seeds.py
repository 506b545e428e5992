"""Several seeds: the curve of the mean drop, its bounds, and bounds for the method.

There are two scopes. *These networks*: the seeds at hand are fixed, images are the sample; bounds on the
mean drop come from the evidence of all seeds (`evalsuite.statistics.mean_bounds`). *This method*: the seeds are
a sample too; the spread of the drops over the seeds joins the noise of the images, from three seeds on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from evalsuite.errors import UserError
from evalsuite.thresholds.curves import Curves, any_along, concatenated, is_test_against, mean_curves
from evalsuite.thresholds.long_table import BOUND_COLUMNS, TEST_COLUMNS

if TYPE_CHECKING:
    from evalsuite.thresholds.long_table import TableAxes
    from evalsuite.types import Array, Floats

ALL_SEEDS = "all"
"""Value of the column seed in headline rows, which are over all seeds."""

FEWEST_SEEDS = 3
"""Fewer seeds do not show how much training runs differ."""

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
        columns = _bounds_by_index(axes, over_seeds, means.drops.shape)
        low, high, upper, lower, p, tolerance = (columns[name] for name in (*BOUND_COLUMNS, *TEST_COLUMNS))
        bounds = {
            "widths": high - low,
            "highs": high,
            "uppers": upper,
            "simultaneous_lowers": lower,
            "noninferiority_ps": np.where(is_test_against(tolerance, means.limits), p, np.nan),
        }
        known = {name: np.where(np.isnan(x), getattr(means, name), x) for name, x in bounds.items()}
        means = replace(means, **known)
    return concatenated([curves, replace(means, method_uppers=_method_upper_bounds(curves, means))], axis=1)


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
    arrays = {}
    for name in (*BOUND_COLUMNS, *TEST_COLUMNS):
        arrays[name] = np.full(shape, np.nan)
        if name in rows:
            arrays[name][method, 0, pair[pair >= 0], index] = rows[name].to_numpy(dtype=np.float64)
    return arrays
