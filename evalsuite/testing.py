"""Conformance checks for the tests of a plug-in: each raises `ContractError` with one sentence.

They use a few of scikit-learn's digits and a network trained for one epoch, take seconds and need no data folder.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evalsuite.datasets.base import DataSet, Place, load_checked
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.stages import StageSource, is_staged_view
from evalsuite.datasets.views import View
from evalsuite.errors import ContractError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.base import Condition, DataSummary, Evaluator
from evalsuite.execution.measuring import scored
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import Architecture
from evalsuite.models.architectures.settings import to_settings
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.cost import prunable_parameters, weight_cost, weights_digest
from evalsuite.models.inference import logits
from evalsuite.producers.base import Context, Producer
from evalsuite.training.history import history
from evalsuite.training.origin import Origin
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet, Score, Split

__all__ = ["FewDigits", "check_evaluator", "check_model", "check_producer"]

RATIOS = (0.4, 0.7, 0.9)
RECIPE = Recipe(epochs=1, batch_size=32, learning_rate=0.05)
TRAINING_IMAGES = (
    64  # two steps per retraining show whether masks hold, and a ResNet-20 takes half a second for them
)
TEST_IMAGES = 96  # more than one batch and one block of random draws
PROBE_IMAGES = 8


def __dir__() -> list[str]:
    return sorted(__all__)


@dataclass(frozen=True)
class FewDigits(DataSet):
    """The first digits of each split: enough to see whether a plug-in keeps its contract.

    Attributes:
        side: Height and width, at most 32.
    """

    side: int = 32

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns uint8 (N, 3, side, side) of all ten classes."""
        digits = Digits().load(split, place)
        first = slice(0, TRAINING_IMAGES if split == "train" else TEST_IMAGES)
        labels = None if digits.labels is None else digits.labels[first]
        pixels = np.arange(self.side) * digits.images.shape[-1] // self.side
        return replace(digits, images=digits.images[first][:, :, pixels][..., pixels], labels=labels)


def check_model(model: nn.Module, *, classes: int = 10, side: int = 32) -> None:
    """Checks that a network can be tested: finite logits of the right shape, repeatable, with gradients.

    Args:
        model: Takes float images in [0, 1], (B, 3, side, side); returns logits (B, classes).
        classes: Expected number of logits.
        side: Height and width of its images.

    Raises:
        ContractError: Otherwise.
        InvalidModelError: If the logits are not logits.
    """
    images = np.random.default_rng(0).integers(0, 256, (PROBE_IMAGES, 3, side, side), dtype=np.uint8)
    first, second = (logits(model, images, batch_size=PROBE_IMAGES) for _ in range(2))
    expected = (PROBE_IMAGES, classes)
    _expect(first.shape == expected, f"logits of shape {first.shape}, expected {expected}")
    _expect(np.array_equal(first, second), "two forward passes over the same images differ")
    inputs = torch.from_numpy(images).float().div(255).requires_grad_()
    model.eval()(inputs).square().sum().backward()
    gradient = inputs.grad
    _expect(
        gradient is not None and bool(gradient.abs().sum() > 0),
        "no gradient reaches the images: attacks cannot work",
    )


def check_producer(
    producer: Producer,
    *,
    architecture: str | Architecture = "small-cnn",
    within: float = 0.05,
    side: int = 32,
) -> None:
    """Checks that a producer reaches its ratios, leaves the parent alone, and can be repeated, saved and resumed.

    Args:
        producer: The producer to check.
        architecture: The network to prune: a registered architecture, or the name of one.
        within: Largest distance of a measured ratio from its target.
        side: Height and width of the images, at most 32: a deep network is checked sooner on small ones.

    Raises:
        ContractError: Otherwise.
    """
    plugin, parent = _trained(architecture, FewDigits(side))
    images = load_checked(FewDigits(side), "train", Place())
    context = Context(
        images, RECIPE, seed=0, origin=Origin(plugin, 0, RECIPE), initial_history=history(parent) or ()
    )
    before = weights_digest(parent)
    models = _produced(producer, parent, RATIOS, context)
    _expect(weights_digest(parent) == before, "the parent was changed; work on a copy")
    _check_ratios(producer, parent, models, within)
    digests = _digests(models)
    repeated = _produced(producer, parent, RATIOS, context)
    _expect(_digests(repeated) == digests, "the same seed gave other weights")
    first = _reloaded(plugin, models[0])
    interrupted = replace(context, previous=first, initial_history=history(first) or ())
    resumed = _produced(producer, parent, RATIOS[1:], interrupted)
    _expect(_digests(resumed) == digests[1:], "going on from a saved candidate gave other weights")


def check_evaluator(evaluator: Evaluator, *, architecture: str = "small-cnn") -> None:
    """Checks that an evaluator yields what it declares, the same every time, whatever ran before it.

    Of one that is `image_by_image`, that the evidence of an image is its own.

    The values of an evaluator that reads a clock (`measures_time`) may differ; their names and counts may not.

    Args:
        evaluator: The evaluator to check.
        architecture: Registered model to test.

    Raises:
        ContractError: Otherwise.
    """
    _, model = _trained(architecture, Digits())  # trained enough for a temperature
    image_source = _image_source()
    names = [metric.name for metric in evaluator.metrics]
    _expect(bool(names) and len(set(names)) == len(names), f"metrics {names}: none, or one twice")
    _expect(len(set(evaluator.needs)) == len(evaluator.needs), "an image set is in its needs twice")
    scores = scored(evaluator, Bench(model, image_source))
    _check_declared(evaluator, scores, image_source)
    shared = Bench(model, image_source)
    shared.request_features(evaluator.features)
    for view in reversed(evaluator.needs):
        shared.outputs(view)
    after_others = scored(evaluator, shared)
    compared = _names if evaluator.measures_time else _numbers
    _expect(compared(scores) == compared(after_others), "the scores depend on what was computed before")
    _expect(set(shared.passes.values()) <= {1}, "an image set went through the model twice")
    if evaluator.image_by_image:
        _check_image_by_image(evaluator, model, image_source)


def _check_ratios(producer: Producer, parent: nn.Module, models: list[nn.Module], within: float) -> None:
    """Checks that there is a model for each of `RATIOS`, with that ratio and no empty layer."""
    _expect(len(models) == len(RATIOS), f"{len(models)} models for {len(RATIOS)} ratios")
    cost = weight_cost(parent, producer.axis)
    measured = [1 - weight_cost(model, producer.axis) / cost for model in models]
    targets = [0.0] * len(RATIOS) if producer.dense else RATIOS
    for target, ratio, model in zip(targets, measured, models, strict=True):
        off = abs(ratio - target)
        _expect(off <= within, f"ratio {ratio:.4f} at target {target}, it may be {within} off")
        for name, weight in prunable_parameters(model).items():
            _expect(bool(weight.any()), f"layer {name} is empty at ratio {target}")
    rising = producer.dense or all(low < high for low, high in pairwise(measured))
    _expect(rising, f"measured ratios do not rise: {measured}")


def _check_image_by_image(evaluator: Evaluator, model: nn.Module, image_source: ImageSource) -> None:
    """Checks that the evidence of an image does not depend on the images after it."""
    _expect(
        all(map(is_staged_view, evaluator.needs)), "image_by_image, but it needs more than the test images"
    )
    rows = np.arange(len(image_source.images(View()).images))
    first, every = (
        {
            (score.metric, score.condition, name): values
            for score in scored(evaluator, Bench(model, StageSource(image_source, some, 0)))
            for name, values in score.evidence.items()
        }
        for some in (rows[: len(rows) // 2], rows)
    )
    for place, values in first.items():
        same = place in every and np.allclose(values, every[place][: len(values)], rtol=1e-4, atol=1e-5)
        _expect(
            same, f"image_by_image, but {place[0]} on {place[1]} of an image depends on the images after it"
        )


def _check_declared(evaluator: Evaluator, scores: tuple[Score, ...], image_source: ImageSource) -> None:
    """Checks that every score is on a condition that the evaluator declares, if it declares them."""
    declared = evaluator.conditions(DataSummary.of(image_source.images(View()), image_source.condition))
    if declared is None:
        return
    names = set(declared)
    for score in scores:
        condition = Condition(score.metric, score.condition, score.group)
        _expect(condition in names, f"a score is on {condition}, which its conditions do not name")


def _produced(
    producer: Producer, parent: nn.Module, ratios: Sequence[float], context: Context
) -> list[nn.Module]:
    """Copies of what is yielded, since a producer may go on with the same object."""
    unused = replace(context)  # without a record of earlier trainings
    return [copy.deepcopy(model) for model in producer.produce(parent, ratios, unused)]


def _digests(models: list[nn.Module]) -> list[str]:
    return [weights_digest(model) for model in models]


def _reloaded(plugin: Architecture, model: nn.Module) -> nn.Module:
    """The model, saved and loaded again, which must not change its outputs."""
    settings = to_settings(plugin)
    images = _image_source().images(View()).images
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "candidate.safetensors")
        save_model(model, settings, path)
        loaded = load_model(settings, path)
    equal = np.array_equal(logits(model, images), logits(loaded, images))
    _expect(equal, "saving and loading changed the outputs")
    return loaded


@cache
def _image_source() -> ImageSource:
    return ImageSource(FewDigits(), Place())


@cache
def _trained(architecture: str | Architecture, data: DataSet) -> tuple[Architecture, nn.Module]:
    """An architecture and its network after one epoch of training, in evaluation mode."""
    plugin = MODELS.get(architecture)() if isinstance(architecture, str) else architecture
    origin = Origin(plugin, 0, RECIPE)
    return plugin, origin.rewound(RECIPE.epochs, load_checked(data, "train", Place()))


def _numbers(scores: tuple[Score, ...]) -> list[tuple[str, str, float | None, int | None]]:
    return [(score.metric, score.condition, score.value, score.n) for score in scores]


def _names(scores: tuple[Score, ...]) -> list[tuple[str, str, int | None]]:
    return [(score.metric, score.condition, score.n) for score in scores]


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)
