"""The breakdown of drops: by corruption and severity, by class, by radius of an attack, and detector scores."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evalsuite.report.data import ReportData, headline_verdicts, records, unique
from evalsuite.report.labels import DASH, condition_label, group_label
from evalsuite.thresholds.verdicts import INFERIOR
from evalsuite.types import DENSE, SYNTHETIC_FROST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

_CORRUPTION = re.compile(r"(.+)/([1-5])")
_GROUPS = (
    "corruptions",
    "corruptions official",
    "corruptions-extra",
    "corruptions-extra official",
    "corruptions-3d official",
    "",
)
_CLASSES = "classes"
LARGEST_DISTANCE = 0.02
"""How far the ratio of a method may be from the chosen one."""
SMALLEST = 0.01
"""Smallest end of a scale of colours: less than a point of accuracy is never drawn in full colour."""


@dataclass(frozen=True, slots=True)
class DropTable:
    """A table of drops that is coloured like a heat map, at one ratio at a time: losses and gains apart.

    Attributes:
        title: Of the table.
        block: Tables of one block share the scale of their colours.
        method: Index of the method, where a table is about one.
        rows: Labels of the rows.
        columns: Labels of the columns.
        cells: For each row and column the index of the method and the condition, ``None`` where nothing was measured.
    """

    title: str
    block: str
    method: int | None
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[tuple[int, str] | None, ...], ...]


@dataclass(frozen=True)
class Breakdown:
    """The breakdown of drops, as the page draws it.

    Attributes:
        targets: The ratios to choose from, rising.
        chosen: The ratio that is shown at first.
        tables: Drops by corruption, one table per method and source, and by class.
        data: The numbers, ready for JSON.
    """

    targets: tuple[float, ...]
    chosen: float | None
    tables: tuple[DropTable, ...]
    data: Mapping[str, Any]

    def drop(self, cell: tuple[int, str] | None) -> float | None:
        """Returns the drop in a cell of a table at the ratio that is shown at first."""
        if cell is None or self.chosen is None:
            return None
        method, condition = cell
        target = nearest(self.data["ratios"][method], self.chosen)
        drop: float | None = self.data["drops"].get(condition, {}).get(f"{method}@{target}")
        return drop

    @cached_property
    def scales(self) -> dict[str, float]:
        """The largest change in each block at the ratio that is shown at first, `SMALLEST` at least."""
        scales: dict[str, float] = {}
        for table in self.tables:
            drops = [abs(self.drop(cell) or 0.0) for row in table.cells for cell in row]
            scales[table.block] = max([scales.get(table.block, SMALLEST), *drops])
        return scales

    def shade(self, cell: tuple[int, str] | None, block: str) -> tuple[str, float]:
        """Returns whether a cell shows a ``loss`` or a ``gain``, and its share of the scale of its block."""
        drop = self.drop(cell) or 0.0
        return "gain" if drop < 0 else "loss", min(1.0, abs(drop) / self.scales[block])

    def order(self, table: DropTable) -> list[int]:
        """Returns the rows of a table by their mean drop at the ratio that is shown at first, the largest first."""
        return sorted(range(len(table.rows)), key=lambda index: self._loss(table.cells[index]), reverse=True)

    def _loss(self, cells: Sequence[tuple[int, str] | None]) -> float:
        drops = [drop for cell in cells if (drop := self.drop(cell)) is not None]
        return sum(drops) / len(drops) if drops else float("-inf")

    def fails(self, cell: tuple[int, str] | None) -> bool:
        """Returns whether the check of a cell is shown to fail at the ratio that is shown at first."""
        if cell is None or self.chosen is None:
            return False
        target = nearest(self.data["ratios"][cell[0]], self.chosen)
        return f"{cell[0]}@{target}" in self.data["failing"].get(cell[1], ())

    @staticmethod
    def text(drop: float | None) -> str:
        """Returns a drop in percentage points, with a true minus."""
        return DASH if drop is None else f"{100 * drop:.1f}".replace("-0.0", "0.0").replace("-", "\u2212")


def breakdown(data: ReportData) -> Breakdown:
    """Returns the breakdown at every ratio; drops are means over seeds."""
    table = _rows_with_drops(data)
    ratios = [sorted(_floats(table.loc[table["method"] == name, "target_ratio"])) for name in data.methods]
    targets = tuple(sorted({target for of_method in ratios for target in of_method}))
    tables = (*_corruption_tables(table, data.methods), *_class_tables(table, data.methods))
    shown = {cell[1] for drops in tables for line in drops.cells for cell in line if cell}
    numbers = {
        "methods": data.methods,
        "targets": list(targets),
        "ratios": ratios,
        "drops": _drops(table[table["condition"].isin(shown)], data.methods),
        "smallest": SMALLEST,
        "failing": _failing(data, shown),
        "robust": _robust_accuracy(data.robust),
        "scores": _scores(data.histograms),
        "tables": [asdict(drops) for drops in tables],
    }
    return Breakdown(targets, _first_shown(data, targets), tables, numbers)


def nearest(ratios: Sequence[float], chosen: float) -> float | None:
    """Returns the ratio nearest to the chosen one, if it is within `LARGEST_DISTANCE`.

    >>> nearest([0.5, 0.79, 0.9], 0.8), nearest([0.5], 0.8)
    (0.79, None)
    """
    ratio = min(ratios, key=lambda ratio: abs(ratio - chosen), default=None)
    return ratio if ratio is not None and abs(ratio - chosen) <= LARGEST_DISTANCE else None


def _rows_with_drops(data: ReportData) -> pd.DataFrame:
    table = data.measurements
    measured = (table["status"] == "ok") & table["drop"].notna()
    return table[measured & table["method"].isin(data.methods) & (table["target_ratio"] > 0)]


def _floats(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in unique(values)]


def _first_shown(data: ReportData, targets: Sequence[float]) -> float | None:
    """The largest ratio up to which the test accuracy of some method holds; else the largest of all."""
    largest = max(data.clean_potentials.values(), default=0.0) or max(targets, default=0.0)
    return min(targets, key=lambda target: abs(target - largest), default=None)


def _corruption_tables(table: pd.DataFrame, methods: Sequence[str]) -> Iterable[DropTable]:
    accuracy = table[table["metric"] == "accuracy"]
    for group in _GROUPS:
        inside = accuracy[accuracy["group"].fillna("") == group]
        matches = [_CORRUPTION.fullmatch(str(condition)) for condition in inside["condition"].unique()]
        pairs = [(m[1], m[2]) for m in matches if m and (group or m[1] == SYNTHETIC_FROST)]
        kinds, severities = unique(kind for kind, _ in pairs), sorted({severity for _, severity in pairs})
        title = group_label(group) if group else "synthetic corruptions"
        for index, method in enumerate(methods if pairs else ()):
            measured = set(inside.loc[inside["method"] == method, "condition"])
            cells = tuple(
                tuple((index, f"{k}/{s}") if f"{k}/{s}" in measured else None for s in severities)
                for k in kinds
            )
            labels = tuple(map(condition_label, kinds))
            yield DropTable(f"{method}: {title}", title, index, labels, tuple(severities), cells)


def _class_tables(table: pd.DataFrame, methods: Sequence[str]) -> Iterable[DropTable]:
    inside = table[table["group"] == _CLASSES]
    conditions = [str(condition) for condition in inside["condition"].unique()]
    if conditions:
        measured = set(zip(inside["method"], inside["condition"], strict=True))
        cells = tuple(
            tuple((i, c) if (method, c) in measured else None for i, method in enumerate(methods))
            for c in conditions
        )
        yield DropTable(
            "Classes", "classes", None, tuple(map(condition_label, conditions)), tuple(methods), cells
        )


def _drops(table: pd.DataFrame, methods: Sequence[str]) -> dict[str, dict[str, float]]:
    """By condition, the drop of each method at each of its ratios."""
    accuracy = table[table["metric"].isin(["accuracy", "class_accuracy"])]
    means = accuracy.groupby(["condition", "method", "target_ratio"], sort=False)["drop"].mean().reset_index()
    drops: dict[str, dict[str, float]] = {}
    for row in records(means):
        place = f"{methods.index(row['method'])}@{row['target_ratio']}"
        drops.setdefault(row["condition"], {})[place] = round(row["drop"], 5)
    return drops


def _failing(data: ReportData, conditions: set[str]) -> dict[str, list[str]]:
    """By condition, at which places its check of accuracy is shown to fail."""
    failing: dict[str, list[str]] = {}
    for row in headline_verdicts(data.verdicts):
        accuracy = row["metric"] in ("accuracy", "class_accuracy") and row["condition"] in conditions
        if accuracy and row["verdict"] == INFERIOR and row["method"] in data.methods:
            place = f"{data.methods.index(row['method'])}@{row['target_ratio']}"
            failing.setdefault(row["condition"], []).append(place)
    return failing


def _robust_accuracy(table: pd.DataFrame) -> dict[str, list[list[Any]]]:
    """By attack, rows of method, target ratio, radius and accuracy, as means over seeds; worst cases first."""
    if table.empty:
        return {}
    keys = ["norm", "attack", "method", "target_ratio", "epsilon"]
    means = table.groupby(keys, sort=False)["value"].mean().reset_index()
    rows: dict[str, list[list[Any]]] = {}
    for row in records(means):
        name = f"{condition_label(row['attack'])}, {row['norm']}"
        rows.setdefault(name, []).append(
            [row["method"], row["target_ratio"], row["epsilon"], round(row["value"], 5)]
        )
    names = sorted(rows, key=lambda name: (not name.startswith("worst attack"), not name.startswith("worst")))
    return {name: sorted(rows[name], key=lambda row: (row[0] != DENSE, *map(str, row))) for name in names}


def _scores(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By detector, edges of the bins, the outlier sets, and the counts of each candidate and sample."""
    scores: dict[str, dict[str, Any]] = {}
    for detector, rows in table.groupby("detector", sort=False) if not table.empty else ():
        edges = sorted({*rows["low"], *rows["high"]})
        counts: dict[str, list[int]] = {}
        for row in records(rows.sort_values("low", kind="stable")):
            place = f"{row['method']}@{row['target_ratio']}@{row['sample']}"
            counts.setdefault(place, []).append(row["count"])
        scores[str(detector)] = {
            "edges": [float(f"{edge:.6g}") for edge in edges],
            "sets": [str(sample) for sample in rows["sample"].unique() if sample != "test"],
            "counts": counts,
        }
    return scores
