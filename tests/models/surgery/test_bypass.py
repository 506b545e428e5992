from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError, InvalidModelError
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.architectures.resnet import ResNet20
from evalsuite.models.checkpoints.loading import load_candidate
from evalsuite.models.surgery.bypass import (
    BypassProbe,
    bypass_dead_layers,
    dead_layers,
    probe_bypass,
    with_bypass,
)

Build = Callable[..., nn.Module]
BLOCK = ("layer1.1.conv1", "layer1.1.bn1")


def killed(model: nn.Module, *names: str) -> nn.Module:
    with torch.no_grad():
        for name in names:
            unwrap_model(model).get_parameter(f"{name}.weight").zero_()
    return model


def test_dead_convolutions_are_found_with_their_norms(build: Build) -> None:
    assert dead_layers(build("resnet20")) == ()
    model = killed(build("resnet20"), "layer1.1.conv1", "layer3.2.conv2")
    assert dead_layers(model) == (*BLOCK, "layer3.2.conv2", "layer3.2.bn2")


def test_a_convolution_that_changes_the_shape_cannot_be_skipped(build: Build) -> None:
    strided = killed(build("resnet20", shortcut="B"), "layer2.0.conv1", "layer2.0.shortcut.0")
    assert dead_layers(strided) == ()
    shrinking = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3, padding=1, stride=2), nn.Flatten())
    assert dead_layers(killed(shrinking, "0", "1")) == ()
    for spread in (
        nn.Conv2d(3, 3, 3, padding=2, dilation=2),
        nn.Conv2d(3, 3, 5, padding="same"),
        nn.Conv2d(3, 3, 1),
    ):
        assert dead_layers(killed(nn.Sequential(spread), "0")) == ("0",)


def test_the_norm_of_a_convolution_that_others_read_is_kept() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            total: Tensor = self.bn(y) + y
            return total

    assert dead_layers(killed(Shared(), "conv")) == ("conv",)


def test_a_network_that_cannot_be_traced_is_refused_only_if_something_is_dead() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else x

    assert dead_layers(Branching()) == ()
    with pytest.raises(InvalidModelError, match="cannot be traced"):
        dead_layers(killed(Branching(), "conv"))


def test_skipping_needs_no_weights_of_what_is_skipped(build: Build) -> None:
    weights = dict(killed(build("resnet20"), "layer1.1.conv1").state_dict())
    architecture = bypass_dead_layers(weights, ResNet20())
    assert architecture == with_bypass(ResNet20(), BLOCK)
    model = load_candidate(weights, architecture, image_shape=(3, 32, 32))
    names = [name for name in unwrap_model(model).state_dict() if name.startswith("layer1.1.")]
    assert {name.split(".")[2] for name in names} == {"conv2", "bn2"}
    fewer = {
        name: tensor for name, tensor in weights.items() if not name.startswith(("network.layer1.1.conv1",))
    }
    again = load_candidate(fewer, architecture, image_shape=(3, 32, 32))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), again(images))
    with pytest.raises(CheckpointError, match=r"missing: layer1\.1\.conv1\.weight"):
        load_candidate(fewer, ResNet20(), image_shape=(3, 32, 32))


def test_skipping_twice_is_skipping_once() -> None:
    assert with_bypass(with_bypass(ResNet20(), BLOCK), (*BLOCK, "layer1.2.conv1")).bypass == (
        *BLOCK,
        "layer1.2.conv1",
    )


def test_probe_measures_both_networks(build: Build) -> None:
    weights = dict(killed(build("resnet20"), "layer1.1.conv1").state_dict())
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    skipped = load_candidate(weights, with_bypass(ResNet20(), BLOCK), image_shape=(3, 32, 32))
    with torch.inference_mode():
        logits = skipped(torch.from_numpy(images) / 255)
    labels = (logits - logits.mean(0)).argmax(1).numpy()
    weights["network.linear.bias"] = weights["network.linear.bias"] - logits.mean(0)  # no class for all
    probe = probe_bypass(weights, ResNet20(), images, labels)
    assert probe is not None
    assert (probe.layers, probe.skipped, probe.n) == (BLOCK, 1.0, 40)
    assert probe.kept < 1
    assert probe_bypass(build("resnet20").state_dict(), ResNet20(), images, labels) is None


def test_the_sentence_of_the_probe() -> None:
    sentence = BypassProbe(("a", "b"), kept=0.117, skipped=0.911, n=300).sentence
    assert "(a, b): accuracy on 300 images is 11.7% with them kept and 91.1% with them skipped" in sentence
    assert sentence.endswith("meant to be skipped")
    assert BypassProbe(("a",), kept=0.9, skipped=0.9, n=1).sentence.endswith("meant to be kept")
