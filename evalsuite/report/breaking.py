"""Where a candidate breaks: drops by corruption and severity, by class, over the radius of an attack, and scores."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from evalsuite.report.findings import PARENT, Findings, headline, methods, records, unique
from evalsuite.report.wording import condition_label, group_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

_CORRUPTED = re.compile(r"(.+)/([1-5])")
_CORRUPTIONS = ("corruptions", "corruptions official", "corruptions-extra", "corruptions-extra official", "")
_CLASSES = "classes"
NEAR = 0.02
"""How far the ratio of a method may be from the chosen one."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Is a table of drops that is shaded like a map, at one ratio at a time.

    Attributes:
        title: Of the table.
        method: Number of the method, where a table is about one.
        rows: Names of the rows.
        columns: Names of the columns.
        cells: For each row and column the method's number and the condition, ``None`` where nothing was measured.
    """

    title: str
    method: int | None
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[tuple[int, str] | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Breaking:
    """Is what the section on where it breaks draws.

    Attributes:
        targets: The ratios to choose from, rising.
        chosen: The ratio that is shown at first.
        sheets: Maps of corruptions, one per method and source, and of classes.
        data: Everything else, ready for JSON.
    """

    targets: tuple[float, ...]
    chosen: float | None
    sheets: tuple[Sheet, ...]
    data: Mapping[str, Any]

    def drop(self, cell: tuple[int, str] | None) -> float | None:
        """Returns the drop in a cell of a sheet at the ratio that is shown at first."""
        if cell is None or self.chosen is None:
            return None
        method, condition = cell
        target = nearest(self.data["ratios"][method], self.chosen)
        found: float | None = self.data["drops"].get(condition, {}).get(f"{method}@{target}")
        return found

    @staticmethod
    def text(drop: float | None) -> str:
        """Returns a drop in percentage points, with a true minus."""
        return "\u2013" if drop is None else f"{100 * drop:.1f}".replace("-0.0", "0.0").replace("-", "\u2212")


def breaking(findings: Findings) -> Breaking:
    """Returns what breaks where, at every ratio; drops are means over seeds."""
    names = methods(findings)
    table = _judged(findings.measurements, names)
    ratios = [sorted(_floats(table.loc[table["method"] == name, "target_ratio"])) for name in names]
    targets = tuple(sorted({target for mine in ratios for target in mine}))
    sheets = tuple(_corruption_sheets(table, names)) + tuple(_class_sheets(table, names))
    shown = {cell[1] for sheet in sheets for line in sheet.cells for cell in line if cell}
    data = {
        "methods": names,
        "targets": list(targets),
        "ratios": ratios,
        "drops": _drops(table[table["condition"].isin(shown)], names),
        "robust": _robust(findings.robust),
        "scores": _scores(findings.histograms),
        "sheets": [asdict(sheet) for sheet in sheets],
    }
    return Breaking(targets, _chosen(findings, targets), sheets, data)


def nearest(ratios: Sequence[float], chosen: float) -> float | None:
    """Returns the ratio next to the chosen one, if one is near enough.

    >>> nearest([0.5, 0.79, 0.9], 0.8), nearest([0.5], 0.8)
    (0.79, None)
    """
    found = min(ratios, key=lambda ratio: abs(ratio - chosen), default=None)
    return found if found is not None and abs(found - chosen) <= NEAR else None


def _judged(measurements: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    good = (measurements["status"] == "ok") & measurements["drop"].notna()
    return measurements[good & measurements["method"].isin(list(names)) & (measurements["target_ratio"] > 0)]


def _floats(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in unique(values)]


def _chosen(findings: Findings, targets: Sequence[float]) -> float | None:
    """The largest ratio that test accuracy allows some method: there is what it hides; else the largest of all."""
    kept = [
        row["potential"]
        for row in headline(findings.thresholds)
        if (row["metric"], row["condition"]) == ("accuracy", "clean")
    ]
    wanted = max(kept, default=0.0) or max(targets, default=0.0)
    return min(targets, key=lambda target: abs(target - wanted), default=None)


def _corruption_sheets(table: pd.DataFrame, names: Sequence[str]) -> Iterable[Sheet]:
    accuracy = table[table["metric"] == "accuracy"]
    for group in _CORRUPTIONS:
        inside = accuracy[accuracy["group"].fillna("") == group]
        parts = [_CORRUPTED.fullmatch(str(condition)) for condition in inside["condition"].unique()]
        found = [(part[1], part[2]) for part in parts if part and (group or "*" in part[1])]
        kinds, levels = unique(kind for kind, _ in found), sorted({level for _, level in found})
        for method, name in enumerate(names if found else ()):
            measured = set(inside.loc[inside["method"] == name, "condition"])
            cells = tuple(
                tuple((method, f"{k}/{s}") if f"{k}/{s}" in measured else None for s in levels) for k in kinds
            )
            title = group_label(group) if group else "painted corruptions"
            yield Sheet(f"{name}: {title}", method, tuple(map(condition_label, kinds)), tuple(levels), cells)


def _class_sheets(table: pd.DataFrame, names: Sequence[str]) -> Iterable[Sheet]:
    inside = table[table["group"] == _CLASSES]
    conditions = [str(condition) for condition in inside["condition"].unique()]
    if conditions:
        measured = set(zip(inside["method"], inside["condition"], strict=True))
        cells = tuple(
            tuple((m, c) if (name, c) in measured else None for m, name in enumerate(names))
            for c in conditions
        )
        yield Sheet("Classes", None, tuple(map(condition_label, conditions)), tuple(names), cells)


def _drops(table: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """By condition, the drop of each method at each of its ratios."""
    wanted = table[table["metric"].isin(["accuracy", "class_accuracy"])]
    means = wanted.groupby(["condition", "method", "target_ratio"], sort=False)["drop"].mean().reset_index()
    found: dict[str, dict[str, float]] = {}
    for row in records(means):
        place = f"{names.index(row['method'])}@{row['target_ratio']}"
        found.setdefault(row["condition"], {})[place] = round(row["drop"], 5)
    return found


def _robust(table: pd.DataFrame) -> dict[str, list[list[Any]]]:
    """By attack, rows of method, target ratio, radius and accuracy, as means over seeds; the worst case first."""
    if table.empty:
        return {}
    keys = ["norm", "attack", "method", "target_ratio", "epsilon"]
    means = table.groupby(keys, sort=False)["value"].mean().reset_index()
    found: dict[str, list[list[Any]]] = {}
    for row in records(means):
        name = f"{condition_label(row['attack'])}, {row['norm']}"
        found.setdefault(name, []).append(
            [row["method"], row["target_ratio"], row["epsilon"], round(row["value"], 5)]
        )
    ranked = sorted(
        found, key=lambda name: (not name.startswith("worst attack"), not name.startswith("worst"))
    )
    return {name: sorted(found[name], key=lambda row: (row[0] != PARENT, *map(str, row))) for name in ranked}


def _scores(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By detector, edges of the bins, the outlier sets, and the counts of each candidate and sample."""
    found: dict[str, dict[str, Any]] = {}
    for detector, rows in table.groupby("detector", sort=False) if not table.empty else ():
        edges = sorted({*rows["low"], *rows["high"]})
        counts: dict[str, list[int]] = {}
        for row in records(rows.sort_values("low", kind="stable")):
            counts.setdefault(f"{row['method']}@{row['target_ratio']}@{row['sample']}", []).append(
                row["count"]
            )
        sets = [str(sample) for sample in rows["sample"].unique() if sample != "test"]
        found[str(detector)] = {
            "edges": [float(f"{edge:.6g}") for edge in edges],
            "sets": sets,
            "counts": counts,
        }
    return found
