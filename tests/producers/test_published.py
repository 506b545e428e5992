"""The four methods of "Lost in Pruning" beside the published implementation, on the published ResNet-20 and CIFAR-10.

The numbers are of lucaslie/torchprune v2.2.0, one-shot at ratio .5 without retraining, on other training images: counts
that depend on data agree to a few per cent, and accuracies to a few points.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from evalsuite.models.architectures.resnet import ResNet20
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.cost import count_nonzero, prunable_layers
from evalsuite.models.inference import logits
from evalsuite.producers import PRODUCERS
from evalsuite.producers.base import Context
from evalsuite.training.recipe import Recipe
from evalsuite.types import Array, ImageSet

ROOT = os.environ.get("EVALSUITE_DATA", "")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not ROOT, reason="EVALSUITE_DATA is not set: no real images and checkpoints"),
]

SIPP = [378, 1268, 1347, 1476, 1743, 1264, 1620, 3501, 5388, 4555]
SIPP += [6110, 5286, 6207, 10814, 16665, 14035, 16584, 15225, 19597, 587]
FT = [10] * 7 + [21] * 6 + [42, 42, 41, 42, 41, 36, 10]
PFP = [3, 10, 12, 10, 14, 11, 14, 11, 23, 16, 28, 18, 30, 19, 38, 31, 45, 39, 55, 23]


def array(name: str, count: int) -> Array:
    stored: Array = np.load(Path(ROOT) / "cifar10" / f"{name}.npy", mmap_mode="r")[:count]
    return np.ascontiguousarray(stored.transpose(0, 3, 1, 2) if stored.ndim == 4 else stored)


@pytest.fixture(scope="module")
def parent() -> nn.Module:
    architecture = ResNet20(shortcut="A", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    file = Path(ROOT) / "checkpoints" / "akamaster" / "resnet20-12fca82f.th"
    return load_candidate(file, architecture, image_shape=(3, 32, 32))


def weights_per_layer(model: nn.Module) -> list[int]:
    return [int(layer.get_parameter("weight").count_nonzero()) for layer in prunable_layers(model).values()]


def channels_per_layer(model: nn.Module, side: int) -> list[int]:
    weights = (layer.get_parameter("weight").detach() for layer in prunable_layers(model).values())
    return [int(weight.movedim(side, 0).flatten(1).any(1).sum()) for weight in weights]


@pytest.mark.parametrize(
    ("method", "settings", "accuracy"),
    [
        ("magnitude", {"propagate": True}, 0.9035),
        ("sipp", {"propagate": True, "images": 183}, 0.767),
        ("filter-l1", {"scope": "all"}, 0.355),
        ("pfp", {"scope": "all", "images": 183}, 0.175),
    ],
)
def test_presets_prune_as_the_published_code(
    method: str, settings: dict[str, Any], accuracy: float, parent: nn.Module, fits: list[dict[str, Any]]
) -> None:
    train = ImageSet("cifar10", array("train_images", 2000), array("train_labels", 2000), 10)
    producer = PRODUCERS.get(method)(**settings)
    (model,) = producer.produce(parent, [0.5], Context(train, Recipe(), seed=0))
    assert len(fits) == 1
    assert 1 - count_nonzero(model) / count_nonzero(parent) == pytest.approx(0.5, abs=0.005)
    predictions = logits(model, array("test_images", 2000)).argmax(1)
    assert float((predictions == array("test_labels", 2000)).mean()) == pytest.approx(accuracy, abs=0.05)
    if method == "sipp":
        np.testing.assert_allclose(weights_per_layer(model), SIPP, rtol=0.15)
    if method == "filter-l1":
        np.testing.assert_allclose(channels_per_layer(model, 0), FT, atol=3)
    if method == "pfp":
        np.testing.assert_allclose(channels_per_layer(model, 1), PFP, atol=2)
