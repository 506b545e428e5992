"""How names and numbers read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from evalsuite.records import Metric

THIN = "\u202f"
"""Narrow no-break space, between a number and its unit."""

NOTHING = "\u2013"
"""What stands where there is no number."""

_ACRONYMS = {
    name.lower(): name
    for name in (
        "AUROC",
        "AUPR",
        "FPR95",
        "NLL",
        "ECE",
        "MCE",
        "MSP",
        "OOD",
        "ID",
        "FGSM",
        "PGD",
        "JPEG",
        "CKA",
    )
} | {"mce": "mCE", "rmce": "relative mCE"}
_UNDER = ("corruptions", "noise", "attack")
_AGGREGATES = {
    "mean": "mean over the conditions",
    "minimum": "worst of the conditions",
    "of-mean": "threshold of the mean",
}


def metric_label(name: str) -> str:
    """Returns how a metric's name reads.

    >>> metric_label("ece_equal_width"), metric_label("msp_fpr95_ood_positive")
    ('ECE equal width', 'MSP FPR95 OOD positive')
    """
    return " ".join(_ACRONYMS.get(word, word) for word in name.replace("_", " ").split())


def condition_label(name: str) -> str:
    """Returns how a condition's name reads.

    >>> condition_label("gaussian_noise/5"), condition_label("linf-pgd/2:255")
    ('gaussian noise, severity 5', 'Linf PGD, ε = 2/255')
    """
    base, _, setting = name.partition("/")
    base = base.replace("linf", "Linf").replace("_", " ").replace("-", " ")
    base = " ".join(_ACRONYMS.get(word, word) for word in base.split())
    if not setting:
        return base
    if re.fullmatch(r"[\d.]+:\d+", setting):
        return f"{base}, ε = {setting.replace(':', '/')}"
    return f"{base}, severity {setting}" if setting.isdigit() else f"{base}, {setting}"


def aggregate_label(row: Mapping[str, Any]) -> str:
    """Returns what a row of thresholds is about: a condition, or a summary of a group of them."""
    summary = _AGGREGATES.get(row["aggregate"])
    if summary is None:
        return condition_label(row["condition"])
    return f"{row['group'] or row['condition']}: {summary}"


def subject(row: Mapping[str, Any]) -> str:
    """Returns a metric on a condition as a noun phrase.

    >>> subject({"metric": "accuracy", "condition": "fog/3", "group": "corruptions", "aggregate": "single"})
    'accuracy under fog (severity 3)'
    """
    metric = metric_label(row["metric"])
    if row["aggregate"] == "single" and row["condition"] == "clean":
        return "test accuracy" if metric == "accuracy" else f"{metric} on clean images"
    condition, comma, setting = aggregate_label(row).partition(", ")
    where = f"{condition} ({setting})" if comma else condition
    return f"{metric} {'under' if row['group'] in _UNDER else 'on'} {where}"


def decimals(ratios: Iterable[float | None]) -> int:
    """Returns how many decimals of a percentage tell the ratios apart from whole numbers: 0 or 1.

    >>> decimals([0.5, 0.9]), decimals([0.5, 0.783])
    (0, 1)
    """
    percentages = [100 * ratio for ratio in ratios if ratio is not None]
    return int(any(abs(value - round(value)) >= 0.05 for value in percentages))


def percentage(ratio: float, digits: int = 0) -> str:
    """Returns a ratio as a bare percentage.

    >>> percentage(0.9), percentage(0.783, 1)
    ('90', '78.3')
    """
    return f"{100 * ratio:.{digits}f}"


def percent(ratio: float) -> str:
    """Returns a ratio with its unit and no more decimals than it needs."""
    return f"{percentage(ratio, decimals([ratio]))}{THIN}%"


def number(value: float | None, digits: int = 4) -> str:
    """Returns a number with `digits` significant ones.

    >>> number(0.005), number(1234567.0)
    ('0.005', '1,234,567')
    """
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.{digits}g}"


def definition(metrics: Mapping[str, Metric], name: str) -> str:
    """Returns the sentence that defines a metric; empty if nobody wrote one."""
    metric = metrics.get(name)
    return metric.text if metric else ""


def ratios(tested: Any) -> tuple[float, ...]:
    """Returns tested ratios, whether they come as numbers or as the text of a CSV file.

    >>> ratios("0.5;0.9"), ratios((0.5, 0.9)), ratios(None)
    ((0.5, 0.9), (0.5, 0.9), ())
    """
    if tested is None:
        return ()
    if isinstance(tested, str):
        return tuple(float(part) for part in re.findall(r"[\d.]+(?:[eE][+-]?\d+)?", tested))
    if isinstance(tested, int | float):
        return (float(tested),)
    return tuple(float(ratio) for ratio in tested)
