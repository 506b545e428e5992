"""Published checkpoints on the real images: the accuracy to the digit that their source states."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.settings import to_settings
from evalsuite.models.architectures.uris import architecture_from_uri
from evalsuite.models.checkpoints.architecture_detection import detect_architecture
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.checkpoints.reading import read_weights
from evalsuite.models.checkpoints.saving import load_model, save_model
from evalsuite.models.inference import logits
from evalsuite.models.surgery.bypass import probe_bypass, with_bypass

if TYPE_CHECKING:
    from torch import nn

    from evalsuite.types import Array

ROOT = os.environ.get("EVALSUITE_DATA", "")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not ROOT, reason="EVALSUITE_DATA is not set: no real images and checkpoints"),
]

IMAGENET: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF: dict[str, Any] = {"shortcut": "B", "mean": [0.5] * 3, "std": [0.5] * 3}
CIFAR: dict[str, Any] = {"std": [0.2471, 0.2435, 0.2616]}
SLIMMED: dict[str, Any] = {"depth": 101, "std": [0.2023, 0.1994, 0.2010]}

REMOVED = "distiller/checkpoint_trained_4D_regularized_5Lremoved.pth.tar"
BYPASSED = "distiller/checkpoint_trained_4D_regularized_5Lremoved_finetuned.pth.tar"
DEAD = tuple(
    f"{block}.{layer}"
    for block, layers in (
        ("layer1.0", ("conv1", "bn1", "conv2", "bn2")),
        ("layer1.1", ("conv1", "bn1", "conv2", "bn2")),
        ("layer2.2", ("conv2", "bn2")),
    )
    for layer in layers
)

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
    (REMOVED, "resnet20", HALF, 90.73),
    (BYPASSED, "resnet20", {**HALF, "bypass": DEAD}, 91.10),
    ("crown/resnet2b.pth", "resnet2b", CIFAR, 69.25),
    ("crown/resnet4b.pth", "resnet4b", CIFAR, 77.20),
]


def array(name: str) -> Array:
    stored: Array = np.load(Path(ROOT) / "cifar10" / f"{name}.npy", mmap_mode="r")
    return stored.transpose(0, 3, 1, 2) if stored.ndim == 4 else stored


@pytest.fixture(scope="module")
def images() -> Array:
    return array("test_images")


@pytest.fixture(scope="module")
def labels() -> Array:
    return array("test_labels")


def checkpoint(name: str) -> Path:
    path = Path(ROOT) / "checkpoints" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def candidate(file: str, name: str, settings: dict[str, Any]) -> nn.Module:
    return load_candidate(checkpoint(file), architecture_from_uri(name, **settings), image_shape=(3, 32, 32))


@pytest.mark.slow
@pytest.mark.skipif("EVALSUITE_SLOW" not in os.environ, reason="EVALSUITE_SLOW is not set")
@pytest.mark.parametrize(
    ("file", "name", "settings", "accuracy"), PUBLISHED[1:4], ids=[row[0] for row in PUBLISHED[1:4]]
)  # the others are in tests/execution/check/test_check_published.py, through the commands
def test_clean_accuracy_is_the_published_one(
    images: Array, labels: Array, file: str, name: str, settings: dict[str, Any], accuracy: float
) -> None:
    right = (logits(candidate(file, name, settings), images).argmax(1) == labels).sum()
    assert right == round(accuracy * len(labels) / 100)


@pytest.mark.parametrize(
    ("file", "name", "settings"),
    [*(row[:3] for row in PUBLISHED), ("early_bird/pruned_50.pth.tar", "preresnet", SLIMMED)],
    ids=[*(row[0] for row in PUBLISHED), "early_bird"],
)
def test_the_architecture_is_detected(file: str, name: str, settings: dict[str, Any]) -> None:
    fit = detect_architecture(read_weights(checkpoint(file)))
    assert fit.uri == name
    assert fit.architecture.classes == 10
    for key in {"shortcut", "depth"} & settings.keys():
        assert getattr(fit.architecture, key) == settings[key]
    assert fit.is_smaller == ("state_dict" in file or "pruned_50" in file)


@pytest.mark.parametrize(("file", "better"), [(REMOVED, "kept"), (BYPASSED, "skipped")])
def test_the_probe_recommends_the_better_network(file: str, better: str) -> None:
    probe = probe_bypass(
        read_weights(checkpoint(file)),
        architecture_from_uri("resnet20", **HALF),
        array("train_images")[:300],
        array("train_labels")[:300],
    )
    assert probe is not None
    assert probe.layers == DEAD
    assert probe.sentence.endswith(f"they are probably meant to be {better}")
    assert abs(probe.skipped - probe.kept) > 0.5


def test_a_shrunk_and_a_bypassed_checkpoint_of_another_tool_are_saved_and_loaded(
    images: Array, tmp_path: Path
) -> None:
    shrunk = "distiller/channel_regularized_resnet20_state_dict.pt"
    bare = architecture_from_uri("resnet20", **HALF)
    for file, chosen in ((shrunk, bare), (BYPASSED, with_bypass(bare, DEAD))):
        model = load_candidate(checkpoint(file), chosen, image_shape=(3, 32, 32))
        table = to_settings(chosen)
        save_model(model, table, tmp_path / "weights.safetensors")
        again = load_model(table, tmp_path / "weights.safetensors")
        assert np.array_equal(logits(again, images[:256]), logits(model, images[:256]))
        names = dict(again.named_parameters())
        if file == shrunk:
            assert names["network.layer1.0.conv1.weight"].shape[0] == 11
        else:
            assert "network.layer1.0.conv1.weight" not in names


@pytest.mark.parametrize("suffix", ["", "_finetuned"])
def test_a_pickled_class_is_refused_by_name(suffix: str) -> None:
    path = checkpoint(f"distiller/checkpoint_trained_channel_regularized_resnet20{suffix}.pth.tar")
    with pytest.raises(CheckpointError, match=r"would run distiller\.thinning\.ThinningRecipe"):
        read_weights(path)
