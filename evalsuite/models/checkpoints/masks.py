"""Masks and parametrisations folded into the weights that a forward pass would use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from evalsuite.errors import CheckpointError, first_few

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

SUFFIXES = ("_mask", ".mask")
"""What follows a weight's name in the name of its mask; in a file of masks the name may stand by itself."""

_CLEARLY_SMALLER = 0.8  # ratio of mean magnitudes: random masks are within a few hundredths of 1
_STRAY_ZEROS = 0.01  # share of kept weights that may be zero without being removed
_PARAMETRIZED = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<tensor>\w+)\.(?P<part>.+)")
_LENGTH, _DIRECTION = "original0", "original1"  # of torch.nn.utils.parametrizations.weight_norm
_REMOVE = "remove it where the model was built ({how}) and save the state dict again"
_REMOVE_PARAMETRIZATION = _REMOVE.format(how="torch.nn.utils.parametrize.remove_parametrizations")
_REMOVE_SPECTRAL_NORM = _REMOVE.format(how="torch.nn.utils.remove_spectral_norm")


def fold_parametrizations(
    path: Path, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns `weights` as the forward pass uses them, and the names of those that were computed from several.

    Folded, exactly as torch does, are ``X_orig * X_mask`` (`torch.nn.utils.prune`), ``X`` with a buffer
    ``X_mask``, ``X.mask`` or a layer's ``mask``, a parametrisation by a mask alone, and weight norm of torch 1 and 2.

    Args:
        path: For the error.
        weights: A state dict.

    Raises:
        CheckpointError: If a weight has another parametrisation: the weight that the forward pass uses is not in
            the file.
    """
    effective: dict[str, Tensor] = {}
    folded: list[str] = []
    for key, tensor in weights.items():
        if _is_secondary_part(key, weights):
            continue
        name, value = _folded_weight(path, key, weights)
        effective[name] = tensor if value is None else value
        folded += [] if value is None else [name]
    return effective, tuple(folded)


def apply_masks(path: Path, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
    targets = {key: _masked_weight(key, weights) for key in masks}
    if unmatched := [key for key, name in targets.items() if name is None]:
        raise CheckpointError(
            f"masks {path}: {first_few(unmatched)} name no weight; expected names such as {first_few(weights, 2)}"
        )
    products = dict(weights)
    for key, name in targets.items():
        if name is not None:
            _check_mask(path, key, masks[key], weights[name])
            products[name] = products[name] * masks[key].to(products[name].dtype)
    return products


def mask_doubt(path: Path, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> str:
    """Returns a sentence where masks look inverted, with ones for the weights that were removed; else nothing.

    They do if zeros of the weights lie mostly where the masks keep, or if the kept weights are clearly smaller on
    average than the dropped ones.

    Args:
        path: Of the masks.
        weights: Before the masks.
        masks: As for `apply_masks`, which has passed.
    """
    zeros_kept = zeros_dropped = kept = dropped = 0
    size_kept = size_dropped = 0.0
    for key, mask in masks.items():
        weight = weights[_masked_weight(key, weights) or key].abs()
        keeps = mask != 0
        zeros_kept += int((weight[keeps] == 0).sum())
        zeros_dropped += int((weight[~keeps] == 0).sum())
        kept, dropped = kept + int(keeps.sum()), dropped + int((~keeps).sum())
        size_kept += float(weight[keeps].sum())
        size_dropped += float(weight[~keeps].sum())
    if not kept or not dropped:
        return ""
    smaller = size_kept / kept < _CLEARLY_SMALLER * size_dropped / dropped
    if not smaller and not zeros_kept > zeros_dropped + _STRAY_ZEROS * kept:
        return ""
    return (
        f"The masks of {path.name} look inverted: the weights that they keep are {size_kept / kept:.3g} on average, "
        f"those that they drop {size_dropped / dropped:.3g}, and {zeros_kept:,} zeros are kept; if a 1 means "
        "removed, save 1 - mask."
    )


def _masked_weight(key: str, weights: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the weight that the mask under `key` belongs to; ``None`` if there is none."""
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


def _is_secondary_part(key: str, weights: Mapping[str, Tensor]) -> bool:
    """Returns whether `key` is part of a weight that is folded when its first part, under another key, is met."""
    if key.endswith("_mask") and key.removesuffix("_mask") + "_orig" in weights:
        return True
    if key.endswith("_v") and _weight_norm_parts(key.removesuffix("_v"), weights) is not None:
        return True
    if key.endswith(_DIRECTION) and f"{key.removesuffix(_DIRECTION)}{_LENGTH}" in weights:
        return _PARAMETRIZED.fullmatch(key) is not None
    if key.endswith(".0.mask") and _PARAMETRIZED.fullmatch(key) and f"{key[:-6]}original" in weights:
        return True
    return any(_mask_buffer(name, weights) == key for name in _maskable_names(key))


def _folded_weight(path: Path, key: str, weights: Mapping[str, Tensor]) -> tuple[str, Tensor | None]:
    """Returns name and value of the weight of which `key` is the first part; ``None`` if it is no part of one."""
    name = key[:-5] if key.endswith("_orig") else key
    if name != key and (mask := weights.get(f"{name}_mask")) is not None:
        return name, _masked(path, key, weights[key], mask)
    if name != key and f"{name}_u" in weights:
        raise CheckpointError(
            f"weights {path}: {name} is under spectral norm ({key}, {name}_u); {_REMOVE_SPECTRAL_NORM}"
        )
    if key.endswith("_g") and (parts := _weight_norm_parts(key[:-2], weights)):
        return key[:-2], torch._weight_norm(*parts)
    if match := _PARAMETRIZED.fullmatch(key):
        return _unparametrized(path, match, weights)
    if buffer := _mask_buffer(key, weights):
        return key, _masked(path, key, weights[key], weights[buffer])
    return key, None


def _masked(path: Path, key: str, weight: Tensor, mask: Tensor) -> Tensor:
    if mask.shape != weight.shape:
        raise CheckpointError(
            f"weights {path}: the mask of {key} has shape {tuple(mask.shape)}, "
            f"expected {tuple(weight.shape)}: the file is from two different models"
        )
    return weight * mask.to(weight.dtype)


def _weight_norm_parts(name: str, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, int] | None:
    """Returns direction, length and dimension of a weight under `torch.nn.utils.weight_norm`, else ``None``."""
    length, direction = weights.get(f"{name}_g"), weights.get(f"{name}_v")
    if length is None or direction is None or f"{name}_orig" in weights:
        return None
    return _direction_and_length(length, direction)


def _direction_and_length(length: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, int] | None:
    """Returns direction, length and the dimension that has a length each, if the shapes are those of a weight norm."""
    if length.dim() != direction.dim():
        return (direction, length, -1) if length.dim() == 0 else None
    dims = [dim for dim, size in enumerate(length.shape) if size != 1] or [0]
    fits = len(dims) == 1 and length.shape[dims[0]] == direction.shape[dims[0]]
    return (direction, length, dims[0]) if fits else None


def _unparametrized(
    path: Path, match: re.Match[str], weights: Mapping[str, Tensor]
) -> tuple[str, Tensor | None]:
    start = f"{match['module']}parametrizations.{match['tensor']}."
    parts = {key.removeprefix(start): key for key in weights if key.startswith(start)}
    name = match["module"] + match["tensor"]
    if parts.keys() == {"original", "0.mask"} and _is_mask(weights[parts["0.mask"]]):
        return name, _masked(path, name, weights[parts["original"]], weights[parts["0.mask"]])
    if parts.keys() == {_LENGTH, _DIRECTION}:
        norm = _direction_and_length(weights[parts[_LENGTH]], weights[parts[_DIRECTION]])
        if norm is not None:
            return name, torch._weight_norm(*norm)
    raise CheckpointError(
        f"weights {path}: {name} is parametrised ({first_few(parts.values())}); {_REMOVE_PARAMETRIZATION}"
    )


def _maskable_names(key: str) -> list[str]:
    """Returns the names of the weights whose mask `key` may be."""
    bases = [key.removesuffix(suffix) for suffix in SUFFIXES if key.endswith(suffix)]
    return [*bases, *[f"{base}.weight" for base in bases]]


def _mask_buffer(name: str, weights: Mapping[str, Tensor]) -> str | None:
    """Returns the key of the buffer that masks the weight `name` in the forward pass; ``None`` if there is none."""
    keys = [f"{name}{suffix}" for suffix in SUFFIXES]
    if name.rpartition(".")[2] == "weight":
        keys.append(f"{name.removesuffix('weight')}mask")
    for key in keys:
        mask = weights.get(key)
        if mask is not None and name in weights and mask.shape == weights[name].shape and _is_mask(mask):
            return key
    return None
