from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evalsuite.models import MODELS
from evalsuite.models.checkpoints.saving import save_model
from evalsuite.models.cost import cost, count_nonzero, prunable_layers, weights_digest
from evalsuite.types import Cost

if TYPE_CHECKING:
    from pathlib import Path

Build = Callable[..., nn.Module]


ELSEWHERE = {"hf", "python", "robustbench", "timm", "torchvision"}  # they need a name of their own
REFERENCES = [*sorted(set(MODELS) - ELSEWHERE - {"resnet110"}), "torchvision:mobilenet_v2", "timm:resnet10t"]


@pytest.mark.parametrize("name", REFERENCES)
def test_macs_agree_with_torch(build: Build, name: str) -> None:
    model = build(name)
    shape = (1, 28, 28) if name == "lenet-300-100" else (3, 32, 32)  # whose first layer fixes the size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape))
    macs = cost(model, shape).macs
    assert macs is not None
    assert 2 * macs == counter.get_total_flops()


def test_published_macs(build: Build) -> None:
    stage = 6 * 9 * 16**2 * 32**2  # the same in each: half the side, twice the channels
    first = 9 * 3 * 16 * 32**2
    plain = first + stage + 2 * (stage * 11 // 12) + 64 * 10
    assert cost(build("resnet20"), (3, 32, 32)).macs == plain == 40_551_040
    assert cost(build("resnet20", shortcut="B"), (3, 32, 32)).macs == pytest.approx(40.8e6, rel=0.001)
    assert cost(build("resnet56", shortcut="B"), (3, 32, 32)).macs == pytest.approx(125.7e6, rel=0.001)
    assert cost(build("small-cnn"), (3, 32, 32)).macs == pytest.approx(1.75e6, rel=0.15)


def test_worked_example() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(3, 3, 1, groups=3, bias=False),
        nn.Flatten(),
        nn.Linear(3 * 16, 2),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
        model.get_parameter("0.weight")[0] = 0
        model.get_parameter("1.weight")[2] = 0
        model.get_parameter("3.bias")[0] = 0
    total = cost(model, (2, 4, 4))
    assert total == Cost(
        parameters=54 + 3 + 3 + 96 + 2,
        nonzero=54 + 3 + 3 + 96 + 2 - 18 - 1 - 1,
        prunable=54 + 96,
        prunable_nonzero=36 + 96,
        macs=16 * 54 + 16 * 3 + 96,
        macs_nonzero=16 * 36 + 16 * 2 + 96,
        bytes=total.bytes,
        packed=total.packed,
    )
    assert count_nonzero(model) == total.nonzero
    assert list(prunable_layers(model)) == ["0", "3"]


def test_a_layer_called_twice_counts_twice() -> None:
    layer = nn.Linear(4, 4)
    total = cost(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer), (1, 2, 2))
    assert (total.macs, total.parameters, total.prunable) == (32, 20, 16)


def test_bytes_are_those_of_the_file(build: Build, tmp_path: Path) -> None:
    model = build("small-cnn")
    save_model(model, {"name": "small-cnn"}, tmp_path / "weights.safetensors")
    assert cost(model, (3, 32, 32)).bytes == (tmp_path / "weights.safetensors").stat().st_size


def test_computing_the_cost_leaves_the_model_as_it_was(build: Build) -> None:
    model = build("small-cnn").train()
    model.get_submodule("network.stem").eval()
    before = copy.deepcopy(model.state_dict())
    cost(model, (3, 32, 32))
    assert model.training
    assert not model.get_submodule("network.stem.norm").training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_when_the_forward_pass_fails(build: Build) -> None:
    model = build("small-cnn")
    with pytest.raises(RuntimeError, match="must match"):
        cost(model, (5, 32, 32))
    assert not any(module._forward_hooks for module in model.modules())


def test_digest_depends_on_values_names_shapes_and_dtypes_only(build: Build) -> None:
    model = build("small-cnn")
    digest = weights_digest(model)
    assert digest == weights_digest(build("small-cnn"))
    assert digest == weights_digest(copy.deepcopy(model).to(memory_format=torch.channels_last))
    assert digest != weights_digest(copy.deepcopy(model).half())
    assert digest != weights_digest(nn.Sequential(model))
    assert weights_digest(_zeroed(nn.Linear(6, 2))) != weights_digest(_flat())
    zeros = [_zeroed(nn.Linear(6, 2)).to(dtype) for dtype in (torch.float16, torch.bfloat16)]
    assert weights_digest(zeros[0]) != weights_digest(zeros[1])
    with torch.no_grad():
        model.get_parameter("network.linear.bias")[0] += 1e-6
    assert digest != weights_digest(model)


def _zeroed(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module


def _flat() -> nn.Module:
    """The same names, dtypes and bytes as a zero linear layer of 6 x 2, in another shape."""
    model = nn.Linear(6, 2)
    model.weight = nn.Parameter(torch.zeros(3, 4))
    model.bias = nn.Parameter(torch.zeros(2))
    return model
