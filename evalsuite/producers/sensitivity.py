"""How much of a neuron's output each single weight ever carries: the sensitivities of SiPP, vectorised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SkippedError
from evalsuite.models.cost import prunable
from evalsuite.models.inference import evaluation_mode

CHUNK = 8
"""Images at once: the unfolded input of one layer must fit the cache or little more."""
NOTHING = torch.finfo(torch.float32).eps
"""A sum not above it has no shares (torchprune's)."""

Reduction = Literal["mean", "max"]
"""What is taken over the patches of an image: the mean (deterministic SiPP) or the largest (randomised)."""


@dataclass(frozen=True)
class Sensitivity:
    """Is what the images say about one layer.

    Attributes:
        values: Sensitivity of each weight, in [0, 1], of the weight's shape.
        patches: Output positions per image.
    """

    values: Tensor
    patches: int


def sensitivities(model: nn.Module, images: Tensor, *, reduction: Reduction) -> dict[str, Sensitivity]:
    """Returns the largest share over `images` that each weight has in what its filter sums up.

    Weights and inputs are split by sign, so that each of the four sums has terms of one sign only. For a
    filter w, a patch a >= 0 of the positive (or the negated negative) part of an input, and the weights of
    one sign, the share of weight j is ``w_j a_j / sum_k w_k a_k``; it is reduced over an image's patches,
    and the largest over images and input signs counts. Sums of zero count as infinite: no share.

    Args:
        model: Its prunable layers are looked at, in evaluation mode.
        images: Float32 in [0, 1], (N, C, H, W).
        reduction: Over the patches of an image.

    Returns:
        By layer. A layer that no image passes through has sensitivity zero.

    Raises:
        SkippedError: If a convolution pads with anything but zeros.

    References:
        Baykal et al. 2019, arXiv 1910.05422, definition 1 and algorithm 1; the mean over patches for the
        deterministic variant and the split of inputs are those of lucaslie/torchprune.
    """
    layers = prunable(model)
    found: dict[str, Sensitivity] = {
        name: Sensitivity(torch.zeros_like(layer.get_parameter("weight")), 1)
        for name, layer in layers.items()
    }

    def look(name: str, layer: nn.Module, given: Tensor) -> None:
        values = found[name].values
        parts = [given.clamp_min(0), *([given.neg().clamp_min(0)] if bool((given < 0).any()) else [])]
        for part in parts:
            columns = _unfolded(layer, part)
            torch.maximum(values, _largest(layer, columns, reduction).view_as(values), out=values)
            found[name] = Sensitivity(values, columns.shape[2])

    handles = [
        layer.register_forward_pre_hook(lambda module, given, name=name: look(name, module, given[0]))
        for name, layer in layers.items()
    ]
    try:
        with evaluation_mode(model), torch.no_grad():
            for chunk in torch.split(images, CHUNK):
                model(chunk)
    finally:
        for handle in handles:
            handle.remove()
    return found


def scores_of(found: Mapping[str, Sensitivity]) -> dict[str, Tensor]:
    """Returns the bare values."""
    return {name: one.values for name, one in found.items()}


def _largest(layer: nn.Module, columns: Tensor, reduction: Reduction) -> Tensor:
    """The largest share of each weight over the images of a chunk, (filters, inputs).

    Args:
        layer: Whose weights.
        columns: Non-negative, (images, inputs, patches).
        reduction: Over patches.
    """
    weight = layer.get_parameter("weight").detach().flatten(1)
    best = torch.zeros_like(weight)
    for one in (weight.clamp_min(0), weight.neg().clamp_min(0)):
        sums = one @ columns  # (images, filters, patches)
        inverse = torch.where(sums > NOTHING, 1 / sums, 0)
        if reduction == "mean":
            carried = (inverse @ columns.transpose(1, 2)).div(columns.shape[2]).amax(0)
        else:
            carried = torch.stack([_peaks(a, i) for a, i in zip(columns, inverse, strict=True)]).amax(0)
        best += one * carried  # each weight has one sign, so one of the two is zero
    return best


def _peaks(columns: Tensor, inverse: Tensor) -> Tensor:
    """``max_p columns[k, p] * inverse[f, p]``, (filters, inputs)."""
    return torch.stack([(columns * row).amax(1) for row in inverse])


def _unfolded(layer: nn.Module, given: Tensor) -> Tensor:
    """Inputs of `layer` as columns of patches, (images, inputs of a filter, patches)."""
    if not isinstance(layer, nn.Conv2d):
        return given.reshape(-1, given.shape[-1], 1)
    if layer.padding_mode != "zeros":
        raise SkippedError(
            f"a convolution pads with {layer.padding_mode!r}, sensitivities are defined for zeros; "
            "use another producer"
        )
    sides = zip(layer.kernel_size, layer.dilation, strict=True)
    same = tuple(dilation * (size - 1) // 2 for size, dilation in sides)
    named: dict[str, tuple[int, ...]] = {"same": same, "valid": (0, 0)}
    padding = named[layer.padding] if isinstance(layer.padding, str) else layer.padding
    return functional.unfold(given, layer.kernel_size, layer.dilation, padding, layer.stride)
