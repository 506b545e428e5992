"""Our networks against the same networks in other people's code, with the same weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.densenet import _DenseBlock, _Transition

from evalsuite.compat.calls import quiet_imports
from evalsuite.compat.robustbench import robustbench
from evalsuite.models.architectures.base import unwrap_model

Build = Callable[..., nn.Module]


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 2), (22, 1)])
def test_wide_network_is_that_of_robustbench(build: Build, depth: int, width: int) -> None:
    robustbench()
    with quiet_imports():
        from robustbench.model_zoo.architectures.wide_resnet import WideResNet
    ours = unwrap_model(build("wide-resnet", depth=depth, width=width, classes=7))
    theirs = WideResNet(depth=depth, num_classes=7, widen_factor=width, sub_block1=False).eval()
    names = {
        name.replace("block", "layer").replace(".layer.", ".").replace("convShortcut", "shortcut.0"): name
        for name in theirs.state_dict()
    }
    names = {name.replace("fc.", "linear."): other for name, other in names.items()}
    theirs.load_state_dict({names[name]: tensor for name, tensor in ours.state_dict().items()})
    images = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("depth", [16, 19])
def test_vgg_features_are_those_of_torchvision(build: Build, depth: int) -> None:
    ours = unwrap_model(build(f"vgg{depth}-bn"))
    theirs = models.get_model(f"vgg{depth}_bn", init_weights=False).eval().features
    theirs.load_state_dict(ours.get_submodule("features").state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        maps = theirs(images)
        assert maps.shape == (2, 512, 1, 1)
        expected = functional.linear(
            maps.flatten(1), ours.get_parameter("classifier.weight"), ours.get_parameter("classifier.bias")
        )
        torch.testing.assert_close(ours(images), expected)


def renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    return {
        f"{prefix}{names[layer]}.{part}": tensor
        for name, tensor in weights.items()
        for prefix, layer, part in [split(name)]
    }


def split(name: str) -> tuple[str, str, str]:
    *place, layer, part = name.split(".")
    return "".join(f"denselayer{int(number) + 1}." for number in place), layer, part


def test_dense_stages_and_transitions_are_those_of_torchvision(build: Build) -> None:
    ours = unwrap_model(build("densenet22"))
    maps = torch.rand(2, 24, 8, 8)
    stage = _DenseBlock(num_layers=3, num_input_features=24, bn_size=4, growth_rate=12, drop_rate=0).eval()
    same = {"bn1": "norm1", "conv1": "conv1", "bn2": "norm2", "conv2": "conv2"}
    stage.load_state_dict(renamed(dict(ours.get_submodule("dense1").state_dict()), same))
    transition = _Transition(60, 30).eval()
    inner = {"bn1": "norm", "conv1": "conv"}
    transition.load_state_dict(renamed(dict(ours.get_submodule("trans1").state_dict()), inner))
    with torch.inference_mode():
        grown = stage(maps)
        torch.testing.assert_close(ours.get_submodule("dense1")(maps), grown)
        torch.testing.assert_close(ours.get_submodule("trans1")(grown), transition(grown))


def test_bottlenecks_activate_before_they_convolve(build: Build) -> None:
    network = unwrap_model(build("preresnet", depth=20, selection=False))
    for name, stride in (("layer1.0", 1), ("layer1.1", 1), ("layer2.0", 2)):
        block = network.get_submodule(name)
        before = block.get_parameter("conv1.weight").shape[1]
        maps = torch.randn(2, before, 8, 8)

        def convolved(layer: str, inputs: Tensor, stride: int = 1, block: nn.Module = block) -> Tensor:
            weight = block.get_parameter(f"{layer}.weight")
            return functional.conv2d(inputs, weight, stride=stride, padding=weight.shape[2] // 2)

        def active(layer: str, inputs: Tensor, block: nn.Module = block) -> Tensor:
            norm = block.get_submodule(layer)
            scale = norm.get_parameter("weight") / (norm.get_buffer("running_var") + 1e-5).sqrt()
            shift = norm.get_parameter("bias") - norm.get_buffer("running_mean") * scale
            return (inputs * scale[:, None, None] + shift[:, None, None]).clamp(min=0)

        with torch.inference_mode():
            inner = convolved("conv1", active("bn1", maps))
            inner = convolved("conv2", active("bn2", inner), stride)
            inner = convolved("conv3", active("bn3", inner))
            beside = maps if name.endswith("1") else convolved("downsample.0", maps, stride)
            torch.testing.assert_close(block(maps), inner + beside, rtol=1e-4, atol=1e-4)
