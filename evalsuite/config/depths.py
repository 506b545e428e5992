"""Three ready depths of the battery: ``quick``, ``standard``, ``full``; a suite changes what it wants to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from evalsuite.errors import SuiteError
from evalsuite.registry import unknown_name

Table = Mapping[str, Any]

LOGITS = ("msp", "max_logit", "energy", "entropy", "gen")
FEATURES = ("mahalanobis", "relative_mahalanobis", "knn", "vim", "react", "ash_b")
STRONG = ("fgsm", "linf-pgd", "linf-noise", "apgd-ce", "apgd-t", "square", "l2-pgd")

OUTLIERS: Mapping[str, Table] = MappingProxyType(
    {
        "digits": {"near": ["letters"], "far": ["photographs", "uniform-noise", "gaussian-noise"]},
        "cifar10": {"near": ["cifar100"], "far": ["mnist", "fashion-mnist"]},
        "cifar100": {"near": ["cifar10"], "far": ["mnist", "fashion-mnist"]},
    }
)
"""Outlier sets that are usual for a data set and that the registry has; other data names its own."""

DEPTHS: Mapping[str, tuple[Table, ...]] = MappingProxyType(
    {
        "quick": (
            {"name": "accuracy"},
            {"name": "corruptions", "severities": [3]},
            {"name": "ood"},
            {"name": "noise"},
            {"name": "attack", "images": 200, "steps": 10, "probe": 32},
            {"name": "calibration"},
        ),
        "standard": (
            {"name": "accuracy"},
            {"name": "similarity"},
            {"name": "corruptions"},
            {"name": "ood", "detectors": [*LOGITS, *FEATURES]},
            {"name": "noise", "kinds": ["uniform", "gaussian"]},
            {"name": "attack", "images": 200, "probe": 64},
            {"name": "calibration", "corruptions": True},
        ),
        "full": (
            {"name": "accuracy"},
            {"name": "similarity"},
            {"name": "corruptions", "extra": True},
            {
                "name": "ood",
                "detectors": [*LOGITS, *FEATURES, "ash_s", "scale", "gradnorm", "odin"],
                "fit_images": 0,
            },
            {"name": "noise", "kinds": ["uniform", "gaussian"], "draws": 10},
            {"name": "attack", "images": 1000, "attacks": list(STRONG), "restarts": 5, "queries": 5000},
            {"name": "minimal-norm"},
            {"name": "calibration", "corruptions": True, "per_image": True},
            {"name": "pixels"},
            {"name": "latency"},
        ),
    }
)
"""Depth to the tables of its evaluators.

``quick`` is a first look. ``standard`` has every condition whose cost is a forward pass, and gradient attacks on a
few images. ``full`` adds strong attacks, ODIN and backward selection, whose cost is thousands of passes per image, and
latency, the one test whose numbers are not the same in every run.
"""


def depth_tables(depth: str, own: Iterable[Table], *, data: str, trained: bool) -> list[Table]:
    """Returns the tables of evaluators that a suite means.

    Args:
        depth: Name in `DEPTHS`; empty for the suite's own tables alone.
        own: The suite's tables: a table called like one of the depth changes the keys that it has, others are
            added.
        data: Name of the suite's data set, which says what usual outliers are.
        trained: Whether the parent is trained here, so that its validation images are unseen; temperatures of
            other people's networks are fitted on the other half of the test images.

    Raises:
        SuiteError: If there is no such depth.

    >>> own = [{"name": "shift", "sets": ["x"]}]
    >>> [table["name"] for table in depth_tables("quick", own, data="mine", trained=True)]
    ['accuracy', 'corruptions', 'noise', 'attack', 'calibration', 'shift']
    """
    if not depth:
        return list(own)
    if depth not in DEPTHS:
        raise SuiteError(unknown_name("depth", depth, DEPTHS))
    tables: dict[str, Table] = {str(table["name"]): table for table in DEPTHS[depth]}
    tables["ood"] = {**tables["ood"], **OUTLIERS.get(data, {})}
    if not trained:
        tables["calibration"] = {**tables["calibration"], "held_out": "cross-fit"}
    for table in own:
        label = str(table.get("label", table.get("name", "")))
        tables[label] = {**tables.get(label, {}), **table}
    if not {"near", "far"} & set(tables["ood"]):
        del tables["ood"]  # no outlier sets are usual for this data
    return list(tables.values())
