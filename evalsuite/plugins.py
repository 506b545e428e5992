"""All that authors of producers, evaluators, data sets and architectures import, in one place.

Register a class with `register_producer`, `register_evaluator`, `register_dataset` or `register_architecture`, and
name its file in the suite: ``plugins = ["mine.py"]``. The README has one example of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite import _lazy
from evalsuite.datasets import DATASETS
from evalsuite.evaluators import EVALUATORS
from evalsuite.models import MODELS
from evalsuite.producers import PRODUCERS

if TYPE_CHECKING:
    from evalsuite.datasets.base import DataSet, Place
    from evalsuite.datasets.views import StoredImages, Transform, View
    from evalsuite.errors import (
        CellError,
        ContractError,
        DataError,
        EvalsuiteError,
        InvalidModelError,
        SkippedError,
        SuiteError,
        UserError,
    )
    from evalsuite.evaluation import Bench, Outputs
    from evalsuite.evaluators.base import Condition, DataSummary, Evaluator, check_once, declare
    from evalsuite.models.architectures.base import Architecture, Normalized, build_model
    from evalsuite.models.cost import count_nonzero, prunable_layers, prunable_parameters
    from evalsuite.models.inference import logits
    from evalsuite.models.surgery.channel_removal import ChannelGroup
    from evalsuite.producers.base import Context, Producer
    from evalsuite.producers.structured.base import FilterProducer, per_filter
    from evalsuite.producers.unstructured.base import WeightProducer
    from evalsuite.random_streams import address, generator
    from evalsuite.training.hooks import Hooks
    from evalsuite.training.recipe import Recipe
    from evalsuite.types import Array, Floats, ImageSet, Metric, Phase, Score, Split

__all__ = [
    "Architecture",
    "Array",
    "Bench",
    "CellError",
    "ChannelGroup",
    "Condition",
    "Context",
    "ContractError",
    "DataError",
    "DataSet",
    "DataSummary",
    "EvalsuiteError",
    "Evaluator",
    "FilterProducer",
    "Floats",
    "Hooks",
    "ImageSet",
    "InvalidModelError",
    "Metric",
    "Normalized",
    "Outputs",
    "Phase",
    "Place",
    "Producer",
    "Recipe",
    "Score",
    "SkippedError",
    "Split",
    "StoredImages",
    "SuiteError",
    "Transform",
    "UserError",
    "View",
    "WeightProducer",
    "address",
    "build_model",
    "check_once",
    "count_nonzero",
    "declare",
    "generator",
    "logits",
    "per_filter",
    "prunable_layers",
    "prunable_parameters",
    "register_architecture",
    "register_dataset",
    "register_evaluator",
    "register_producer",
]

register_producer = PRODUCERS.register
register_evaluator = EVALUATORS.register
register_dataset = DATASETS.register
register_architecture = MODELS.register

if not TYPE_CHECKING:  # a type checker would take any name of a module with __getattr__ for Any
    __getattr__ = _lazy.attach(__name__, __file__)

    def __dir__() -> list[str]:
        return sorted(__all__)
