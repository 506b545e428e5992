"""The slopes of the excess error, as rows of a chart and of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalsuite.report.findings import records
from evalsuite.report.wording import condition_label

if TYPE_CHECKING:
    from evalsuite.report.findings import Findings


def slopes(findings: Findings) -> list[dict[str, Any]]:
    """Returns a row per method and condition, over all seeds; of the first seed where nothing was drawn together.

    ``low`` and ``high`` hold for these networks, the images being a sample; ``wide_low`` and ``wide_high`` for the
    method, its seeds being a sample too, and are the same where fewer than three seeds tell nothing about that.
    """
    table = findings.excess
    if table.empty:
        return []
    seeds = table["seed"].astype(str)
    chosen = "all" if (seeds == "all").any() else seeds.iloc[0]
    rows = [row for row in records(table[seeds == chosen]) if row["slope"] is not None]
    return [_row(row) for row in rows]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    low, high = (_or(row[f"images_{end}"], row["slope"]) for end in ("low", "high"))
    return {
        "method": row["method"],
        "condition": condition_label(row["condition"]),
        "slope": row["slope"],
        "low": low,
        "high": high,
        "wide_low": _or(row["seeds_low"], low),
        "wide_high": _or(row["seeds_high"], high),
        "value": f"{row['slope']:.1f} points",
        "images": _span(row, "images"),
        "seeds": _span(row, "seeds"),
        "published": _span(row, "published"),
        "points": row["points"],
    }


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _span(row: dict[str, Any], kind: str) -> str:
    low, high = row[f"{kind}_low"], row[f"{kind}_high"]
    return "" if low is None or high is None else f"{low:.1f} to {high:.1f}"
