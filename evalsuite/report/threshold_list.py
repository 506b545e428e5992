"""The table of all thresholds: a block for each metric, a line for each condition, an entry for each method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalsuite.report.data import ReportData, Row, records, unique
from evalsuite.report.labels import DASH, THIN, aggregate_label, decimals, metric_label, percentage
from evalsuite.report.threshold_tables import certified_text, flag_notes, potential_text, tip

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

_KEY = ("metric", "group", "condition", "aggregate")
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ThresholdEntry:
    """The threshold of a method in a line of the table of all thresholds.

    Attributes:
        row: The threshold over all seeds.
        text: Its potential in percent.
        notes: Its flags in a few words.
        certified: Up to which ratio it is non-inferior at 95 %, in percent; empty where undecided.
        failure: The first failure in percent, a dash if there is none.
        seeds: The potential of each seed, empty with one.
        published: Mean and standard deviation over seeds of the largest ratio that passes; empty with one.
        tip: The explanation, one fact per line.
    """

    row: Row
    text: str
    notes: tuple[str, ...]
    certified: str
    failure: str
    seeds: str
    published: str
    tip: str


@dataclass(frozen=True, slots=True)
class ThresholdLine:
    """A condition, or a summary of several, with an entry per method."""

    label: str
    is_summary: bool
    row: Row
    entries: tuple[ThresholdEntry | None, ...]

    def common(self, column: str) -> float | None:
        """Returns the value that all methods share, for example the parent's; ``None`` where they differ."""
        values = unique(entry.row[column] for entry in self.entries if entry is not None)
        return values[0] if len(values) == 1 else None


@dataclass(frozen=True, slots=True)
class ThresholdBlock:
    """The lines of one metric."""

    title: str
    metric: str
    lines: tuple[ThresholdLine, ...]


def threshold_blocks(data: ReportData) -> list[ThresholdBlock]:
    """Returns the table of all thresholds: one block per metric, one line per condition."""
    rows = data.headline
    digits = decimals(ratio for row in rows for ratio in (row["potential"], row["first_failure"]))
    seeds = _rows_of_seeds(data.thresholds)
    by_key = {(row["method"], *_key(row)): row for row in rows}
    lines: dict[str, list[ThresholdLine]] = {}
    for key in unique(_key(row) for row in rows):
        of_methods = [by_key.get((method, *key)) for method in data.methods]
        first = next(row for row in of_methods if row is not None)
        entries = tuple(_entry(row, seeds, digits) for row in of_methods)
        line = ThresholdLine(aggregate_label(first), first["aggregate"] != "single", first, entries)
        lines.setdefault(first["metric"], []).append(line)
    return [
        ThresholdBlock(metric_label(metric), metric, tuple(_ordered(of_metric)))
        for metric, of_metric in lines.items()
    ]


def _key(row: Row) -> Key:
    return tuple(row[column] for column in _KEY)


def _ordered(lines: Sequence[ThresholdLine]) -> list[ThresholdLine]:
    """The lines by group, each with its summaries on top; otherwise in the order of the table."""
    groups = unique(line.row["group"] for line in lines)
    return sorted(lines, key=lambda line: (groups.index(line.row["group"]), not line.is_summary))


def _rows_of_seeds(thresholds: pd.DataFrame) -> Mapping[Key, list[Row]]:
    rows: dict[Key, list[Row]] = {}
    for row in records(thresholds):
        if str(row["seed"]) != "all":
            rows.setdefault((row["method"], *_key(row)), []).append(row)
    return rows


def _entry(row: Row | None, seeds: Mapping[Key, list[Row]], digits: int) -> ThresholdEntry | None:
    if row is None:
        return None
    failure = DASH if row["first_failure"] is None else percentage(row["first_failure"], digits)
    of_seeds = seeds.get((row["method"], *_key(row)), [])
    potentials = " · ".join(potential_text(seed, digits) for seed in of_seeds) if len(of_seeds) > 1 else ""
    return ThresholdEntry(
        row=row,
        text=potential_text(row, digits),
        notes=flag_notes(row),
        certified=certified_text(row, digits),
        failure=failure,
        seeds=potentials,
        published=_published(row),
        tip=tip(row),
    )


def _published(row: Row) -> str:
    mean, spread = row["potential_any_mean"], row["potential_any_std"]
    if mean is None or spread is None:
        return ""
    return f"∅ {percentage(mean, 1)}{THIN}±{THIN}{percentage(spread, 1)}"
