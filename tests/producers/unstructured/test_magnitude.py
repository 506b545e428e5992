from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.models.cost import count_nonzero
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.base import (
    nonzero_budget,
    nonzero_masks,
    nonzero_per_layer,
    prunable_weights,
    weight_budget,
)
from evalsuite.producers.unstructured.magnitude import (
    Erk,
    GradientMagnitude,
    Lamp,
    Magnitude,
    MagnitudeLayerwise,
    UniformPlus,
)
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

Network = Callable[..., nn.Module]
RATIOS = (0.3, 0.6, 0.9)
FREE = {
    "layerwise": MagnitudeLayerwise(), "uniform+": UniformPlus(), "erk": Erk(), "lamp": Lamp(),
    "gradient": GradientMagnitude(images=16), "one-shot": Magnitude(schedule="one-shot"),
}  # fmt: skip


def produced(
    producer: Producer, parent: nn.Module, context: Context, ratios: Sequence[float] = RATIOS
) -> list[nn.Module]:
    return [copy.deepcopy(model) for model in producer.produce(parent, ratios, context)]


def linears(*rows: Sequence[Sequence[float]]) -> nn.Sequential:
    model = nn.Sequential(*(nn.Linear(len(matrix[0]), len(matrix), bias=False) for matrix in rows))
    for layer, matrix in zip(model, rows, strict=True):
        layer.weight.data = torch.tensor(matrix, dtype=torch.float32)
    return model


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("producer", FREE.values(), ids=FREE)
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_ratios_are_exact_and_masks_nested(
    network: Network, small_context: Context, producer: Producer, name: str
) -> None:
    parent = network(name)
    models = produced(producer, parent, small_context)
    for ratio, model in zip(RATIOS, models, strict=True):
        assert count_nonzero(model) == nonzero_budget(parent, ratio)
        assert min(nonzero_per_layer(model).values()) > 0
    for low, high in pairwise(map(nonzero_masks, models)):
        assert all(bool((low[layer] | ~high[layer]).all()) for layer in low)


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_every_layer_keeps_its_largest_weights(network: Network, small_context: Context, name: str) -> None:
    parent = network(name)
    (model,) = produced(MagnitudeLayerwise(), parent, small_context, (0.7,))
    keep = weight_budget(parent, nonzero_budget(parent, 0.7))
    density = keep / sum(nonzero_per_layer(parent).values())
    for layer, weight in prunable_weights(parent).items():
        values = weight.flatten().tolist()
        mask = nonzero_masks(model)[f"{layer}.weight"].flatten().tolist()
        count = sum(mask)
        assert abs(count - density * len(values)) < 1
        order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
        assert {i for i, stays in enumerate(mask) if stays} == set(order[:count])


def test_lamp_follows_the_formula(network: Network, small_context: Context) -> None:
    """Score of u: its square over the sum of the squares of all v that are not smaller."""
    for name, weight in prunable_weights(network("small-cnn")).items():
        scores = Lamp().scores(network("small-cnn"), small_context)[name].flatten().tolist()
        values = weight.flatten().tolist()
        order = sorted(range(len(values)), key=lambda i: (abs(values[i]), -i))
        for place in range(0, len(order), max(1, len(order) // 20)):
            below = sum(values[v] ** 2 for v in order[place:])
            assert scores[order[place]] == pytest.approx(values[order[place]] ** 2 / below, rel=1e-9)


def test_lamp_by_hand(few: ImageSet, quick: Recipe) -> None:
    model = linears([[3, -1, 2]], [[10], [-10]])
    scores = Lamp().scores(model, Context(few, quick, seed=0))
    assert scores["0"].flatten().tolist() == pytest.approx([1, 1 / 14, 4 / 13])
    assert scores["1"].flatten().tolist() == pytest.approx(
        [1, 1 / 2]
    )  # the earlier of two equal ones is larger
    masks = Lamp().masks(model, 3, Context(few, quick, seed=0))
    assert [mask.flatten().int().tolist() for mask in masks.values()] == [[1, 0, 0], [1, 1]]


def test_gradient_magnitude_by_hand(quick: Recipe) -> None:
    """One linear layer and one image: the gradient of the loss is (p - y) x."""
    model = nn.Sequential(nn.Flatten(), *linears([[1, 2, 0.5], [0, -1, 3]]))
    image = np.array([0.2, 0.4, 1.0], dtype=np.float32).reshape(1, 3, 1, 1)
    context = Context(ImageSet("one", image, np.array([1]), 2), quick, seed=0)
    scores = GradientMagnitude().scores(model, context)["1"]
    logits = (0.2 + 0.8 + 0.5, -0.4 + 3.0)
    p = math.exp(logits[0]) / sum(map(math.exp, logits))
    expected = [[1 * p * 0.2, 2 * p * 0.4, 0.5 * p], [0, 1 * p * 0.4, 3 * p]]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)
    assert scores.requires_grad is False


@pytest.mark.usefixtures("fits")
def test_one_shot_starts_from_the_parent(small_context: Context, small_parent: nn.Module) -> None:
    class Shifting(Magnitude):
        """Adds to what stays, as a retraining would."""

        def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
            masks = super().masks(model, keep, context)
            for weight in prunable_weights(model).values():
                weight.add_(1)
            return masks

    largest = max(float(weight.max()) for weight in prunable_weights(small_parent).values())
    for schedule, added in (("iterative", 2), ("one-shot", 1)):
        *_, last = produced(Shifting(schedule=schedule), small_parent, small_context, (0.3, 0.6))  # type: ignore[arg-type]  # one of both
        assert max(float(w.max()) for w in prunable_weights(last).values()) == pytest.approx(
            largest + added, rel=1e-5
        )
