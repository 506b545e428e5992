"""Channels that several convolutions share: those of residual streams, and behind concatenations.

What goes together is read from Torch-Pruning's dependency graph and proved before it is used: Torch-Pruning
is silently wrong about some networks, those whose shortcuts pad with zeros among them. Channels inside a block need
none of it: see `evalsuite.models.surgery`.
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
from evalsuite.errors import UserError
from evalsuite.models.surgery.channel_selection import ChannelSelection
from evalsuite.models.surgery.graph import hooked
from evalsuite.models.surgery.removal import ChannelGroup, Part, remove_channels
from evalsuite.models.surgery.width_inference import tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from types import ModuleType


PROOF = 1e-6
"""How much outputs may move when dead channels go, as a share of what two images differ by, in double precision."""


def coupled_groups(model: nn.Module, image_shape: Sequence[int]) -> list[ChannelGroup]:
    """Returns all channels that can be removed, those that several convolutions share too, in the model's order.

    A group is left out if the network's output, a layer of another kind, a convolution of several groups that
    is not depthwise, or a layer with a hook or a parametrisation has part in it. The others are proved.

    Args:
        model: Is left as it was.
        image_shape: Of one image, (C, H, W).

    Raises:
        UserError: If Torch-Pruning cannot trace the model, or is wrong about it: nothing is removed on its
            word alone.
    """
    image = torch.rand((1, *image_shape), generator=torch.Generator().manual_seed(0))
    found = coupled_entries(model, image, alike=(ChannelSelection,))
    modules = dict(model.named_modules())
    groups = [group for name, entries in found.items() if (group := _group(modules, name, entries))]
    prove(model, groups, image_shape)
    return groups


def prove(model: nn.Module, groups: Sequence[ChannelGroup], image_shape: Sequence[int]) -> None:
    """Checks that half of the channels of each group can go, once they are dead, without a change of the outputs.

    Which entries belong to which channel does not depend on weights: they are drawn anew, so that no
    channel is dead by itself, and no mistake is hidden by one that is.

    Args:
        model: Is left as it was.
        groups: Of the model.
        image_shape: Of one image, (C, H, W).

    Raises:
        UserError: Naming the first group for which that is not so.
    """
    if groups and not _stays(model, groups, image_shape):
        wrong = next((one for one in groups if not _stays(model, [one], image_shape)), groups[0])
        raise UserError(
            f"channels that convolutions share cannot be removed here: when dead ones of {wrong.conv!r} go as "
            "Torch-Pruning says, the outputs change (shortcuts that pad with zeros are such a case); "
            + INSTEAD
        )


def redrawn(model: nn.Module) -> nn.Module:
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
    return drawn


def _stays(model: nn.Module, groups: Sequence[ChannelGroup], image_shape: Sequence[int]) -> bool:
    """Whether the outputs of `redrawn` stay what they are when half of the channels die and go."""
    random = torch.Generator().manual_seed(1)
    images = torch.rand((2, *image_shape), generator=random, dtype=torch.float64)
    keep = {
        one.conv: torch.randperm(one.channels, generator=random)[: (one.channels + 1) // 2].sort().values
        for one in groups
    }
    dead = redrawn(model)
    for group in groups:
        _kill(dead, group, keep[group.conv])
    try:
        smaller = remove_channels(dead, keep, {group.conv: group for group in groups})
        with torch.inference_mode():
            before, after = dead(images), smaller(images)
    except Exception:  # shapes that do not fit fail anywhere, in the network's own code too
        return False
    apart = (before[0] - before[1]).abs().max()
    return bool(before.shape == after.shape and apart > 0 and (after - before).abs().max() <= PROOF * apart)


def _kill(model: nn.Module, group: ChannelGroup, keep: Tensor) -> None:
    gone = torch.ones(group.channels, dtype=torch.bool)
    gone[keep] = False
    for part in (*group.filters, *group.norms):
        layer = model.get_submodule(part.name)
        for name, tensor in tensors(layer):
            if tensor.dim() and name not in ("running_var", "indexes"):
                tensor[part.entries(gone.nonzero().flatten())] = 0


def _group(modules: Mapping[str, nn.Module], conv: str, entries: Entries) -> ChannelGroup | None:
    """The group of `conv`; ``None`` if something in it cannot lose single entries."""
    channels = len(entries[conv, 0])
    parts: dict[str, list[Part]] = {"filters": [], "norms": [], "consumers": []}
    for (name, dim), by_channel in entries.items():
        kind = _kind(modules.get(name), dim)
        part = _part(name, channels, by_channel)
        if not kind or part is None:
            return None
        parts[kind].append(part)
    filters, norms, consumers = (tuple(one) for one in parts.values())
    return ChannelGroup(conv, channels, filters, norms, consumers) if consumers else None


def _kind(layer: nn.Module | None, dim: int) -> str:
    """Which part of a group a layer can be; empty if none."""
    if layer is None or hooked(layer):
        return ""
    if isinstance(layer, _BatchNorm):
        return "norms"
    if isinstance(layer, ChannelSelection):
        return "norms" if bool(layer.indexes.all()) else ""
    if not isinstance(layer, nn.Conv2d | nn.Linear) or "weight" not in layer._parameters:
        return ""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    if groups > 1:
        return (
            "filters" if dim == 0 and groups == layer.weight.shape[0] and layer.weight.shape[1] == 1 else ""
        )
    return "consumers" if dim else "filters"


def _part(name: str, channels: int, by_channel: Mapping[int, Sequence[int]]) -> Part | None:
    """The entries as a run; ``None`` if they are none, of all channels."""
    first = by_channel.get(0, ())
    if not first:
        return None
    part = Part(name, len(first), first[0])
    run = part.entries(torch.arange(channels)).view(channels, -1).tolist()
    return part if [[*by_channel.get(channel, ())] for channel in range(channels)] == run else None


Entries = dict[tuple[str, int], dict[int, list[int]]]
"""Names of layers, with 0 for outputs and 1 for inputs, to the entries that go with each channel of the root.

A loose parameter stands under its own name, the network's output under the empty one.
"""


INSTEAD = 'remove the channels inside its blocks alone (scope = "inside")'
"""What to do where Torch-Pruning is at a loss or wrong."""


def torch_pruning() -> ModuleType:
    """Returns the package, imported without its warnings."""
    with quiet_imports():
        import torch_pruning as package  # heavy
    return package  # type: ignore[no-any-return]  # it has no types


def coupled_entries(
    model: nn.Module, images: Tensor, *, alike: Collection[type[nn.Module]] = ()
) -> dict[str, Entries]:
    """Returns what goes with the output channels of each convolution, by name, in the order of the model.

    A convolution that is in the group of an earlier one has none of its own, nor has one of several groups.

    Args:
        model: Is left as it was.
        images: To trace it with, float32 on the CPU, (N, C, H, W).
        alike: Types of layers that pass on as many channels as they take, and lose entries of their tensors.

    Raises:
        UserError: If Torch-Pruning cannot trace it.
    """
    package = torch_pruning()
    try:
        with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.enable_grad():
            warnings.simplefilter("ignore")
            traced = copy.deepcopy(model).cpu().requires_grad_(True)
            pruners = {kind: _alike() for kind in alike}
            graph = package.DependencyGraph().build_dependency(
                traced, images.clone(), customized_pruners=pruners
            )
            return _roots(graph, traced)
    except Exception as error:  # it runs the model's own code, and asserts where it is at a loss
        raise UserError(
            f"Torch-Pruning cannot follow the channels of this network ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); {INSTEAD}"
        ) from error


def _roots(graph: Any, model: nn.Module) -> dict[str, Entries]:
    found: dict[str, Entries] = {}
    names = {module: name for name, module in model.named_modules()}
    prune = torch_pruning().prune_conv_out_channels
    taken: set[str] = set()
    for module, name in names.items():
        if not isinstance(module, nn.Conv2d) or module.groups > 1 or name in taken:
            continue
        if module in graph.module2node:  # those that no forward pass reaches are not
            group = graph.get_pruning_group(module, prune, [*range(module.out_channels)])
            found[name] = _entries(graph, group, names)
            taken |= {layer for layer, dim in found[name] if dim == 0}
    return found


def _entries(graph: Any, group: Any, names: dict[nn.Module, str]) -> Entries:
    output = torch_pruning().ops._OutputOp
    found: Entries = {}
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
        by_root = found.setdefault(
            (name, int(not graph.is_out_channel_pruning_fn(item.dep.handler))), defaultdict(list)
        )
        for entry, root in zip(item.idxs, item.root_idxs, strict=True):
            by_root[root].append(entry)
    return {key: {root: sorted(one) for root, one in by_root.items()} for key, by_root in found.items()}


@cache
def _alike() -> Any:
    """What Torch-Pruning needs to know of a layer that passes on as many channels as it takes."""

    class Alike(torch_pruning().pruner.function.BasePruningFunc):  # type: ignore[misc]  # it has no types
        def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
            raise NotImplementedError  # the graph is read, never cut

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: nn.Module) -> int:
            return len(next(layer.buffers()))

        get_in_channels = get_out_channels

    return Alike()
