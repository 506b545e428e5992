"""Chance levels: the values of metrics for a network whose outputs do not depend on the image."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

_RATES = {"accuracy": 1, "robust_accuracy": 1, "accuracy_top5": 5}
"""Rate to the number of classes of which one must be right."""


def chance_level(metric: str, classes: int) -> float:
    """Returns the value of a network that gives all images the same output; NaN where none is defined.

    It gives every class the same probability, and classes have equally many images; an attack does not change that.
    Its detector scores are random.

    Args:
        metric: Name of the metric.
        classes: Number of classes K, at least 1.

    >>> chance_level("accuracy", 10), chance_level("msp_auroc", 10), chance_level("ece_equal_width", 10)
    (0.1, 0.5, nan)
    """
    unscaled = metric.removesuffix("_scaled")
    if unscaled in _RATES:
        return min(1.0, _RATES[unscaled] / classes)
    if metric.endswith("_auroc"):
        return 0.5
    if "_fpr95_" in metric:
        return 0.95
    return {"nll": log(classes), "brier": 1 - 1 / classes}.get(unscaled, float("nan"))


def chance_levels(metrics: pd.Series[str], suite: Mapping[str, Any]) -> pd.Series[float]:
    """Returns the chance level of each metric of a series, NaN where the number of classes is not known.

    Args:
        metrics: Names.
        suite: The suite in the record of a run; the settings of its model have the number of classes.
    """
    classes = int((suite.get("model") or {}).get("classes") or 0)
    levels = {name: chance_level(name, classes) for name in metrics.unique()} if classes else {}
    return metrics.map(levels).astype(float)
