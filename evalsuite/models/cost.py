"""What a model costs: parameters, multiply-accumulates, bytes; and the digest of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from evalsuite.errors import ContractError
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.inference import evaluation_mode, temporary_hooks
from evalsuite.models.packing import pack, with_positive_zeros
from evalsuite.types import Cost

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNT_VERSION = 1
"""Version of what is counted: raised when a count changes its meaning, so that candidates are counted again."""


@dataclass(frozen=True, slots=True)
class _LayerCall:
    """One call of a layer: each of its weights is multiplied once at each output position."""

    weight: Tensor
    positions: int


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the layers whose weights may be pruned, by name, in the order of the model.

    References:
        Convolutions with one group and linear layers, first and last included: the set of Liebenwein et al.
        2021, "Lost in Pruning". No biases, norms, grouped or depthwise convolutions.
    """
    return {name: module for name, module in model.named_modules() if _is_prunable(module)}


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
        Multiply-accumulates are those of convolutions and linear layers, with the padding, without biases; a
        multiplication by a zero weight is left out of ``macs_nonzero``. Bytes are those of the saved file, and
        those of a packed one.
    """
    weights = [layer.get_parameter("weight") for layer in prunable_layers(model).values()]
    calls = _layer_calls(model, image_shape)
    return Cost(
        parameters=count_parameters(model),
        nonzero=count_nonzero(model),
        prunable=sum(weight.numel() for weight in weights),
        prunable_nonzero=sum(int(weight.count_nonzero()) for weight in weights),
        macs=sum(call.positions * call.weight.numel() for call in calls),
        macs_nonzero=sum(call.positions * int(call.weight.count_nonzero()) for call in calls),
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


def _layer_calls(model: nn.Module, image_shape: Sequence[int]) -> list[_LayerCall]:
    """Returns the calls of convolutions and linear layers in a forward pass of one image."""
    calls: list[_LayerCall] = []

    def record(layer: nn.Module, _: object, output: Tensor) -> None:
        weight = layer.get_parameter("weight")
        calls.append(_LayerCall(weight, output.numel() // weight.shape[0]))

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = temporary_hooks(layer.register_forward_hook(record) for layer in layers)
    with hooks, evaluation_mode(model), torch.inference_mode():
        model(next(model.parameters()).new_zeros((1, *image_shape)))
    return calls


def _is_prunable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
