"""Low-rank factorisation of layers: a convolution or a linear layer is replaced by two thinner ones in a row.

The pair is a ``Sequential`` of ``reduce`` and ``expand``. Its shapes are in the weights, so weights alone tell which
layers of an architecture are factorised, as they tell its widths (`evalsuite.models.surgery.width_inference`).
They do not tell both at once: half of the inputs may mean two groups, or half the width.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.checkpoints.state_dict_keys import match_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

_Pair = tuple[int, int]
Shape = tuple[int, ...]
REDUCE, EXPAND = "reduce", "expand"


class FactorPair(nn.Sequential):
    """A layer as two thinner ones, in the order of their passes."""

    @property
    def weight(self) -> Tensor:
        """The weight of the single layer, for networks that read it: transformers' ViT asks for its dtype."""
        return factored_weight(self)


def factorize_layer(layer: nn.Module, reduce: Tensor, expand: Tensor) -> nn.Sequential:
    """Returns two layers whose product replaces `layer`; its bias goes to the second.

    Args:
        layer: A convolution with one group, or a linear layer.
        reduce: Weight of the first, (k j, C / k, height, width) or (j, features): k groups of rank j.
        expand: Weight of the second, (out, k j, 1, 1) or (out, j).
    """
    bias = getattr(layer, "bias", None)
    first, second = _new_pair(layer, reduce, expand, bias=bias is not None)
    pair = FactorPair(OrderedDict({REDUCE: first, EXPAND: second})).to(layer.get_parameter("weight"))
    with torch.no_grad():
        first.get_parameter("weight").copy_(reduce)
        second.get_parameter("weight").copy_(expand)
        if bias is not None:
            second.get_parameter("bias").copy_(bias)
    return pair.train(layer.training)


def factor_pairs(model: nn.Module) -> dict[str, nn.Sequential]:
    """Returns the factorised layers of `model`, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Sequential) and [*module._modules] == [REDUCE, EXPAND]
    }


def factored_weight(pair: nn.Sequential) -> Tensor:
    """Returns the weight of the single layer that computes the same as a pair: (out, C, H, W) or (out, features)."""
    first, second = pair.get_submodule(REDUCE), pair.get_submodule(EXPAND)
    reduce = first.get_parameter("weight").detach()
    expand = second.get_parameter("weight").detach().flatten(1)
    groups = first.groups if isinstance(first, nn.Conv2d) else 1
    blocks = zip(expand.chunk(groups, dim=1), reduce.chunk(groups), strict=True)
    return torch.cat([torch.tensordot(right, left, dims=1) for right, left in blocks], dim=1)


def merge_factors(model: nn.Module, parent: nn.Module) -> nn.Module:
    """Returns a copy of `model` in which a single layer, of the kind in `parent`, replaces each pair."""
    merged = copy.deepcopy(model)
    for name, pair in factor_pairs(model).items():
        layer = copy.deepcopy(parent.get_submodule(name))
        with torch.no_grad():
            layer.get_parameter("weight").copy_(factored_weight(pair))
            if (bias := getattr(pair.get_submodule(EXPAND), "bias", None)) is not None:
                layer.get_parameter("bias").copy_(bias)
        merged.set_submodule(name, layer.train(pair.training))
    return merged


def factorize_like(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Replaces in place the layers of `model` that are factorised in `weights`; only shapes are taken.

    Args:
        model: Freshly built; load the values afterwards with `load_weights`.
        weights: A state dict.

    Returns:
        Names of the layers that were replaced.
    """
    network = unwrap_model(model)
    state = network.state_dict()
    matching = match_keys(weights, state)
    layers = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    replaced = []
    for name in layers:
        reduce, expand = (matching.get(f"{name}.{part}.weight") for part in (REDUCE, EXPAND))
        layer = network.get_submodule(name)
        if reduce is not None and expand is not None and _are_factors_of(layer, reduce, expand):
            pair = factorize_layer(layer, torch.zeros_like(reduce), torch.zeros_like(expand))
            network.set_submodule(name, pair)
            replaced.append(name)
    return tuple(replaced)


def merge_factor_shapes(shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> dict[str, Shape]:
    """Returns `shapes` in which the layer of an architecture that it may replace takes the place of each pair.

    Args:
        shapes: Of tensors in a checkpoint, by name.
        expected: Of the architecture's; they tell the input channels, which the factors do not.

    >>> pair = {"fc.reduce.weight": (2, 9), "fc.expand.weight": (5, 2), "fc.expand.bias": (5,)}
    >>> merge_factor_shapes(pair, {"fc.weight": (7, 9), "fc.bias": (7,)})
    {'fc.bias': (5,), 'fc.weight': (5, 9)}
    """
    merged = dict(shapes)
    for name in [name.removesuffix(".weight") for name in expected if name.endswith(".weight")]:
        reduce, expand = (f"{name}.{part}.weight" for part in (REDUCE, EXPAND))
        if reduce not in merged or expand not in merged:
            continue
        if f"{name}.{EXPAND}.bias" in merged:
            merged[f"{name}.bias"] = merged.pop(f"{name}.{EXPAND}.bias")
        first, second = merged.pop(reduce), merged.pop(expand)
        merged[f"{name}.weight"] = (second[0], expected[f"{name}.weight"][1], *first[2:])
    return merged


def _new_pair(layer: nn.Module, reduce: Tensor, expand: Tensor, *, bias: bool) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten and must cost no draw
        if not isinstance(layer, nn.Conv2d):
            first = nn.Linear(reduce.shape[1], len(reduce), bias=False)
            return first, nn.Linear(len(reduce), len(expand), bias=bias)
        conv = nn.Conv2d(
            layer.in_channels,
            len(reduce),
            cast("_Pair", layer.kernel_size),
            stride=cast("_Pair", layer.stride),
            padding=cast("_Pair", layer.padding),
            dilation=cast("_Pair", layer.dilation),
            groups=layer.in_channels // reduce.shape[1],
            bias=False,
            padding_mode=layer.padding_mode,
        )
        return conv, nn.Conv2d(len(reduce), len(expand), 1, bias=bias)


def _are_factors_of(layer: nn.Module, reduce: Tensor, expand: Tensor) -> bool:
    """Returns whether two factors of such shapes can replace `layer`."""
    rank = len(reduce)
    if isinstance(layer, nn.Linear):
        return reduce.shape[1:] == (layer.in_features,) and expand.shape == (layer.out_features, rank)
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1 or reduce.dim() != 4 or 0 in reduce.shape:
        return False
    return (
        layer.in_channels % reduce.shape[1] == 0
        and rank % (layer.in_channels // reduce.shape[1]) == 0
        and tuple(reduce.shape[2:]) == tuple(layer.kernel_size)
        and expand.shape == (layer.out_channels, rank, 1, 1)
    )
