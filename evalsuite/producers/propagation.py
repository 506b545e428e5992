"""Propagation: what a pruned network can no longer use is set to zero as well, as lucaslie/torchprune does.

After a pruning step the gradients of the loss are summed over a few hundred images. What has a gradient of exactly zero
computes nothing that reaches the loss: a weight that reads or feeds a dead channel, the norm of such a channel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.models.cost import prunable_layers, prunable_parameters, weight_name
from evalsuite.models.inference import evaluation_mode, temporary_hooks
from evalsuite.producers.base import Context
from evalsuite.producers.sensitivity import FAILURE_PROBABILITY

IMAGES_PER_PASS = 64
"""Images per forward and backward pass."""


def propagation_images(model: nn.Module, context: Context) -> tuple[Tensor, Tensor]:
    """Returns the labelled training images that a propagation looks at: as many as torchprune's set S.

    Returns:
        float32 in [0, 1], (N, C, H, W), and int64, (N,).
    """
    return context.batch(published_sample_size(model, context.batch(1, "propagate")[0]), "propagate")


def published_sample_size(model: nn.Module, images: Tensor) -> int:
    """Returns ``ceil(3 ln(8 max(n) sum(n) / failure))`` with n the outputs of each prunable layer for one image.

    Args:
        model: Not changed.
        images: At least one, float32 in [0, 1], (N, C, H, W).

    References:
        The size of the set S in lucaslie/torchprune, from theorem 2 of Baykal et al. 2019, arXiv 1910.05422: 183
        for a ResNet-20 on images of 32 x 32 pixels.
    """
    outputs: list[int] = []
    handles = [
        layer.register_forward_hook(lambda _, __, output: outputs.append(output[0].numel()))
        for layer in prunable_layers(model).values()
    ]
    with temporary_hooks(handles), evaluation_mode(model), torch.no_grad():
        model(images[:1])
    return math.ceil(3 * math.log(8 * max(outputs) * sum(outputs) / FAILURE_PROBABILITY))


def zero_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Returns for each parameter where its gradient is exactly zero over all images, bool of its shape.

    Parameters that no gradient reaches at all are left out: they are not used, or not trained.

    Args:
        model: Seen in evaluation mode; its own gradients are left as they are.
        images: Float32 in [0, 1], (N, C, H, W).
        labels: int64, (N,).
    """
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    is_zero: dict[str, Tensor] = {}
    with evaluation_mode(model), torch.enable_grad():
        for batch, classes in zip(
            torch.split(images, IMAGES_PER_PASS), torch.split(labels, IMAGES_PER_PASS), strict=True
        ):
            loss = functional.cross_entropy(model(batch), classes)
            gradients = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    is_zero[name] = is_zero.get(name, torch.tensor(True)) & (gradient == 0)
    return is_zero


def drop_dead_parameters(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Sets the parameters of `model` to zero, in place, whose gradient is exactly zero; no layer ends empty.

    References:
        ``WeightNet`` of lucaslie/torchprune. Differs in that a layer of which nothing would be left stays as it is.
    """
    weights = {weight_name(name) for name in prunable_parameters(model)}
    for name, dead in zero_gradients(model, images, labels).items():
        _set_to_zero(model.get_parameter(name), dead, keep_some=name in weights)


def drop_dead_channels(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Sets filters without a gradient, and weights that read constant channels, to zero, in place; no layer ends empty.

    References:
        ``FilterNet`` of lucaslie/torchprune: a channel is constant if it has the same map for all images. What a
        constant channel adds to its readers is lost with it, as there.
    """
    layers = prunable_layers(model)
    constant = dict[str, Tensor]()
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: _update(constant, name, inputs[0]))
        for name, layer in layers.items()
    ]
    with temporary_hooks(handles):
        dead = zero_gradients(model, images, labels)
    for name, layer in layers.items():
        weight = layer.get_parameter("weight")
        if (is_zero := dead.get(weight_name(name))) is not None:
            _set_to_zero(
                weight, is_zero.flatten(1).all(1).view(-1, *[1] * (weight.dim() - 1)), keep_some=True
            )
        if name in constant:
            _set_to_zero(weight, constant[name].view(1, -1, *[1] * (weight.dim() - 2)), keep_some=True)


def zeroed_masks(model: nn.Module) -> dict[str, Tensor]:
    """Returns masks, False where a parameter is zero, of all parameters that have zeros."""
    masks = {name: parameter.detach() != 0 for name, parameter in model.named_parameters()}
    return {name: mask for name, mask in masks.items() if not mask.all()}


def _update(constant: dict[str, Tensor], name: str, inputs: Tensor) -> None:
    """Notes which channels of a layer's inputs are the same for all images of a batch."""
    rows = inputs.detach()
    rows = rows.flatten(2) if rows.dim() == 4 else rows.reshape(-1, rows.shape[-1], 1)  # N, C, H, W
    same = (rows == rows[:1]).all(2).all(0)
    constant[name] = constant.get(name, same) & same


def _set_to_zero(parameter: nn.Parameter, where: Tensor, *, keep_some: bool) -> None:
    pruned = parameter.detach().masked_fill(where, 0.0)
    if not keep_some or pruned.any():
        parameter.data.copy_(pruned)
