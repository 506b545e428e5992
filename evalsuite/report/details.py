"""The table of every threshold, seed by seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalsuite.report.findings import headline, records, unique
from evalsuite.report.matrix import figure, marks, tip
from evalsuite.report.wording import NOTHING, THIN, aggregate_label, decimals, metric_label, percentage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from evalsuite.report.verdicts import Row

_KEY = ("metric", "group", "condition", "aggregate")
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ThresholdEntry:
    """Is a method's threshold on a line of the table.

    Attributes:
        row: The threshold over all seeds.
        text: Its potential in percent.
        marks: Marks of its flags.
        proven: How far it is shown to hold at 95 %, in percent; empty where nothing can be shown.
        failure: The first failure in percent, a dash if there is none.
        seeds: The potential of each seed, empty with one.
        published: Mean and standard deviation over seeds of the largest ratio that passes; empty with one.
        tip: Everything about it in words.
    """

    row: Row
    text: str
    marks: str
    proven: str
    failure: str
    seeds: str
    published: str
    tip: str


@dataclass(frozen=True, slots=True)
class Line:
    """Is a condition, or a summary of several, with an entry per method."""

    label: str
    summary: bool
    row: Row
    entries: tuple[ThresholdEntry | None, ...]

    def common(self, key: str) -> float | None:
        """Returns what all methods share, for example the parent's number; ``None`` where they differ."""
        found = unique(entry.row[key] for entry in self.entries if entry is not None)
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class Block:
    """Is the part of the table about one metric."""

    title: str
    metric: str
    lines: tuple[Line, ...]


def blocks(thresholds: pd.DataFrame, methods: Sequence[str]) -> list[Block]:
    """Returns the table of every threshold: one block per metric, one line per condition.

    Args:
        thresholds: See `findings.Findings`.
        methods: The columns.
    """
    rows = headline(thresholds)
    digits = decimals(ratio for row in rows for ratio in (row["potential"], row["first_failure"]))
    seeds = _by_seed(thresholds)
    found = {(row["method"], *_key(row)): row for row in rows}
    lines: dict[str, list[Line]] = {}
    for key in unique(_key(row) for row in rows):
        mine = [found.get((method, *key)) for method in methods]
        first = next(row for row in mine if row is not None)
        entries = tuple(_entry(row, seeds, digits) for row in mine)
        line = Line(aggregate_label(first), first["aggregate"] != "single", first, entries)
        lines.setdefault(first["metric"], []).append(line)
    return [Block(metric_label(metric), metric, tuple(_ordered(mine))) for metric, mine in lines.items()]


def _key(row: Row) -> Key:
    return tuple(row[column] for column in _KEY)


def _ordered(lines: Sequence[Line]) -> list[Line]:
    """Groups stay together, each with its summaries on top; otherwise the order is that of the table."""
    groups = unique(line.row["group"] for line in lines)
    return sorted(lines, key=lambda line: (groups.index(line.row["group"]), not line.summary))


def _by_seed(thresholds: pd.DataFrame) -> Mapping[Key, list[Row]]:
    found: dict[Key, list[Row]] = {}
    for row in records(thresholds):
        if str(row["seed"]) != "all":
            found.setdefault((row["method"], *_key(row)), []).append(row)
    return found


def _entry(row: Row | None, seeds: Mapping[Key, list[Row]], digits: int) -> ThresholdEntry | None:
    if row is None:
        return None
    failure = NOTHING if row["first_failure"] is None else percentage(row["first_failure"], digits)
    mine = seeds.get((row["method"], *_key(row)), [])
    each = " · ".join(figure(seed, digits) for seed in mine) if len(mine) > 1 else ""
    certified = row.get("certified")
    proven = "" if certified is None else f"shown {percentage(certified, digits)}"
    return ThresholdEntry(
        row, figure(row, digits), marks(row), proven, failure, each, _published(row), tip(row)
    )


def _published(row: Row) -> str:
    mean, spread = row["potential_any_mean"], row["potential_any_std"]
    if mean is None or spread is None:
        return ""
    return f"∅ {percentage(mean, 1)}{THIN}±{THIN}{percentage(spread, 1)}"
