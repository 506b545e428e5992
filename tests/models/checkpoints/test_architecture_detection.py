from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models import MODELS
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.models.checkpoints.architecture_detection import (
    VARIANTS,
    detect_architecture,
    fitting_architectures,
    nearest_architectures,
    tensor_shapes,
)
from evalsuite.models.checkpoints.torchvision_table import registered_modules, torchvision_modules
from evalsuite.models.surgery.channel_removal import channel_groups, remove_channels

Build = Callable[..., nn.Module]

KNOWN: list[tuple[str, dict[str, Any]]] = [
    ("resnet20", {}),
    ("resnet56", {"shortcut": "B"}),
    ("vgg16-bn", {"bias": False}),
    ("wide-resnet", {"depth": 16, "width": 8}),
    ("wide-resnet", {"depth": 40, "width": 2}),
    ("densenet22", {}),
    ("densenet40", {}),
    ("bottleneck-resnet56", {}),
    ("lenet-5", {}),
    ("preresnet", {"depth": 29, "selection": True}),
    ("preresnet", {"depth": 29, "selection": False}),
    ("resnet4b", {}),
    ("small-cnn", {}),
    ("torchvision:resnet18", {}),
    ("torchvision:resnet34", {}),
    ("torchvision:mobilenet_v2", {}),
    ("torchvision:squeezenet1_1", {}),
    ("torchvision:regnet_y_400mf", {}),
]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(unwrap_model(model).state_dict())


def meta_tensors(reference: str, classes: int) -> dict[str, Tensor]:
    """Tensors of the right shapes that take no memory."""
    return {
        name: torch.empty([classes if side == 1009 else side for side in shape], device="meta")
        for name, shape in tensor_shapes(reference).items()
    }


@pytest.mark.parametrize(("reference", "settings"), KNOWN, ids=str)
def test_every_network_is_detected_by_its_tensors(
    build: Build, reference: str, settings: dict[str, Any]
) -> None:
    fit = detect_architecture(tensors(build(reference, classes=13, **settings)))
    assert (fit.uri, fit.is_smaller) == (reference, False)
    assert fit.settings == {**settings, "classes": 13}
    assert fit.architecture.classes == 13


@pytest.mark.parametrize(
    "name", ["resnet50", "wide_resnet50_2", "resnext50_32x4d", "vit_h_14", "densenet121"]
)
def test_members_of_a_family_are_distinguished_without_memory(name: str) -> None:
    fits = fitting_architectures(meta_tensors(f"torchvision:{name}", 1000))
    assert (fits[0].uri, fits[0].is_smaller) == (f"torchvision:{name}", False)
    assert fits[0].settings == {"classes": 1000}


def test_numbers_of_the_training_are_no_other_architecture(build: Build) -> None:
    weights = tensors(build("resnet20", shortcut="B"))
    beside = {"epoch": torch.tensor(3), "val_acc_best.value": torch.tensor(0.9), "__flops__": torch.tensor(1)}
    assert detect_architecture({**weights, **beside}).settings == {"shortcut": "B", "classes": 10}


def test_what_weights_cannot_tell_is_said(build: Build) -> None:
    """Option A of He et al. 2015 and average pooling with zero-padding have the same tensors, namely none."""
    without_parameters = detect_architecture(tensors(build("resnet20"))).doubt
    assert (
        "such as shortcuts of average pooling in place of option A, may be other ones" in without_parameters
    )
    projections = detect_architecture(tensors(build("resnet20", shortcut="B"))).doubt
    assert "guessed from names and shapes of the tensors" in projections
    assert "option A" not in projections


def test_other_names_of_head_and_shortcut_and_missing_counters_are_forgiven(build: Build) -> None:
    weights = {
        name.replace("linear", "fc").replace("shortcut", "downsample"): tensor
        for name, tensor in tensors(build("resnet20", shortcut="B")).items()
        if "num_batches_tracked" not in name
    }
    assert detect_architecture(weights).settings == {"shortcut": "B", "classes": 10}


@pytest.mark.parametrize("reference", ["resnet20", "vgg16-bn", "torchvision:resnet18"])
def test_fewer_channels_are_a_smaller_network(build: Build, reference: str) -> None:
    model = build(reference)
    keep = {group.conv: torch.arange(0, group.channels, 2) for group in channel_groups(model)}
    fit = detect_architecture(tensors(remove_channels(model, keep)))
    assert (fit.uri, fit.is_smaller) == (reference, True)
    assert fit.architecture.classes == 10


def test_groups_distinguish_smaller_members_of_a_family(
    build: Build, torch_pruned: Callable[..., None]
) -> None:
    model = build("torchvision:resnext50_32x4d")
    torch_pruned(unwrap_model(model), 10, shared=False, ratio=0.5)
    assert len(fitting_architectures(tensors(model))) > 1
    assert detect_architecture(tensors(model)).uri == "torchvision:resnext50_32x4d"


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.update({"conv1.weight": torch.zeros(16, 3, 5, 5)}),
        lambda w: w.update({"conv1.weight": torch.zeros(16, 3, 1, 1)}),
        lambda w: w.update({"conv1.weight": torch.zeros(17, 3, 3, 3)}),
        lambda w: w.update({"conv1.weight": torch.zeros(0, 3, 3, 3)}),
        lambda w: w.update({"conv1.weight": torch.zeros(16, 3, 3)}),
        lambda w: w.update({"linear.bias": torch.zeros(9)}),
        lambda w: w.pop("bn1.bias"),
        lambda w: w.update({"extra": torch.zeros(1)}),
    ],
)
def test_weights_that_fit_nothing_are_refused_with_the_nearest(
    build: Build, change: Callable[[dict[str, Tensor]], object]
) -> None:
    weights = tensors(build("resnet20"))
    change(weights)
    with pytest.raises(
        CheckpointError, match=r"fit no architecture .*nearest: resnet20 \(\d+% of the names .*name the arch"
    ):
        detect_architecture(weights)


def test_the_nearest_are_those_with_the_most_common_names(build: Build) -> None:
    weights = tensors(build("torchvision:resnet18"))
    del weights["fc.bias"]
    names, shares = zip(*nearest_architectures(weights), strict=True)
    assert names[0] == "torchvision:resnet18"
    assert shares[0] == 101 / 102  # 20 convolutions, 20 norms of four tensors, weight and bias of the head
    assert list(shares) == sorted(shares, reverse=True)
    with pytest.raises(CheckpointError, match="torchvision or timm knows; name the architecture"):
        detect_architecture({"strange": torch.zeros(3)})


def test_two_fitting_architectures_are_both_named(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Twin(SmallCNN):
        """Another network of the same shapes."""

    @dataclass(frozen=True, kw_only=True)
    class Demanding(SmallCNN):
        """A network that cannot be built without a setting, so it is never detected."""

        origin: str

    monkeypatch.setattr(MODELS, "_loaded", {**MODELS._loaded, "twin": Twin, "demanding": Demanding})
    with pytest.raises(CheckpointError, match="fit several known architectures: small-cnn, twin; name one"):
        detect_architecture(tensors(build("small-cnn")))
    shrunk = tensors(build("small-cnn", widths=[4, 5, 6, 7]))
    with pytest.raises(CheckpointError, match="small-cnn, twin; name one"):
        detect_architecture(shrunk)


def test_detection_draws_no_random_numbers(build: Build) -> None:
    weights = tensors(build("small-cnn"))
    state = torch.random.get_rng_state()
    tensor_shapes.cache_clear()
    assert detect_architecture(weights).uri == "small-cnn"
    assert torch.equal(torch.random.get_rng_state(), state)


def test_shapes_take_no_memory_for_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[nn.Module] = []
    original = SmallCNN.network

    def network(self: SmallCNN) -> nn.Module:
        built.append(original(self))
        return built[0]

    monkeypatch.setattr(SmallCNN, "network", network)
    tensor_shapes.cache_clear()
    assert tensor_shapes("small-cnn")["layer1.conv.weight"] == (48, 24, 3, 3)
    assert built[0].get_parameter("layer1.conv.weight").is_meta


def test_the_source_of_torchvision_registers_what_torchvision_lists() -> None:
    assert list(torchvision_modules().items()) == list(registered_modules().items())


@pytest.mark.extensive
def test_no_classifier_of_torchvision_has_the_tensors_of_one_of_ours() -> None:
    ours = {
        str(sorted(tensor_shapes(name, json.dumps(settings)).values()))
        for name, variants in VARIANTS.items()
        for settings in variants
    }
    theirs = {str(sorted(tensor_shapes(f"torchvision:{name}").values())) for name in torchvision_modules()}
    assert len(ours) > 20
    assert not ours & theirs


def test_a_network_of_ours_is_detected_without_importing_torchvision_and_the_compiler(
    build: Build, tmp_path: Path
) -> None:
    torch.save(tensors(build("resnet20")), tmp_path / "weights.pt")
    code = (
        "import sys, torch; from evalsuite.models.checkpoints.architecture_detection import detect_architecture\n"
        "print(detect_architecture(torch.load('weights.pt')).uri, {'torchvision', 'torch._dynamo'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert output == "resnet20 set()\n"
