"""Physical removal of channels, from any network that torch.fx can trace.

`channel_groups` finds the removable channels of single convolutions, those that no addition or concatenation joins with
others, in the graph of torch.fx: right for every network, also with zero-padding shortcuts, since a channel with an
unfamiliar user is left out. `evalsuite.models.surgery.coupled_channels` finds channels that convolutions share;
`remove_channels` removes both kinds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from evalsuite.errors import ContractError
from evalsuite.models.surgery.fx_graph import (
    TracedGraph,
    flattens_channels,
    is_channelwise,
    is_unmodified,
    reads_other_sizes,
    trace_graph,
)
from evalsuite.models.surgery.width_inference import layer_tensors, replace_tensor, update_channel_counts


@dataclass(frozen=True, slots=True)
class ChannelSlice:
    """A range of a layer's inputs or outputs, with the same number of entries for each channel of a group.

    Attributes:
        name: Of the layer.
        columns: Consecutive entries that belong to one channel: more than 1 behind a flattening.
        start: The first channel's first entry: more than 0 behind a concatenation.
    """

    name: str
    columns: int = 1
    start: int = 0

    def entries(self, channels: Tensor) -> Tensor:
        """Returns the entries that belong to `channels`, in their order, (len(channels) * columns,)."""
        steps = torch.arange(self.columns, device=channels.device)
        return self.start + (channels[:, None] * self.columns + steps).flatten()


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that are removed together, and all layers whose shapes then change.

    Attributes:
        conv: Name of a convolution whose output channels are those of the group; it names the group.
        channels: Number of channels.
        filters: The layers that compute the channels: `conv` alone, or all whose outputs are added to its own, and
            depthwise convolutions behind them.
        norms: Batch norms behind them, and selections of channels.
        consumers: The layers that read the channels.
    """

    conv: str
    channels: int
    filters: tuple[ChannelSlice, ...]
    norms: tuple[ChannelSlice, ...]
    consumers: tuple[ChannelSlice, ...]


ChannelGroups = Mapping[str, ChannelGroup]
"""Groups by the convolution that names them."""


def channel_groups(model: nn.Module) -> list[ChannelGroup]:
    """Returns the convolutions whose output channels can be removed, in order of execution.

    A convolution is left out when its output meets an addition, a concatenation, a padding, another group's
    channels, the model's output, or any operation that is not listed as channel-wise.

    Raises:
        InvalidModelError: If the model cannot be traced.
    """
    graph = trace_graph(model)
    groups = (_group(graph, node) for node in graph.nodes if _is_prunable_conv(graph, node))
    return [group for group in groups if group is not None]


def remove_channels(
    model: nn.Module, keep: Mapping[str, Tensor], groups: ChannelGroups | None = None
) -> nn.Module:
    """Returns a smaller copy of `model` that keeps only the named channels; the model is left as it was.

    Args:
        model: A network that can be traced.
        keep: Names of groups to the channels to keep: int64, rising, not empty.
        groups: Those of the model, by name; ``None`` for those of `channel_groups`.

    Raises:
        ContractError: If a name is not in the groups, or the channels are not rising and in range.
        InvalidModelError: If the model cannot be traced.
    """
    if groups is None:
        groups = {group.conv: group for group in channel_groups(model)}
    for name, channels in keep.items():
        if name not in groups:
            raise ContractError(
                f"channels of {name!r} cannot be removed: it is no convolution of its own "
                f"(removable: {', '.join(groups) or 'none'})"
            )
        _check_channels(groups[name], channels)
    return _with_channels(model, [(groups[name], channels) for name, channels in keep.items()])


def _affected_slices(group: ChannelGroup) -> Iterator[tuple[int, ChannelSlice]]:
    """Yields the slices that a group removes: in dimension 0 of all tensors of a layer, or in 1 of its weight."""
    for dim, slices in ((0, group.filters), (0, group.norms), (1, group.consumers)):
        yield from ((dim, part) for part in slices)


def _is_prunable_conv(graph: TracedGraph, node: fx.Node) -> bool:
    module = graph.module(node)
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and graph.is_called_once(node)
        and is_unmodified(module)
    )


def _group(graph: TracedGraph, node: fx.Node) -> ChannelGroup | None:
    """Returns the group of the convolution at `node`; ``None`` if its output has an unfamiliar user."""
    conv = graph.module(node)
    if not isinstance(conv, nn.Conv2d):
        return None
    norms: list[ChannelSlice] = []
    consumers: list[ChannelSlice] = []
    frontier = [(node, False)]  # nodes that carry the channels; True: flattened to a vector
    while frontier:
        source, is_flat = frontier.pop(0)
        for user in source.users:
            module = graph.module(user)
            if not is_flat and _is_removable_norm(graph, user):
                norms.append(ChannelSlice(str(user.target)))
                frontier.append((user, is_flat))
            elif columns := _columns(graph, user, is_flat=is_flat, channels=conv.out_channels):
                consumers.append(ChannelSlice(str(user.target), columns))
            elif is_channelwise(graph, user, source):
                frontier.append((user, is_flat))
            elif not is_flat and flattens_channels(user, module, source):
                frontier.append((user, True))
            elif not reads_other_sizes(user, channel_dims={1, -1} if is_flat else {1, -3}):
                return None
    if not consumers:
        return None
    name = str(node.target)
    return ChannelGroup(name, conv.out_channels, (ChannelSlice(name),), tuple(norms), tuple(consumers))


def _is_removable_norm(graph: TracedGraph, user: fx.Node) -> bool:
    module = graph.module(user)
    return isinstance(module, nn.BatchNorm2d) and graph.is_called_once(user) and is_unmodified(module)


def _columns(graph: TracedGraph, user: fx.Node, *, is_flat: bool, channels: int) -> int:
    """Returns the inputs per channel of the layer that `user` calls; 0 if it is no layer that can lose inputs."""
    module = graph.module(user)
    if module is None or not graph.is_called_once(user) or not is_unmodified(module):
        return 0
    if isinstance(module, nn.Conv2d):
        return int(not is_flat and module.groups == 1)
    if isinstance(module, nn.Linear) and is_flat and module.in_features % channels == 0:
        return module.in_features // channels
    return 0


def _check_channels(group: ChannelGroup, channels: Tensor) -> None:
    listed: list[int] = channels.tolist() if channels.dtype == torch.int64 and channels.dim() == 1 else []
    if not listed or listed != sorted(set(listed)) or listed[0] < 0 or listed[-1] >= group.channels:
        raise ContractError(
            f"channels to keep of {group.conv!r}: found {listed or channels}, "
            f"expected rising int64 indices in 0..{group.channels - 1}, at least one"
        )


def _with_channels(model: nn.Module, keep: Iterable[tuple[ChannelGroup, Tensor]]) -> nn.Module:
    """Returns a copy with those channels of each group; a layer loses the entries of all groups at once."""
    smaller = copy.deepcopy(model)
    masks: dict[tuple[str, int], Tensor] = {}  # layers and dimensions to the entries that stay
    for group, channels in keep:
        removed = torch.ones(group.channels, dtype=torch.bool)
        removed[channels.cpu()] = False
        for dim, part in _affected_slices(group):
            size = _length(smaller.get_submodule(part.name), dim)
            mask = masks.setdefault((part.name, dim), torch.ones(size, dtype=torch.bool))
            mask[part.entries(removed.nonzero().flatten())] = False
    for (name, dim), mask in masks.items():
        _select(smaller.get_submodule(name), mask.nonzero().flatten(), dim=dim)
    return smaller


def _length(module: nn.Module, dim: int) -> int:
    return next(tensor.shape[dim] for _, tensor in layer_tensors(module) if tensor.dim() > dim)


def _select(module: nn.Module, index: Tensor, *, dim: int) -> None:
    """Keeps the entries `index` of every tensor of `module` along `dim`; dim 1 is the weight's inputs."""
    for name, tensor in layer_tensors(module):
        if tensor.dim() > dim:
            replace_tensor(module, name, tensor.detach().index_select(dim, index.to(tensor.device)))
    update_channel_counts(module)
