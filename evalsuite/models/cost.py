"""What a model costs: parameters, multiply-accumulates, bytes; and the digest of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from evalsuite.errors import ContractError
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.packing import pack, with_positive_zeros
from evalsuite.models.products import products
from evalsuite.types import Cost

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNT_VERSION = 1
"""Version of what is counted: raised when a count changes its meaning, so that candidates are counted again."""

_COUNT_VERSION_OF_PRODUCTS = 2
"""The same for networks with matrix products outside of layers, such as attention: only theirs have changed."""

PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""Weights of `torch.nn.MultiheadAttention` that are parameters of its own and no layer's."""


_READERS = ("MultiheadAttention", "ShiftedWindowAttention", "ShiftedWindowAttentionV2")
"""Modules of torch and torchvision that pass the weights of their layers to a function."""


def count_version(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Returns the version of what `cost` counts of a model.

    Args:
        model: Takes float images in [0, 1].
        image_shape: Of one image, (C, H, W).
    """
    everything_in_layers = all(product.is_layer for product in products(model, image_shape))
    return COUNT_VERSION if everything_in_layers else _COUNT_VERSION_OF_PRODUCTS


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the layers whose weights may be pruned, by name, in the order of the model.

    References:
        Convolutions with one group and linear layers, first and last included: the set of Liebenwein et al.
        2021, "Lost in Pruning". No biases, norms, grouped or depthwise convolutions.
    """
    return {name: module for name, module in model.named_modules() if _is_prunable(module)}


def prunable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the weights that may be pruned, in the order of the model.

    Those of `prunable_layers` under the names of their layers, and the projections of `torch.nn.MultiheadAttention`
    under their own: ``<attention>.in_proj_weight``. `weight_name` returns the name of the parameter for both.
    """
    weights: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if _is_prunable(module):
            weights[name] = module.get_parameter("weight")
        elif isinstance(module, nn.MultiheadAttention):
            own = dict(module.named_parameters(recurse=False))
            weights |= {f"{name}.{key}".lstrip("."): own[key] for key in PROJECTIONS if key in own}
    return weights


def weight_name(name: str) -> str:
    """Returns the name of a parameter under its name in `prunable_parameters`.

    >>> weight_name("layer1.conv"), weight_name("block.attention.in_proj_weight")
    ('layer1.conv.weight', 'block.attention.in_proj_weight')
    """
    return name if name.endswith(PROJECTIONS) else f"{name}.weight"


def layers_read_as_weights(model: nn.Module) -> list[str]:
    """Returns the names of linear layers that their module never calls: it reads their weights and multiplies itself.

    What is put in the place of such a layer, and hooks on it, have no effect.
    """
    return [
        f"{name}.{child}".lstrip(".")
        for name, module in model.named_modules()
        if type(module).__name__ in _READERS
        for child, layer in module.named_children()
        if isinstance(layer, nn.Linear)
    ]


def count_nonzero(model: nn.Module) -> int:
    """Returns the number of parameters that are not exactly zero, biases and norms included."""
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())


def count_parameters(model: nn.Module) -> int:
    """Returns the number of parameters, zeros included."""
    return sum(parameter.numel() for parameter in model.parameters())


def cost(model: nn.Module, image_shape: Sequence[int]) -> Cost:
    """Returns what `model` costs; the model is left as it was.

    Args:
        model: Takes float images in [0, 1].
        image_shape: Of one image, (C, H, W).

    Returns:
        Multiply-accumulates are those of convolutions, linear layers and matrix products (attention), with the
        padding, without biases; a multiplication by a zero weight is left out of ``macs_nonzero``. Bytes are those of
        the saved file, and those of a packed one.
    """
    weights = prunable_parameters(model).values()
    calls = products(model, image_shape)
    return Cost(
        parameters=count_parameters(model),
        nonzero=count_nonzero(model),
        prunable=sum(weight.numel() for weight in weights),
        prunable_nonzero=sum(int(weight.count_nonzero()) for weight in weights),
        macs=sum(call.macs for call in calls),
        macs_nonzero=sum(call.macs_nonzero for call in calls),
        bytes=len(serialize_weights(model)),
        packed=packed_size(model),
    )


def weight_cost(model: nn.Module, axis: str) -> int:
    """Returns what `model` costs on an axis that weights alone decide: ``nonzero``, ``parameters`` or ``packed``.

    Raises:
        ContractError: If it is another axis.
    """
    if axis not in _COUNTS:
        raise ContractError(
            f"a producer saves {axis!r}, expected an axis that weights alone decide: {', '.join(_COUNTS)}"
        )
    return _COUNTS[axis](model)


def serialize_weights(model: nn.Module) -> bytes:
    """Returns the network's weights in safetensors format: the content of a saved file."""
    return safetensors.torch.save(network_weights(model))


def packed_size(model: nn.Module) -> int:
    """Returns how many bytes the network's weights are in a packed file; see `evalsuite.models.packing`."""
    return len(pack(with_positive_zeros(network_weights(model))))


def network_weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of the state dict of the network, contiguous, on the processor."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in unwrap_model(model).state_dict().items()
    }


def weights_digest(model: nn.Module) -> str:
    """Returns the SHA-256 of names, dtypes, shapes and bytes of the sorted state dict, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_COUNTS: Mapping[str, Callable[[nn.Module], int]] = {
    "nonzero": count_nonzero,
    "parameters": count_parameters,
    "packed": packed_size,
}


def _is_prunable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
