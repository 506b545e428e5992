"""The lines of a curve over the prune ratio: means over the seeds with their intervals, for panels and figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalsuite.report.chart_data import curves
from evalsuite.report.data import records
from evalsuite.results.verdict_tables import MEAN

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from evalsuite.report.data import ReportData

Ends = tuple[float, float]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The mean over the seeds at one ratio, and the ends of its interval; both are the value where there is none."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CurveLine:
    """A method on one metric and condition.

    Attributes:
        method: Its name.
        index: Its place among the methods, which decides colour and mark.
        is_control: Whether it is trained again without pruning; its ratios are then those of the candidates with as
            much training.
        points: By rising ratio.
        seeds: The points (ratio, value) of each network; empty with one seed.
    """

    method: str
    index: int
    is_control: bool
    points: tuple[CurvePoint, ...]
    seeds: tuple[tuple[Ends, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric on a condition over the prune ratio.

    Attributes:
        metric: Name of the metric.
        condition: Name of the condition.
        label: Metric and condition in words.
        condition_label: The condition in words.
        metric_label: The metric in words, with its unit if it has one.
        higher_is_better: Its direction; ``None`` if it has none.
        reference: Value of the parent; ``None`` where several parents differ.
        allowed: Ends of the values within the tolerance; ``None`` without a tolerance.
        n: Number of images; ``None`` where it differs.
        group: Name of the group of conditions, empty if there is none.
        lines: The methods that were measured.
    """

    metric: str
    condition: str
    label: str
    condition_label: str
    metric_label: str
    higher_is_better: bool | None
    reference: float | None
    allowed: Ends | None
    n: int | None
    group: str
    lines: tuple[CurveLine, ...]

    @property
    def has_intervals(self) -> bool:
        """Whether any point has an interval."""
        return any(point.low < point.high for line in self.lines for point in line.points)

    @property
    def ends(self) -> Ends:
        """Ends of an axis on which all values, intervals and the tolerance lie."""
        values = [end for line in self.lines for point in line.points for end in (point.low, point.high)]
        values += [value for line in self.lines for seed in line.seeds for _, value in seed]
        values += [self.reference] if self.reference is not None else []
        values += self.allowed or ()
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        margin = 0.06 * (high - low) or 0.05 * (abs(high) or 1.0)
        return low - margin, high + margin


def curve_lines(
    data: ReportData, numbers: Mapping[str, Any] | None = None, metrics: Collection[str] | None = None
) -> list[Curve]:
    """Returns every curve over the prune ratio.

    Args:
        data: The data of the report.
        numbers: What `evalsuite.report.chart_data.curves` returns for it, if it is at hand.
        metrics: The metrics whose curves are returned; all of them if ``None``.

    Intervals are those of the mean drop over the seeds around the value, where verdicts have them; of a single network
    those of its drop; else the range over the seeds.
    """
    numbers = curves(data) if numbers is None else numbers
    bounds = _mean_bounds(data)
    return [
        _curve(curve, numbers, data, bounds)
        for curve in numbers["curves"]
        if metrics is None or curve["metric"] in metrics
    ]


def _mean_bounds(data: ReportData) -> dict[tuple[Any, ...], Ends]:
    """By check and target ratio, how far the ends of the interval of the mean drop are below and above it."""
    if data.verdicts.empty:
        return {}
    rows = records(data.verdicts[data.verdicts["scope"] == MEAN])
    return {
        (row["metric"], row["condition"], row["method"], row["target_ratio"]): (
            row["drop"] - row["drop_low"],
            row["drop_high"] - row["drop"],
        )
        for row in rows
        if row["drop_low"] is not None and row["drop_high"] is not None
    }


def _curve(
    curve: Mapping[str, Any],
    numbers: Mapping[str, Any],
    data: ReportData,
    bounds: Mapping[tuple[Any, ...], Ends],
) -> Curve:
    about = numbers["metrics"][curve["metric"]]
    unit = f" ({about['unit']})" if about["unit"] else ""
    rows = [{**numbers["candidates"][point[0]], "band": point[1:]} for point in curve["points"]]
    lines = []
    for index, method in enumerate(data.methods):
        of_method = [row for row in rows if row["method"] == method and row["target_ratio"] > 0]
        if of_method:
            line = _Line(curve, method, is_control=method in data.controls, higher=about["higher"])
            lines.append(
                CurveLine(
                    method, index, line.is_control, line.points(of_method, bounds), line.seeds(of_method)
                )
            )
    return Curve(
        curve["metric"],
        curve["condition"],
        f"{about['label']}, {curve['label']}",
        curve["label"][:1].upper() + curve["label"][1:],
        about["label"] + unit,
        about["higher"],
        curve["reference"],
        _allowed(curve, about["higher"]),
        curve["n"],
        curve["group"],
        tuple(lines),
    )


def _allowed(curve: Mapping[str, Any], higher: bool | None) -> Ends | None:
    reference, tolerance = curve["reference"], curve["tolerance"]
    if reference is None or tolerance is None or higher is None:
        return None
    return (reference - tolerance, reference) if higher else (reference, reference + tolerance)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class _Line:
    """How rows of a method become points of its line."""

    curve: Mapping[str, Any]
    method: str
    is_control: bool
    higher: bool | None

    def x(self, row: Mapping[str, Any]) -> float:
        return float(row["target_ratio"] if self.is_control else row["ratio"])

    def points(
        self, rows: Sequence[Mapping[str, Any]], bounds: Mapping[tuple[Any, ...], Ends]
    ) -> tuple[CurvePoint, ...]:
        targets = sorted({row["target_ratio"] for row in rows})
        return tuple(
            self._point([row for row in rows if row["target_ratio"] == t], self._bounds(t, bounds))
            for t in targets
        )

    def _bounds(self, target: float, bounds: Mapping[tuple[Any, ...], Ends]) -> Ends | None:
        return bounds.get((self.curve["metric"], self.curve["condition"], self.method, target))

    def _point(self, rows: Sequence[Mapping[str, Any]], bounds: Ends | None) -> CurvePoint:
        values = [row["band"][0] for row in rows]
        mean = _mean(values)
        low, high = min(values), max(values)
        if len(rows) == 1 and len(rows[0]["band"]) == 3:
            low, high = rows[0]["band"][1:]
        elif len(rows) > 1 and bounds is not None and self.higher is not None:
            below, above = bounds[::-1] if self.higher else bounds
            low, high = mean - below, mean + above
        return CurvePoint(_mean([self.x(row) for row in rows]), mean, low, high)

    def seeds(self, rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[Ends, ...], ...]:
        names = list(dict.fromkeys(row["seed"] for row in rows))
        if len(names) == 1:
            return ()
        return tuple(
            tuple(sorted((self.x(row), row["band"][0]) for row in rows if row["seed"] == name))
            for name in names
        )
