"""The numbers of the charts: curves over the ratio, slopes of the excess error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalsuite.cost_axes import AXES as COST_AXES
from evalsuite.cost_axes import DEFAULT_AXIS
from evalsuite.report.data import ReportData, Row, headline_rows, records
from evalsuite.report.labels import condition_label, counted_noun, group_label, metric_label
from evalsuite.types import DENSE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

AXES: Mapping[str, str] = {
    "ratio": "Prune ratio, all parameters",
    "prunable_ratio": "Prune ratio, prunable weights",
    **{name: axis.label for name, axis in COST_AXES.items()},
}
"""Axes of curves with their titles, beside measured times."""
TIMES: Mapping[str, str] = {
    "latency": "Measured milliseconds per image",
    "latency_ratio": "Measured time relative to the parent",
}
"""Metrics that are axes of curves too, with their titles."""

_CANDIDATE = ["method", "seed", "target_ratio"]
_CURVE = ["metric", "condition"]
_USED = [*_CANDIDATE, *_CURVE, "group", "value", "drop", "drop_low", "drop_high", "n"]
"""Columns of measurements that curves are made of."""


def curves(data: ReportData) -> dict[str, Any]:
    """Returns the numbers of all curves, ready for JSON.

    Every candidate is listed once with its costs; a curve is a list of (candidate, value, lower, upper), where the
    95 % interval is that of the paired drop, relative to the value.
    """
    measured = data.measurements.drop_duplicates([*_CANDIDATE, *_CURVE])
    measured = measured[(measured["status"] == "ok") & measured["value"].notna()]
    axes = {
        axis: label
        for axis, label in {**AXES, **_ratio_title(data)}.items()
        if axis in measured and measured[axis].notna().any()
    }
    times = _times(measured)
    candidates = _with_times(measured.drop_duplicates(_CANDIDATE), times)
    index = {tuple(row[k] for k in _CANDIDATE): i for i, row in enumerate(records(candidates))}
    limits, time_intervals = _limits(data.headline), _time_intervals(measured)
    return {
        "methods": data.methods,
        "controls": list(data.controls),
        "axes": axes | {name: label for name, (label, _) in times.items()},
        "candidates": records(candidates[[*_CANDIDATE, *axes, *times]]),
        "metrics": {row["metric"]: _metric(data, row) for row in records(measured.drop_duplicates("metric"))},
        "curves": [_curve(rows, data, index, limits, time_intervals) for rows in _rows_by_curve(measured)],
    }


def _rows_by_curve(measured: pd.DataFrame) -> list[list[Row]]:
    """The rows of each curve; the table becomes Python values once, not once for each curve."""
    curves_by_place: dict[tuple[Any, ...], list[Row]] = {}
    for row in records(measured[[name for name in _USED if name in measured]]):
        curves_by_place.setdefault(tuple(row[key] for key in _CURVE), []).append(row)
    return list(curves_by_place.values())


def _ratio_title(data: ReportData) -> dict[str, str]:
    """The title of the axis of ratios where they are not all on the default cost axis."""
    return {} if data.ratio_axes == [DEFAULT_AXIS] else {"ratio": data.ratio_label}


def _times(measured: pd.DataFrame) -> dict[str, tuple[str, pd.DataFrame]]:
    """Name of a measured time to its title and its value for each candidate; one for each batch size."""
    rows_of_times = measured[measured["metric"].isin(list(TIMES))]
    times = {}
    for (metric, condition), rows in rows_of_times.groupby(_CURVE, sort=False):
        name = f"{metric} {condition}"
        title = f"{TIMES[str(metric)]}, {condition_label(str(condition))}"
        times[name] = title, rows.set_index(_CANDIDATE)[["value"]].rename(columns={"value": name})
    return times


def _with_times(candidates: pd.DataFrame, times: Mapping[str, tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    for _, values in times.values():
        candidates = candidates.join(values, on=_CANDIDATE)
    return candidates


def _metric(data: ReportData, row: Row) -> dict[str, Any]:
    name = row["metric"]
    metric = data.metrics.get(name)
    return {
        "label": metric_label(name),
        "test": str(row["evaluator"] or "other").replace("_", " "),
        "unit": metric.unit if metric else "",
        "higher": metric.higher_is_better if metric else None,
        "text": metric.text if metric else "",
        "counted": counted_noun(name),
    }


def _limits(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Any]]:
    """Reference, tolerance and the potential of each method, for each metric and condition."""
    limits: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["aggregate"] not in ("single", "of-mean"):
            continue
        limit = limits.setdefault(
            (row["metric"], row["condition"]),
            {"reference": row["reference"], "tolerance": row["tolerance"], "potentials": {}},
        )
        for key in ("reference", "tolerance"):  # several runs in one report may have several parents
            limit[key] = row[key] if row[key] == limit[key] else None
        limit["potentials"].setdefault(row["method"], row["potential"])
    return limits


def _curve(
    rows: Sequence[Row],
    data: ReportData,
    index: Mapping[tuple[Any, ...], int],
    limits: Mapping[tuple[str, str], dict[str, Any]],
    time_intervals: Mapping[tuple[Any, ...], list[float]],
) -> dict[str, Any]:
    first = rows[0]
    metric = data.metrics.get(first["metric"])
    higher_is_better = metric.higher_is_better if metric else None
    parents = [row["value"] for row in rows if row["method"] == DENSE]
    without_limit: dict[str, Any] = {
        "reference": sum(parents) / len(parents) if parents else None,
        "tolerance": None,
        "potentials": {},
    }
    bands = [time_intervals.get(_key(row)) or _band(row, higher_is_better) for row in rows]
    if metric is not None and metric.unit == "fraction" and all(0 <= row["value"] <= 1 for row in rows):
        bands = [[min(max(end, 0.0), 1.0) for end in band] for band in bands]
    points = [
        [index[tuple(row[k] for k in _CANDIDATE)], row["value"], *band]
        for row, band in zip(rows, bands, strict=True)
    ]
    return {
        "metric": first["metric"],
        "condition": first["condition"],
        "label": condition_label(first["condition"]),
        "group": first["group"] or "",
        "of": group_label(first["group"]) if first["group"] else "",
        "n": first["n"] if len({row["n"] for row in rows}) == 1 else None,
        **limits.get((first["metric"], first["condition"]), without_limit),
        "points": points,
    }


def _time_intervals(measured: pd.DataFrame) -> dict[tuple[Any, ...], list[float]]:
    """The interval over rounds of each measured time."""
    intervals: dict[tuple[Any, ...], list[float]] = {}
    for end in ("lower", "upper"):
        names = {f"{metric}_{end}": metric for metric in TIMES}
        for row in records(measured[measured["metric"].isin(list(names))]):
            key = _key({**row, "metric": names[row["metric"]]})
            intervals.setdefault(key, []).append(_rounded(row["value"]))
    return {key: interval for key, interval in intervals.items() if len(interval) == 2}


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in (*_CANDIDATE, *_CURVE))


def _band(row: Row, higher_is_better: bool | None) -> list[float]:
    """The interval of the value that follows from the interval of its drop; empty where there is none."""
    drop, low, high = row["drop"], row["drop_low"], row["drop_high"]
    if higher_is_better is None or drop is None or low is None or high is None or row["method"] == DENSE:
        return []
    sign = -1 if higher_is_better else 1
    ends = sorted((row["value"] + sign * (low - drop), row["value"] + sign * (high - drop)))
    return [_rounded(end) for end in ends]


def _rounded(value: float) -> float:
    """The value with six digits, which are enough for the edge of a band and halve the page."""
    return float(f"{value:.6g}")


def slopes(data: ReportData) -> list[dict[str, Any]]:
    """Returns the slope of the excess error of each method and condition, over all seeds, or else of the first seed.

    ``low`` and ``high`` hold for these networks, the images being a sample; ``wide_low`` and ``wide_high`` for the
    method, its seeds being a sample too, and are the same below three seeds.
    """
    return [_slope(row) for row in headline_rows(data.excess) if row["slope"] is not None]


def _slope(row: Row) -> dict[str, Any]:
    low, high = (_either(row[f"images_{end}"], row["slope"]) for end in ("low", "high"))
    return {
        "method": row["method"],
        "condition": condition_label(row["condition"]),
        "slope": row["slope"],
        "low": low,
        "high": high,
        "wide_low": _either(row["seeds_low"], low),
        "wide_high": _either(row["seeds_high"], high),
        "value": f"{row['slope']:.1f} points",
        "images": _interval_text(row, "images"),
        "seeds": _interval_text(row, "seeds"),
        "published": _interval_text(row, "published"),
        "points": row["points"],
    }


def _either(value: float | None, default: float) -> float:
    return default if value is None else value


def _interval_text(row: Row, kind: str) -> str:
    low, high = row[f"{kind}_low"], row[f"{kind}_high"]
    return "" if low is None or high is None else f"{low:.1f} to {high:.1f}"
