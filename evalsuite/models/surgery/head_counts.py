"""Head counts of networks from the shapes of their weights, and as settings that rebuild a network with fewer heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from evalsuite.errors import CheckpointError
from evalsuite.models.architectures.base import Architecture, build_model, unwrap_model
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
    built = _built_with(from_settings(settings))
    changed = {name: shape[0] for name, shape in shapes.items() if built.get(name, shape) != shape}
    return {**settings, "heads": {**settings.get("heads", {}), **changed}} if changed else settings


def head_note(architecture: Architecture, model: nn.Module) -> str:
    """Returns a sentence on attention modules with other heads than they are built with; empty if there are none.

    Args:
        architecture: Of the model.
        model: With its weights; shapes or `Architecture.num_heads` have decided how many heads it has.
    """
    now = head_shapes(unwrap_model(model))
    if not now:
        return ""
    built = _built_with(replace(architecture, heads={}, num_heads=()))
    changed = [name for name in now if built.get(name, now[name]) != now[name]]
    if not changed:
        return ""
    name = changed[0]
    sentence = (
        f"{len(changed)} attention modules have other heads than they are built with ({name}: {now[name][0]} of "
        f"{now[name][1]} rows, built with {built[name][0]} of {built[name][1]})"
    )
    if architecture.num_heads:
        return f"{sentence}, as num_heads says."
    return (
        f"{sentence}. Weights do not record the number of heads; this one is what their shapes suggest. If the tool "
        "that cut them kept another, say so: --setting num_heads=N, for one candidate the key or column num_heads."
    )


def _built_with(architecture: Architecture) -> Mapping[str, tuple[int, int, int]]:
    """Heads of each attention module of a network without weights, and their widths, as `head_shapes`."""
    key = repr(architecture)  # its options need not be hashable
    if key not in _BUILT:
        with torch.random.fork_rng(devices=[]):
            _BUILT[key] = head_shapes(unwrap_model(build_model(architecture)))
    return _BUILT[key]


_BUILT: dict[str, Mapping[str, tuple[int, int, int]]] = {}


def infer_head_counts(network: nn.Module, weights: Mapping[str, Tensor], stated: Collection[str]) -> None:
    """Sets head counts to what the shapes of `weights` say, in place, before their tensors are resized.

    Rows of a projection are heads times the width of a head. Widths stay unless the number of heads is stated: by the
    user, by a table with a column for each head (Swin), or by a norm of the queries, which is as long as a head.

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
            count = None if name in stated else _shown_count(name, layout, queries, weights)
            shape = _head_shape(name, layout, queries, values, count=count, is_stated=name in stated)
            set_head_shape(network.get_submodule(name), layout, shape)


def _shown_count(name: str, layout: HeadLayout, queries: int, weights: Mapping[str, Tensor]) -> int | None:
    """Heads of a module where other tensors than its projections show them; ``None`` where none does."""
    table, norm = weights.get(f"{name}.{layout.table}"), weights.get(f"{name}.q_norm.weight")
    if layout.table and table is not None and table.dim() == 2:
        return table.shape[1]
    return queries // len(norm) if norm is not None and norm.dim() == 1 and len(norm) else None


def _head_shape(
    name: str, layout: HeadLayout, queries: int, values: int, *, count: int | None, is_stated: bool
) -> tuple[int, int, int]:
    """Heads and their widths of an attention module with so many rows of queries and of values."""
    heads, width, value_width = layout.shape
    if count and queries % count == values % count == 0:
        return count, queries // count, values // count
    if (queries, values) == (heads * width, heads * value_width):
        return layout.shape
    count = queries // width
    is_fewer = (queries, values) == (count * width, count * value_width) and not is_stated
    is_narrower = not queries % heads and not values % heads
    if is_fewer == is_narrower:
        is_whole = "may be fewer heads or narrower ones" if is_fewer else "are no whole number of heads"
        built = "num_heads or heads says" if is_stated else "it is built with"
        raise CheckpointError(
            f"{name}: its projections have {queries} rows for queries and {values} for values, which {is_whole} "
            f"({built} {heads} heads of {width}), and weights do not record how many: state it, for all of the network "
            f"with --setting num_heads={heads} (one candidate: the key or column num_heads), for one module with "
            f"heads.{name}={heads}"
        )
    return (count, width, value_width) if is_fewer else (heads, queries // heads, values // heads)


def _projection(name: str, layout: HeadLayout) -> str:
    """Name of the first projection's weight."""
    layer = layout.queries.layer
    return f"{name}.{layer}.weight" if layer else f"{name}.in_proj_weight"
