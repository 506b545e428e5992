"""Which reliability diagrams a page shows, and their bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalsuite.report.findings import PARENT, Findings, headline, methods, records
from evalsuite.report.wording import THIN, number, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


@dataclass(frozen=True, slots=True)
class Diagram:
    """Is one reliability diagram: a candidate before the background of its parent."""

    title: str
    note: str
    colour: int
    bins: tuple[dict[str, Any], ...]


def diagrams(findings: Findings) -> list[Diagram]:
    """Returns for each method the last candidate that keeps test accuracy, and the smallest one.

    With several seeds, those of the first: bins pooled over networks would hide what each does.
    """
    table = findings.reliability
    if table.empty:
        return []
    first = table.drop_duplicates("method").set_index("method")["seed"]
    seen = {method: table[table["seed"] == first[method]] for method in methods(findings) if method in first}
    return [
        _diagram(method, colour, ratio, seen[method])
        for colour, method in enumerate(methods(findings))
        if method in seen
        for ratio in _shown(findings, method, seen[method])
    ]


def _shown(findings: Findings, method: str, table: pd.DataFrame) -> list[float]:
    ratios = sorted(float(ratio) for ratio in table.loc[table["method"] == method, "ratio"].unique())
    if not ratios:
        return []
    kept = [
        row["potential"]
        for row in headline(findings.thresholds)
        if (row["method"], row["metric"], row["condition"]) == (method, "accuracy", "clean")
    ]
    last = [min(ratios, key=lambda ratio: abs(ratio - kept[0]))] if kept and kept[0] > 0 else []
    return sorted({*last, ratios[-1]})


def _diagram(method: str, colour: int, ratio: float, table: pd.DataFrame) -> Diagram:
    mine = records(table[(table["method"] == method) & (table["ratio"] == ratio)])
    parent = records(table[table["method"] == PARENT])
    note = f"ECE {number(_error(mine), 3)}" + (f", parent {number(_error(parent), 3)}" if parent else "")
    bins = (*_bins(parent, "parent"), *_bins(mine, "candidate"))
    return Diagram(f"{method} at {percent(ratio)}", note, colour, bins)


def _bins(rows: Sequence[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """Bins without images have neither confidence nor accuracy: there is nothing to draw."""
    return [
        {
            "model": model,
            "confidence": row["confidence"],
            "accuracy": row["accuracy"],
            "count": row["count"],
            "bin": f"confidence {row['lower']:.2f} to {row['upper']:.2f}",
            "shows": f"{100 * row['accuracy']:.1f}{THIN}% right of {row['count']} images",
        }
        for row in rows
        if row["count"]
    ]


def _error(rows: Sequence[dict[str, Any]]) -> float:
    """Expected calibration error of the bins that are drawn (Guo et al. 2017, equation 3)."""
    total = sum(row["count"] for row in rows)
    gaps = (row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows if row["count"])
    return float(sum(gaps) / total) if total else 0.0
