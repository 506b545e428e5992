from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from evalsuite.errors import SuiteError
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.cnn import SmallCNN
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.cost import count_nonzero
from evalsuite.producers.base import Context
from evalsuite.producers.baselines.scratch import ScratchB
from evalsuite.producers.structured.base import removable_groups
from evalsuite.producers.structured.filter_scores import LiL1, scaled_widths
from evalsuite.training.origin import Origin
from evalsuite.training.recipe import Recipe

Network = Callable[..., nn.Module]

WIDTHS: dict[str, tuple[dict[str, Any], list[int]]] = {  # Li et al. 2017 through the published code's masks
    "vgg16-a": ({"name": "vgg16-bn"}, [32, 64, 128, 128, 256, 256, 256, *[256] * 6]),
    "resnet56-a": ({"name": "resnet56"}, [*[14] * 7, 16, 14, 32, *[28] * 8, 64, *[57] * 7, 64]),
    "resnet56-b": ({"name": "resnet56"}, [*[6] * 7, 16, 16, 32, *[22] * 6, 32, 22, 64, *[57] * 7, 64]),
    "resnet110-a": ({"name": "resnet110"}, [*[8] * 17, 16, *[32] * 18, *[64] * 18]),
    "resnet110-b": ({"name": "resnet110"}, [*[8] * 17, 16, 32, *[19] * 17, 64, *[44] * 17]),
    "resnet34-a": (
        {"name": "torchvision", "model": "resnet34"},
        [64, 44, 44, 128, 89, 89, 128, 256, *[179] * 4, 256, 512, 512, 512],
    ),
}


BUDGETS = {"resnet56-a": (178, 218), "resnet56-b": (220, 260), "vgg16-a": (243, 283)}
"""Epochs of Scratch-B for 160 epochs: of Liu et al., and of Wang et al. with 40 of retraining."""


def widths(model: nn.Module) -> dict[str, int]:
    return {name: group.channels for name, group in removable_groups(model).items()}


def untrained(table: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return build_model(from_settings(table)).eval()


@pytest.mark.parametrize("preset", WIDTHS)
def test_published_widths(preset: str) -> None:
    table, published = WIDTHS[preset]
    model = untrained(table)
    parent_widths = widths(model)
    choices = scaled_widths(parent_widths, LiL1(preset=preset).shares(model, parent_widths))
    assert published in [[*choice.values()] for choice in choices]
    assert choices[-1] == parent_widths


@pytest.mark.usefixtures("pruned_only")
@pytest.mark.parametrize("preset", ["resnet56-a", "resnet56-b", "vgg16-a"])
def test_at_its_own_ratio_the_network_is_the_published_one(context: Context, preset: str) -> None:
    table, published = WIDTHS[preset]
    parent = untrained(table)
    groups = removable_groups(parent)
    before = widths(parent)
    left = dict(zip(before, published, strict=True))
    sources = {consumer.name: name for name, group in groups.items() for consumer in group.consumers}
    removed = 0
    for layer, module in parent.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            outputs, inputs = module.weight.shape[:2]
            remaining = left.get(layer, outputs), left[sources[layer]] if layer in sources else inputs
            removed += (outputs * inputs - math.prod(remaining)) * module.weight[0, 0].numel()
            # and the bias, and the scale and shift of the norm behind it
            removed += (outputs - remaining[0]) * (3 if module.bias is not None else 2)
    total = sum(p.numel() for p in parent.parameters())
    with torch.no_grad():
        for parameter in parent.parameters():
            parameter[parameter == 0] = 0.01  # fresh biases would not count
    assert count_nonzero(parent) == total
    (model,) = LiL1(preset=preset).produce(parent, (removed / total,), context)
    assert [*widths(model).values()] == published
    assert count_nonzero(model) == total - removed
    first = Recipe(epochs=160, schedule="step", milestones=(80, 120))
    with_recipe = replace(context, origin=Origin(SmallCNN(), 0, first), recipe=Recipe(epochs=40))
    budgets = [
        ScratchB(formula=formula).recipe(parent, model, with_recipe).epochs for formula in ("liu", "wang")
    ]
    assert tuple(budgets) == BUDGETS[preset]
    name = next(layer for layer in before if left[layer] < before[layer])
    norms = parent.get_parameter(f"{name}.weight").detach().abs().sum((1, 2, 3))
    best = norms.topk(left[name]).indices.sort().values
    expected = parent.get_parameter(f"{name}.weight")[best]
    assert torch.equal(model.get_parameter(f"{name}.weight"), expected)


@pytest.mark.usefixtures("biases_raised")
def test_each_ratio_starts_from_the_parent(network: Network, context: Context) -> None:
    models = LiL1().produce(network("small-cnn"), (0.3, 0.6), context)
    biases = [float(model.get_parameter("network.linear.bias").detach().mean()) for model in models]
    assert biases == pytest.approx([100, 100], abs=2)


def test_stages_are_layers_of_one_width_and_numbers_count_from_one(network: Network) -> None:
    model = network("resnet20")
    shares = LiL1(stages=(0.1, 0.2, 0.3), skipped=(4, 14)).shares(model, widths(model))
    assert [*shares.values()] == [0.1, 0.0, 0.1, 0.2, 0.2, 0.2, 0.0, 0.3, 0.3]
    assert {*LiL1().shares(model, widths(model)).values()} == {0.5}


def test_bad_settings(network: Network) -> None:
    with pytest.raises(SuiteError, match=r"^li-l1: found preset = 'vgg16-b', expected one of vgg16-a, "):
        LiL1(preset="vgg16-b")
    with pytest.raises(SuiteError, match=r"with neither stages nor skipped$"):
        LiL1(preset="vgg16-a", skipped=(3,))
    for stages in ((1.0, 0.0), (0.0, 0.0), (-0.1, 0.5)):
        with pytest.raises(SuiteError, match=r"expected shares from 0 to below 1, not all zero$"):
            LiL1(stages=stages)
    model = network("resnet20")
    with pytest.raises(SuiteError, match=r"^li-l1: found 2 stages, but .* 3 widths \(16, 32, 64\)"):
        LiL1(stages=(0.1, 0.2)).shares(model, widths(model))


@pytest.fixture
def context(small_context: Context) -> Context:
    return small_context
