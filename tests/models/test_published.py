"""Published checkpoints on the real test images: the clean accuracy to the digit that their source states."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from evalsuite.errors import CheckpointError
from evalsuite.models.architecture import assemble, from_settings
from evalsuite.models.checkpoints import load_weights, read_weights
from evalsuite.models.forward import logits
from evalsuite.models.resizing import resize_to
from evalsuite.models.saving import load, save

if TYPE_CHECKING:
    from evalsuite.records import Array

ROOT = os.environ.get("EVALSUITE_DATA", "")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not ROOT, reason="EVALSUITE_DATA is not set: no real images and checkpoints"),
]

IMAGENET: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF: dict[str, Any] = {"shortcut": "B", "mean": [0.5] * 3, "std": [0.5] * 3}
CIFAR: dict[str, Any] = {"std": [0.2471, 0.2435, 0.2616]}

PUBLISHED: list[tuple[str, str, dict[str, Any], float]] = [
    ("akamaster/resnet20-12fca82f.th", "resnet20", IMAGENET, 91.73),
    ("akamaster/resnet32-d509ac18.th", "resnet32", IMAGENET, 92.63),
    ("akamaster/resnet44-014dd654.th", "resnet44", IMAGENET, 93.11),
    ("akamaster/resnet56-4bfd9763.th", "resnet56", IMAGENET, 93.39),
    ("seeds/resnet20_seed1.th", "resnet20", IMAGENET, 92.50),
    ("seeds/resnet20_seed2.th", "resnet20", IMAGENET, 92.22),
    ("seeds/resnet20_seed3.th", "resnet20", IMAGENET, 92.70),
    ("seeds/resnet20_seed4.th", "resnet20", IMAGENET, 92.39),
    ("distiller/checkpoint_trained_dense.pth.tar", "resnet20", HALF, 91.71),
    ("distiller/checkpoint_trained_ch_regularized_dense.pth.tar", "resnet20", HALF, 90.82),
    ("distiller/channel_regularized_resnet20_state_dict.pt", "resnet20", HALF, 91.15),
    ("distiller/channel_regularized_resnet20_finetuned_state_dict.pt", "resnet20", HALF, 91.54),
    ("crown/resnet2b.pth", "resnet2b", CIFAR, 69.25),
    ("crown/resnet4b.pth", "resnet4b", CIFAR, 77.20),
]


@pytest.fixture(scope="module")
def images() -> Array:
    mapped: Array = np.load(Path(ROOT) / "cifar10" / "test_images.npy", mmap_mode="r")
    return mapped.transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def labels() -> Array:
    stored: Array = np.load(Path(ROOT) / "cifar10" / "test_labels.npy")
    return stored


def checkpoint(name: str) -> Path:
    path = Path(ROOT) / "checkpoints" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.parametrize(
    ("file", "name", "settings", "accuracy"), PUBLISHED, ids=[row[0] for row in PUBLISHED]
)
def test_clean_accuracy_is_the_published_one(
    images: Array, labels: Array, file: str, name: str, settings: dict[str, Any], accuracy: float
) -> None:
    weights = read_weights(checkpoint(file))
    model = assemble(from_settings({"name": name, **settings}))
    resize_to(model, weights)
    load_weights(model, weights)
    right = (logits(model, images).argmax(1) == labels).sum()
    assert right == round(accuracy * len(labels) / 100)


def test_a_shrunk_checkpoint_of_another_tool_is_saved_and_loaded(images: Array, tmp_path: Path) -> None:
    settings = {"name": "resnet20", **HALF}
    weights = read_weights(checkpoint("distiller/channel_regularized_resnet20_state_dict.pt"))
    model = assemble(from_settings(settings))
    resize_to(model, weights)
    load_weights(model, weights)
    save(model, settings, tmp_path / "weights.safetensors")
    again = load(settings, tmp_path / "weights.safetensors")
    assert again.get_parameter("network.layer1.0.conv1.weight").shape[0] == 11
    assert np.array_equal(logits(again, images[:256]), logits(model, images[:256]))


@pytest.mark.parametrize("suffix", ["", "_finetuned"])
def test_a_pickled_class_is_refused_by_name(suffix: str) -> None:
    path = checkpoint(f"distiller/checkpoint_trained_channel_regularized_resnet20{suffix}.pth.tar")
    with pytest.raises(CheckpointError, match=r"wants to run distiller\.thinning\.ThinningRecipe"):
        read_weights(path)
