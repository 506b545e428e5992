"""Names of metrics and conditions that earlier versions used, and what they are called now."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from evalsuite.types import SYNTHETIC_FROST

T = TypeVar("T")

RENAMED_METRICS: Mapping[str, str] = MappingProxyType(
    {"broken": "negative_flip_rate", "fixed": "positive_flip_rate"}
)
"""Name of a metric in earlier versions to today's."""

_OLD_FROST = "frost*"


def current_condition(name: str) -> str:
    """Returns today's name of a condition that a run folder of an earlier version may hold.

    >>> current_condition("frost*/3"), current_condition("fog/3")
    ('frost-synthetic/3', 'fog/3')
    """
    return SYNTHETIC_FROST + name.removeprefix(_OLD_FROST) if name.startswith(_OLD_FROST) else name


def current_metric(name: str) -> str:
    """Returns today's name of a metric that a run folder or suite of an earlier version may hold.

    >>> current_metric("broken"), current_metric("accuracy")
    ('negative_flip_rate', 'accuracy')
    """
    return RENAMED_METRICS.get(name, name)


def current_tolerances(tolerances: Mapping[str, T]) -> dict[str, Any]:
    """Returns tolerances with today's names of metrics and conditions.

    >>> current_tolerances({"broken": 0.01, "accuracy": {"frost*/3": 0.02, "*": 0.01}})
    {'negative_flip_rate': 0.01, 'accuracy': {'frost-synthetic/3': 0.02, '*': 0.01}}
    """
    return {
        current_metric(metric): {current_condition(name): rule for name, rule in tolerance.items()}
        if isinstance(tolerance, Mapping)
        else tolerance
        for metric, tolerance in tolerances.items()
    }
