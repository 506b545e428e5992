"""The small multiples: one curve for each kind of test, chosen so that a reader sees all kinds at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalsuite.report.labels import condition_label, group_label, metric_label
from evalsuite.report.threshold_tables import metrics_without_column
from evalsuite.results.verdict_tables import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalsuite.report.curve_lines import Curve

_ACCURACY = ("accuracy",)
_ROBUST = ("robust_accuracy",)
_OOD = ("msp_auroc", "energy_auroc")
_CALIBRATION = ("ece_l2_squared_debiased", "brier", "nll", "ece_equal_width")
_SIMILARITY = ("agreement", "negative_flip_rate", "softmax_distance")
_ORIGINS = ("", " official")


@dataclass(frozen=True, slots=True)
class Panel:
    """A curve with the name of the kind of test that it stands for."""

    title: str
    curve: Curve


def panel_metrics(numbers: Mapping[str, Any]) -> set[str]:
    """Returns the metrics of which panels may show a curve, of what `evalsuite.report.chart_data.curves` returns."""
    others = metrics_without_column((curve["metric"], curve["group"]) for curve in numbers["curves"])
    return {*_ACCURACY, *_ROBUST, *_OOD, *_CALIBRATION, *_SIMILARITY, *others}


def panels(curves: Sequence[Curve]) -> list[Panel]:
    """Returns the panels of a report, in the order of the verdicts: clean, corruptions, shift, attacks, OOD, the rest.

    Of a kind of test with several metrics the first that has a tolerance and intervals is shown, else the first that
    has a tolerance, else the first; of several conditions their mean, of radii of an attack the one that halves the
    parent best. Metrics of a plug-in get panels of their own.
    """
    drawn = [curve for curve in curves if curve.lines]
    chosen = [
        ("Test accuracy", _preferred(drawn, _ACCURACY, ("clean",))),
        *_corruptions(drawn),
        ("Natural shift", _of_group(drawn, _ACCURACY, "shift")),
        ("White-box attack", _attack(drawn, ("worst/", "worst l2/"), "attack")),
        ("Black-box attack", _attack(drawn, ("worst black-box",), "black-box attack")),
        ("OOD, near", _of_group(drawn, _OOD, "ood-near")),
        ("OOD, far", _of_group(drawn, _OOD, "ood-far")),
        ("Calibration", _preferred(drawn, _CALIBRATION, ("clean",))),
        ("Similarity", _preferred(drawn, _SIMILARITY, ("clean",))),
        *_custom(drawn),
    ]
    return [Panel(title, curve) for title, curve in chosen if curve is not None]


def _corruptions(curves: Sequence[Curve]) -> list[tuple[str, Curve | None]]:
    """The families, or all corruptions together where there are no families; each origin by itself."""
    rows: list[tuple[str, Curve | None]] = []
    for origin in _ORIGINS:
        families = [
            (
                condition_label(f"{family} corruptions{origin}").removeprefix("all "),
                f"{family} corruptions{origin}",
            )
            for family in FAMILIES
        ]
        shown = [(label, _preferred(curves, _ACCURACY, (name,))) for label, name in families]
        if not any(curve for _, curve in shown):
            label = group_label(f"corruptions{origin}")
            shown = [(label, _of_group(curves, _ACCURACY, f"corruptions{origin}"))]
        rows += [(label.removeprefix("generated ").capitalize(), curve) for label, curve in shown]
    return rows


def _preferred(curves: Sequence[Curve], metrics: Sequence[str], conditions: Sequence[str]) -> Curve | None:
    fitting = [
        curve
        for metric in metrics
        for curve in curves
        if curve.metric == metric and curve.condition in conditions
    ]
    return min(fitting, key=lambda curve: (curve.allowed is None, not curve.has_intervals), default=None)


def _of_group(curves: Sequence[Curve], metrics: Sequence[str], group: str) -> Curve | None:
    """The mean over a group where it was measured, else its first condition."""
    mean = _preferred(curves, metrics, (group,))
    return mean or _preferred(curves, metrics, [c.condition for c in curves if c.group == group])


def _attack(curves: Sequence[Curve], beginnings: tuple[str, ...], group: str) -> Curve | None:
    measured = [curve for curve in curves if curve.metric in _ROBUST and curve.reference is not None]
    worst = [curve for curve in measured if not curve.group and curve.condition.startswith(beginnings)]
    inside = worst or [curve for curve in measured if curve.group == group]
    return min(inside, key=lambda curve: abs((curve.reference or 0.0) - 0.5), default=None)


def _custom(curves: Sequence[Curve]) -> list[tuple[str, Curve | None]]:
    """The metrics with a tolerance that are of no other kind, such as those of plug-ins."""
    with_tolerance = [curve for curve in curves if curve.allowed is not None]
    metrics = metrics_without_column((curve.metric, curve.group) for curve in with_tolerance)
    return [
        (
            metric_label(metric)[:1].upper() + metric_label(metric)[1:],
            next(curve for curve in with_tolerance if curve.metric == metric),
        )
        for metric in metrics
    ]
