"""Labels of metrics, conditions, groups and numbers, as a reader sees them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from evalsuite.types import SYNTHETIC_FROST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

THIN = "\u202f"
"""Narrow no-break space, between a number and its unit."""

DASH = "\u2013"
"""Stands in place of a missing number."""

APPROXIMATE = ("motion_blur", "snow")
"""Generated corruptions that are not the published ones pixel by pixel (`APPROXIMATE` of the generator)."""

_ACRONYMS = {
    name.lower(): name
    for name in (
        *(
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
            "APGD",
        ),
        *("KNN", "ODIN", "VIM", "CE", "DLR", "L2"),
    )
} | {"linf": "Linf", "gaussian": "Gaussian"}
_METRICS = {
    "mce_parent": "mCE relative to the parent",
    "relative_mce_parent": "relative mCE to the parent",
    "accuracy_worst_corruption": "accuracy under the worst corruption",
    "accuracy_all_corruptions": "accuracy under every corruption at once",
    "gap_to_clean": "accuracy lost against clean images",
    "latency_ratio": "latency relative to the parent",
    "latency_ratio_lower": "latency relative to the parent, lower end",
    "latency_ratio_upper": "latency relative to the parent, upper end",
}
_GROUPS = {
    "corruptions": "generated corruptions",
    "corruptions official": "official corruptions",
    "corruptions-extra": "extra generated corruptions",
    "corruptions-extra official": "extra official corruptions",
    "corruptions-3d official": "official 3D corruptions",
    "calibration-shift": "calibration under generated corruptions",
    "calibration-shift official": "calibration under official corruptions",
    "shift": "natural shift",
    "videos": "perturbation sequences",
    "attack": "white-box attacks",
    "black-box attack": "black-box attacks",
    "transfer": "attacks on the parent",
    "ood-near": "near OOD sets",
    "ood-far": "far OOD sets",
}
_UNDER = ("noise", "attack", "black-box attack", "transfer")
_AGGREGATES = {
    "mean": "mean over the conditions",
    "minimum": "worst of the conditions",
    "of-mean": "threshold of the mean",
}


def metric_label(name: str) -> str:
    """Returns the label of a metric.

    >>> metric_label("ece_equal_width"), metric_label("msp_fpr95_ood_positive")
    ('ECE equal width', 'MSP FPR95 OOD positive')
    """
    known = _METRICS.get(name)
    return known or " ".join(_ACRONYMS.get(word, word) for word in name.replace("_", " ").split())


def counted_noun(metric: str) -> str:
    """Returns the noun of what the column n counts.

    >>> counted_noun("accuracy"), counted_noun("latency_ratio")
    ('images', 'rounds')
    """
    return "rounds" if metric.startswith(("latency", "throughput")) else "images"


def group_label(name: str) -> str:
    """Returns the label of a group of conditions.

    >>> group_label("corruptions official"), group_label("rotations")
    ('official corruptions', 'rotations')
    """
    return _GROUPS.get(name) or name.replace("_", " ").replace("-", " ")


def condition_label(name: str) -> str:
    """Returns the label of a condition.

    >>> condition_label("gaussian_noise/5"), condition_label("fog official/3"), condition_label("linf-pgd/2:255")
    ('Gaussian noise, severity 5', 'official fog, severity 3', 'Linf PGD, ε = 2/255')
    >>> condition_label("snow/3"), condition_label("snow official/3")
    ('snow (approx.), severity 3', 'official snow, severity 3')
    >>> condition_label("corruptions"), condition_label("worst black-box/2:255"), condition_label("l2-pgd/1")
    ('all generated corruptions', 'worst black box attack, ε = 2/255', 'L2 PGD, ε = 1')
    """
    plain, bracket, test = name.partition(" (")  # the test's label, where several tests share a condition
    base, _, setting = plain.partition("/")
    separator = " " if base == "class" else ", "
    return separator.join(filter(None, (_base_label(base), _setting_label(base, setting)))) + bracket + test


def _base_label(name: str) -> str:
    if name == SYNTHETIC_FROST:
        return "frost (synthetic)"
    kind = name.removesuffix(" official")
    origin = "official " if kind != name else ""
    if kind in ("corruptions", "ood-near", "ood-far", "videos", "calibration-shift"):
        return f"all {group_label(name)}"
    if kind.endswith(" corruptions"):
        return f"all {origin or 'generated '}{kind}"
    words = kind.replace("_", " ").replace("-", " ").split()
    if words[:1] == ["worst"] and "of" not in words:
        words.append("attack")
    note = " (approx.)" if name in APPROXIMATE else ""
    return origin + " ".join(_ACRONYMS.get(word, word) for word in words) + note


def _setting_label(base: str, text: str) -> str:
    if re.fullmatch(r"[\d.]+:\d+", text):
        return f"ε = {text.replace(':', '/')}"
    if "l2" in base or "normalised" in base:
        return f"ε = {text}" if text else ""
    return f"severity {text}" if text.isdigit() and base != "class" else text


def aggregate_label(row: Mapping[str, Any]) -> str:
    """Returns the label of a condition, or of a summary of a group of conditions, of a row of thresholds."""
    summary = _AGGREGATES.get(row["aggregate"])
    if summary is None:
        return condition_label(row["condition"])
    return f"{group_label(row['group'] or row['condition'])}: {summary}"


def metric_on_condition(row: Mapping[str, Any]) -> str:
    """Returns a metric on a condition as a noun phrase.

    >>> metric_on_condition({"metric": "accuracy", "condition": "fog/3", "group": "corruptions", "aggregate": "single"})
    'accuracy under fog (severity 3)'
    >>> metric_on_condition({"metric": "msp_auroc", "condition": "ood-far", "group": "ood-far", "aggregate": "of-mean"})
    'mean MSP AUROC on far OOD sets'
    """
    metric = metric_label(row["metric"])
    if row["aggregate"] == "of-mean":
        where = group_label(row["group"] or row["condition"])
        return f"mean {metric} {'under' if _is_changed(row) else 'on'} {where}"
    if row["aggregate"] == "single" and row["condition"] == "clean":
        return "test accuracy" if metric == "accuracy" else f"{metric} on clean images"
    condition, comma, setting = aggregate_label(row).partition(", ")
    where = f"{condition} ({setting})" if comma else condition
    return f"{metric} {'under' if _is_changed(row) else 'on'} {where}"


def _is_changed(row: Mapping[str, Any]) -> bool:
    names = f"{row['group']} {row['condition']}"
    return row["group"] in _UNDER or any(
        word in names for word in ("corruptions", "worst", "calibration-shift")
    )


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
        return DASH
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.{digits}g}"


def rounded(value: float | None, n: float | None) -> str:
    """Returns a number with as many decimals as `n` images support: as many as tell one image more or less apart.

    >>> rounded(0.87654, 899), rounded(0.87654, 10_000), rounded(0.5, 50), rounded(12.3456, 899)
    ('0.877', '0.8765', '0.50', '12.35')
    """
    if value is None:
        return DASH
    places = 3 if not n else min(6, max(1, math.ceil(math.log10(n) - 1e-9)))
    whole = len(str(int(abs(value)))) - 1
    text = f"{value:,.{max(0, places - whole)}f}"
    return (text.removeprefix("-") if not float(text.replace(",", "")) else text).replace("-", "\u2212")


def tested_ratios(tested: Any) -> tuple[float, ...]:
    """Returns tested ratios, whether they come as numbers or as the text of a CSV file.

    >>> tested_ratios("0.5;0.9"), tested_ratios((0.5, 0.9)), tested_ratios(None)
    ((0.5, 0.9), (0.5, 0.9), ())
    """
    if tested is None:
        return ()
    if isinstance(tested, str):
        return tuple(float(part) for part in re.findall(r"[\d.]+(?:[eE][+-]?\d+)?", tested))
    if isinstance(tested, int | float):
        return (float(tested),)
    return tuple(float(ratio) for ratio in tested)
