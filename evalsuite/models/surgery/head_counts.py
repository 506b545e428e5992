"""Head counts of networks from the shapes of their weights, and as settings that rebuild a network with fewer heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.base import build_model, unwrap_model
from evalsuite.models.architectures.settings import from_settings
from evalsuite.models.checkpoints.state_dict_keys import match_keys
from evalsuite.models.surgery.attention import HeadLayout, attention_modules, head_counts, set_head_count


def with_head_counts(settings: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """Returns the settings of an architecture with the head counts of `model` where it has others than they build.

    Args:
        settings: As for `evalsuite.models.architectures.settings.from_settings`.
        model: Of that architecture, perhaps with fewer heads.
    """
    counts = head_counts(unwrap_model(model))
    if not counts:
        return settings
    with torch.random.fork_rng(devices=[]):
        built = head_counts(unwrap_model(build_model(from_settings(settings))))
    changed = {name: count for name, count in counts.items() if built.get(name, count) != count}
    return {**settings, "heads": {**settings.get("heads", {}), **changed}} if changed else settings


def infer_head_counts(network: nn.Module, weights: Mapping[str, Tensor], stated: Mapping[str, int]) -> None:
    """Sets head counts to what the shapes of `weights` say, in place, before their tensors are resized.

    Rows of a projection are heads times the size of a head. The size stays unless the number of heads is stated.

    Args:
        network: Freshly built.
        weights: A state dict of the network, perhaps with fewer heads.
        stated: Modules whose number of heads is known and set already.

    Raises:
        CheckpointError: If the rows fit neither, or both fewer heads and smaller ones.
    """
    weights = match_keys(weights, network.state_dict())
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if all(tensor.shape == shapes.get(name, tensor.shape) for name, tensor in weights.items()):
        return
    for name, layout in attention_modules(network).items():
        key = _projection(name, layout)
        if key in weights and weights[key].shape != shapes[key]:
            count, size = _count_and_size(name, layout, len(weights[key]), is_stated=name in stated)
            set_head_count(network.get_submodule(name), layout, count, size)


def _count_and_size(name: str, layout: HeadLayout, rows: int, *, is_stated: bool) -> tuple[int, int]:
    """Heads and size of a head of an attention module whose first projection has so many rows."""
    rows //= 3 if len({layer for layer, _ in layout.inputs}) == 1 else 1
    if rows == layout.heads * layout.size:
        return layout.heads, layout.size
    is_fewer, is_narrower = rows % layout.size == 0 and not is_stated, rows % layout.heads == 0
    if is_fewer == is_narrower:
        what = "fewer heads or narrower ones" if is_fewer else "no whole number of heads"
        raise CheckpointError(
            f"{name}: each of its projections has {rows} rows, which may be {what} (it is built with {layout.heads} "
            f"heads of {layout.size}): state how many with the setting heads, such as heads.{name}={layout.heads}"
        )
    return (rows // layout.size, layout.size) if is_fewer else (layout.heads, rows // layout.heads)


def _projection(name: str, layout: HeadLayout) -> str:
    """Name of the first projection's weight."""
    layer, _ = layout.inputs[0]
    return f"{name}.{layer}.weight" if layer else f"{name}.in_proj_weight"
