"""What a reader needs to believe the numbers: failures, sample sizes, and how to make them again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from evalsuite.report.findings import PARENT, Findings, unique
from evalsuite.report.wording import (
    NOTHING,
    THIN,
    condition_label,
    counted,
    decimals,
    group_label,
    metric_label,
    number,
    percent,
    percentage,
)

if TYPE_CHECKING:
    import pandas as pd

_WHAT = ["evaluator", "status", "reason"]
_DOUBT = ["method", "evaluator", "alike"]
_ALIKE = 3
"""Sentences that differ in their numbers alone, beyond which the first stands for all."""
_NAMED = 3
"""Names that are told of many."""
_LADDER = 8
"""Ratios beyond which the ends are told."""
_SHOWN_ELSEWHERE = ("command", "inputs", "notes", "spent")  # digests say nothing to a reader
_EMPTY: tuple[object, ...] = (None, "", {}, [], ())


_UNTRIED = ("not tested", "not computed yet")
"""How reasons begin where nobody tried: a search left the ratio out, or the run is unfinished."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Is what could not be measured for one reason."""

    methods: str
    evaluator: str
    what: str
    status: str
    reason: str
    where: str
    cells: int


@dataclass(frozen=True, slots=True)
class QualityWarning:
    """Is a validity check that some numbers of a test did not pass."""

    method: str
    evaluator: str
    text: str
    where: str
    cells: int


@dataclass(frozen=True, slots=True)
class Note:
    """Is what a reader should know about a model: how it was read, and what looks wrong about it."""

    method: str
    seeds: str
    text: str


@dataclass(frozen=True, slots=True)
class Fact:
    """Is one line of what was run; `text` may have several lines."""

    name: str
    text: str


def lost(findings: Findings) -> int:
    """Returns how many numbers are missing that count as failed: those that a threshold rests on."""
    judged = findings.measurements["metric"].isin(findings.thresholds["metric"].unique())
    bad = (findings.measurements["status"] != "ok") & ~_untried(findings.measurements, *_UNTRIED)
    failed = findings.measurements["status"].isin(["error", "invalid"])
    return int((bad & (judged | failed)).sum())


def pending(findings: Findings) -> int:
    """Returns how many numbers an unfinished run, or one of a part of its suite, has not computed yet."""
    return int(_untried(findings.measurements, _UNTRIED[1]).sum())


def _untried(measurements: pd.DataFrame, *beginnings: str) -> pd.Series[bool]:
    """Which rows have no number because nobody tried."""
    return measurements["reason"].fillna("").str.startswith(beginnings)


def failures(measurements: pd.DataFrame) -> list[Failure]:
    """Returns what is not ``ok``, the same reason once."""
    bad = measurements[measurements["status"] != "ok"].copy()
    bad[_WHAT] = bad[_WHAT].fillna("")
    return [
        Failure(
            methods=_some(
                dict.fromkeys("parent" if name == PARENT else str(name) for name in rows["method"])
            ),
            evaluator=str(rows["evaluator"].iloc[0]),
            what=_some(metric_label(str(name)) for name in unique(rows["metric"].dropna()) if name),
            status=str(rows["status"].iloc[0]),
            reason=str(rows["reason"].iloc[0]),
            where=_where(rows),
            cells=len(rows),
        )
        for _, rows in bad.groupby(_WHAT, sort=False)
    ]


def quality_warnings(measurements: pd.DataFrame) -> list[QualityWarning]:
    """Returns the numbers that were measured but failed a validity check, the same text once.

    Of many texts that differ in their numbers alone, the first stands for all.
    """
    flagged = measurements[measurements["flags"].fillna("") != ""]
    alike = flagged["flags"].str.replace(r"\d[\d.,e-]*", "0", regex=True)
    groups = [rows for _, rows in flagged.assign(alike=alike).groupby(_DOUBT, sort=False)]
    return [_doubt(rows) for group in groups for rows in _told(group)]


def _told(rows: pd.DataFrame) -> list[pd.DataFrame]:
    several = rows["flags"].nunique() <= _ALIKE
    return [one for _, one in rows.groupby("flags", sort=False)] if several else [rows]


def _doubt(rows: pd.DataFrame) -> QualityWarning:
    more = rows["flags"].nunique() - 1
    return QualityWarning(
        method=str(rows["method"].iloc[0]),
        evaluator=str(rows["evaluator"].iloc[0]),
        text=str(rows["flags"].iloc[0])
        + (f" And {more} more that differ in their numbers alone." if more else ""),
        where=_where(rows),
        cells=len(rows),
    )


def _some(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED + 1 else ""
    return ", ".join(found[: _NAMED if more else None]) + more


def notes(findings: Findings) -> list[Note]:
    """Returns what was noted about the models, the same text about a method once."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for one in findings.record.get("notes") or ():
        seeds.setdefault((str(one["method"]), str(one["note"])), []).append(str(one["seed"]))
    return [Note(method, ", ".join(unique(found)), text) for (method, text), found in seeds.items()]


def preprocessing(findings: Findings) -> list[Fact]:
    """Returns what is done to images in [0, 1] before a network sees them, by model."""
    suite = findings.record.get("suite")
    suite = suite if isinstance(suite, Mapping) else {}
    shared = suite.get("model") or {}
    others = [one for one in suite.get("candidates") or () if one.get("mean") or one.get("std")]
    told = [Fact("every other model" if others else "every model", _normalised(shared))]
    told += [Fact(str(one["method"]), _normalised({**shared, **_given(one)})) for one in others]
    return told if shared.get("mean") else []


def _given(one: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one[key] for key in ("mean", "std") if one.get(key)}


def _normalised(table: Mapping[str, Any]) -> str:
    mean, std = ([float(value) for value in table.get(key, ())] for key in ("mean", "std"))
    if not any(mean) and set(std) == {1.0}:
        return "none here: the network takes images in [0, 1]"
    return f"minus {_inline(mean)}, divided by {_inline(std)} (channel by channel)"


def _where(rows: pd.DataFrame) -> str:
    ratios = [percent(float(ratio)) for ratio in sorted(unique(rows["target_ratio"].dropna())) if ratio > 0]
    targets = f"{ratios[0]} to {ratios[-1]}" if len(ratios) > _LADDER else ", ".join(ratios)
    seeds = ", ".join(str(seed) for seed in unique(rows["seed"]))
    return f"{targets or 'every ratio'}; seed {seeds}"


def sizes(measurements: pd.DataFrame) -> list[Fact]:
    """Returns how many images are behind the conditions of each group."""
    good = measurements[(measurements["status"] == "ok") & measurements["n"].notna()]
    alone = good["condition"].map(lambda name: str(name).partition("/")[0])  # fog/3 and fog/5 are one line
    groups = good["group"].fillna("").where(good["group"].fillna("") != "", alone)
    return [
        Fact(_place(str(name)), f"{_span(rows['n'])} {counted(str(rows['metric'].iloc[0]))}")
        for name, rows in good.groupby(groups, sort=False)
    ]


def _place(name: str) -> str:
    known = group_label(name)
    return condition_label(name) if known == name.replace("_", " ").replace("-", " ") else known


def grid(measurements: pd.DataFrame) -> list[Fact]:
    """Returns the measured ratios of each method, over its seeds."""
    tried = ~_untried(measurements, *_UNTRIED)
    candidates = measurements[(measurements["target_ratio"] > 0) & tried].dropna(subset=["ratio"])
    return [
        Fact(str(method), ", ".join(_achieved(ratios["ratio"]) for _, ratios in rows.groupby("target_ratio")))
        for method, rows in candidates.groupby("method", sort=False)
    ]


def facts(findings: Findings) -> list[Fact]:
    """Returns the record of the run, one fact per key."""
    return [
        Fact(str(key).replace("_", " "), _clock(key, value) or _text(value))
        for key, value in findings.record.items()
        if key not in _SHOWN_ELSEWHERE and value not in _EMPTY
    ]


def spent(findings: Findings) -> list[Fact]:
    """Returns what each component of the run cost, the dearest first."""
    found = findings.record.get("spent")
    parts = list(found.items()) if isinstance(found, Mapping) else []
    parts.sort(key=lambda part: -part[1]["seconds"])
    return [Fact(str(name), f"{one['seconds']:,.1f}{THIN}s, {one['cells']:,} times") for name, one in parts]


def glossary(findings: Findings) -> list[dict[str, Any]]:
    """Returns the definition of every metric that was measured."""
    named = unique(findings.measurements["metric"].dropna())
    known = [findings.metrics[name] for name in named if name in findings.metrics]
    return [{"name": m.name, "text": m.text, "unit": m.unit, "higher": m.higher_is_better} for m in known]


def measured(measurements: pd.DataFrame) -> int:
    """Returns the number of numbers."""
    return int((measurements["status"] == "ok").sum())


def _span(values: pd.Series[Any]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _achieved(values: pd.Series[Any]) -> str:
    ends = [float(values.min()), float(values.max())]
    low, high = (percentage(end, decimals(ends)) for end in ends)
    return f"{low if low == high else f'{low}{NOTHING}{high}'}{THIN}%"


def _clock(key: str, value: Any) -> str:
    """Times in words; empty for what is none."""
    if not isinstance(value, int | float) or key not in ("started", "seconds"):
        return ""
    if key == "seconds":
        return f"{value:,.1f}{THIN}s"
    return datetime.fromtimestamp(value, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_inline(item)}" for key, item in value.items() if item not in _EMPTY)
    return _inline(value)


def _labelled(table: dict[str, Any]) -> str:
    """A table on one line; a plug-in's starts with its label."""
    label = table.pop("label", None)
    if table.get("name") == label:
        table.pop("name", None)
    rest = "; ".join(f"{key} {_inline(item)}" for key, item in table.items() if item not in _EMPTY)
    if label is None:
        return rest
    return f"{label} ({rest})" if rest else str(label)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return _labelled(dict(value))
    if isinstance(value, list | tuple):
        joint = " \u00b7 " if any(isinstance(item, Mapping) for item in value) else ", "
        return joint.join(_inline(item) for item in value)
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
