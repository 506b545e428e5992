"""Empirical sensitivities of weights, as SiPP defines them, and the constants that SiPP and PFP share.

The sensitivity of a weight is the largest share of a neuron's output that it carries on real images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SkippedError, first_few
from evalsuite.models.cost import layers_read_as_weights, prunable_layers
from evalsuite.models.inference import evaluation_mode

FAILURE_PROBABILITY = 1e-16
"""Probability with which a bound may fail (torchprune's)."""
IMAGES_PER_PASS = 8
"""Images at once: the unfolded input of one layer must fit the cache or little more."""
LEAST_SUM = torch.finfo(torch.float32).eps
"""A sum not above it has no shares (torchprune's)."""

Reduction = Literal["mean", "max"]
"""Reduction over the patches of an image: the mean (deterministic SiPP) or the largest (randomised)."""


@dataclass(frozen=True)
class WeightSensitivity:
    """The sensitivities of one layer.

    Attributes:
        values: Sensitivity of each weight, in [0, 1], of the weight's shape.
        patches: Output positions per image.
    """

    values: Tensor
    patches: int


def log_failure_factor(patches: int, kernel: int) -> float:
    """Returns ``ln(8 (patches + 1) kernel / failure)``, the logarithm in the sample sizes of SiPP and PFP.

    Args:
        patches: Output positions per image.
        kernel: Elements of a kernel.

    References:
        Baykal et al. 2019, arXiv 1910.05422; Liebenwein et al. 2020, arXiv 1911.07412, theorem 2; as torchprune
        computes them.
    """
    return math.log(8 * (patches + 1) * kernel / FAILURE_PROBABILITY)


def weight_sensitivities(
    model: nn.Module, images: Tensor, *, reduction: Reduction
) -> dict[str, WeightSensitivity]:
    """Returns the largest share over `images` that each weight has in the sum of its filter.

    Weights and inputs are split by sign, so that each of the four sums has terms of one sign only. For a
    filter w, a patch a >= 0 of the positive (or the negated negative) part of an input, and the weights of
    one sign, the share of weight j is ``w_j a_j / sum_k w_k a_k``; it is reduced over an image's patches,
    and the largest over images and input signs counts. Sums of zero count as infinite: no share.

    Args:
        model: The sensitivities are those of its prunable layers, in evaluation mode.
        images: Float32 in [0, 1], (N, C, H, W).
        reduction: Over the patches of an image.

    Returns:
        By layer. A layer that no image passes through has sensitivity zero.

    Raises:
        SkippedError: If a convolution pads with anything but zeros, or the inputs of a layer cannot be seen.

    References:
        Baykal et al. 2019, arXiv 1910.05422, definition 1 and algorithm 1; the mean over patches for the
        deterministic variant and the split of inputs are those of lucaslie/torchprune.
    """
    if unseen := layers_read_as_weights(model):
        raise SkippedError(
            f"inputs of {first_few(unseen)} cannot be seen: the attention around it reads its weight and does not call "
            "it; use another producer"
        )
    layers = prunable_layers(model)
    results = {
        name: WeightSensitivity(torch.zeros_like(layer.get_parameter("weight")), 1)
        for name, layer in layers.items()
    }

    def update(name: str, layer: nn.Module, inputs: Tensor) -> None:
        values = results[name].values
        parts = [inputs.clamp_min(0), *([inputs.neg().clamp_min(0)] if bool((inputs < 0).any()) else [])]
        for part in parts:
            columns = _patches(layer, part)
            torch.maximum(values, _largest_shares(layer, columns, reduction).view_as(values), out=values)
            results[name] = WeightSensitivity(values, columns.shape[2])

    handles = [
        layer.register_forward_pre_hook(lambda module, inputs, name=name: update(name, module, inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        with evaluation_mode(model), torch.no_grad():
            for chunk in torch.split(images, IMAGES_PER_PASS):
                model(chunk)
    finally:
        for handle in handles:
            handle.remove()
    return results


def sensitivity_values(sensitivities: Mapping[str, WeightSensitivity]) -> dict[str, Tensor]:
    """Returns the values by layer."""
    return {name: sensitivity.values for name, sensitivity in sensitivities.items()}


def _largest_shares(layer: nn.Module, columns: Tensor, reduction: Reduction) -> Tensor:
    """The largest share of each weight over the images of a chunk, (filters, inputs).

    Args:
        layer: Layer of the weights.
        columns: Non-negative, (images, inputs, patches).
        reduction: Over patches.
    """
    weight = layer.get_parameter("weight").detach().flatten(1)
    largest = torch.zeros_like(weight)
    for signed in (weight.clamp_min(0), weight.neg().clamp_min(0)):
        sums = signed @ columns  # (images, filters, patches)
        inverse = torch.where(sums > LEAST_SUM, 1 / sums, 0)
        if reduction == "mean":
            shares = (inverse @ columns.transpose(1, 2)).div(columns.shape[2]).amax(0)
        else:
            shares = torch.stack([_peak_shares(a, i) for a, i in zip(columns, inverse, strict=True)]).amax(0)
        largest += signed * shares  # each weight has one sign, so one of the two is zero
    return largest


def _peak_shares(columns: Tensor, inverse: Tensor) -> Tensor:
    """``max_p columns[k, p] * inverse[f, p]``, (filters, inputs)."""
    return torch.stack([(columns * row).amax(1) for row in inverse])


def _patches(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs of `layer` as columns of patches, (images, inputs of a filter, patches)."""
    if not isinstance(layer, nn.Conv2d):
        return inputs.reshape(-1, inputs.shape[-1], 1)
    if layer.padding_mode != "zeros":
        raise SkippedError(
            f"a convolution pads with {layer.padding_mode!r}, sensitivities are defined for zeros; "
            "use another producer"
        )
    sides = zip(layer.kernel_size, layer.dilation, strict=True)
    same = tuple(dilation * (size - 1) // 2 for size, dilation in sides)
    by_name: dict[str, tuple[int, ...]] = {"same": same, "valid": (0, 0)}
    padding = by_name[layer.padding] if isinstance(layer.padding, str) else layer.padding
    return functional.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
