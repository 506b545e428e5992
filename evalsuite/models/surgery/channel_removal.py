"""Physical removal of units of a network: channels of convolutions, hidden units of MLPs, heads and their widths.

A unit is what one layer computes alone, so that no addition or concatenation joins it with others. `prunable_units`
finds units in the graph of torch.fx: right for every network, also with zero-padding shortcuts, since a channel with an
unfamiliar user is left out. Where a network cannot be traced as a whole, its parts are. Heads are found by
`evalsuite.models.surgery.attention`, channels that layers share by `evalsuite.models.surgery.coupled_channels`;
`remove_channels` removes all kinds.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

import torch
from torch import Tensor, fx, nn

from evalsuite.errors import ContractError, InvalidModelError
from evalsuite.models.surgery.attention import (
    HeadLayout,
    HeadRows,
    attention_modules,
    narrow_heads,
    why_no_heads,
    why_not_narrow,
)
from evalsuite.models.surgery.fx_graph import (
    TracedGraph,
    flattens_channels,
    is_channelwise,
    is_pointwise,
    is_unmodified,
    node_label,
    reads_other_sizes,
    trace_graph,
)
from evalsuite.models.surgery.width_inference import layer_tensors, replace_tensor, update_channel_counts


@dataclass(frozen=True, slots=True)
class ChannelSlice:
    """A range of a layer's inputs or outputs, with the same number of entries for each channel of a group.

    Attributes:
        name: Of the layer.
        columns: Entries that belong to one channel: more than 1 behind a flattening.
        start: The first channel's first entry: more than 0 behind a concatenation.
        stride: From one entry of a channel to its next, where channels alternate: those of a head, one after another
            in each head. 0 where the entries of a channel are consecutive.
        tensor: Name of the only tensor that is cut, a parameter of the module itself; empty for all of a layer's.
        dim: Dimension of that tensor.
    """

    name: str
    columns: int = 1
    start: int = 0
    tensor: str = ""
    dim: int = 0
    stride: int = 0

    def entries(self, channels: Tensor) -> Tensor:
        """Returns the entries that belong to `channels`, in their order, (len(channels) * columns,)."""
        steps = torch.arange(self.columns, device=channels.device) * (self.stride or 1)
        first = channels[:, None] * (1 if self.stride else self.columns)
        return self.start + (first + steps).flatten()


UnitKind = Literal["filters", "hidden units", "heads", "embedding", "qk dimensions", "v dimensions"]
"""Filters of convolutions; outputs of a linear layer that only the next one reads; heads; channels of tokens; entries
of the queries and keys, or of the values, of all heads of an attention."""

HEAD_DIMENSIONS: tuple[UnitKind, ...] = ("qk dimensions", "v dimensions")


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels, or other units, that are removed together, and all layers whose shapes then change.

    Attributes:
        conv: Name of a convolution whose output channels are those of the group, or of the linear layer or the
            attention module; it names the group.
        channels: Number of channels, hidden units or heads.
        filters: The layers that compute the channels: `conv` alone, or all whose outputs are added to its own, and
            depthwise convolutions behind them; of heads the projections to queries, keys and values.
        norms: Norms behind them, selections of channels, scales of layers.
        consumers: The layers that read the channels.
        kind: What its units are. Scores of different kinds are never compared.
        tables: Other parameters with an entry for each unit: position tables, tokens.
    """

    conv: str
    channels: int
    filters: tuple[ChannelSlice, ...]
    norms: tuple[ChannelSlice, ...]
    consumers: tuple[ChannelSlice, ...]
    kind: UnitKind = "filters"
    tables: tuple[ChannelSlice, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A layer whose outputs cannot be removed, with the reason."""

    name: str
    reason: str


ChannelGroups = Mapping[str, ChannelGroup]
"""Groups by the convolution that names them."""


def channel_groups(model: nn.Module) -> list[ChannelGroup]:
    """Returns the convolutions and MLPs whose units can be removed, in order of execution.

    A convolution is left out when its output meets an addition, a concatenation, a padding, another group's
    channels, the model's output, or any operation that is not listed as channel-wise. The hidden units of an MLP are
    the outputs of a linear layer that only another linear layer reads, behind functions of single numbers, which
    leads back to the width that the first one reads: the MLP of a residual block.

    Raises:
        InvalidModelError: If neither the model can be traced nor any part of it has such units.
    """
    return prunable_units(model)[0]


def prunable_units(model: nn.Module) -> tuple[list[ChannelGroup], list[LeftOut]]:
    """Returns what `channel_groups` returns, and the layers that it leaves out with their reasons.

    Raises:
        InvalidModelError: As `channel_groups`.
    """
    groups: list[ChannelGroup] = []
    left_out: list[LeftOut] = []
    failure: InvalidModelError | None = None
    registered = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    inside_attention = tuple(f"{name}." for name in attention_modules(model))
    for prefix, graph in _traced_parts(model, ""):
        if isinstance(graph, InvalidModelError):
            failure = failure or graph
            continue
        for node in graph.nodes:
            if not _is_layer(graph, node) or f"{prefix}{node.target}".startswith(inside_attention):
                continue
            result = _group(graph, node)
            if isinstance(result, ChannelGroup) and prefix:
                result = _renamed(result, prefix)
                names = [part.name for part in (*result.filters, *result.norms, *result.consumers)]
                if any(registered[id(model.get_submodule(name))] > 1 for name in names):
                    result = LeftOut(str(node.target), "its layers are used in several places")
            if isinstance(result, ChannelGroup):
                groups.append(result)
            else:
                left_out.append(replace(result, name=f"{prefix}{node.target}"))
    if failure is not None and not groups and not attention_modules(model):
        raise failure
    return groups, left_out


def head_groups(model: nn.Module) -> list[ChannelGroup]:
    """Returns the attention modules whose heads can be removed, in the order of the model.

    The size of a head stays, and with it the scale of its products; numbers of heads follow.
    """
    return [_head_group(name, layout) for name, layout in attention_modules(model).items()]


def head_dimension_groups(model: nn.Module) -> list[ChannelGroup]:
    """Returns the widths of heads that can shrink: of queries and keys, and of values, in the order of the model.

    A unit is the same entry of every head of an attention module: of queries and keys, whose product it adds to, or of
    values, with the columns of the output projection that read it.
    """
    groups: list[ChannelGroup] = []
    for name, layout in attention_modules(model).items():
        if not layout.fixed:
            rows = tuple(_dimension_slice(name, part, layout.heads) for part in (layout.queries, layout.keys))
            groups.append(ChannelGroup(f"{name}:qk", layout.queries.width, rows, (), (), "qk dimensions"))
        if not layout.fixed_values:
            output = _dimension_slice(name, HeadRows(layout.output, 0, layout.values.width), layout.heads)
            rows = (_dimension_slice(name, layout.values, layout.heads),)
            groups.append(ChannelGroup(f"{name}:v", layout.values.width, rows, (), (output,), "v dimensions"))
    return groups


def head_dimensions_left_out(model: nn.Module) -> list[LeftOut]:
    """Returns the attention modules the widths of whose heads cannot change, with the reasons."""
    return [
        LeftOut(f"{name}:{part}", reason)
        for name, module in model.named_modules()
        for part, reason in zip(("qk", "v"), why_not_narrow(module), strict=True)
        if reason
    ]


def heads_left_out(model: nn.Module) -> list[LeftOut]:
    """Returns the modules that look like attention and whose heads cannot be removed."""
    reasons = ((name, why_no_heads(module)) for name, module in model.named_modules())
    return [LeftOut(name, reason) for name, reason in reasons if reason]


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


def affected_slices(group: ChannelGroup) -> Iterator[tuple[int, ChannelSlice]]:
    """Yields the slices that a group removes: in dimension 0 of all tensors of a layer, or in 1 of its weight."""
    for dim, slices in ((0, group.filters), (0, group.norms), (1, group.consumers), (0, group.tables)):
        yield from ((part.dim if part.tensor else dim, part) for part in slices)


def _traced_parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, TracedGraph | InvalidModelError]]:
    """Yields the graph of a module, or where there is none the error and the graphs of its parts, with prefixes.

    A container is no part: the code around it may look at what is between its layers.
    """
    is_container = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) and bool(prefix)
    if not is_container:
        try:
            yield prefix, trace_graph(module)
        except InvalidModelError as error:
            yield prefix, error
        else:
            return
    for name, child in module.named_children():
        yield from _traced_parts(child, f"{prefix}{name}.")


def _renamed(group: ChannelGroup, prefix: str) -> ChannelGroup:
    """Returns a group of a part with the names that its layers have in the whole."""
    filters, norms, consumers = (
        tuple(replace(part, name=prefix + part.name) for part in slices)
        for slices in (group.filters, group.norms, group.consumers)
    )
    return replace(group, conv=prefix + group.conv, filters=filters, norms=norms, consumers=consumers)


def _head_group(name: str, layout: HeadLayout) -> ChannelGroup:
    inputs = tuple(
        ChannelSlice(f"{name}.{layer}".strip("."), width, start) for layer, start, width in layout.inputs
    )
    tables = (ChannelSlice(name, tensor=layout.table, dim=1),) if layout.table else ()
    consumers = (ChannelSlice(f"{name}.{layout.output}".strip("."), layout.values.width),)
    return ChannelGroup(name, layout.heads, inputs, (), consumers, "heads", tables)


def _dimension_slice(name: str, rows: HeadRows, heads: int) -> ChannelSlice:
    """The same entry of every head."""
    return ChannelSlice(f"{name}.{rows.layer}".strip("."), heads, rows.start, stride=rows.width)


def _is_layer(graph: TracedGraph, node: fx.Node) -> bool:
    return isinstance(graph.module(node), nn.Conv2d | nn.Linear)


class _Layout(Enum):
    """Where the channels of a tensor are: in maps (N, C, H, W), in vectors (N, features), last in tokens (..., C)."""

    MAPS = 1
    FLAT = 2
    TOKENS = 3


_CHANNEL_DIMS = {_Layout.MAPS: {1, -3}, _Layout.FLAT: {1, -1}, _Layout.TOKENS: {1, 2, 3, -1}}


def _group(graph: TracedGraph, node: fx.Node) -> ChannelGroup | LeftOut:
    """Returns the group of the layer at `node`, or the reason why its outputs cannot be removed."""
    layer, name = graph.module(node), str(node.target)
    if layer is None or not graph.is_called_once(node) or not is_unmodified(layer):
        return LeftOut(name, "it is used in several places, or has a hook or a parametrisation")
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return LeftOut(name, f"it is a convolution of {layer.groups} groups")
    channels = len(layer.get_parameter("weight"))
    norms: list[ChannelSlice] = []
    consumers: list[ChannelSlice] = []
    frontier = [(node, _Layout.MAPS if isinstance(layer, nn.Conv2d) else _Layout.TOKENS)]
    while frontier:
        source, layout = frontier.pop(0)
        for user in source.users:
            module = graph.module(user)
            if layout is _Layout.MAPS and _is_removable_norm(graph, user):
                norms.append(ChannelSlice(str(user.target)))
                frontier.append((user, layout))
            elif columns := _columns(graph, user, layout, channels=channels):
                consumers.append(ChannelSlice(str(user.target), columns))
            elif (is_pointwise if layout is _Layout.TOKENS else is_channelwise)(graph, user, source):
                frontier.append((user, layout))
            elif layout is _Layout.MAPS and flattens_channels(user, module, source):
                frontier.append((user, _Layout.FLAT))
            elif not reads_other_sizes(user, channel_dims=_CHANNEL_DIMS[layout]):
                return LeftOut(name, f"its output reaches {node_label(graph, user)}")
    if not consumers:
        return LeftOut(name, "nothing reads its output")
    if isinstance(layer, nn.Linear) and any(_outputs(graph, part) != layer.in_features for part in consumers):
        return LeftOut(name, "it is no MLP of a residual block: what reads it leads to another width")
    kind: UnitKind = "filters" if isinstance(layer, nn.Conv2d) else "hidden units"
    return ChannelGroup(name, channels, (ChannelSlice(name),), tuple(norms), tuple(consumers), kind)


def _outputs(graph: TracedGraph, part: ChannelSlice) -> int:
    return len(graph.modules[part.name].get_parameter("weight"))


def _is_removable_norm(graph: TracedGraph, user: fx.Node) -> bool:
    module = graph.module(user)
    return isinstance(module, nn.BatchNorm2d) and graph.is_called_once(user) and is_unmodified(module)


def _columns(graph: TracedGraph, user: fx.Node, layout: _Layout, *, channels: int) -> int:
    """Returns the inputs per channel of the layer that `user` calls; 0 if it is no layer that can lose inputs."""
    module = graph.module(user)
    if module is None or not graph.is_called_once(user) or not is_unmodified(module):
        return 0
    if isinstance(module, nn.Conv2d):
        return int(layout is _Layout.MAPS and module.groups == 1)
    if isinstance(module, nn.Linear) and layout is _Layout.TOKENS:
        return int(module.in_features == channels)
    if isinstance(module, nn.Linear) and layout is _Layout.FLAT and module.in_features % channels == 0:
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
    masks: dict[tuple[str, str, int], Tensor] = {}  # layers, tensors and dimensions to the entries that stay
    keep = list(keep)
    changed = {group.kind for group, channels in keep if len(channels) < group.channels}
    layouts = attention_modules(smaller) if changed & {"heads", "embedding", *HEAD_DIMENSIONS} else {}
    for group, channels in keep:
        removed = torch.ones(group.channels, dtype=torch.bool)
        removed[channels.cpu()] = False
        for dim, part in affected_slices(group):
            size = _length(smaller.get_submodule(part.name), part.tensor, dim)
            mask = masks.setdefault((part.name, part.tensor, dim), torch.ones(size, dtype=torch.bool))
            mask[part.entries(removed.nonzero().flatten())] = False
    for (name, tensor, dim), mask in masks.items():
        if not mask.all():
            _select(smaller.get_submodule(name), mask.nonzero().flatten(), tensor=tensor, dim=dim)
    left = {group.conv: len(channels) for group, channels in keep}
    for name, layout in layouts.items():
        heads, width, values = layout.shape
        shape = (left.get(name, heads), left.get(f"{name}:qk", width), left.get(f"{name}:v", values))
        if "embedding" in changed or shape != layout.shape:
            narrow_heads(smaller.get_submodule(name), layout, shape)
    return smaller


def _length(module: nn.Module, name: str, dim: int) -> int:
    if name:
        return int(getattr(module, name).shape[dim])
    return next(tensor.shape[dim] for _, tensor in layer_tensors(module) if tensor.dim() > dim)


def _select(module: nn.Module, index: Tensor, *, tensor: str, dim: int) -> None:
    """Keeps the entries `index` of a tensor of `module`, or of all, along `dim`; dim 1 is a weight's inputs."""
    for name, value in layer_tensors(module):
        if value.dim() > dim and tensor in ("", name):
            replace_tensor(module, name, value.detach().index_select(dim, index.to(value.device)))
    update_channel_counts(module)
