"""Layers in two factors: a convolution or a linear layer is replaced by two thinner ones in a row.

The pair is a ``Sequential`` of ``reduce`` and ``expand``. Its shapes stand in the weights, so weights alone say
which layers of an architecture are in factors, as they say the widths (`evalsuite.models.surgery.width_inference`).
Both at once they do not say: half of the inputs may mean two groups, or half the width.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from evalsuite.models.architectures.base import core
from evalsuite.models.checkpoints.reading import matched

if TYPE_CHECKING:
    from collections.abc import Mapping

_Two = tuple[int, int]
Shape = tuple[int, ...]
REDUCE, EXPAND = "reduce", "expand"


def factored(layer: nn.Module, reduce: Tensor, expand: Tensor) -> nn.Sequential:
    """Returns two layers whose product stands for `layer`; its bias goes to the second.

    Args:
        layer: A convolution with one group, or a linear layer.
        reduce: Weight of the first, (k j, C / k, height, width) or (j, features): k groups of rank j.
        expand: Weight of the second, (out, k j, 1, 1) or (out, j).
    """
    bias = getattr(layer, "bias", None)
    first, second = _pair(layer, reduce, expand, bias=bias is not None)
    pair = nn.Sequential(OrderedDict({REDUCE: first, EXPAND: second})).to(layer.get_parameter("weight"))
    with torch.no_grad():
        first.get_parameter("weight").copy_(reduce)
        second.get_parameter("weight").copy_(expand)
        if bias is not None:
            second.get_parameter("bias").copy_(bias)
    return pair.train(layer.training)


def factor_pairs(model: nn.Module) -> dict[str, nn.Sequential]:
    """Returns the layers of `model` that are in factors, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Sequential) and [*module._modules] == [REDUCE, EXPAND]
    }


def product(pair: nn.Sequential) -> Tensor:
    """Returns the weight of the one layer that computes the same as a pair: (out, C, H, W) or (out, features)."""
    first, second = pair.get_submodule(REDUCE), pair.get_submodule(EXPAND)
    reduce = first.get_parameter("weight").detach()
    expand = second.get_parameter("weight").detach().flatten(1)
    count = first.groups if isinstance(first, nn.Conv2d) else 1
    parts = zip(expand.chunk(count, dim=1), reduce.chunk(count), strict=True)
    return torch.cat([torch.tensordot(right, left, dims=1) for right, left in parts], dim=1)


def multiplied(model: nn.Module, parent: nn.Module) -> nn.Module:
    """Returns a copy of `model` in which one layer stands for each pair, taken from the same place in `parent`."""
    whole = copy.deepcopy(model)
    for name, pair in factor_pairs(model).items():
        layer = copy.deepcopy(parent.get_submodule(name))
        with torch.no_grad():
            layer.get_parameter("weight").copy_(product(pair))
            if (bias := getattr(pair.get_submodule(EXPAND), "bias", None)) is not None:
                layer.get_parameter("bias").copy_(bias)
        whole.set_submodule(name, layer.train(pair.training))
    return whole


def factorise_to(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Replaces in place the layers of `model` that `weights` has in factors; only shapes are taken.

    Args:
        model: Freshly built; load the values afterwards with `load_weights`.
        weights: A state dict.

    Returns:
        Names of the layers that were replaced.
    """
    network = core(model)
    own = network.state_dict()
    found = matched(weights, own)
    layers = [name.removesuffix(".weight") for name in own if name.endswith(".weight")]
    names = []
    for name in layers:
        reduce, expand = (found.get(f"{name}.{part}.weight") for part in (REDUCE, EXPAND))
        layer = network.get_submodule(name)
        if reduce is not None and expand is not None and _divides(layer, reduce, expand):
            network.set_submodule(name, factored(layer, torch.zeros_like(reduce), torch.zeros_like(expand)))
            names.append(name)
    return tuple(names)


def put_together(shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> dict[str, Shape]:
    """Returns `shapes` in which each pair counts as the one layer for which it may stand in an architecture.

    Args:
        shapes: Of somebody's tensors, by name.
        expected: Of the architecture's; they tell the input channels, which the factors do not.

    >>> pair = {"fc.reduce.weight": (2, 9), "fc.expand.weight": (5, 2), "fc.expand.bias": (5,)}
    >>> put_together(pair, {"fc.weight": (7, 9), "fc.bias": (7,)})
    {'fc.bias': (5,), 'fc.weight': (5, 9)}
    """
    whole = dict(shapes)
    for name in [name.removesuffix(".weight") for name in expected if name.endswith(".weight")]:
        reduce, expand = (f"{name}.{part}.weight" for part in (REDUCE, EXPAND))
        if reduce not in whole or expand not in whole:
            continue
        if f"{name}.{EXPAND}.bias" in whole:
            whole[f"{name}.bias"] = whole.pop(f"{name}.{EXPAND}.bias")
        first, second = whole.pop(reduce), whole.pop(expand)
        whole[f"{name}.weight"] = (second[0], expected[f"{name}.weight"][1], *first[2:])
    return whole


def _pair(layer: nn.Module, reduce: Tensor, expand: Tensor, *, bias: bool) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):  # the first weights are overwritten and must cost no draw
        if not isinstance(layer, nn.Conv2d):
            return nn.Linear(reduce.shape[1], len(reduce), bias=False), nn.Linear(
                len(reduce), len(expand), bias=bias
            )
        first = nn.Conv2d(
            layer.in_channels,
            len(reduce),
            cast("_Two", layer.kernel_size),
            stride=cast("_Two", layer.stride),
            padding=cast("_Two", layer.padding),
            dilation=cast("_Two", layer.dilation),
            groups=layer.in_channels // reduce.shape[1],
            bias=False,
            padding_mode=layer.padding_mode,
        )
        return first, nn.Conv2d(len(reduce), len(expand), 1, bias=bias)


def _divides(layer: nn.Module, reduce: Tensor, expand: Tensor) -> bool:
    """Whether two factors of such shapes can stand for `layer`."""
    rank = len(reduce)
    if isinstance(layer, nn.Linear):
        return reduce.shape[1:] == (layer.in_features,) and expand.shape == (layer.out_features, rank)
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1 or reduce.dim() != 4 or 0 in reduce.shape:
        return False
    whole = layer.in_channels % reduce.shape[1] == 0
    return (
        whole
        and rank % (layer.in_channels // reduce.shape[1]) == 0
        and tuple(reduce.shape[2:]) == tuple(layer.kernel_size)
        and expand.shape == (layer.out_channels, rank, 1, 1)
    )
