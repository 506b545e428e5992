"""Robustness beyond accuracy for pruned image classifiers.

Names are imported when they are first used, so that ``import evalsuite`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalsuite.api import evaluate, publish, run
    from evalsuite.data.dataset import DataSet
    from evalsuite.errors import EvalsuiteError, UserError
    from evalsuite.evaluators.contract import Evaluator
    from evalsuite.models.architecture import Architecture
    from evalsuite.potential.threshold import threshold, thresholds
    from evalsuite.producers.contract import Context, Producer
    from evalsuite.records import Candidate, ImageSet, Metric, Score, Threshold
    from evalsuite.results import Run
    from evalsuite.running.provenance import Options
    from evalsuite.suite import Suite

_HOMES = {
    "Architecture": "models.architecture",
    "Candidate": "records",
    "Context": "producers.contract",
    "DataSet": "data.dataset",
    "EvalsuiteError": "errors",
    "Evaluator": "evaluators.contract",
    "ImageSet": "records",
    "Metric": "records",
    "Options": "running.provenance",
    "Producer": "producers.contract",
    "Run": "results",
    "Score": "records",
    "Suite": "suite",
    "Threshold": "records",
    "UserError": "errors",
    "evaluate": "api",
    "publish": "api",
    "run": "api",
    "threshold": "potential.threshold",
    "thresholds": "potential.threshold",
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
