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
from evalsuite.models.surgery.attention import HeadLayout, attention_modules, head_shapes, set_head_shape


def with_head_counts(settings: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """Returns the settings of an architecture with the head counts of `model` where its heads are not those they build.

    Args:
        settings: As for `evalsuite.models.architectures.settings.from_settings`.
        model: Of that architecture, perhaps with fewer heads.
    """
    shapes = head_shapes(unwrap_model(model))
    if not shapes:
        return settings
    with torch.random.fork_rng(devices=[]):
        built = head_shapes(unwrap_model(build_model(from_settings(settings))))
    changed = {name: shape[0] for name, shape in shapes.items() if built.get(name, shape) != shape}
    return {**settings, "heads": {**settings.get("heads", {}), **changed}} if changed else settings


def infer_head_counts(network: nn.Module, weights: Mapping[str, Tensor], stated: Mapping[str, int]) -> None:
    """Sets head counts to what the shapes of `weights` say, in place, before their tensors are resized.

    Rows of a projection are heads times the width of a head. Widths stay unless the number of heads is stated.

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
        joint, output = _projection(name, layout), f"{name}.{layout.output}.weight"
        keys = (joint, output)
        if all(key in weights for key in keys) and any(weights[key].shape != shapes[key] for key in keys):
            values = weights[output].shape[1]
            rows = len(weights[joint])
            queries = (rows - values) // 2 if layout.queries.layer == layout.keys.layer else rows
            shape = _head_shape(name, layout, queries, values, is_stated=name in stated)
            set_head_shape(network.get_submodule(name), layout, shape)


def _head_shape(
    name: str, layout: HeadLayout, queries: int, values: int, *, is_stated: bool
) -> tuple[int, int, int]:
    """Heads and their widths of an attention module with so many rows of queries and of values."""
    heads, width, value_width = layout.shape
    if (queries, values) == (heads * width, heads * value_width):
        return layout.shape
    count = queries // width
    is_fewer = (queries, values) == (count * width, count * value_width) and not is_stated
    is_narrower = not queries % heads and not values % heads
    if is_fewer == is_narrower:
        what = "fewer heads or narrower ones" if is_fewer else "no whole number of heads"
        raise CheckpointError(
            f"{name}: its projections have {queries} rows for queries and {values} for values, which may be {what} (it "
            f"is built with {heads} heads of {width}): state how many with the setting heads, such as "
            f"heads.{name}={heads}"
        )
    return (count, width, value_width) if is_fewer else (heads, queries // heads, values // heads)


def _projection(name: str, layout: HeadLayout) -> str:
    """Name of the first projection's weight."""
    layer = layout.queries.layer
    return f"{name}.{layer}.weight" if layer else f"{name}.in_proj_weight"
