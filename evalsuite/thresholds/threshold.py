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
from evalsuite.thresholds.curves import Curves, concatenated, mean_curves, selected, verdicts
from evalsuite.thresholds.family import certified_jointly
from evalsuite.thresholds.long_table import TableAxes, curves_of_table
from evalsuite.thresholds.seeds import ALL, published, with_seed_means
from evalsuite.thresholds.summaries import FLAGS, PROVEN, with_summaries
from evalsuite.tolerances import limit
from evalsuite.types import Array, Bounds, Floats, Threshold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from evalsuite.thresholds.curves import Curves, Flags
    from evalsuite.tolerances import Rule, Tolerance


COLUMNS = (
    *("method", "seed", "metric", "condition", "group", "aggregate", "unit", "higher_is_better", "tolerance"),
    *("reference", "potential", "potential_any", "potential_any_mean", "potential_any_std"),
    *("certified", "potential_low", "potential_high", "certified_method", "certified_jointly"),
    *("first_failure", "censored", "infeasible", "non_monotone", "incomplete", "at_chance", "underpowered"),
    *("n", "tested"),
)
LABELS = ("metric", "condition", "group", "aggregate", "unit", "higher_is_better")
AGGREGATES = ("mean", "minimum", "of-mean")


def threshold(
    ratios: Sequence[float],
    drops: Sequence[float],
    tolerance: float,
    *,
    widths: Sequence[float] | None = None,
    bounds: Bounds | None = None,
) -> Threshold:
    """Returns what one curve says about how far it is safe to prune.

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

    >>> found = threshold([0.5, 0.7, 0.9, 0.95], [-0.001, 0.005, 0.02, 0.004], 0.005)
    >>> found.potential, found.potential_any, found.first_failure, found.non_monotone
    (0.7, 0.95, 0.9, True)
    """
    largest = limit(tolerance).amount
    x, y = np.asarray(ratios, dtype=np.float64), np.asarray(drops, dtype=np.float64)
    none = np.full(x.shape, np.nan)
    high, upper, floor = (none, none, none) if bounds is None else (bounds.high, bounds.upper, bounds.floor)
    if not x.shape == high.shape == upper.shape == floor.shape:
        raise UserError(f"{x.size} ratios and bounds on {high.size} drops; give one for each ratio")
    if widths is not None:
        w = np.asarray(widths, dtype=np.float64)
    else:
        w = none if bounds is None else bounds.high - bounds.low
    _check_curve(x, y, w)
    unknown, whole = np.asarray(np.nan), np.asarray(False)
    allowed = np.asarray(largest)
    curve = Curves(x, y, w, high, upper, floor, none, none, np.ones_like(x), unknown, allowed, unknown, whole)
    found = verdicts(curve)
    ends = float(found["potential_low"]), float(found["potential_high"])
    return Threshold(
        potential=float(found["potential"]),
        potential_any=float(found["potential_any"]),
        first_failure=None if isnan(found["first_failure"]) else float(found["first_failure"]),
        **{flag: bool(found[flag]) for flag in FLAGS},
        underpowered=_known(found["underpowered"]),
        tested=tuple(x.tolist()),
        certified=None if isnan(found["certified"]) else float(found["certified"]),
        interval=None if isnan(ends[0]) else ends,
    )


def thresholds(
    frame: pd.DataFrame,
    *,
    tolerance: Rule | Mapping[str, Tolerance],
    higher_is_better: Mapping[str, bool] | None = None,
    over_seeds: pd.DataFrame | None = None,
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
    together with those of all other rows of the method and seed (`evalsuite.thresholds.family`). All are NaN where
    there are no bounds, and in the rows of groups except for what the minimum certifies.

    ``aggregate`` is ``mean`` and ``minimum`` for the mean and minimum of the potentials over its conditions,
    ``of-mean`` for the threshold of the mean drop over them, and ``single`` in all other rows. In ``mean``
    and ``minimum`` rows ``first_failure`` is the smallest over the conditions and a flag says that a
    condition has it; only ``censored`` of a minimum says that all conditions which attain it are censored.

    Args:
        frame: One number per row. Columns ``method``, ``ratio`` (measured share of weights removed, 0 for the
            parent), ``metric``, ``condition``, ``value``; optional ``seed`` (default 0), ``target_ratio``
            (default: the ratio), ``group``, ``n`` (images), ``unit``, ``status`` (other than ``ok``: not
            measured), ``drop`` (default: from the values), ``drop_low`` and ``drop_high`` (95 % interval),
            ``drop_upper`` and ``drop_floor`` (`records.Bounds`), ``drop_p`` with the ``drop_tolerance`` that it is a
            test against (used where that is the one asked for), ``higher_is_better``, ``chance`` (value of a network
            that guesses).
        tolerance: Largest drop that is commensurate: one for each metric that is to be judged, or a single one
            for all metrics that have a direction. A number is in the metric's unit, ``"5%"`` a share of the
            parent's value; a mapping gives rules by condition or group, ``*`` for the others, and judges the
            conditions that have one.
        higher_is_better: Direction by metric, where the table has no such column.
        over_seeds: Bounds on the mean drop over the seeds of a method, one row for each ``method``,
            ``metric``, ``condition`` and ``target_ratio``, with ``drop_low``, ``drop_high``, ``drop_upper``,
            ``drop_floor``, optional ``drop_p`` and ``drop_tolerance`` (`evalsuite.statistics.mean_bounds`). Without it,
            headlines over several seeds have no bounds.

    Returns:
        A frame with columns `COLUMNS`, in order of first appearance. ``first_failure`` is NaN if nothing
        failed, ``underpowered`` is None where it cannot be known (in all means of several drops), ``n`` is the smallest
        number of images behind a drop, ``tested`` lists the tested ratios, ``at_chance`` says that a guess would pass.
        ``incomplete`` is also true where a seed, or a condition of the group, is missing altogether.

    Raises:
        UserError: If the table does not say what it must, or a tolerance is for what nobody measured; the
            sentence says what is missing, and where.
    """
    axes, curves = curves_of_table(frame, tolerance, higher_is_better or {})
    if not axes.methods:
        return pd.DataFrame(columns=list(COLUMNS))
    curves = with_seed_means(axes, curves, over_seeds)
    groups = _groups(axes.pairs)
    means = [mean_curves(selected(curves, members), 2, expected=len(members)) for _, members in groups]
    curves = concatenated([curves, *means], axis=2)
    entities = _entities(axes.pairs, groups)
    alike = axes.pairs.iloc[[*range(len(axes.pairs)), *(members[0] for _, members in groups)]]
    members = [indices for _, indices in groups]
    together = certified_jointly(curves, axes.pairs["condition"].tolist(), members)
    found = verdicts(curves) | {"at_chance": at_chance(alike, curves)}
    found["certified_jointly"] = np.where(np.isnan(together), np.nan, np.fmin(together, found["certified"]))
    found = with_summaries(found, members, curves.exist)
    origin = entities["origin"].to_numpy()
    partial = curves.partial[:, :, origin]
    found["incomplete"] |= partial
    found |= {name: np.where(partial, np.nan, found[name]) for name in PROVEN}
    found |= published(found["potential_any"], curves.exist[:, :, origin])
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


def _rows(axes: TableAxes, entities: pd.DataFrame, curves: Curves, found: dict[str, Array]) -> pd.DataFrame:
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
    columns["reference"], columns["tolerance"] = curves.reference[place], curves.limits[place]
    columns["n"] = pd.array(curves.n[place], dtype="Int64")
    columns["tested"] = [_listed(row) for row in np.sort(curves.ratios[place], axis=-1).tolist()]
    return pd.DataFrame(columns)[list(COLUMNS)].astype({"underpowered": object, "seed": object})


def _listed(ratios: Sequence[float]) -> str:
    return " ".join(f"{ratio:.6g}" for ratio in ratios if not isnan(ratio))


def at_chance(pairs: pd.DataFrame, curves: Curves) -> Flags:
    """Returns whether what is tolerated reaches down to the value of a network that guesses.

    Args:
        pairs: A row for each place of axis 2, with columns higher_is_better and chance (NaN where nobody knows).
        curves: Curves of shape (methods, seeds, pairs, slots).

    Returns:
        Shape (methods, seeds, pairs).
    """
    sign = np.where(pairs["higher_is_better"].to_numpy(dtype=bool), 1.0, -1.0)
    above = sign * (curves.reference - pairs["chance"].to_numpy(dtype=np.float64))
    return np.asarray(above <= curves.limits)
