"""From measurements to thresholds: the largest prune ratios at which a model is as good as its parent.

`threshold` is for one curve, `thresholds` for a whole table of measurements; the rule is in
`evalsuite.thresholds.curves`. Neither needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evalsuite.errors import UserError
from evalsuite.thresholds.curves import (
    NONINFERIORITY_ERROR,
    Curves,
    any_along,
    concatenated,
    mean_curves,
    selected,
    threshold_arrays,
)
from evalsuite.thresholds.familywise import FAMILYWISE_ERROR, certified_jointly
from evalsuite.thresholds.intervals import intervals_of_members
from evalsuite.thresholds.long_table import TableAxes, curves_of_table, with_current_columns
from evalsuite.thresholds.seeds import (
    ALL_SEEDS,
    potential_any_over_seeds,
    with_group_bounds,
    with_seed_means,
)
from evalsuite.tolerances import parse_limit
from evalsuite.types import Array, Bounds, Floats, Threshold

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from evalsuite.thresholds.curves import Flags
    from evalsuite.tolerances import Rule, Tolerance


COLUMNS = (
    *("method", "seed", "metric", "condition", "group", "aggregate", "unit", "higher_is_better", "tolerance"),
    *("reference", "potential", "potential_any", "potential_any_mean", "potential_any_std"),
    *("certified", "potential_low", "potential_high", "certified_method", "certified_jointly"),
    *("noninferior_jointly", "noninferior_up_to", "inferior_from"),
    *("first_failure", "censored", "infeasible", "non_monotone", "incomplete", "at_chance", "underpowered"),
    *("n", "tested"),
)
LABELS = ("metric", "condition", "group", "aggregate", "unit", "higher_is_better")
AGGREGATES = ("mean", "minimum", "of-mean")
INTERVAL = ("noninferior_up_to", "inferior_from")
JOINT = ("certified_jointly", "noninferior_jointly")
STATEMENTS = ("certified", "potential_low", "potential_high", "certified_method", *JOINT, *INTERVAL)
FLAGS = ("censored", "infeasible", "non_monotone", "incomplete")


def threshold(
    ratios: Sequence[float],
    drops: Sequence[float],
    tolerance: float,
    *,
    widths: Sequence[float] | None = None,
    bounds: Bounds | None = None,
) -> Threshold:
    """Returns the largest prune ratios at which the drops of one curve are within the tolerance.

    Args:
        ratios: Tested prune ratios in (0, 1), rising.
        drops: How much worse than the parent at each ratio, in the metric's unit, positive = worse. NaN
            where it could not be measured: that counts as not commensurate, and the threshold as incomplete.
        tolerance: Largest drop that is commensurate, in the same unit.
        widths: Full widths of the drops' 95 % intervals; NaN where unknown. Taken from `bounds` if those are
            given.
        bounds: Bounds on the drops, one for each ratio; see `evalsuite.statistics.bounds`.

    Returns:
        The threshold. `underpowered` looks at the drops that decide, at `potential` and at `first_failure`:
        true if one of them has an interval wider than the tolerance, ``None`` if that cannot be known.

    Raises:
        UserError: If ratios do not rise inside (0, 1), lengths differ, or the tolerance is not at least 0.

    References:
        `potential_any` is the prune potential of Liebenwein et al. (2021), "Lost in Pruning", definition 1,
        with the drop of any metric in place of the rise of the error.

    >>> result = threshold([0.5, 0.7, 0.9, 0.95], [-0.001, 0.005, 0.02, 0.004], 0.005)
    >>> result.potential, result.potential_any, result.first_failure, result.non_monotone
    (0.7, 0.95, 0.9, True)
    """
    curve = _single_curve(ratios, drops, tolerance, widths, bounds)
    arrays = threshold_arrays(curve)
    ends = float(arrays["potential_low"]), float(arrays["potential_high"])
    return Threshold(
        potential=float(arrays["potential"]),
        potential_any=float(arrays["potential_any"]),
        first_failure=None if isnan(arrays["first_failure"]) else float(arrays["first_failure"]),
        **{flag: bool(arrays[flag]) for flag in FLAGS},
        underpowered=_optional_flag(arrays["underpowered"]),
        tested=tuple(curve.ratios.tolist()),
        certified=None if isnan(arrays["certified"]) else float(arrays["certified"]),
        interval=None if isnan(ends[0]) else ends,
    )


def thresholds(
    frame: pd.DataFrame,
    *,
    tolerance: Rule | Mapping[str, Tolerance],
    higher_is_better: Mapping[str, bool] | None = None,
    over_seeds: pd.DataFrame | None = None,
    over_groups: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Returns the thresholds of a table of measurements, one row for each method, metric, condition and seed.

    Rows with seed ``all`` are the headlines: the mean drop over the seeds at each target ratio, each
    candidate paired with the parent of its own seed; their ratios are means of the measured ones. Their
    columns ``potential_any_mean`` and ``potential_any_std`` (ddof 0) follow the published convention: the
    potential of each seed first, then mean and standard deviation over the seeds, where there are several.

    A group of two or more conditions has three more rows, with the group's name as the condition.
    ``certified``, ``potential_low`` and ``potential_high`` are about these networks: the images are a sample, the
    seeds are fixed; in headline rows they are about the mean over these seeds. ``certified_method`` is about the
    method, its seeds a sample too: headline rows of three seeds or more have it. ``certified_jointly`` may be read
    together with those of all other rows of the method and seed (`evalsuite.thresholds.familywise`). All are NaN where
    there are no bounds, and in the rows of groups except for what the minimum certifies.

    ``noninferior_up_to`` and ``inferior_from`` are the interval of the true potential at 95 %
    (`evalsuite.thresholds.intervals`), also of the minimum of a group, and of the mean over a group where
    `over_groups` has its bounds; ``inferior_from`` is NaN where no ratio is shown to fail.
    ``noninferior_jointly`` is ``certified_jointly`` at a familywise 2.5 %.

    ``aggregate`` is ``mean`` and ``minimum`` for the mean and minimum of the potentials over its conditions,
    ``of-mean`` for the threshold of the mean drop over them, and ``single`` in all other rows. In ``mean``
    and ``minimum`` rows ``first_failure`` is the smallest over the conditions and a flag is set if a
    condition has it; only ``censored`` of a minimum is set only if all conditions which attain it are censored.

    Args:
        frame: One number per row. Columns ``method``, ``ratio`` (measured share of weights removed, 0 for the
            parent), ``metric``, ``condition``, ``value``; optional ``seed`` (default 0), ``target_ratio``
            (default: the ratio), ``group``, ``n`` (images), ``unit``, ``status`` (other than ``ok``: not
            measured), ``drop`` (default: from the values), ``drop_low`` and ``drop_high`` (95 % interval),
            ``drop_upper_95`` and ``drop_lower_simultaneous`` (`evalsuite.types.Bounds`), ``noninferiority_p`` with the
            ``drop_tolerance`` that it is a test against (ignored for other tolerances), ``inferiority_p``, ``test``
            (equal numbers are tests on the same evidence), ``grid`` (number of ratios that a search chose from),
            ``higher_is_better``, ``chance`` (value at chance level). Columns of earlier versions, ``drop_upper``,
            ``drop_floor`` and ``drop_p``, are accepted with a `DeprecationWarning`.
        tolerance: Largest drop that is commensurate: one for each metric that gets thresholds, or a single one
            for all metrics that have a direction. A number is in the metric's unit, ``"5%"`` a share of the
            parent's value; a mapping gives tolerances by condition or group, ``*`` for the others; conditions
            without one get no thresholds.
        higher_is_better: Direction by metric, where the table has no such column.
        over_seeds: Bounds on the mean drop over the seeds of a method, one row for each ``method``,
            ``metric``, ``condition`` and ``target_ratio``, with ``drop_low``, ``drop_high``,
            ``drop_upper_95``, ``drop_lower_simultaneous``, optional ``noninferiority_p`` and ``drop_tolerance``
            (`evalsuite.statistics.mean_bounds`). Without it,
            headlines over several seeds have no bounds.
        over_groups: The same of the mean drop over the conditions of each group: with a column ``seed``, ``all`` for
            the mean over the seeds, and the group's name as the condition.

    Returns:
        A frame with columns `COLUMNS`, in order of first appearance. ``first_failure`` is NaN if nothing
        failed, ``underpowered`` is None where it cannot be known (in all means of several drops), ``n`` is the smallest
        number of images behind a drop, ``tested`` lists the tested ratios, ``at_chance`` is true where a network at
        chance level would pass.
        ``incomplete`` is also true where a seed, or a condition of the group, is missing altogether.

    Raises:
        UserError: If a column or value is missing or contradictory, or a tolerance is for a metric or
            condition that the table does not have.
    """
    table = with_current_columns(frame)
    means = None if over_seeds is None else with_current_columns(over_seeds)
    return threshold_rows(judged_curves(table, tolerance, higher_is_better or {}, means, over_groups))


@dataclass(frozen=True)
class JudgedCurves:
    """Curves of a table with all bounds: of single conditions, then of the mean over each group.

    Attributes:
        axes: Labels of the curves.
        groups: Name of each group of two or more conditions of one metric, and the indices of its pairs.
        curves: Shape (methods, seeds and their mean, pairs and groups, ratio indices).
    """

    axes: TableAxes
    groups: Sequence[tuple[str, Sequence[int]]]
    curves: Curves

    def means_over(self, members: Collection[int]) -> list[int]:
        """Returns the indices of the means over groups all of whose conditions are among `members`."""
        first = len(self.axes.pairs)
        return [first + place for place, (_, own) in enumerate(self.groups) if set(own) <= set(members)]


def judged_curves(
    frame: pd.DataFrame,
    tolerance: Rule | Mapping[str, Tolerance],
    higher_is_better: Mapping[str, bool],
    over_seeds: pd.DataFrame | None = None,
    over_groups: pd.DataFrame | None = None,
) -> JudgedCurves:
    """Returns the curves of a table of measurements, with the present names of columns; see `thresholds`."""
    axes, curves = curves_of_table(frame, tolerance, higher_is_better)
    if not axes.methods:
        return JudgedCurves(axes, [], curves)
    curves = with_seed_means(axes, curves, over_seeds)
    groups = _groups(axes.pairs)
    means = [mean_curves(selected(curves, members), 2, expected=len(members)) for _, members in groups]
    if means and over_groups is not None:
        names = [(axes.pairs["metric"].iloc[members[0]], name) for name, members in groups]
        means = [with_group_bounds(axes, concatenated(means, axis=2), over_groups, names)]
    return JudgedCurves(axes, groups, concatenated([curves, *means], axis=2))


def threshold_rows(judged: JudgedCurves) -> pd.DataFrame:
    """Returns the thresholds of curves as `thresholds` does."""
    axes, groups, curves = judged.axes, judged.groups, judged.curves
    if not axes.methods:
        return pd.DataFrame(columns=list(COLUMNS))
    entities = _entities(axes.pairs, groups)
    arrays = _arrays_of_entities(judged)
    origin = entities["origin"].to_numpy()
    partial = curves.partial[:, :, origin]
    arrays["incomplete"] |= partial
    arrays |= {name: np.where(partial, np.nan, arrays[name]) for name in STATEMENTS}
    arrays |= potential_any_over_seeds(arrays["potential_any"], curves.exist[:, :, origin])
    order = entities.sort_values(["metric_rank", "aggregated", "rank"], kind="stable").index.to_numpy()
    return _threshold_rows(
        axes, entities.iloc[order], curves, {name: array[:, :, order] for name, array in arrays.items()}
    )


def _arrays_of_entities(judged: JudgedCurves) -> dict[str, Array]:
    """Thresholds of all curves, then of the means and the minima of the groups, (methods, seeds, entities) by name."""
    pairs, curves, groups = judged.axes.pairs, judged.curves, [members for _, members in judged.groups]
    first = pairs.iloc[
        [*range(len(pairs)), *(members[0] for members in groups)]
    ]  # a mean is like its first member
    arrays = threshold_arrays(curves) | {"at_chance": at_chance(first, curves)}
    for name, error in zip(JOINT, (FAMILYWISE_ERROR, NONINFERIORITY_ERROR), strict=True):
        jointly = certified_jointly(curves, pairs["condition"].tolist(), groups, error=error)
        arrays[name] = np.where(np.isnan(jointly), np.nan, np.fmin(jointly, arrays["potential"]))
    arrays["certified_jointly"] = np.where(
        np.isnan(arrays["certified_jointly"]),
        np.nan,
        np.fmin(arrays["certified_jointly"], arrays["certified"]),
    )
    single = [intervals_of_members(curves, [index]) for index in range(len(pairs) + len(groups))]
    arrays |= {name: np.stack([interval[name] for interval in single], axis=2) for name in INTERVAL}
    arrays = _with_summaries(arrays, groups, curves.exist)
    for place, members in enumerate(groups):
        interval = intervals_of_members(curves, members, judged.means_over(members))
        for name in INTERVAL:
            arrays[name][:, :, place - len(groups)] = interval[name]
    return arrays


def _single_curve(
    ratios: Sequence[float],
    drops: Sequence[float],
    tolerance: float,
    widths: Sequence[float] | None,
    bounds: Bounds | None,
) -> Curves:
    """The arguments of `threshold` as arrays, checked."""
    x, y = np.asarray(ratios, dtype=np.float64), np.asarray(drops, dtype=np.float64)
    missing = np.full(x.shape, np.nan)
    high, upper, lower = missing, missing, missing
    if bounds is not None:
        high, upper, lower = bounds.high, bounds.upper, bounds.lower_simultaneous
    if not x.shape == high.shape == upper.shape == lower.shape:
        raise UserError(f"{x.size} ratios and bounds on {high.size} drops; give one for each ratio")
    if widths is not None:
        width = np.asarray(widths, dtype=np.float64)
    else:
        width = missing if bounds is None else bounds.high - bounds.low
    _check_curve(x, y, width)
    return Curves(
        ratios=x,
        drops=y,
        widths=width,
        highs=high,
        uppers=upper,
        simultaneous_lowers=lower,
        method_uppers=missing,
        noninferiority_ps=missing,
        inferiority_ps=missing,
        codes=missing,
        scales=np.ones_like(x),
        reference=np.asarray(np.nan),
        limits=np.asarray(parse_limit(tolerance).amount),
        n=np.asarray(np.nan),
        partial=np.asarray(False),
        grid=np.asarray(0.0),
    )


def _optional_flag(flag: Any) -> bool | None:
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


def _groups(pairs: pd.DataFrame) -> list[tuple[str, list[int]]]:
    """Name of each group of at least two conditions of one metric, and the indices of its pairs."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, key in enumerate(zip(pairs["metric"], pairs["group"], strict=True)):
        groups.setdefault(key, []).append(index)
    return [(name, members) for (_, name), members in groups.items() if name and len(members) > 1]


def _entities(pairs: pd.DataFrame, groups: Sequence[tuple[str, Sequence[int]]]) -> pd.DataFrame:
    """The subjects of rows: single pairs, then for each group its of-mean, then its mean and its minimum.

    ``origin`` is the index of the curves behind a row; the last three columns give the order of rows.
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
    arrays: dict[str, Array], groups: Sequence[Sequence[int]], exist: Flags
) -> dict[str, Array]:
    """The arrays, followed along axis 2 by the mean, then by the minimum of the thresholds of each group.

    Args:
        arrays: Thresholds of shape (methods, seeds, entities) by name.
        groups: Indices of the members of each group.
        exist: Which curves there are.
    """
    parts = [arrays]
    for summary in (_mean_summary, _minimum_summary):
        for members in groups:
            of_members = {name: array[:, :, members] for name, array in arrays.items()}
            parts.append(summary(of_members, exist[:, :, members]))
    return {name: np.concatenate([part[name] for part in parts], axis=2) for name in arrays}


def _mean_summary(arrays: dict[str, Array], member: Flags) -> dict[str, Array]:
    """The means of the potentials over axis 2, and their flags."""
    count = np.maximum(member.sum(axis=2, keepdims=True), 1)
    means = {
        name: np.where(member, arrays[name], 0.0).sum(axis=2, keepdims=True) / count
        for name in ("potential", "potential_any")
    }
    return _shared(arrays, member) | means | dict.fromkeys(STATEMENTS, np.full(count.shape, np.nan))


def _minimum_summary(arrays: dict[str, Array], member: Flags) -> dict[str, Array]:
    """The minima of the potentials over axis 2, and their flags.

    The minimum of the certified ratios of the conditions is certified for all of them, without a correction: it
    exceeds the smallest true potential only if the condition with that potential is certified too far
    (intersection-union test, Berger 1982). Upper ends of intervals have no such rule.
    """
    minima = {
        name: np.where(member, arrays[name], np.inf).min(axis=2, keepdims=True)  # NaN stays NaN
        for name in ("potential", "potential_any", "certified", "certified_method", *JOINT)
    }
    unknown = np.full(minima["potential"].shape, np.nan)
    attained = member & (arrays["potential"] == minima["potential"])
    censored = ~any_along(attained & ~arrays["censored"], 2, keepdims=True)
    ends = dict.fromkeys(("potential_low", "potential_high", *INTERVAL), unknown)
    return _shared(arrays, member) | minima | ends | {"censored": censored}


def _shared(arrays: dict[str, Array], member: Flags) -> dict[str, Array]:
    """The first failure and the flags of both the mean and the minimum."""
    power = np.where(member, arrays["underpowered"], 0.0)
    wide = any_along(power == 1, 2, keepdims=True)
    return {
        **{name: any_along(member & arrays[name], 2, keepdims=True) for name in (*FLAGS, "at_chance")},
        "first_failure": np.fmin.reduce(
            np.where(member, arrays["first_failure"], np.nan), axis=2, keepdims=True
        ),
        "underpowered": np.where(wide, 1.0, power.sum(axis=2, keepdims=True)),  # NaN stays NaN
    }


def _threshold_rows(
    axes: TableAxes, entities: pd.DataFrame, curves: Curves, arrays: dict[str, Array]
) -> pd.DataFrame:
    """The thresholds as a table: methods, then entities, then seeds."""
    origin = entities["origin"].to_numpy()
    exist = curves.exist[:, :, origin]
    method, entity, seed = np.nonzero(exist.transpose(0, 2, 1))
    place = (method, seed, origin[entity])
    columns: dict[str, Any] = {name: array[method, seed, entity] for name, array in arrays.items()}
    columns["underpowered"] = [_optional_flag(flag) for flag in columns["underpowered"].tolist()]
    for name in LABELS:
        columns[name] = entities[name].to_numpy()[entity]
    columns["method"] = [axes.methods[index] for index in method]
    columns["seed"] = [[*axes.seeds, ALL_SEEDS][index] for index in seed]
    columns["reference"], columns["tolerance"] = curves.reference[place], curves.limits[place]
    columns["n"] = pd.array(curves.n[place], dtype="Int64")
    columns["tested"] = [_ratio_list(row) for row in np.sort(curves.ratios[place], axis=-1).tolist()]
    return pd.DataFrame(columns)[list(COLUMNS)].astype({"underpowered": object, "seed": object})


def _ratio_list(ratios: Sequence[float]) -> str:
    return " ".join(f"{ratio:.6g}" for ratio in ratios if not isnan(ratio))


def at_chance(pairs: pd.DataFrame, curves: Curves) -> Flags:
    """Returns whether a network at chance level would be within the tolerance.

    Args:
        pairs: A row for each place of axis 2, with columns higher_is_better and chance (NaN where unknown).
        curves: Curves of shape (methods, seeds, pairs, ratio indices).

    Returns:
        Shape (methods, seeds, pairs).
    """
    sign = np.where(pairs["higher_is_better"].to_numpy(dtype=bool), 1.0, -1.0)
    above = sign * (curves.reference - pairs["chance"].to_numpy(dtype=np.float64))
    return np.asarray(above <= curves.limits)
