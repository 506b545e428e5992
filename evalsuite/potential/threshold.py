"""Measurements to thresholds: the largest prune ratios at which a model is as good as its parent.

`threshold` answers for one curve, `thresholds` for a whole table of measurements; the rule is in
`evalsuite.potential.curves`. Neither needs torch.
"""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.errors import UserError
from evalsuite.potential.curves import Curves, Flags, joined, marked_any, mean_curves, taken, verdicts
from evalsuite.potential.tidy import Axes, check_tolerance, tabulated
from evalsuite.records import Array, Floats, Threshold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALL = "all"
"""Label of the seed in headline rows."""

COLUMNS = (
    *("method", "seed", "metric", "condition", "group", "aggregate", "unit", "higher_is_better", "tolerance"),
    *("reference", "potential", "potential_any", "potential_any_mean", "potential_any_std", "first_failure"),
    *("censored", "infeasible", "non_monotone", "incomplete", "underpowered", "n", "tested"),
)
LABELS = ("metric", "condition", "group", "aggregate", "unit", "higher_is_better", "tolerance")
FLAGS = ("censored", "infeasible", "non_monotone", "incomplete")
AGGREGATES = ("mean", "minimum", "of-mean")


def threshold(
    ratios: Sequence[float],
    drops: Sequence[float],
    tolerance: float,
    *,
    widths: Sequence[float] | None = None,
) -> Threshold:
    """Returns what one curve says about how far it is safe to prune.

    Args:
        ratios: Tested prune ratios in (0, 1), rising.
        drops: How much worse than the parent at each ratio, in the metric's unit, positive = worse. NaN
            where it could not be measured: that counts as not commensurate, and the threshold as incomplete.
        tolerance: Largest drop that is commensurate, in the same unit.
        widths: Full widths of the drops' 95 % intervals; NaN where unknown.

    Returns:
        The threshold. `underpowered` looks at the drops that decide, at `potential` and at `first_failure`:
        true if one of them has an interval wider than the tolerance, ``None`` if that cannot be known.

    Raises:
        UserError: If ratios do not rise inside (0, 1), lengths differ, or the tolerance is not at least 0.

    References:
        `potential_any` is the prune potential of Liebenwein et al. (2021), "Lost in Pruning", definition 1,
        with the drop of any metric in place of the rise of the error.

    >>> found = threshold([0.5, 0.7, 0.9, 0.95], [-0.001, 0.005, 0.02, 0.004], 0.005)
    >>> found.potential, found.potential_any, found.first_failure, found.non_monotone
    (0.7, 0.95, 0.9, True)
    """
    check_tolerance(tolerance)
    x, y = np.asarray(ratios, dtype=np.float64), np.asarray(drops, dtype=np.float64)
    w = np.full(x.shape, np.nan) if widths is None else np.asarray(widths, dtype=np.float64)
    _check_curve(x, y, w)
    unknown, whole = np.asarray(np.nan), np.asarray(False)
    found = verdicts(Curves(x, y, w, np.ones_like(x), unknown, unknown, whole), tolerance)
    return Threshold(
        potential=float(found["potential"]),
        potential_any=float(found["potential_any"]),
        first_failure=None if isnan(found["first_failure"]) else float(found["first_failure"]),
        **{flag: bool(found[flag]) for flag in FLAGS},
        underpowered=_known(found["underpowered"]),
        tested=tuple(x.tolist()),
    )


def thresholds(
    frame: pd.DataFrame,
    *,
    tolerance: float | Mapping[str, float],
    higher_is_better: Mapping[str, bool] | None = None,
) -> pd.DataFrame:
    """Returns the thresholds of a table of measurements, one row for each method, metric, condition and seed.

    Rows with seed ``all`` are the headlines: the mean drop over the seeds at each target ratio, each
    candidate paired with the parent of its own seed; their ratios are means of the measured ones. Their
    columns ``potential_any_mean`` and ``potential_any_std`` (ddof 0) follow the published convention: the
    potential of each seed first, then mean and standard deviation over the seeds, where there are several.

    A group of two or more conditions has three more rows, with the group's name as the condition.
    ``aggregate`` is ``mean`` and ``minimum`` for the mean and minimum of the potentials over its conditions,
    ``of-mean`` for the threshold of the mean drop over them, and ``single`` in all other rows. In ``mean``
    and ``minimum`` rows ``first_failure`` is the smallest over the conditions and a flag says that a
    condition has it; only ``censored`` of a minimum says that all conditions which attain it are censored.

    Args:
        frame: One number per row. Columns ``method``, ``ratio`` (measured share of weights removed, 0 for the
            parent), ``metric``, ``condition``, ``value``; optional ``seed`` (default 0), ``target_ratio``
            (default: the ratio), ``group``, ``n`` (images), ``unit``, ``status`` (other than ``ok``: not
            measured), ``drop`` (default: from the values), ``drop_low`` and ``drop_high`` (95 % interval),
            ``higher_is_better``.
        tolerance: Largest drop that is commensurate, in the metric's unit: one for each metric that is to be
            judged, or a single one for all metrics that have a direction.
        higher_is_better: Direction by metric, where the table has no such column.

    Returns:
        A frame with columns `COLUMNS`, in order of first appearance. ``first_failure`` is NaN if nothing
        failed, ``underpowered`` is None where it cannot be known (in all means of several drops), ``n`` is
        the smallest number of images behind a drop, ``tested`` lists the tested ratios. ``incomplete`` is
        also true where a seed, or a condition of the group, is missing altogether.

    Raises:
        UserError: If the table does not say what it must; the sentence says what is missing, and where.
    """
    axes, curves = tabulated(frame, tolerance, higher_is_better or {})
    if not axes.methods:
        return pd.DataFrame(columns=list(COLUMNS))
    curves = _with_seed_means(axes, curves)
    groups = _groups(axes.pairs)
    means = [mean_curves(taken(curves, members), 2, expected=len(members)) for _, members in groups]
    curves = joined([curves, *means], axis=2)
    entities = _entities(axes.pairs, groups)
    found = verdicts(curves, entities["tolerance"].to_numpy()[: curves.n.shape[2]])
    found = _with_summaries(found, [members for _, members in groups], curves.exist)
    origin = entities["origin"].to_numpy()
    found["incomplete"] |= curves.partial[:, :, origin]
    found |= _published(found["potential_any"], curves.exist[:, :, origin])
    order = entities.sort_values(["metric_rank", "aggregated", "rank"], kind="stable").index.to_numpy()
    return _rows(
        axes, entities.iloc[order], curves, {name: array[:, :, order] for name, array in found.items()}
    )


def _known(flag: Any) -> bool | None:
    return None if isnan(flag) else bool(flag)


def _check_curve(ratios: Floats, drops: Floats, widths: Floats) -> None:
    if not ratios.shape == drops.shape == widths.shape:
        raise UserError(
            f"{ratios.size} ratios, {drops.size} drops and {widths.size} widths; give one for each ratio"
        )
    if not ratios.size:
        raise UserError("the curve is empty; give at least one tested ratio")
    rising = bool((np.diff(ratios) > 0).all()) and ratios[0] > 0 and ratios[-1] < 1
    if not rising:
        raise UserError(
            f"the ratios are {', '.join(map(str, ratios))}; they must rise and lie between 0 and 1"
        )


def _with_seed_means(axes: Axes, curves: Curves) -> Curves:
    """The curves with one seed more: the mean over all seeds of the method."""
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
    return joined([curves, means], axis=1)


def _groups(pairs: pd.DataFrame) -> list[tuple[str, list[int]]]:
    """Name of each group of at least two conditions of one metric, and the indices of its pairs."""
    found: dict[tuple[str, str], list[int]] = {}
    for index, key in enumerate(zip(pairs["metric"], pairs["group"], strict=True)):
        found.setdefault(key, []).append(index)
    return [(name, members) for (_, name), members in found.items() if name and len(members) > 1]


def _entities(pairs: pd.DataFrame, groups: Sequence[tuple[str, list[int]]]) -> pd.DataFrame:
    """What the rows are about: single pairs, then for each group its of-mean, then its mean and its minimum.

    ``origin`` is the index of the curves behind a row, the last three columns say where it is printed.
    """
    metric_rank = pd.factorize(pairs["metric"])[0]
    singles = pairs.assign(
        aggregate="single", metric_rank=metric_rank, aggregated=False, rank=range(len(pairs))
    )
    first = singles.iloc[[members[0] for _, members in groups]]
    frames = [
        first.assign(
            condition=[name for name, _ in groups],
            aggregate=aggregate,
            aggregated=True,
            rank=[
                len(AGGREGATES) * position + AGGREGATES.index(aggregate) for position in range(len(groups))
            ],
        )
        for aggregate in ("of-mean", "mean", "minimum")
    ]
    origin = [*range(len(pairs)), *3 * list(range(len(pairs), len(pairs) + len(groups)))]
    return pd.concat([singles, *frames], ignore_index=True).assign(origin=origin)


def _with_summaries(
    found: dict[str, Array], groups: Sequence[Sequence[int]], exist: Flags
) -> dict[str, Array]:
    """The verdicts, and behind them along axis 2 those on the mean, then on the minimum of each group."""
    parts = [found]
    for summary in (_mean_summary, _minimum_summary):
        for members in groups:
            inside = {name: array[:, :, members] for name, array in found.items()}
            parts.append(summary(inside, exist[:, :, members]))
    return {name: np.concatenate([part[name] for part in parts], axis=2) for name in found}


def _mean_summary(found: dict[str, Array], member: Flags) -> dict[str, Array]:
    """The means of the potentials over axis 2, and the flags of that number."""
    count = np.maximum(member.sum(axis=2, keepdims=True), 1)
    return _shared(found, member) | {
        name: np.where(member, found[name], 0.0).sum(axis=2, keepdims=True) / count
        for name in ("potential", "potential_any")
    }


def _minimum_summary(found: dict[str, Array], member: Flags) -> dict[str, Array]:
    """The minima of the potentials over axis 2, and the flags of that number."""
    minima = {
        name: np.where(member, found[name], np.inf).min(axis=2, keepdims=True)
        for name in ("potential", "potential_any")
    }
    attained = member & (found["potential"] == minima["potential"])
    censored = ~marked_any(attained & ~found["censored"], 2, keepdims=True)
    return _shared(found, member) | minima | {"censored": censored}


def _shared(found: dict[str, Array], member: Flags) -> dict[str, Array]:
    """What mean and minimum have in common."""
    power = np.where(member, found["underpowered"], 0.0)
    wide = marked_any(power == 1, 2, keepdims=True)
    return {
        **{name: marked_any(member & found[name], 2, keepdims=True) for name in FLAGS},
        "first_failure": np.fmin.reduce(
            np.where(member, found["first_failure"], np.nan), axis=2, keepdims=True
        ),
        "underpowered": np.where(wide, 1.0, power.sum(axis=2, keepdims=True)),  # NaN stays NaN
    }


def _published(potential_any: Floats, exist: Flags) -> dict[str, Array]:
    """Mean and standard deviation over seeds of each seed's own potential, in the last place along axis 1."""
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


def _rows(axes: Axes, entities: pd.DataFrame, curves: Curves, found: dict[str, Array]) -> pd.DataFrame:
    """The verdicts as a table: methods, then entities, then seeds."""
    origin = entities["origin"].to_numpy()
    exist = curves.exist[:, :, origin]
    method, entity, seed = np.nonzero(exist.transpose(0, 2, 1))
    place = (method, seed, origin[entity])
    columns: dict[str, Any] = {name: array[method, seed, entity] for name, array in found.items()}
    columns["underpowered"] = [_known(flag) for flag in columns["underpowered"].tolist()]
    for name in LABELS:
        columns[name] = entities[name].to_numpy()[entity]
    columns["method"] = [axes.methods[index] for index in method]
    columns["seed"] = [[*axes.seeds, ALL][index] for index in seed]
    columns["reference"] = curves.reference[place]
    columns["n"] = pd.array(curves.n[place], dtype="Int64")
    columns["tested"] = [_listed(row) for row in np.sort(curves.ratios[place], axis=-1).tolist()]
    return pd.DataFrame(columns)[list(COLUMNS)].astype({"underpowered": object, "seed": object})


def _listed(ratios: Sequence[float]) -> str:
    return " ".join(f"{ratio:.6g}" for ratio in ratios if not isnan(ratio))
