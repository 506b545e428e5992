"""Diagnostics of a run: missing numbers, warnings, sample sizes, retraining, and the record that reproduces it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from evalsuite.report.data import ReportData, Row, records, unique
from evalsuite.report.labels import (
    DASH,
    THIN,
    condition_label,
    counted_noun,
    decimals,
    group_label,
    metric_label,
    number,
    percent,
    percentage,
)
from evalsuite.types import DENSE

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.types import Metric

_FAILURE = ["evaluator", "status", "reason"]
_WARNING = ["method", "evaluator", "pattern"]
_MOST_ALIKE = 3
"""Warnings that differ in their numbers alone; of more, only the first is shown."""
_MOST_NAMES = 3
"""Names that are listed; of more, their number."""
_MOST_RATIOS = 8
"""Ratios that are listed; of more, the range."""
_NOT_IN_RECORD = ("command", "inputs", "notes", "plan", "spent", "suite_text")
"""Keys of ``run.json`` that are shown elsewhere, or only serve the program."""
_SCALED = "_scaled"
_SCORE = "; score: "
"""Between the definition of a measure and that of the detector's score in the text of a metric."""
_MEASURES = ("_auroc", "_aupr", "_fpr95")
_SCREENING = ("passed_again", "changed_by_bfloat16")
"""Metrics of `evalsuite.evaluators.screening`, which needs torch."""
_EMPTY: tuple[object, ...] = (None, "", {}, [], ())
_UNTRIED = ("not tested", "not computed yet")
"""Beginnings of reasons that are no failures: a search left the ratio out, or the run is unfinished."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The numbers that are missing for one reason."""

    methods: str
    evaluator: str
    metrics: str
    status: str
    reason: str
    candidates: str
    count: int


@dataclass(frozen=True, slots=True)
class QualityWarning:
    """A validity check that some numbers of a test did not pass."""

    method: str
    evaluator: str
    text: str
    candidates: str
    count: int


@dataclass(frozen=True, slots=True)
class Note:
    """A note on a model, such as how it was read, or what is suspicious about it."""

    method: str
    seeds: str
    text: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A name with a text, which may have several lines."""

    name: str
    text: str


def missing_count(data: ReportData) -> int:
    """Returns how many numbers are missing that count as failed: those that a threshold depends on."""
    table = data.measurements
    has_threshold = table["metric"].isin(data.thresholds["metric"].unique())
    missing = (table["status"] != "ok") & ~_untried(table, *_UNTRIED)
    return int((missing & (has_threshold | table["status"].isin(["error", "invalid"]))).sum())


def pending_count(data: ReportData) -> int:
    """Returns how many numbers an unfinished run, or one of a part of its suite, has not computed yet."""
    return int(_untried(data.measurements, _UNTRIED[1]).sum())


def _untried(measurements: pd.DataFrame, *beginnings: str) -> pd.Series[bool]:
    """Which rows have no number because it was not tried."""
    return measurements["reason"].fillna("").str.startswith(beginnings)


def failures(measurements: pd.DataFrame) -> list[Failure]:
    """Returns the rows that are not ``ok``, one failure per reason."""
    missing = measurements[measurements["status"] != "ok"].copy()
    missing[_FAILURE] = missing[_FAILURE].fillna("")
    return [
        Failure(
            methods=_listed(unique("parent" if name == DENSE else str(name) for name in rows["method"])),
            evaluator=str(rows["evaluator"].iloc[0]),
            metrics=_listed(metric_label(str(name)) for name in unique(rows["metric"].dropna()) if name),
            status=str(rows["status"].iloc[0]),
            reason=str(rows["reason"].iloc[0]),
            candidates=_candidates(rows),
            count=len(rows),
        )
        for _, rows in missing.groupby(_FAILURE, sort=False)
    ]


def quality_warnings(measurements: pd.DataFrame) -> list[QualityWarning]:
    """Returns the validity checks that measured numbers did not pass, one warning per text.

    Of many texts that differ in their numbers alone, only the first is shown.
    """
    flagged = measurements[measurements["flags"].fillna("") != ""]
    pattern = flagged["flags"].str.replace(r"\d[\d.,e-]*", "0", regex=True)
    groups = [rows for _, rows in flagged.assign(pattern=pattern).groupby(_WARNING, sort=False)]
    return [_warning(rows) for group in groups for rows in _by_text(group)]


def _by_text(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each text; all of them together if there are many."""
    if rows["flags"].nunique() > _MOST_ALIKE:
        return [rows]
    return [of_text for _, of_text in rows.groupby("flags", sort=False)]


def _warning(rows: pd.DataFrame) -> QualityWarning:
    more = rows["flags"].nunique() - 1
    return QualityWarning(
        method=str(rows["method"].iloc[0]),
        evaluator=str(rows["evaluator"].iloc[0]),
        text=str(rows["flags"].iloc[0])
        + (f" And {more} more that differ in their numbers alone." if more else ""),
        candidates=_candidates(rows),
        count=len(rows),
    )


def _listed(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _MOST_NAMES} more" if len(every) > _MOST_NAMES + 1 else ""
    return ", ".join(every[: _MOST_NAMES if more else None]) + more


def notes(data: ReportData) -> list[Note]:
    """Returns the notes on models, the same text about a method once."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for note in data.record.get("notes") or ():
        seeds.setdefault((str(note["method"]), str(note["note"])), []).append(str(note["seed"]))
    return [Note(method, ", ".join(unique(of_text)), text) for (method, text), of_text in seeds.items()]


def preprocessing(data: ReportData) -> list[Fact]:
    """Returns the normalisation of images in [0, 1], by model; nothing if the suite does not have it."""
    suite = data.record.get("suite")
    suite = suite if isinstance(suite, Mapping) else {}
    shared = suite.get("model") or {}
    if not shared.get("mean"):
        return []
    others = [table for table in suite.get("candidates") or () if table.get("mean") or table.get("std")]
    facts_of_others = [
        Fact(str(table["method"]), _normalisation({**shared, **_normalisation_settings(table)}))
        for table in others
    ]
    geometry = (data.record.get("data") or {}).get("pictures")
    pictures = [Fact("pictures", str(geometry))] if geometry else []
    model = "every other model" if others else "every model"
    return [*pictures, Fact(model, _normalisation(shared)), *facts_of_others]


def _normalisation_settings(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: table[key] for key in ("mean", "std") if table.get(key)}


def _normalisation(table: Mapping[str, Any]) -> str:
    mean, std = ([float(value) for value in table.get(key, ())] for key in ("mean", "std"))
    if not any(mean) and set(std) == {1.0}:
        return "none here: the network takes images in [0, 1]"
    return f"minus {_inline(mean)}, divided by {_inline(std)} (channel by channel)"


def _candidates(rows: pd.DataFrame) -> str:
    """Target ratios and seeds of rows."""
    ratios = [percent(float(ratio)) for ratio in sorted(unique(rows["target_ratio"].dropna())) if ratio > 0]
    targets = f"{ratios[0]} to {ratios[-1]}" if len(ratios) > _MOST_RATIOS else ", ".join(ratios)
    seeds = ", ".join(str(seed) for seed in unique(rows["seed"]))
    return f"{targets or 'every ratio'}; seed {seeds}"


def sizes(measurements: pd.DataFrame) -> list[Fact]:
    """Returns how many images are behind the conditions of each group."""
    measured = measurements[(measurements["status"] == "ok") & measurements["n"].notna()]
    kinds = measured["condition"].map(
        lambda name: str(name).partition("/")[0]
    )  # fog/3 and fog/5 are one line
    groups = measured["group"].fillna("").where(measured["group"].fillna("") != "", kinds)
    return [
        Fact(
            _group_or_condition(str(name)), f"{_span(rows['n'])} {counted_noun(str(rows['metric'].iloc[0]))}"
        )
        for name, rows in measured.groupby(groups, sort=False)
    ]


def _group_or_condition(name: str) -> str:
    label = group_label(name)
    return condition_label(name) if label == name.replace("_", " ").replace("-", " ") else label


def grid(measurements: pd.DataFrame) -> list[Fact]:
    """Returns the measured ratios of each method, over its seeds."""
    tested = ~_untried(measurements, *_UNTRIED)
    candidates = measurements[(measurements["target_ratio"] > 0) & tested].dropna(subset=["ratio"])
    return [
        Fact(
            str(method),
            ", ".join(_ratio_range(ratios["ratio"]) for _, ratios in rows.groupby("target_ratio")),
        )
        for method, rows in candidates.groupby("method", sort=False)
    ]


def record_facts(data: ReportData) -> list[Fact]:
    """Returns the record of the run, one fact per key."""
    return [
        Fact(str(key).replace("_", " "), _time_text(key, value) or _text(value))
        for key, value in data.record.items()
        if key not in _NOT_IN_RECORD and value not in _EMPTY
    ]


def screened_precision(data: ReportData) -> str:
    """Returns what screened precision did, in a sentence or two; empty where nothing was screened."""
    rows = data.measurements[data.measurements["status"] == "ok"]
    passes = _screened_passes(rows[rows["n"].notna()])
    engine = data.record.get("engine") or {}
    if engine.get("precision") != "screened" or not rows["condition"].astype(str).str.contains("pgd/").any():
        return passes
    steps = "PGD took its steps along gradients in bfloat16; each image that it broke was checked in single precision."
    return f"{passes} {steps}".strip()


def _screened_passes(rows: pd.DataFrame) -> str:
    again, changed = (rows[rows["metric"] == name] for name in _SCREENING)
    if again.empty:
        return ""
    predictions = int(again["n"].sum())
    counts = [round(float((part["value"] * part["n"]).sum())) for part in (again, changed)]
    return (
        f"Of {predictions:,} predictions from bfloat16, {counts[0]:,} ({percent(counts[0] / predictions)}) were "
        f"passed again in single precision, which changed {counts[1]:,}."
    )


def time_spent(data: ReportData) -> list[Fact]:
    """Returns the time that each component of the run took, the longest first."""
    spent = data.record.get("spent")
    parts = list(spent.items()) if isinstance(spent, Mapping) else []
    parts.sort(key=lambda part: -part[1]["seconds"])
    return [
        Fact(str(name), f"{cost['seconds']:,.1f}{THIN}s, {cost['cells']:,} times") for name, cost in parts
    ]


def glossary(data: ReportData) -> list[dict[str, Any]]:
    """Returns the definitions of what was measured: metrics, measures of OOD detectors, and the detectors, each once.

    Metrics after temperature scaling are explained by those before it, where these were measured too.
    """
    names = unique(data.measurements["metric"].dropna())
    metrics = [data.metrics[name] for name in names if name in data.metrics]
    known = {metric.name for metric in metrics}
    entries: dict[str, dict[str, Any]] = {}
    for metric in metrics:
        plain = metric.name.removesuffix(_SCALED)
        if plain != metric.name and plain in known:
            entries.setdefault(_SCALED, _entry("... scaled", "The metric after temperature scaling."))
            continue
        measure, score, detector = metric.text.partition(_SCORE)
        if not score:
            entries[metric.name] = _entry(metric_label(metric.name), metric.text, metric)
            continue
        family, name = _detector_and_measure(metric.name)
        entries.setdefault(
            f"{_SCORE}{name}", _entry(metric_label(name), f"Of an OOD detector: {measure}.", metric)
        )
        entries.setdefault(f"{_SCORE}{family}", _entry(f"{metric_label(family)} (OOD detector)", detector))
    return list(entries.values())


def _entry(name: str, text: str, metric: Metric | None = None) -> dict[str, Any]:
    unit, higher = ("", None) if metric is None else (metric.unit, metric.higher_is_better)
    return {"name": name, "text": text[:1].upper() + text[1:], "unit": unit, "higher": higher}


def _detector_and_measure(name: str) -> tuple[str, str]:
    """The two parts of the name of a metric of a detector, such as ``ash_b`` and ``fpr95_id_positive``."""
    at = min(place for measure in _MEASURES if (place := name.find(measure)) > 0)
    return name[:at], name[at + 1 :]


def retraining_means(retraining: pd.DataFrame) -> list[Row]:
    """Returns the accuracy before and after retraining of each method and target ratio, as means over the seeds.

    Args:
        retraining: See `evalsuite.results.tables`.
    """
    if retraining.empty:
        return []
    grouped = retraining.groupby(["method", "target_ratio"], sort=False)
    means = grouped[["ratio", "before", "recalibrated", "after"]].mean()
    return records(means.assign(seeds=grouped.size()).reset_index())


def measured_count(measurements: pd.DataFrame) -> int:
    """Returns how many numbers were measured."""
    return int((measurements["status"] == "ok").sum())


def _span(values: pd.Series[Any]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _ratio_range(values: pd.Series[Any]) -> str:
    ends = [float(values.min()), float(values.max())]
    low, high = (percentage(end, decimals(ends)) for end in ends)
    return f"{low if low == high else f'{low}{DASH}{high}'}{THIN}%"


def _time_text(key: str, value: Any) -> str:
    """A time or a duration in words; empty for other keys."""
    if not isinstance(value, int | float) or key not in ("started", "seconds"):
        return ""
    if key == "seconds":
        return f"{value:,.1f}{THIN}s"
    return datetime.fromtimestamp(value, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_inline(item)}" for key, item in value.items() if item not in _EMPTY)
    return _inline(value)


def _table_text(table: dict[str, Any]) -> str:
    """A table on one line; that of a plug-in starts with its label."""
    label = table.pop("label", None)
    if table.get("name") == label:
        table.pop("name", None)
    rest = "; ".join(f"{key} {_inline(item)}" for key, item in table.items() if item not in _EMPTY)
    if label is None:
        return rest
    return f"{label} ({rest})" if rest else str(label)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return _table_text(dict(value))
    if isinstance(value, list | tuple):
        separator = " \u00b7 " if any(isinstance(item, Mapping) for item in value) else ", "
        return separator.join(_inline(item) for item in value)
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
