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
    built = {name: heads for name, (heads, _) in _built_with(from_settings(settings)).items()}
    changed = {name: count for name, count in counts.items() if built.get(name, count) != count}
    return {**settings, "heads": {**settings.get("heads", {}), **changed}} if changed else settings


def head_note(architecture: Architecture, model: nn.Module) -> str:
    """Returns a sentence on attention modules with other heads than they are built with; empty if there are none.

    Args:
        architecture: Of the model.
        model: With its weights; shapes or `Architecture.num_heads` have decided how many heads it has.
    """
    layouts = attention_modules(unwrap_model(model))
    if not layouts:
        return ""
    built = _built_with(replace(architecture, heads={}, num_heads=()))
    now = {name: (layout.heads, layout.size) for name, layout in layouts.items()}
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


def _built_with(architecture: Architecture) -> Mapping[str, tuple[int, int]]:
    """Heads of each attention module of a network without weights, and the size of one."""
    key = repr(architecture)  # its options need not be hashable
    if key not in _BUILT:
        with torch.random.fork_rng(devices=[]):
            layouts = attention_modules(unwrap_model(build_model(architecture)))
        _BUILT[key] = {name: (layout.heads, layout.size) for name, layout in layouts.items()}
    return _BUILT[key]


_BUILT: dict[str, Mapping[str, tuple[int, int]]] = {}


def infer_head_counts(network: nn.Module, weights: Mapping[str, Tensor], stated: Collection[str]) -> None:
    """Sets head counts to what the shapes of `weights` say, in place, before their tensors are resized.

    Rows of a projection are heads times the size of a head. The size stays unless the number of heads is stated: by
    the user, by a table with a column for each head (Swin), or by a norm of the queries, which is as long as a head.

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
            rows = len(weights[key]) // (3 if len({layer for layer, _ in layout.inputs}) == 1 else 1)
            shown = None if name in stated else _shown_count(name, layout, rows, weights)
            count, size = shown or _count_and_size(name, layout, rows, is_stated=name in stated)
            set_head_count(network.get_submodule(name), layout, count, size)


def _shown_count(
    name: str, layout: HeadLayout, rows: int, weights: Mapping[str, Tensor]
) -> tuple[int, int] | None:
    """Heads and size of a head where other tensors of the module show them; ``None`` where none does."""
    table, norm = weights.get(f"{name}.{layout.table}"), weights.get(f"{name}.q_norm.weight")
    if layout.table and table is not None and table.dim() == 2 and rows % max(1, table.shape[1]) == 0:
        return table.shape[1], rows // max(1, table.shape[1])
    if norm is not None and norm.dim() == 1 and len(norm) and rows % len(norm) == 0:
        return rows // len(norm), len(norm)
    return None


def _count_and_size(name: str, layout: HeadLayout, rows: int, *, is_stated: bool) -> tuple[int, int]:
    """Heads and size of a head of an attention module whose first projection has so many rows."""
    if rows == layout.heads * layout.size:
        return layout.heads, layout.size
    is_fewer, is_narrower = rows % layout.size == 0 and not is_stated, rows % layout.heads == 0
    if is_fewer == is_narrower:
        is_whole = "may be fewer heads or narrower ones" if is_fewer else "are no whole number of heads"
        built = "num_heads or heads says" if is_stated else "it is built with"
        raise CheckpointError(
            f"{name}: each of its projections has {rows} rows, which {is_whole} ({built} {layout.heads} heads of "
            f"{layout.size}), and weights do not record how many: state it, for all of the network with --setting "
            f"num_heads={layout.heads} (one candidate: the key or column num_heads), for one module with "
            f"heads.{name}={layout.heads}"
        )
    return (rows // layout.size, layout.size) if is_fewer else (layout.heads, rows // layout.heads)


def _projection(name: str, layout: HeadLayout) -> str:
    """Name of the first projection's weight."""
    layer, _ = layout.inputs[0]
    return f"{name}.{layer}.weight" if layer else f"{name}.in_proj_weight"
