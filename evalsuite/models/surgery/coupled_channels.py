"""Coupled channels: those that several layers share, in residual streams and behind concatenations.

The embedding of a transformer is one set of channels, that of ConvNeXt and Swin one for each stage: patch embedding,
tokens, position tables, norms and scales of layers, all that reads them and all that adds to them.

Which entries of layers belong together is read from Torch-Pruning's dependency graph (DepGraph) and verified before
use: Torch-Pruning is silently wrong about some networks, those whose shortcuts pad with zeros among them. Channels
inside a block need no such graph: see `evalsuite.models.surgery.channel_removal`.

References:
    Fang et al. 2023, "DepGraph: towards any structural pruning", arXiv 2301.12900.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evalsuite.compat.calls import quiet_imports
from evalsuite.errors import UserError, first_line
from evalsuite.models.surgery.attention import attention_modules
from evalsuite.models.surgery.channel_removal import (
    ChannelGroup,
    ChannelSlice,
    affected_slices,
    remove_channels,
)
from evalsuite.models.surgery.channel_selection import ChannelSelection
from evalsuite.models.surgery.fx_graph import has_hooks
from evalsuite.models.surgery.width_inference import layer_tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from types import ModuleType

    from evalsuite.models.surgery.channel_removal import UnitKind

MAX_OUTPUT_CHANGE = 1e-6
"""How much outputs may change when zeroed channels are removed, as a share of the difference between the outputs for
two images, in double precision."""

ALTERNATIVE = 'remove the channels inside its blocks alone (scope = "inside")'
"""What to do where Torch-Pruning fails or is wrong."""

Entries = dict[tuple[str, int], dict[int, list[int]]]
"""Names of layers, with 0 for outputs and 1 for inputs, to the entries that belong to each channel of the root.

A parameter outside of layers is listed under its own name, the network's output under the empty one.
"""


def coupled_groups(model: nn.Module, image_shape: Sequence[int]) -> list[ChannelGroup]:
    """Returns all channels that can be removed, those that several convolutions share too, in the model's order.

    A group is left out if it contains the network's output, a layer of another kind, a convolution of several groups
    that is not depthwise, or a layer with a hook or a parametrisation. Parameters outside of layers are cut where a
    layer norm is among the layers, as tokens, position tables and scales of layers are in an embedding. All are
    verified.

    Args:
        model: It is left as it was.
        image_shape: Of one image, (C, H, W).

    Raises:
        UserError: If Torch-Pruning cannot trace the model, or is wrong about it.
    """
    _refuse_endless(model)
    groups = _traced_groups(model, image_shape)
    odd = {
        group.conv: torch.arange(group.channels - 1)
        for group in groups
        if group.kind == "embedding" and group.channels % 2 and group.channels > 1
    }
    if odd:  # half of the channels can stand for the other half where their number is even
        even = remove_channels(model, odd, {group.conv: group for group in groups})
        verify_groups(even, _traced_groups(even, image_shape), image_shape)
    else:
        verify_groups(model, groups, image_shape)
    return groups


def _traced_groups(model: nn.Module, image_shape: Sequence[int]) -> list[ChannelGroup]:
    """Returns the groups that Torch-Pruning's graph gives."""
    image = torch.rand((1, *image_shape), generator=torch.Generator().manual_seed(0))
    dependencies = dependent_entries(model, image, width_preserving=(ChannelSelection,))
    return [group for name, entries in dependencies.items() if (group := _group(model, name, entries))]


def _refuse_endless(model: nn.Module) -> None:
    """Refuses networks whose graph Torch-Pruning takes minutes for (1.6.1, torchvision's Swin with two blocks)."""
    endless = ("ShiftedWindowAttention", "ShiftedWindowAttentionV2", "HeadwiseWindowAttention")
    names = [name for name, module in model.named_modules() if type(module).__name__ in endless]
    if names:
        name = names[0].removeprefix("network.")
        raise UserError(
            f"Torch-Pruning does not come to an end with torchvision's attention in shifted windows ({name}); "
            f"take the same network from timm, or {ALTERNATIVE}"
        )


def verify_groups(model: nn.Module, groups: Sequence[ChannelGroup], image_shape: Sequence[int]) -> None:
    """Checks that the outputs stay the same when half of the channels of each group are zeroed and removed.

    Of an embedding they are not zeroed, since a layer norm counts zeros: they become copies of the other half, which
    leaves mean and variance as they are, and nothing reads them.

    Which entries belong to which channel does not depend on weights: they are drawn anew, so that no channel is zero
    from the start, which would hide a mistake.

    Args:
        model: It is left as it was.
        groups: Of the model.
        image_shape: Of one image, (C, H, W).

    Raises:
        UserError: Naming the first group with which the outputs change.
    """
    if groups and not _outputs_stay(model, groups, image_shape):
        wrong = next((group for group in groups if not _outputs_stay(model, [group], image_shape)), groups[0])
        name = wrong.conv.removeprefix("network.")
        raise UserError(
            f"channels that convolutions share cannot be removed here: when zeroed ones of {name!r} are "
            "removed as Torch-Pruning computes them, the outputs change (shortcuts that pad with zeros are such a "
            f"case); {ALTERNATIVE}"
        )


def with_random_weights(model: nn.Module) -> nn.Module:
    """Returns a copy in evaluation mode with random weights, always the same: float64, on the CPU."""
    random = torch.Generator().manual_seed(0)
    drawn = copy.deepcopy(model).to("cpu", torch.float64).requires_grad_(False).eval()

    def draw(tensor: Tensor | None, low: float, high: float) -> None:
        if tensor is not None:
            tensor.uniform_(low, high, generator=random)

    for layer in drawn.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = (6 / layer.weight[0].numel()) ** 0.5  # keeps the scale behind a ReLU
            draw(layer.weight, -bound, bound)
            draw(layer.bias, -0.5, 0.5)
        elif isinstance(layer, _BatchNorm):
            draw(layer.weight, 0.5, 1.5)
            draw(layer.bias, -0.5, 0.5)
            draw(layer.running_mean, -0.5, 0.5)
            draw(layer.running_var, 0.5, 2.0)
        elif isinstance(layer, nn.LayerNorm):
            draw(layer.weight, 0.5, 1.5)
            draw(layer.bias, -0.5, 0.5)
        else:
            for parameter in layer.parameters(
                recurse=False
            ):  # tokens, tables, scales of layers: those may be tiny
                draw(parameter, -0.5, 0.5)
    return drawn


def torch_pruning() -> ModuleType:
    """Returns the package, imported without its warnings."""
    with quiet_imports():
        import torch_pruning as package  # heavy
    return package  # type: ignore[no-any-return]  # it has no types


def dependent_entries(
    model: nn.Module, images: Tensor, *, width_preserving: Collection[type[nn.Module]] = ()
) -> dict[str, Entries]:
    """Returns the entries that depend on the output channels of each convolution, by name, in the order of the model.

    A convolution in the group of an earlier one is left out, and so is one of several groups. Linear layers whose
    outputs reach a layer norm are roots, too: they begin the embedding of a stage.

    Args:
        model: It is left as it was.
        images: To trace it with, float32 on the CPU, (N, C, H, W).
        width_preserving: Types of layers with as many output as input channels, whose tensors lose entries.

    Raises:
        UserError: If Torch-Pruning cannot trace it.
    """
    package = torch_pruning()
    try:
        with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.enable_grad():
            warnings.simplefilter("ignore")
            traced = copy.deepcopy(model).cpu().requires_grad_(True)
            pruners = {kind: _width_preserving_pruner() for kind in width_preserving}
            graph = package.DependencyGraph().build_dependency(
                traced, images.clone(), customized_pruners=pruners
            )
            return _entries_by_root(graph, traced)
    except Exception as error:  # it runs the model's own code, and asserts where it fails
        raise UserError(
            f"Torch-Pruning cannot follow the channels of this network ({type(error).__name__}: "
            f"{first_line(error)}); {ALTERNATIVE}"
        ) from error


def _outputs_stay(model: nn.Module, groups: Sequence[ChannelGroup], image_shape: Sequence[int]) -> bool:
    """Returns whether random weights give the same outputs when half of the channels are zeroed and removed."""
    random = torch.Generator().manual_seed(1)
    images = torch.rand((2, *image_shape), generator=random, dtype=torch.float64)
    keep = {
        group.conv: torch.randperm(group.channels, generator=random)[: (group.channels + 1) // 2]
        .sort()
        .values
        for group in groups
    }
    zeroed = with_random_weights(model)
    for group in groups:
        (_copy_channels if group.kind == "embedding" else _zero_other_channels)(
            zeroed, group, keep[group.conv]
        )
    try:
        smaller = remove_channels(zeroed, keep, {group.conv: group for group in groups})
        with torch.inference_mode():
            before, after = zeroed(images), smaller(images)
    except Exception:  # shapes that do not fit fail anywhere, in the network's own code too
        return False
    scale = (before[0] - before[1]).abs().max()
    limit = MAX_OUTPUT_CHANGE * scale
    return bool(before.shape == after.shape and scale > 0 and (after - before).abs().max() <= limit)


def _zero_other_channels(model: nn.Module, group: ChannelGroup, keep: Tensor) -> None:
    zeroed = torch.ones(group.channels, dtype=torch.bool)
    zeroed[keep] = False
    for part in (*group.filters, *group.norms):
        layer = model.get_submodule(part.name)
        for name, tensor in layer_tensors(layer):
            if tensor.dim() and name not in ("running_var", "indexes"):
                tensor[part.entries(zeroed.nonzero().flatten())] = 0


def _copy_channels(model: nn.Module, group: ChannelGroup, keep: Tensor) -> None:
    """Makes the other channels copies of those in `keep`, which are as many, and lets nothing read them."""
    other = torch.tensor(sorted({*range(group.channels)} - {*keep.tolist()}), dtype=torch.int64)
    if not len(other):
        return
    readers = set(map(id, group.consumers))
    for dim, part in affected_slices(group):
        source, target = part.entries(keep), part.entries(other)
        for name, tensor in layer_tensors(model.get_submodule(part.name)):
            if tensor.dim() <= dim or part.tensor not in ("", name):
                continue
            if id(part) in readers:
                tensor.index_fill_(dim, target, 0)
            else:
                tensor.index_copy_(dim, target, tensor.index_select(dim, source))


def _group(model: nn.Module, root: str, entries: Entries) -> ChannelGroup | None:
    """Returns the group of `root`; ``None`` if a layer in it cannot lose single entries."""
    channels, modules = len(entries[root, 0]), dict(model.named_modules())
    slices: dict[str, list[ChannelSlice]] = {"filters": [], "norms": [], "consumers": [], "tables": []}
    has_layer_norm = any(isinstance(modules.get(name), nn.LayerNorm) for name, _ in entries)
    for (name, dim), by_channel in entries.items():
        layer = modules.get(name)
        if has_layer_norm and layer is None and name:
            slices["tables"].append(_table_slice(model, name, channels))
        elif has_layer_norm and isinstance(layer, nn.MultiheadAttention):
            slices["consumers"].append(ChannelSlice(name, tensor="in_proj_weight", dim=1))
            slices["filters"].append(ChannelSlice(f"{name}.out_proj"))
        else:
            role, part = _role(layer, dim), _slice(name, channels, by_channel)
            if not role or part is None:
                return None
            slices[role] += _repeated(part, layer, dim, channels) if has_layer_norm else [part]
    filters, norms, consumers, tables = (tuple(parts) for parts in slices.values())
    kind: UnitKind = "embedding" if has_layer_norm else "filters"
    return ChannelGroup(root, channels, filters, norms, consumers, kind, tables) if consumers else None


def _table_slice(model: nn.Module, name: str, channels: int) -> ChannelSlice:
    """Returns the slice of a parameter outside of layers: along its last dimension that has an entry per channel."""
    module, _, key = name.rpartition(".")
    dims = [dim for dim, size in enumerate(model.get_parameter(name).shape) if size == channels]
    return ChannelSlice(module, tensor=key, dim=dims[-1] if dims else 0)


def _repeated(part: ChannelSlice, layer: nn.Module | None, dim: int, channels: int) -> list[ChannelSlice]:
    """Returns the slices of a layer of an embedding: several where Swin concatenates those of neighbouring patches."""
    width = channels
    if isinstance(layer, nn.LayerNorm):
        width = layer.normalized_shape[0]
    elif isinstance(layer, nn.Linear) and dim == 1:
        width = layer.in_features
    if part != ChannelSlice(part.name) or width == channels or width % channels:
        return [part]
    return [ChannelSlice(part.name, start=start) for start in range(0, width, channels)]


def _role(layer: nn.Module | None, dim: int) -> str:
    """Returns the field of a `ChannelGroup` that a layer belongs to; empty if none."""
    if layer is None or has_hooks(layer):
        return ""
    if isinstance(layer, _BatchNorm | nn.LayerNorm):
        return "norms"
    if isinstance(layer, ChannelSelection):
        return "norms" if bool(layer.indexes.all()) else ""
    if not isinstance(layer, nn.Conv2d | nn.Linear) or "weight" not in layer._parameters:
        return ""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    if groups > 1:
        is_depthwise = groups == layer.weight.shape[0] and layer.weight.shape[1] == 1
        return "filters" if dim == 0 and is_depthwise else ""
    return "consumers" if dim else "filters"


def _slice(name: str, channels: int, by_channel: Mapping[int, Sequence[int]]) -> ChannelSlice | None:
    """Returns the entries of all channels as a slice; ``None`` if they are not consecutive or some are missing."""
    first = by_channel.get(0, ())
    if not first:
        return None
    part = ChannelSlice(name, len(first), first[0])
    expected = part.entries(torch.arange(channels)).view(channels, -1).tolist()
    return part if [[*by_channel.get(channel, ())] for channel in range(channels)] == expected else None


def _entries_by_root(graph: Any, model: nn.Module) -> dict[str, Entries]:
    roots: dict[str, Entries] = {}
    names = {module: name for name, module in model.named_modules()}
    grouped: set[str] = set()
    inside_attention = tuple(f"{name}." for name in attention_modules(model))
    for module, name in names.items():
        if name in grouped or name.startswith(inside_attention) or module not in graph.module2node:
            continue  # the last are modules that no forward pass reaches
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            roots[name] = _entries(graph, _dependents(graph, module, module.out_channels), names)
        elif isinstance(module, nn.Linear):
            entries = _entries(graph, _dependents(graph, module, module.out_features), names)
            if not any(
                isinstance(model.get_submodule(layer), nn.LayerNorm) for layer in _layers(names, entries)
            ):
                continue
            roots[name] = entries
        else:
            continue
        grouped |= {layer for layer, dim in roots[name] if dim == 0}
    return roots


def _layers(names: Mapping[nn.Module, str], entries: Entries) -> set[str]:
    return {layer for layer, _ in entries} & set(names.values())


def _dependents(graph: Any, layer: nn.Module, channels: int) -> Any:
    package = torch_pruning()
    is_conv = isinstance(layer, nn.Conv2d)
    prune = package.prune_conv_out_channels if is_conv else package.prune_linear_out_channels
    return graph.get_pruning_group(layer, prune, [*range(channels)])


def _entries(graph: Any, group: Any, names: dict[nn.Module, str]) -> Entries:
    output = torch_pruning().ops._OutputOp
    entries: Entries = {}
    for item in group:
        target = item.dep.target.module
        if isinstance(target, nn.Parameter):
            name = graph._param_to_name[target]
        elif target in names:
            name = names[target]
        elif isinstance(target, output):
            name = ""
        else:  # an operation without tensors
            continue
        by_root = entries.setdefault(
            (name, int(not graph.is_out_channel_pruning_fn(item.dep.handler))), defaultdict(list)
        )
        for entry, root in zip(item.idxs, item.root_idxs, strict=True):
            by_root[root].append(entry)
    return {
        key: {root: sorted(indices) for root, indices in by_root.items()} for key, by_root in entries.items()
    }


@cache
def _width_preserving_pruner() -> Any:
    """Returns Torch-Pruning's description of a layer with as many output as input channels."""

    class WidthPreserving(torch_pruning().pruner.function.BasePruningFunc):  # type: ignore[misc]  # it has no types
        def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
            raise NotImplementedError  # the graph is read, never pruned

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: nn.Module) -> int:
            return len(next(layer.buffers()))

        get_in_channels = get_out_channels

    return WidthPreserving()
