"""Several seeds: the curve of the mean drop, its bounds, and what it says about the method.

Two questions are kept apart. *These networks*: the seeds at hand are fixed, images are the sample; bounds on the
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
from evalsuite.thresholds.curves import Curves, about, concatenated, marked_any, mean_curves
from evalsuite.thresholds.long_table import LIMITS, TEST

if TYPE_CHECKING:
    from evalsuite.thresholds.long_table import TableAxes
    from evalsuite.types import Array, Floats

ALL = "all"
"""Label of the seed in headline rows."""

FEWEST_SEEDS = 3
"""Below, nobody can tell how much training runs differ."""

KEYS = ("method", "metric", "condition", "target_ratio")


def with_seed_means(axes: TableAxes, curves: Curves, over_seeds: pd.DataFrame | None) -> Curves:
    """Returns the curves with one seed more: the mean over all seeds of the method.

    Args:
        axes: Labels of the curves.
        curves: Curves of shape (methods, seeds, pairs, slots).
        over_seeds: See `evalsuite.thresholds.threshold.thresholds`.

    Raises:
        UserError: If a seed is called like the mean, if seeds have no ratio in common, or if `over_seeds` does
            not fit.
    """
    if ALL in axes.seeds:
        raise UserError(f"a seed is called {ALL!r}, which is the name of the mean over the seeds; rename it")
    runs = marked_any(curves.exist, 2)  # (methods, seeds)
    tested = marked_any(curves.tested, 2)  # (methods, seeds, slots)
    shared = marked_any(np.logical_and.reduce(tested | ~runs[..., None], axis=1), -1)
    if not shared.all():
        method = axes.methods[int(shared.argmin())]
        raise UserError(
            f"the seeds of method {method!r} have no ratio in common; give a column target_ratio that says "
            "which ratios belong together"
        )
    means = mean_curves(curves, 1, expected=runs.sum(axis=1)[:, None, None])
    if over_seeds is not None:
        given = _placed(axes, over_seeds, means.drops.shape)
        low, high, upper, floor, p, tolerance = (given[name] for name in (*LIMITS, *TEST))
        p = np.where(about(tolerance, means.limits), p, np.nan)
        bounds = {"widths": high - low, "highs": high, "uppers": upper, "floors": floor, "ps": p}
        means = replace(
            means,
            **{name: np.where(np.isnan(x), getattr(means, name), x) for name, x in bounds.items()},
        )
    return concatenated([curves, replace(means, method_uppers=_method_uppers(curves, means))], axis=1)


def published(potential_any: Floats, exist: Array) -> dict[str, Array]:
    """Returns mean and standard deviation over seeds of each seed's own potential, in the last place of axis 1."""
    each = np.where(exist, potential_any, np.nan)[:, :-1]
    count = (~np.isnan(each)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 1, np.nansum(each, axis=1) / count, np.nan)
        std = np.sqrt(np.nansum((each - mean[:, None]) ** 2, axis=1) / count)
    found = {
        name: np.full(potential_any.shape, np.nan) for name in ("potential_any_mean", "potential_any_std")
    }
    found["potential_any_mean"][:, -1] = mean
    found["potential_any_std"][:, -1] = np.where(count > 1, std, np.nan)
    return found


def _method_uppers(curves: Curves, means: Curves) -> Floats:
    """One-sided 95 % upper bounds on the drop of the method; NaN below three seeds or where one lacks.

    The margin for the seeds (Student's t over the drops of the seeds) and the margin for the images (that of
    the mean over fixed seeds) are added as squares, as if independent. Each seed's own image noise is in both,
    so the bound errs on the careful side. What varies over the seeds is the drop beside the seed's own limit,
    which moves with its parent where the tolerance is relative.
    """
    inside = curves.exist[..., None]
    count = inside.sum(axis=1, keepdims=True)
    freedom = np.maximum(count - 1, 1)
    with np.errstate(invalid="ignore"):  # infinite drops have no spread
        beside = curves.drops - curves.limits[..., None]
        deviations = np.where(inside, beside - (means.drops - means.limits[..., None]), 0.0)
        spread = np.sqrt((deviations**2).sum(axis=1, keepdims=True) / freedom)
        of_images = np.maximum(means.uppers - means.drops, 0.0)
        of_seeds = stdtrit(freedom, 0.95) * spread / np.sqrt(np.maximum(count, 1))
        bound: Floats = means.drops + np.hypot(of_seeds, of_images)
    return np.where(count >= FEWEST_SEEDS, bound, np.nan)


def _placed(axes: TableAxes, frame: pd.DataFrame, shape: tuple[int, ...]) -> dict[str, Floats]:
    """The bounds of a table in arrays of `shape`; rows about metrics that are not judged have no place."""
    if missing := [name for name in (*KEYS, *LIMITS) if name not in frame]:
        raise UserError(f"over_seeds has no column {missing[0]}; it needs {', '.join((*KEYS, *LIMITS))}")
    pairs = pd.MultiIndex.from_frame(axes.pairs[["metric", "condition"]])
    pair = pairs.get_indexer(pd.MultiIndex.from_frame(frame[["metric", "condition"]]))
    rows = frame[pair >= 0]
    slots = {
        (method, target): (index, slot)
        for index, (method, ladder) in enumerate(zip(axes.methods, axes.ladders, strict=True))
        for slot, target in enumerate(ladder)
    }
    named = list(zip(rows["method"], rows["target_ratio"], strict=True))
    if unknown := [name for name in named if name not in slots]:
        raise UserError(
            f"over_seeds has method {unknown[0][0]}, target_ratio {unknown[0][1]}, which the table has not; "
            "give bounds for what was measured"
        )
    method, slot = np.array([slots[name] for name in named], dtype=np.intp).reshape(-1, 2).T
    found = {}
    for name in (*LIMITS, *TEST):
        found[name] = np.full(shape, np.nan)
        if name in rows:
            found[name][method, 0, pair[pair >= 0], slot] = rows[name].to_numpy(dtype=np.float64)
    return found
