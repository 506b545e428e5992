"""Physical removal of channels, through any network that torch.fx can trace."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from evalsuite.errors import ContractError
from evalsuite.models.graph import Flow, asks_size, flattens, flow, per_channel, plain
from evalsuite.models.resizing import count_channels, replace_tensor, tensors

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Consumer:
    """Is a layer that reads the channels.

    Attributes:
        name: Of a convolution or a linear layer.
        columns: Consecutive inputs of the layer that belong to one channel: more than 1 behind a flattening.
    """

    name: str
    columns: int


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Is everything that changes shape when an output channel of a convolution goes.

    Attributes:
        conv: Name of the convolution.
        channels: Its output channels.
        norms: Names of the batch norms behind it.
        consumers: The layers that read it.
    """

    conv: str
    channels: int
    norms: tuple[str, ...]
    consumers: tuple[Consumer, ...]


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


def remove_channels(model: nn.Module, keep: Mapping[str, Tensor]) -> nn.Module:
    """Returns a smaller copy of `model` that keeps only the named output channels; the model is untouched.

    Args:
        model: A network that can be traced.
        keep: Names of convolutions in `channel_groups` to the channels to keep: int64, rising, not empty.

    Raises:
        ContractError: If a name is not in `channel_groups`, or the channels are not rising and in range.
        InvalidModelError: If the model cannot be traced.
    """
    smaller = copy.deepcopy(model)
    groups = {group.conv: group for group in channel_groups(smaller)}
    for name, channels in keep.items():
        if name not in groups:
            raise ContractError(
                f"channels of {name!r} cannot be removed: it is no convolution of its own "
                f"(removable: {', '.join(groups) or 'none'})"
            )
        _check_channels(groups[name], channels)
    for name, channels in keep.items():
        _cut(smaller, groups[name], channels)
    return smaller


def _prunable_conv(traced: Flow, node: fx.Node) -> bool:
    module = traced.module(node)
    return isinstance(module, nn.Conv2d) and module.groups == 1 and traced.once(node) and plain(module)


def _group(traced: Flow, node: fx.Node) -> ChannelGroup | None:
    """The group of the convolution at `node`; ``None`` if its output meets something unknown."""
    conv = traced.module(node)
    if not isinstance(conv, nn.Conv2d):
        return None
    norms: list[str] = []
    consumers: list[Consumer] = []
    frontier = [(node, False)]  # nodes that carry the channels; True: flattened to a vector
    while frontier:
        source, flat = frontier.pop(0)
        for user in source.users:
            module = traced.module(user)
            if not flat and isinstance(module, nn.BatchNorm2d) and traced.once(user) and plain(module):
                norms.append(str(user.target))
                frontier.append((user, flat))
            elif columns := _columns(traced, user, flat=flat, channels=conv.out_channels):
                consumers.append(Consumer(str(user.target), columns))
            elif per_channel(traced, user, source):
                frontier.append((user, flat))
            elif not flat and flattens(user, module, source):
                frontier.append((user, True))
            elif not asks_size(user, channel_dims={1, -1} if flat else {1, -3}):
                return None
    return (
        ChannelGroup(str(node.target), conv.out_channels, tuple(norms), tuple(consumers))
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


def _cut(model: nn.Module, group: ChannelGroup, channels: Tensor) -> None:
    _select(model.get_submodule(group.conv), channels, dim=0)
    for name in group.norms:
        _select(model.get_submodule(name), channels, dim=0)
    for consumer in group.consumers:
        _select(model.get_submodule(consumer.name), _spread(channels, consumer.columns), dim=1)


def _spread(channels: Tensor, columns: int) -> Tensor:
    return (channels[:, None] * columns + torch.arange(columns, device=channels.device)).flatten()


def _select(module: nn.Module, index: Tensor, *, dim: int) -> None:
    """Keeps the entries `index` of every tensor of `module` along `dim`; dim 1 is the weight's inputs."""
    for name, tensor in tensors(module):
        if tensor.dim() > dim:
            replace_tensor(module, name, tensor.detach().index_select(dim, index.to(tensor.device)))
    count_channels(module)
