"""What a report is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from evalsuite.cost_axes import AXES, DEFAULT_AXIS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from evalsuite.types import Metric, Picture, PictureKind

MANY = 6
"""Methods beyond which their order is a ranking, and not that of the suite."""
PARENT = "dense"
"""The method of the parent in a table of measurements."""


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Is everything that a run found; a report only words and draws it.

    Attributes:
        measurements: One row per number: method (the parent is ``dense``), seed, target_ratio, ratio, axis,
            prunable_ratio, parameters, nonzero, macs, macs_nonzero, bytes, packed, evaluator, metric, condition,
            group, value, n, drop, drop_low, drop_high, status, reason.
        thresholds: One row per method, seed (numbers and ``all``), metric, condition and aggregate; its
            columns are those of `evalsuite.thresholds.threshold.COLUMNS`.
        reliability: One row per bin: method, seed, ratio, lower, upper, count, confidence, accuracy.
        metrics: The definition of each metric by its name.
        record: What was run: suite, versions, git, hardware, command, seconds.
        excess: Slope of the excess error by method, seed and condition; see `evalsuite.results.excess_error`.
        exemplars: How many images pruning changes whatever the seed; see `evalsuite.results.exemplars`.
        retraining: Accuracy before and after the last training; see `evalsuite.results.tables`.
        robust: Robust accuracy over the radius, radius 0 included; columns method, seed, target_ratio, ratio,
            norm, attack, epsilon, value, n.
        histograms: Detector scores in bins; columns method, target_ratio, ratio, detector, sample (``test`` or
            an outlier set), group, low, high, count.
        fairness: What holds between each two methods; columns first, second, pairs, setup, fair, why, and one
            for each of `evalsuite.report.fairness.SETUPS` and ``TOTALS``.
        pictures: Images that pruning breaks, samples of corruptions, attacked images.
        no_pictures: Why there are none, by kind of picture.
    """

    measurements: pd.DataFrame
    thresholds: pd.DataFrame
    reliability: pd.DataFrame
    metrics: Mapping[str, Metric]
    record: Mapping[str, Any]
    excess: pd.DataFrame = field(default_factory=pd.DataFrame)
    exemplars: pd.DataFrame = field(default_factory=pd.DataFrame)
    retraining: pd.DataFrame = field(default_factory=pd.DataFrame)
    robust: pd.DataFrame = field(default_factory=pd.DataFrame)
    histograms: pd.DataFrame = field(default_factory=pd.DataFrame)
    fairness: pd.DataFrame = field(default_factory=pd.DataFrame)
    pictures: tuple[Picture, ...] = ()
    no_pictures: Mapping[PictureKind, str] = field(default_factory=dict)


def methods(findings: Findings) -> list[str]:
    """Returns the methods in the order in which they were measured, the parent left out; many are ranked.

    The rank is the ratio up to which test accuracy holds, then the mean of all ratios up to which something holds.
    """
    names = pd.concat([findings.measurements["method"], findings.thresholds["method"]], ignore_index=True)
    found = [str(name) for name in names.unique() if name != PARENT]
    if len(found) <= MANY:
        return found
    rows = [row for row in headline(findings.thresholds) if row["aggregate"] == "single"]
    return sorted(found, key=lambda name: _strength(rows, name), reverse=True)


def _strength(rows: list[dict[str, Any]], method: str) -> tuple[float, float]:
    mine = [row for row in rows if row["method"] == method]
    clean = [row["potential"] for row in mine if (row["metric"], row["condition"]) == ("accuracy", "clean")]
    return max(clean, default=-1.0), sum(row["potential"] for row in mine) / max(len(mine), 1)


def counted_in(findings: Findings) -> list[str]:
    """Returns the axes that the ratios of the methods are counted in, in order; the usual one if nobody says."""
    table = findings.measurements
    found = table.loc[table["method"] != PARENT, "axis"].dropna() if "axis" in table else ()
    return [str(axis) for axis in unique(found)] or [DEFAULT_AXIS]


def ratio_label(findings: Findings) -> str:
    """Returns what an axis of ratios is called."""
    found = counted_in(findings)
    nouns = "" if found == [DEFAULT_AXIS] else ", " + " or ".join(AXES[axis].noun for axis in found)
    return f"Prune ratio{nouns}"


def counted(findings: Findings) -> str:
    """Returns the sentence that says what ratios are shares of; empty where all are of non-zero parameters."""
    found = [AXES[axis].noun for axis in counted_in(findings) if axis != DEFAULT_AXIS]
    if not found:
        return ""
    if len(found) == len(counted_in(findings)) == 1:
        return f"Ratios are shares of the parent's {found[0]} that are gone."
    nouns = " or ".join(found)
    return (
        f"Ratios are shares of the parent's {AXES[DEFAULT_AXIS].noun} that are gone; of {nouns} where the name of a "
        "method says so."
    )


def headline(thresholds: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows over all seeds; those of the first seed where nothing was drawn together."""
    if thresholds.empty:
        return []
    seeds = thresholds["seed"].astype(str)
    chosen = "all" if (seeds == "all").any() else seeds.iloc[0]
    return records(thresholds[seeds == chosen])


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows of a frame as dictionaries with ``None`` where something is missing."""
    return [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]


def unique(items: Iterable[Any]) -> list[Any]:
    """Returns `items` without repetition, in order."""
    return list(dict.fromkeys(items))


def _plain(value: Any) -> Any:
    """The Python value of a cell; ``None`` for every way in which pandas says that there is none."""
    if isinstance(value, str | tuple | list) or value is None:
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    return None if not isinstance(value, list) and pd.isna(value) else value
