"""The data of a report: the tables of one run or of several, and how their rows become Python values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from evalsuite.cost_axes import AXES, DEFAULT_AXIS
from evalsuite.results.verdict_tables import MEAN, NETWORK
from evalsuite.types import DENSE

if TYPE_CHECKING:
    from evalsuite.types import Metric, Picture, PictureKind

Row = Mapping[str, Any]
"""A row of a table, with ``None`` where a value is missing."""

MOST_UNRANKED = 6
"""Methods up to which their order is that of the suite; more are ranked."""


@dataclass(frozen=True, eq=False)
class ReportData:
    """The data of a report, from which the page and the figures are made without further computation.

    Attributes:
        measurements: One row per number: method (the parent is ``dense``), seed, target_ratio, ratio, axis,
            prunable_ratio, parameters, nonzero, macs, macs_nonzero, bytes, packed, evaluator, metric, condition,
            group, value, n, drop, drop_low, drop_high, status, reason, flags.
        thresholds: One row per method, seed (numbers and ``all``), metric, condition and aggregate; its
            columns are those of `evalsuite.thresholds.threshold.COLUMNS`.
        reliability: One row per bin: method, seed, ratio, lower, upper, count, confidence, accuracy.
        metrics: The definition of each metric by its name.
        record: The content of ``run.json``: suite, versions, git, hardware, command, seconds.
        excess: Slope of the excess error by method, seed and condition; see `evalsuite.results.tables`.
        exemplars: Number of pruning-identified exemplars; see `evalsuite.results.tables`.
        retraining: Accuracy before and after the last training; see `evalsuite.results.tables`.
        verdicts: Verdict of every check at every ratio, in each scope; see `evalsuite.results.verdict_tables`.
        groups: Interval of the true potential of groups of checks, and of everything; see there.
        counts: Number of checks in each state, beside those that a harmless copy would fail; see there.
        splits: Potentials over training conditions and over held-out ones, where the suite keeps these apart; see
            `evalsuite.results.condition_splits`.
        robust: Robust accuracy over the radius, radius 0 included; columns method, seed, target_ratio, ratio,
            norm, attack, epsilon, value, n.
        histograms: Detector scores in bins; columns method, target_ratio, ratio, detector, sample (``test`` or
            an outlier set), group, low, high, count.
        controls: Methods that are trained again without pruning.
        checked: Verdicts of a check of finished models, see `evalsuite.results.check_verdicts`; empty for a run.
        comparability: Comparison setups that hold between each two methods; columns first, second, pairs, setup, fair,
            why, and one for each of `evalsuite.report.comparability.SETUPS` and ``TOTALS``.
        pictures: Images that candidates misclassify, corrupted images, attacked images.
        no_pictures: Why there are none, by kind of picture.
        data_sets: Data set of each method, where runs stand side by side; empty for one run.
        runs: Run of each method, likewise.
    """

    measurements: pd.DataFrame
    thresholds: pd.DataFrame
    reliability: pd.DataFrame
    metrics: Mapping[str, Metric]
    record: Mapping[str, Any]
    excess: pd.DataFrame = field(default_factory=pd.DataFrame)
    exemplars: pd.DataFrame = field(default_factory=pd.DataFrame)
    retraining: pd.DataFrame = field(default_factory=pd.DataFrame)
    verdicts: pd.DataFrame = field(default_factory=pd.DataFrame)
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)
    counts: pd.DataFrame = field(default_factory=pd.DataFrame)
    splits: pd.DataFrame = field(default_factory=pd.DataFrame)
    robust: pd.DataFrame = field(default_factory=pd.DataFrame)
    histograms: pd.DataFrame = field(default_factory=pd.DataFrame)
    comparability: pd.DataFrame = field(default_factory=pd.DataFrame)
    controls: tuple[str, ...] = ()
    checked: pd.DataFrame = field(default_factory=pd.DataFrame)
    pictures: tuple[Picture, ...] = ()
    no_pictures: Mapping[PictureKind, str] = field(default_factory=dict)
    data_sets: Mapping[str, str] = field(default_factory=dict)
    runs: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def headline(self) -> list[Row]:
        """The thresholds over all seeds; those of the first seed where there are none over all."""
        return headline_rows(self.thresholds)

    @cached_property
    def clean_potentials(self) -> dict[str, float]:
        """The potential of the accuracy on clean images, by method."""
        return {
            row["method"]: row["potential"]
            for row in self.headline
            if (row["metric"], row["condition"]) == ("accuracy", "clean")
        }

    @cached_property
    def methods(self) -> list[str]:
        """The methods without the parent, in the order of the suite; ranked if there are many.

        The rank is the potential of the accuracy on clean images, then the mean of all potentials.
        """
        names = pd.concat([self.measurements["method"], self.thresholds["method"]], ignore_index=True)
        methods = [str(name) for name in names.unique() if name != DENSE]
        if len(methods) <= MOST_UNRANKED:
            return sorted(methods, key=self._place_in_suite)
        return sorted(methods, key=self._rank, reverse=True)

    def _place_in_suite(self, method: str) -> int:
        """The place of a method among the producers of the suite; controls come before them, all others behind."""
        suite = self.record.get("suite")
        producers = suite.get("producers") if isinstance(suite, Mapping) else None
        labels = [str(producer.get("label")) for producer in producers or () if isinstance(producer, Mapping)]
        if method in self.controls:
            return -1
        places = (n for n, label in enumerate(labels) if method == label or method.startswith(f"{label} ("))
        return next(places, len(labels))

    def _rank(self, method: str) -> tuple[float, float]:
        potentials = [
            row["potential"]
            for row in self.headline
            if row["method"] == method and row["aggregate"] == "single"
        ]
        return self.clean_potentials.get(method, -1.0), sum(potentials) / max(len(potentials), 1)

    @cached_property
    def ratio_axes(self) -> list[str]:
        """The cost axes of the ratios of all methods, in order; the default axis where the table has none."""
        table = self.measurements
        axes = table.loc[table["method"] != DENSE, "axis"].dropna() if "axis" in table else ()
        return [str(axis) for axis in unique(axes)] or [DEFAULT_AXIS]

    @property
    def ratio_label(self) -> str:
        """The title of an axis of prune ratios."""
        if self.ratio_axes == [DEFAULT_AXIS]:
            return "Prune ratio"
        return "Prune ratio, " + " or ".join(AXES[axis].noun for axis in self.ratio_axes)

    @property
    def ratio_note(self) -> str:
        """The sentence that defines the ratios; empty where all are shares of non-zero parameters."""
        nouns = [AXES[axis].noun for axis in self.ratio_axes if axis != DEFAULT_AXIS]
        if not nouns:
            return ""
        if len(nouns) == len(self.ratio_axes) == 1:
            return f"Ratios are shares of the parent's {nouns[0]} that are gone."
        return (
            f"Ratios are shares of the parent's {AXES[DEFAULT_AXIS].noun} that are gone; of {' or '.join(nouns)} where "
            "the name of a method has them in brackets."
        )


def headline_rows(table: pd.DataFrame) -> list[Row]:
    """Returns the rows over all seeds of a table with a column seed; those of the first seed where there are none."""
    if table.empty:
        return []
    seeds = table["seed"].astype(str)
    chosen = "all" if (seeds == "all").any() else seeds.iloc[0]
    return records(table[seeds == chosen])


def headline_verdicts(table: pd.DataFrame) -> list[Row]:
    """Returns the verdicts on each method's mean over the seeds; those of its first seed where there is no mean."""
    if table.empty:
        return []
    has_mean = table["method"].isin(table.loc[table["scope"] == MEAN, "method"])
    networks = table[(table["scope"] == NETWORK) & ~has_mean]
    first = networks["seed"] == networks.groupby("method")["seed"].transform("first")
    chosen = [*table.index[table["scope"] == MEAN], *networks.index[first]]
    return records(table.loc[sorted(chosen)])


def records(frame: pd.DataFrame) -> list[Row]:
    """Returns the rows of a frame as dictionaries with ``None`` where a value is missing."""
    columns = {str(name): _python_values(frame[name]) for name in frame.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def unique(items: Iterable[Any]) -> list[Any]:
    """Returns `items` without repetition, in order."""
    return list(dict.fromkeys(items))


def present(rows: Sequence[Row], column: str) -> list[float]:
    """Returns the numbers of a column, without missing ones."""
    return [float(row[column]) for row in rows if row.get(column) is not None]


def _python_values(column: pd.Series[Any]) -> list[Any]:
    """The Python values of a column; ``None`` for each of the missing values of pandas."""
    values = column.tolist()
    if column.dtype == object:  # its values may be scalars of NumPy
        values = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    if not column.hasnans and column.dtype != object:
        return values
    return [None if missing else value for value, missing in zip(values, column.isna(), strict=True)]
