"""Every measured number in the compact form that the page's charts read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalsuite.axes import AXES as COSTS
from evalsuite.axes import USUAL
from evalsuite.report.findings import PARENT, Findings, counted_in, headline, methods, ratio_label, records
from evalsuite.report.wording import condition_label, metric_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalsuite.report.verdicts import Row

AXES: Mapping[str, str] = {
    "ratio": "Prune ratio, all parameters",
    "prunable_ratio": "Prune ratio, prunable weights",
    **{name: axis.label for name, axis in COSTS.items()},
}
"""What a curve can be drawn over."""

_CANDIDATE = ["method", "seed", "target_ratio"]
_CURVE = ["metric", "condition"]


def curves(findings: Findings) -> dict[str, Any]:
    """Returns the numbers of all curves, ready for JSON.

    Every candidate stands there once with its costs; a curve is a list of (candidate, value, lower, upper),
    where the 95 % interval is that of the paired drop, laid around the value.
    """
    measured = findings.measurements.drop_duplicates([*_CANDIDATE, *_CURVE])
    measured = measured[(measured["status"] == "ok") & measured["value"].notna()]
    candidates = measured.drop_duplicates(_CANDIDATE)
    index = {tuple(row[k] for k in _CANDIDATE): i for i, row in enumerate(records(candidates))}
    limits = _limits(headline(findings.thresholds))
    return {
        "methods": methods(findings),
        "axes": {
            axis: label
            for axis, label in {**AXES, **_ratio(findings)}.items()
            if axis in measured and measured[axis].notna().any()
        },
        "candidates": records(candidates[[*_CANDIDATE, *(axis for axis in AXES if axis in measured)]]),
        "metrics": {str(name): _described(findings, str(name)) for name in measured["metric"].unique()},
        "curves": [
            _curve(records(rows), findings, index, limits) for _, rows in measured.groupby(_CURVE, sort=False)
        ],
    }


def _ratio(findings: Findings) -> dict[str, str]:
    """What the ratio is called where it is not the usual one for all methods."""
    return {} if counted_in(findings) == [USUAL] else {"ratio": ratio_label(findings)}


def _described(findings: Findings, name: str) -> dict[str, Any]:
    metric = findings.metrics.get(name)
    if metric is None:
        return {"label": metric_label(name), "unit": "", "higher": None, "text": ""}
    return {
        "label": metric_label(name),
        "unit": metric.unit,
        "higher": metric.higher_is_better,
        "text": metric.text,
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
    points = [[index[tuple(row[k] for k in _CANDIDATE)], row["value"], *_band(row, higher)] for row in rows]
    return {
        "metric": first["metric"],
        "condition": first["condition"],
        "label": condition_label(first["condition"]),
        "group": first["group"] or "",
        "n": first["n"],
        **limits.get((first["metric"], first["condition"]), plain),
        "points": points,
    }


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
