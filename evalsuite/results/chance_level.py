"""What a network would be worth that looks at nothing: the value below which a tolerance asks for nothing."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

_RATES = {"accuracy": 1, "robust_accuracy": 1, "accuracy_top5": 5}
"""Rate to the number of classes that count as one answer."""


def chance_level(metric: str, classes: int) -> float:
    """Returns the value of a network that gives all images the same answer; NaN where nobody can say.

    It calls every class equally likely and one of them the first, of classes that are equally many; an attack does
    not change that. Its detectors draw lots.

    Args:
        metric: Name of the metric.
        classes: Number of classes K, at least 1.

    >>> by_guessing("accuracy", 10), by_guessing("msp_auroc", 10), by_guessing("ece_equal_width", 10)
    (0.1, 0.5, nan)
    """
    plain = metric.removesuffix("_scaled")
    if plain in _RATES:
        return min(1.0, _RATES[plain] / classes)
    if metric.endswith("_auroc"):
        return 0.5
    if "_fpr95_" in metric:
        return 0.95
    return {"nll": log(classes), "brier": 1 - 1 / classes}.get(plain, float("nan"))


def chance_levels(metrics: pd.Series[str], suite: Mapping[str, Any]) -> pd.Series[float]:
    """Returns the value by guessing beside the name of each metric, NaN where the number of classes is not known.

    Args:
        metrics: Names.
        suite: As the record has it; the settings of its model say how many classes there are.
    """
    classes = int((suite.get("model") or {}).get("classes") or 0)
    known = {name: chance_level(name, classes) for name in metrics.unique()} if classes else {}
    return metrics.map(known).astype(float)
