from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import UserError
from evalsuite.models.architectures.base import build_model
from evalsuite.models.architectures.resnet import ResNet8, ResNet20
from evalsuite.models.cost import cost, count_nonzero
from evalsuite.producers.base import Context
from evalsuite.producers.propagation import (
    drop_dead_channels,
    drop_dead_parameters,
    published_sample_size,
    zero_gradients,
)
from evalsuite.producers.structured.filter_scores import FilterL1
from evalsuite.producers.structured.zeroed_filters import layer_groups
from evalsuite.producers.unstructured.dead_weights import PropagatingProducer
from evalsuite.producers.unstructured.magnitude import Magnitude
from evalsuite.producers.unstructured.sipp import Sipp


def chain(*, bias: float = 0.5) -> nn.Sequential:
    """Filter 1 of the first layer is zero: its norm gives the constant `bias`, which the next layer reads."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False),
        nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    ).eval()  # fmt: skip
    model.get_parameter("0.weight").data[1] = 0
    model.get_parameter("1.bias").data[1] = bias
    return model


def data(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 3


def test_the_number_of_images_is_that_of_the_published_code() -> None:
    assert published_sample_size(build_model(ResNet20()), torch.rand(1, 3, 32, 32)) == 183


def test_zero_gradients_are_those_of_one_image_after_the_other() -> None:
    model, (images, labels) = chain(bias=-1.0), data(70)  # more than one pass; channel 1 is below zero: off
    slow = {name: torch.ones_like(value, dtype=torch.bool) for name, value in model.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        model.zero_grad()
        torch.autograd.backward(functional.cross_entropy(model(image[None]), label[None]))
        for name, value in model.named_parameters():
            assert value.grad is not None
            slow[name] &= value.grad == 0
    model.zero_grad()
    zero = zero_gradients(model, images, labels)
    assert {name: value.tolist() for name, value in zero.items()} == {n: v.tolist() for n, v in slow.items()}
    assert zero["0.weight"][1].all()
    assert zero["1.bias"].tolist() == [False, True, False, False]
    assert zero["3.weight"][:, 1].all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dead_parameters_change_no_output_and_constant_channels_only_their_constant() -> None:
    images, labels = data(70)
    off = chain(bias=-1.0)
    pruned = copy.deepcopy(off)
    drop_dead_parameters(pruned, images, labels)
    torch.testing.assert_close(pruned(images), off(images), rtol=0, atol=0)
    assert count_nonzero(off) - count_nonzero(pruned) == 5 * 9 + 2  # the readers, the norm's scale and shift

    constant = chain(bias=0.5)
    drop_dead_channels(constant, images, labels)
    assert not constant.get_parameter("3.weight")[:, 1].any()
    assert constant.get_parameter("1.bias")[1] == 0.5  # norms are left, as in the published code
    assert constant.get_parameter("3.weight")[:, 0].any()


def test_no_layer_ends_empty() -> None:
    model, (images, labels) = chain(), data()
    model.get_parameter("8.weight").data.zero_()  # nothing before the classifier has a gradient
    drop_dead_parameters(model, images, labels)
    assert model.get_parameter("0.weight").any()


@pytest.mark.parametrize("method", [Magnitude, Sipp])
def test_what_is_dropped_is_free_of_budget(
    method: type[PropagatingProducer],
    small_parent: nn.Module,
    small_context: Context,
    fits: list[dict[str, Any]],
) -> None:
    conv = next(layer for layer in small_parent.modules() if isinstance(layer, nn.Conv2d))
    conv.weight.data[2] = 0
    plain, dropped = (
        next(iter(method(propagate=propagate).produce(small_parent, [0.5], small_context)))
        for propagate in (False, True)
    )
    assert count_nonzero(plain) == count_nonzero(dropped)
    assert any(
        name.endswith("bias") for name in fits[1]["masks"]
    )  # the shift of the norm behind the dead filter
    spared = {
        name for name, mask in fits[0]["masks"].items() if (mask < fits[1]["masks"].get(name, True)).any()
    }
    assert spared  # in the place of what has no use, weights stay that the plain method removes


def test_scope_all_zeroes_the_same_share_of_every_layer_but_the_last(
    small_context: Context, fits: list[dict[str, Any]]
) -> None:
    torch.manual_seed(0)
    parent = build_model(ResNet8()).eval()
    groups = layer_groups(parent)
    (model,) = FilterL1(scope="all").produce(parent, [0.5], small_context)
    for name in groups:
        before, after = (network.get_submodule(name).get_parameter("weight") for network in (parent, model))
        assert before.shape == after.shape
        norms = before.detach().flatten(1).abs().sum(1)
        kept = after.detach().flatten(1).any(1)
        assert norms[kept].min() > norms[~kept].max()
    assert 1 - count_nonzero(model) / count_nonzero(parent) == pytest.approx(0.5, abs=0.04)
    assert set(fits[0]["masks"]) >= {f"{name}.weight" for name in groups}
    spent, whole = (cost(network, (3, 16, 16)) for network in (model, parent))
    assert spent.macs == whole.macs
    assert (spent.macs_nonzero or 0) < 0.7 * (whole.macs_nonzero or 0)


def test_ratios_out_of_reach_are_refused(small_parent: nn.Module, small_context: Context) -> None:
    for producer in (FilterL1(scope="all"), Magnitude(propagate=True)):
        with pytest.raises(UserError, match="ask for a smaller ratio"):
            next(iter(producer.produce(small_parent, [0.99], small_context)))
