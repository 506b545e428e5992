"""Physical removal of channels, through any network that torch.fx can trace.

Which channels can go is found here for those that one convolution makes alone and nobody adds or appends to others,
by what torch.fx sees: right for every network, zero-padding shortcuts too, since what is not known is left out.
Channels that convolutions share are found by `evalsuite.models.surgery.coupling`; all are removed here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from evalsuite.errors import ContractError
from evalsuite.models.surgery.graph import Flow, asks_size, flattens, flow, per_channel, plain
from evalsuite.models.surgery.width_inference import count_channels, replace_tensor, tensors


@dataclass(frozen=True, slots=True)
class Part:
    """Is a run of a layer's inputs or outputs, so many of them for each channel of a group.

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
    """Is everything that changes shape when a channel goes.

    Attributes:
        conv: Name of a convolution whose output channels are those of the group; it names the group.
        channels: How many there are.
        filters: The layers that make the channels: `conv` alone, or all whose outputs meet with its own, and
            depthwise convolutions behind them.
        norms: Batch norms behind them, and selections of channels.
        consumers: The layers that read the channels.
    """

    conv: str
    channels: int
    filters: tuple[Part, ...]
    norms: tuple[Part, ...]
    consumers: tuple[Part, ...]


Groups = Mapping[str, ChannelGroup]
"""Groups by the convolution that names them."""


def channel_groups(model: nn.Module) -> list[ChannelGroup]:
    """Returns the convolutions whose output channels can be removed, in order of execution.

    A convolution is left out when its output meets an addition, a concatenation, a padding, another group's
    channels, the model's output, or anything else that is not known to treat each channel by itself.

    Raises:
        InvalidModelError: If the model cannot be traced.
    """
    traced = flow(model)
    groups = (_group(traced, node) for node in traced.nodes if _prunable_conv(traced, node))
    return [group for group in groups if group is not None]


def remove_channels(model: nn.Module, keep: Mapping[str, Tensor], groups: Groups | None = None) -> nn.Module:
    """Returns a smaller copy of `model` that keeps only the named channels; the model is untouched.

    Args:
        model: A network that can be traced.
        keep: Names of groups to the channels to keep: int64, rising, not empty.
        groups: Those of the model, by name; those of `channel_groups` if there are none given.

    Raises:
        ContractError: If a name is not in the groups, or the channels are not rising and in range.
        InvalidModelError: If the model cannot be traced.
    """
    own = {group.conv: group for group in channel_groups(model)} if groups is None else groups
    for name, channels in keep.items():
        if name not in own:
            raise ContractError(
                f"channels of {name!r} cannot be removed: it is no convolution of its own "
                f"(removable: {', '.join(own) or 'none'})"
            )
        _check_channels(own[name], channels)
    return _without(model, [(own[name], channels) for name, channels in keep.items()])


def _prunable_conv(traced: Flow, node: fx.Node) -> bool:
    module = traced.module(node)
    return isinstance(module, nn.Conv2d) and module.groups == 1 and traced.once(node) and plain(module)


def _group(traced: Flow, node: fx.Node) -> ChannelGroup | None:
    """The group of the convolution at `node`; ``None`` if its output meets something unknown."""
    conv = traced.module(node)
    if not isinstance(conv, nn.Conv2d):
        return None
    norms: list[Part] = []
    consumers: list[Part] = []
    frontier = [(node, False)]  # nodes that carry the channels; True: flattened to a vector
    while frontier:
        source, flat = frontier.pop(0)
        for user in source.users:
            module = traced.module(user)
            if not flat and isinstance(module, nn.BatchNorm2d) and traced.once(user) and plain(module):
                norms.append(Part(str(user.target)))
                frontier.append((user, flat))
            elif columns := _columns(traced, user, flat=flat, channels=conv.out_channels):
                consumers.append(Part(str(user.target), columns))
            elif per_channel(traced, user, source):
                frontier.append((user, flat))
            elif not flat and flattens(user, module, source):
                frontier.append((user, True))
            elif not asks_size(user, channel_dims={1, -1} if flat else {1, -3}):
                return None
    name = str(node.target)
    return (
        ChannelGroup(name, conv.out_channels, (Part(name),), tuple(norms), tuple(consumers))
        if consumers
        else None
    )


def _columns(traced: Flow, user: fx.Node, *, flat: bool, channels: int) -> int:
    """Inputs per channel of the layer that `user` calls; 0 if it is no layer that can lose inputs."""
    module = traced.module(user)
    if module is None or not traced.once(user) or not plain(module):
        return 0
    if isinstance(module, nn.Conv2d):
        return int(not flat and module.groups == 1)
    if isinstance(module, nn.Linear) and flat and module.in_features % channels == 0:
        return module.in_features // channels
    return 0


def _check_channels(group: ChannelGroup, channels: Tensor) -> None:
    listed: list[int] = channels.tolist() if channels.dtype == torch.int64 and channels.dim() == 1 else []
    if not listed or listed != sorted(set(listed)) or listed[0] < 0 or listed[-1] >= group.channels:
        raise ContractError(
            f"channels to keep of {group.conv!r}: found {listed or channels}, "
            f"expected rising int64 indices in 0..{group.channels - 1}, at least one"
        )


def _without(model: nn.Module, chosen: Iterable[tuple[ChannelGroup, Tensor]]) -> nn.Module:
    """A copy that keeps the channels beside each group; a layer loses what all groups take from it at once."""
    smaller = copy.deepcopy(model)
    left: dict[tuple[str, int], Tensor] = {}  # layers and dimensions to a mask of what stays
    for group, channels in chosen:
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[channels.cpu()] = False
        for dim, part in ends(group):
            size = _length(smaller.get_submodule(part.name), dim)
            mask = left.setdefault((part.name, dim), torch.ones(size, dtype=torch.bool))
            mask[part.entries(gone.nonzero().flatten())] = False
    for (name, dim), mask in left.items():
        _select(smaller.get_submodule(name), mask.nonzero().flatten(), dim=dim)
    return smaller


def ends(group: ChannelGroup) -> Iterator[tuple[int, Part]]:
    """Yields what a group takes from layers: dimension 0 of all their tensors, or 1, the inputs of their weight."""
    for dim, parts in ((0, group.filters), (0, group.norms), (1, group.consumers)):
        yield from ((dim, part) for part in parts)


def _length(module: nn.Module, dim: int) -> int:
    return next(tensor.shape[dim] for _, tensor in tensors(module) if tensor.dim() > dim)


def _select(module: nn.Module, index: Tensor, *, dim: int) -> None:
    """Keeps the entries `index` of every tensor of `module` along `dim`; dim 1 is the weight's inputs."""
    for name, tensor in tensors(module):
        if tensor.dim() > dim:
            replace_tensor(module, name, tensor.detach().index_select(dim, index.to(tensor.device)))
    count_channels(module)
