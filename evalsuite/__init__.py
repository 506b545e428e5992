"""Robustness beyond accuracy for pruned image classifiers.

Names are imported when they are first used, so that ``import evalsuite`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalsuite.api import evaluate, publish, run
    from evalsuite.config.suite import Suite
    from evalsuite.datasets.base import DataSet
    from evalsuite.errors import EvalsuiteError, UserError
    from evalsuite.evaluators.base import Evaluator
    from evalsuite.models.architectures.base import Architecture
    from evalsuite.producers.base import Context, Producer
    from evalsuite.results.run import Run
    from evalsuite.runs.provenance import Options
    from evalsuite.thresholds.threshold import threshold, thresholds
    from evalsuite.types import Candidate, ImageSet, Metric, Score, Threshold

_HOMES = {
    "Architecture": "models.architectures.base",
    "Candidate": "types",
    "Context": "producers.base",
    "DataSet": "datasets.base",
    "EvalsuiteError": "errors",
    "Evaluator": "evaluators.base",
    "ImageSet": "types",
    "Metric": "types",
    "Options": "runs.provenance",
    "Producer": "producers.base",
    "Run": "results.run",
    "Score": "types",
    "Suite": "config.suite",
    "Threshold": "types",
    "UserError": "errors",
    "evaluate": "api",
    "publish": "api",
    "run": "api",
    "threshold": "thresholds.threshold",
    "thresholds": "thresholds.threshold",
}

__all__ = [
    "Architecture",
    "Candidate",
    "Context",
    "DataSet",
    "EvalsuiteError",
    "Evaluator",
    "ImageSet",
    "Metric",
    "Options",
    "Producer",
    "Run",
    "Score",
    "Suite",
    "Threshold",
    "UserError",
    "evaluate",
    "publish",
    "run",
    "threshold",
    "thresholds",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evalsuite' has no attribute {name!r}")
    return getattr(import_module(f"evalsuite.{_HOMES[name]}"), name)
