"""Every measured number in the compact form that the page's charts read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalsuite.cost_axes import AXES as COSTS
from evalsuite.cost_axes import DEFAULT_AXIS
from evalsuite.report.findings import PARENT, Findings, counted_in, headline, methods, ratio_label, records
from evalsuite.report.wording import condition_label, counted, metric_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from evalsuite.report.verdicts import Row

AXES: Mapping[str, str] = {
    "ratio": "Prune ratio, all parameters",
    "prunable_ratio": "Prune ratio, prunable weights",
    **{name: axis.label for name, axis in COSTS.items()},
}
"""What a curve can be drawn over, beside what a clock said."""
CLOCKED: Mapping[str, str] = {
    "latency": "Measured milliseconds per image",
    "latency_ratio": "Measured time relative to the parent",
}
"""Metrics that a curve can be drawn over."""

_CANDIDATE = ["method", "seed", "target_ratio"]
_CURVE = ["metric", "condition"]


def curves(findings: Findings) -> dict[str, Any]:
    """Returns the numbers of all curves, ready for JSON.

    Every candidate stands there once with its costs; a curve is a list of (candidate, value, lower, upper),
    where the 95 % interval is that of the paired drop, laid around the value.
    """
    measured = findings.measurements.drop_duplicates([*_CANDIDATE, *_CURVE])
    measured = measured[(measured["status"] == "ok") & measured["value"].notna()]
    axes = {
        axis: label
        for axis, label in {**AXES, **_ratio(findings)}.items()
        if axis in measured and measured[axis].notna().any()
    }
    clocked = _clocked(measured)
    candidates = _joined(measured.drop_duplicates(_CANDIDATE), clocked)
    index = {tuple(row[k] for k in _CANDIDATE): i for i, row in enumerate(records(candidates))}
    limits, rounds = _limits(headline(findings.thresholds)), _rounds(measured)
    return {
        "methods": methods(findings),
        "axes": axes | {name: label for name, (label, _) in clocked.items()},
        "candidates": records(candidates[[*_CANDIDATE, *axes, *clocked]]),
        "metrics": {str(name): _described(findings, str(name)) for name in measured["metric"].unique()},
        "curves": [
            _curve(records(rows), findings, index, limits, rounds)
            for _, rows in measured.groupby(_CURVE, sort=False)
        ],
    }


def _ratio(findings: Findings) -> dict[str, str]:
    """What the ratio is called where it is not the usual one for all methods."""
    return {} if counted_in(findings) == [DEFAULT_AXIS] else {"ratio": ratio_label(findings)}


def _clocked(measured: pd.DataFrame) -> dict[str, tuple[str, pd.DataFrame]]:
    """Name of a measured time to how it reads and to its value of each candidate; one for each size of batch."""
    timed = measured[measured["metric"].isin(list(CLOCKED))]
    found = {}
    for (metric, condition), rows in timed.groupby(_CURVE, sort=False):
        name = f"{metric} {condition}"
        label = f"{CLOCKED[str(metric)]}, {condition_label(str(condition))}"
        found[name] = label, rows.set_index(_CANDIDATE)[["value"]].rename(columns={"value": name})
    return found


def _joined(candidates: pd.DataFrame, clocked: Mapping[str, tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    for _, values in clocked.values():
        candidates = candidates.join(values, on=_CANDIDATE)
    return candidates


def _described(findings: Findings, name: str) -> dict[str, Any]:
    metric = findings.metrics.get(name)
    if metric is None:
        return {"label": metric_label(name), "unit": "", "higher": None, "text": "", "counted": counted(name)}
    return {
        "label": metric_label(name),
        "unit": metric.unit,
        "higher": metric.higher_is_better,
        "text": metric.text,
        "counted": counted(name),
    }


def _limits(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Any]]:
    """Reference, tolerance and the potential of each method, for each metric and condition."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["aggregate"] not in ("single", "of-mean"):
            continue
        limit = found.setdefault(
            (row["metric"], row["condition"]),
            {"reference": row["reference"], "tolerance": row["tolerance"], "potentials": {}},
        )
        for key in ("reference", "tolerance"):  # several runs in one report may have several parents
            limit[key] = row[key] if row[key] == limit[key] else None
        limit["potentials"].setdefault(row["method"], row["potential"])
    return found


def _curve(
    rows: Sequence[Row],
    findings: Findings,
    index: Mapping[tuple[Any, ...], int],
    limits: Mapping[tuple[str, str], dict[str, Any]],
    rounds: Mapping[tuple[Any, ...], list[float]],
) -> dict[str, Any]:
    first = rows[0]
    metric = findings.metrics.get(first["metric"])
    higher = metric.higher_is_better if metric else None
    parents = [row["value"] for row in rows if row["method"] == PARENT]
    plain: dict[str, Any] = {
        "reference": sum(parents) / len(parents) if parents else None,
        "tolerance": None,
        "potentials": {},
    }
    share = metric is not None and metric.unit == "fraction" and all(0 <= row["value"] <= 1 for row in rows)
    ends = (rounds.get(_at(row)) or _band(row, higher) for row in rows)
    bands = [
        [min(max(end, 0.0), 1.0) for end in both] if share else both for both in ends
    ]  # a share has limits
    points = [
        [index[tuple(row[k] for k in _CANDIDATE)], row["value"], *band]
        for row, band in zip(rows, bands, strict=True)
    ]
    return {
        "metric": first["metric"],
        "condition": first["condition"],
        "label": condition_label(first["condition"]),
        "group": first["group"] or "",
        "n": first["n"] if len({row["n"] for row in rows}) == 1 else None,
        **limits.get((first["metric"], first["condition"]), plain),
        "points": points,
    }


def _rounds(measured: pd.DataFrame) -> dict[tuple[Any, ...], list[float]]:
    """The interval over rounds of each time that a clock said."""
    ends: dict[tuple[Any, ...], list[float]] = {}
    for which in ("lower", "upper"):
        names = {f"{metric}_{which}": metric for metric in CLOCKED}
        for row in records(measured[measured["metric"].isin(list(names))]):
            ends.setdefault(_at({**row, "metric": names[row["metric"]]}), []).append(_short(row["value"]))
    return {at: both for at, both in ends.items() if len(both) == 2}


def _at(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in (*_CANDIDATE, *_CURVE))


def _band(row: Row, higher: bool | None) -> list[float]:
    """The interval of the value that the interval of its drop implies; nothing where there is none."""
    drop, low, high = row["drop"], row["drop_low"], row["drop_high"]
    if higher is None or drop is None or low is None or high is None or row["method"] == PARENT:
        return []
    sign = -1 if higher else 1
    ends = sorted((row["value"] + sign * (low - drop), row["value"] + sign * (high - drop)))
    return [_short(end) for end in ends]


def _short(value: float) -> float:
    """Six digits are enough for the edge of a band, and halve the page."""
    return float(f"{value:.6g}")
