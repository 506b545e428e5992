"""Masks and parametrisations folded into the weights that a forward pass would use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from evalsuite.errors import CheckpointError
from evalsuite.models.checkpoints.names import some

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

SUFFIXES = ("_mask", ".mask")
"""What stands behind a weight's name in the name of its mask; nothing may stand there in a file of masks."""

_PARAMETRIZED = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<tensor>\w+)\.(?P<part>.+)")
_REMOVE = "remove it where the model was built ({how}) and save the state dict again"
_NEW = _REMOVE.format(how="torch.nn.utils.parametrize.remove_parametrizations")
_OLD = _REMOVE.format(how="torch.nn.utils.remove_spectral_norm")


def folded(path: Path, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns `weights` as the forward pass sees them, and the names of those that were put together.

    Put together, exactly as torch does, are ``X_orig * X_mask`` (`torch.nn.utils.prune`), ``X`` with a buffer
    ``X_mask``, ``X.mask`` or a layer's ``mask``, a parametrisation by a mask alone, and weight norm.

    Args:
        path: For the error.
        weights: A state dict.

    Raises:
        CheckpointError: If a weight has another parametrisation: what the forward pass sees is not in the file.
    """
    found: dict[str, Tensor] = {}
    names: list[str] = []
    for key, tensor in weights.items():
        if _is_ingredient(key, weights):
            continue
        name, value = _whole(path, key, weights)
        found[name] = tensor if value is None else value
        names += [] if value is None else [name]
    return found, tuple(names)


def masked(path: Path, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns `weights` times `masks`.

    Args:
        path: Of the masks, for the error.
        weights: A state dict.
        masks: Zeros and ones of the shape of the weight that they name: by its name, with one of `SUFFIXES`,
            or by its layer's name.

    Raises:
        CheckpointError: If there is no mask, or one names no weight, has another shape or other values.
    """
    if not masks:
        raise CheckpointError(f"masks {path}: found no tensors, expected zeros and ones by names of weights")
    targets = {key: _target(key, weights) for key in masks}
    if lost := [key for key, name in targets.items() if name is None]:
        raise CheckpointError(
            f"masks {path}: {some(lost)} name no weight; expected names such as {some(weights, 2)}"
        )
    products = dict(weights)
    for key, name in targets.items():
        if name is not None:
            _check_mask(path, key, masks[key], weights[name])
            products[name] = products[name] * masks[key].to(products[name].dtype)
    return products


def _target(key: str, weights: Mapping[str, Tensor]) -> str | None:
    bases = [key, *[key.removesuffix(suffix) for suffix in SUFFIXES if key.endswith(suffix)]]
    names = [name for base in bases for name in (base, f"{base}.weight")]
    return next((name for name in names if name in weights), None)


def _check_mask(path: Path, key: str, mask: Tensor, weight: Tensor) -> None:
    if mask.shape != weight.shape:
        raise CheckpointError(
            f"masks {path}: {key} has shape {tuple(mask.shape)}, expected {tuple(weight.shape)} as its weight"
        )
    if not _is_mask(mask):
        raise CheckpointError(f"masks {path}: {key} holds other values than 0 and 1")


def _is_mask(tensor: Tensor) -> bool:
    return bool(((tensor == 0) | (tensor == 1)).all())


def _is_ingredient(key: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether `key` is only part of a weight that stands, in parts, under another key."""
    if key.endswith("_mask") and key.removesuffix("_mask") + "_orig" in weights:
        return True
    if key.endswith("_v") and _norm_parts(key.removesuffix("_v"), weights) is not None:
        return True
    if key.endswith(".0.mask") and _PARAMETRIZED.fullmatch(key) and f"{key[:-6]}original" in weights:
        return True
    return any(_sibling(name, weights) == key for name in _sibling_of(key))


def _whole(path: Path, key: str, weights: Mapping[str, Tensor]) -> tuple[str, Tensor | None]:
    """Name and value of the weight of which `key` is the first part; ``None`` if it is no part of one."""
    name = key[:-5] if key.endswith("_orig") else key
    if name != key and (mask := weights.get(f"{name}_mask")) is not None:
        return name, _product(path, key, weights[key], mask)
    if name != key and f"{name}_u" in weights:
        raise CheckpointError(f"weights {path}: {name} is under spectral norm ({key}, {name}_u); {_OLD}")
    if key.endswith("_g") and (parts := _norm_parts(key[:-2], weights)):
        return key[:-2], torch._weight_norm(*parts)
    if match := _PARAMETRIZED.fullmatch(key):
        return _unparametrized(path, match, weights)
    if sibling := _sibling(key, weights):
        return key, _product(path, key, weights[key], weights[sibling])
    return key, None


def _product(path: Path, key: str, weight: Tensor, mask: Tensor) -> Tensor:
    if mask.shape != weight.shape:
        raise CheckpointError(
            f"weights {path}: the mask of {key} has shape {tuple(mask.shape)}, "
            f"expected {tuple(weight.shape)}: the file is from two different models"
        )
    return weight * mask.to(weight.dtype)


def _norm_parts(name: str, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, int] | None:
    """Direction, length and dimension of a weight under `torch.nn.utils.weight_norm`."""
    length, direction = weights.get(f"{name}_g"), weights.get(f"{name}_v")
    if length is None or direction is None or f"{name}_orig" in weights:
        return None
    if length.dim() != direction.dim():
        return (direction, length, -1) if length.dim() == 0 else None
    own = [dim for dim, size in enumerate(length.shape) if size != 1] or [0]
    fits = len(own) == 1 and length.shape[own[0]] == direction.shape[own[0]]
    return (direction, length, own[0]) if fits else None


def _unparametrized(
    path: Path, match: re.Match[str], weights: Mapping[str, Tensor]
) -> tuple[str, Tensor | None]:
    start = f"{match['module']}parametrizations.{match['tensor']}."
    parts = {key.removeprefix(start): key for key in weights if key.startswith(start)}
    name = match["module"] + match["tensor"]
    if parts.keys() == {"original", "0.mask"} and _is_mask(weights[parts["0.mask"]]):
        return name, _product(path, name, weights[parts["original"]], weights[parts["0.mask"]])
    raise CheckpointError(f"weights {path}: {name} is parametrised ({some(parts.values())}); {_NEW}")


def _sibling_of(key: str) -> list[str]:
    """Names of the weights whose mask `key` may be."""
    bases = [key.removesuffix(suffix) for suffix in SUFFIXES if key.endswith(suffix)]
    return [*bases, *[f"{base}.weight" for base in bases]]


def _sibling(name: str, weights: Mapping[str, Tensor]) -> str | None:
    """Key of the buffer that masks the weight `name` in the forward pass, if there is one."""
    keys = [f"{name}{suffix}" for suffix in SUFFIXES]
    if name.rpartition(".")[2] == "weight":
        keys.append(f"{name.removesuffix('weight')}mask")
    for key in keys:
        mask = weights.get(key)
        if mask is not None and name in weights and mask.shape == weights[name].shape and _is_mask(mask):
            return key
    return None
