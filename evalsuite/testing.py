"""Conformance checks that authors of plug-ins run on their own: each raises `ContractError` with one sentence.

They work on a few of scikit-learn's digits and a network that has hardly learned, take seconds and need no
data.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evalsuite.datasets.base import DataSet, Place, load_checked
from evalsuite.datasets.digits import Digits
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import ContractError
from evalsuite.evaluation import Bench
from evalsuite.evaluators.base import Evaluator
from evalsuite.execution.measuring import scored
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import Architecture, to_settings
from evalsuite.models.checkpoints.saving import load, save
from evalsuite.models.cost import counted, prunable, weights_digest
from evalsuite.models.inference import logits
from evalsuite.producers.base import Context, Producer
from evalsuite.training.history import history
from evalsuite.training.origin import Origin
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet, Score, Split

RATIOS = (0.4, 0.7, 0.9)
RECIPE = Recipe(epochs=1, batch_size=32, learning_rate=0.05)
TRAINED_ON = (
    64  # images: two steps per retraining show whether masks hold, and a ResNet-20 takes half a second
)
TESTED_ON = 96  # images: more than one batch and one block of random draws
PROBED = 8


@dataclass(frozen=True)
class FewDigits(DataSet):
    """The first digits of each split: enough to see whether a plug-in keeps its contract.

    Attributes:
        side: Height and width, at most 32.
    """

    side: int = 32

    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns uint8 (N, 3, side, side) of all ten classes."""
        whole = Digits().load(split, place)
        rows = slice(0, TRAINED_ON if split == "train" else TESTED_ON)
        labels = None if whole.labels is None else whole.labels[rows]
        places = np.arange(self.side) * whole.images.shape[-1] // self.side
        return replace(whole, images=whole.images[rows][:, :, places][..., places], labels=labels)


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
    images = np.random.default_rng(0).integers(0, 256, (PROBED, 3, side, side), dtype=np.uint8)
    first, second = (logits(model, images, batch_size=PROBED) for _ in range(2))
    _expect(first.shape == (PROBED, classes), f"logits of shape {first.shape}, expected {(PROBED, classes)}")
    _expect(np.array_equal(first, second), "two forward passes over the same images differ")
    probe = torch.from_numpy(images).float().div(255).requires_grad_()
    model.eval()(probe).square().sum().backward()
    slope = probe.grad
    _expect(
        slope is not None and bool(slope.abs().sum() > 0),
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
        producer: What to check.
        architecture: What to prune: a registered model with its settings, or the name of one.
        within: How far a measured ratio may be from its target.
        side: Height and width of the images, at most 32: a deep network is checked sooner on small ones.

    Raises:
        ContractError: Otherwise.
    """
    plugin, parent = _parent(architecture, FewDigits(side))
    images = load_checked(FewDigits(side), "train", Place())
    before = weights_digest(parent)
    origin = Origin(plugin, 0, RECIPE)
    make = partial(_trail, producer, parent, origin=origin, images=images)
    trail = make(RATIOS)
    _expect(weights_digest(parent) == before, "the parent was changed; work on a copy")
    _expect(len(trail) == len(RATIOS), f"{len(trail)} models for {len(RATIOS)} ratios")
    whole = counted(parent, producer.axis)
    measured = [1 - counted(model, producer.axis) / whole for model in trail]
    targets = [0.0] * len(RATIOS) if producer.dense else RATIOS
    for target, ratio, model in zip(targets, measured, trail, strict=True):
        _expect(
            abs(ratio - target) <= within, f"ratio {ratio:.4f} at target {target}, it may be {within} off"
        )
        for name, layer in prunable(model).items():
            _expect(bool(layer.get_parameter("weight").any()), f"layer {name} is empty at ratio {target}")
    rise = producer.dense or all(low < high for low, high in pairwise(measured))
    _expect(rise, f"measured ratios do not rise: {measured}")
    again = _digests(make(RATIOS))
    _expect(again == _digests(trail), "the same seed gave other weights")
    resumed = make(RATIOS[1:], previous=_reloaded(plugin, trail[0]))
    _expect(_digests(resumed) == _digests(trail[1:]), "going on from a saved candidate gave other weights")


def check_evaluator(evaluator: Evaluator, *, architecture: str = "small-cnn") -> None:
    """Checks that an evaluator yields what it declares, the same every time, whatever ran before it.

    The numbers of one that reads a clock (`measures_time`) may differ; what they are of and how many there are may not.

    Args:
        evaluator: What to check.
        architecture: Registered model to test.

    Raises:
        ContractError: Otherwise.
    """
    _, parent = _parent(architecture, Digits())  # it knows enough for a temperature
    image_source = _image_source()
    names = [metric.name for metric in evaluator.metrics]
    _expect(bool(names) and len(set(names)) == len(names), f"metrics {names}: none, or one twice")
    _expect(len(set(evaluator.needs)) == len(evaluator.needs), "an image set is in its needs twice")
    alone = scored(evaluator, Bench(parent, image_source))
    shared = Bench(parent, image_source)
    shared.request_features(evaluator.features)
    for view in reversed(evaluator.needs):
        shared.outputs(view)
    after = scored(evaluator, shared)
    told = _names if evaluator.measures_time else _plain
    _expect(told(alone) == told(after), "the scores depend on what was computed before")
    _expect(set(shared.passes.values()) <= {1}, "an image set went through the model twice")


def _trail(
    producer: Producer,
    parent: nn.Module,
    ratios: tuple[float, ...],
    *,
    origin: Origin,
    images: ImageSet,
    previous: nn.Module | None = None,
) -> list[nn.Module]:
    """Copies of what is yielded: a producer may go on with the same object."""
    context = Context(
        images,
        RECIPE,
        seed=0,
        previous=previous,
        origin=origin,
        lineage=history(parent if previous is None else previous) or (),
    )
    return [copy.deepcopy(model) for model in producer.produce(parent, ratios, context)]


def _digests(models: list[nn.Module]) -> list[str]:
    return [weights_digest(model) for model in models]


def _reloaded(plugin: Architecture, model: nn.Module) -> nn.Module:
    """The model after a trip to disk, which must not change what it says."""
    settings = to_settings(plugin)
    images = _image_source().images(View()).images
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "candidate.safetensors")
        save(model, settings, path)
        again = load(settings, path)
    _expect(
        np.array_equal(logits(model, images), logits(again, images)), "saving and loading changed the outputs"
    )
    return again


@cache
def _image_source() -> ImageSource:
    return ImageSource(FewDigits(), Place())


@cache
def _parent(architecture: str | Architecture, data: DataSet) -> tuple[Architecture, nn.Module]:
    """A network that has learned a little, in evaluation mode."""
    plugin = MODELS.get(architecture)() if isinstance(architecture, str) else architecture
    origin = Origin(plugin, 0, RECIPE)
    return plugin, origin.rewound(RECIPE.epochs, load_checked(data, "train", Place()))


def _plain(scores: tuple[Score, ...]) -> list[tuple[str, str, float | None, int | None]]:
    return [(score.metric, score.condition, score.value, score.n) for score in scores]


def _names(scores: tuple[Score, ...]) -> list[tuple[str, str, int | None]]:
    return [(score.metric, score.condition, score.n) for score in scores]


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ContractError(otherwise)
