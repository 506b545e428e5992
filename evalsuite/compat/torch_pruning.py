"""Torch-Pruning's dependency graph: what loses entries in which layer when an output channel of a convolution goes.

The graph alone is taken; what it says is read from a copy and returned as plain numbers. Facts of version 1.6.1:
tracing needs gradients and leaves the model in evaluation mode; importing it warns; zero padding, a selection of
channels and every operation that it does not know count as element-wise, so that the entries it names can be
wrong without a word. Whoever cuts by them must prove them first (`evalsuite.models.coupling`).

References:
    Fang et al. 2023, "DepGraph: Towards any structural pruning", arXiv 2301.12900.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evalsuite.compat.calling import quiet_imports
from evalsuite.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import ModuleType

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
