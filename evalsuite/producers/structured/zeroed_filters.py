"""Filters that are set to zero instead of removed, in every layer for itself: the residual stream included.

This is how lucaslie/torchprune prunes filters (FT and PFP of "Lost in Pruning"): shapes stay, the ratio is that of
non-zero parameters, and multiplications by what is zero are not counted.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from evalsuite.errors import InvalidModelError, UserError
from evalsuite.models.cost import count_nonzero, layers_read_as_weights, prunable_layers
from evalsuite.models.surgery.channel_removal import ChannelGroup, ChannelGroups, ChannelSlice
from evalsuite.models.surgery.fx_graph import trace_graph
from evalsuite.producers.base import Context, nearest_choice
from evalsuite.producers.propagation import drop_dead_channels, propagation_images
from evalsuite.producers.unstructured.base import apply_masks, nonzero_masks

Counts = Mapping[str, int]
"""Names of layers to numbers of filters, or of input channels, that stay."""
Side = int
"""Dimension of a weight: 0 its filters, 1 its input channels."""
ZeroingPlan = tuple[Mapping[str, Tensor], Sequence[Counts]]
"""The filters or input channels of each layer, best first, and the sets of counts to choose from, least first."""


def layer_groups(model: nn.Module) -> ChannelGroups:
    """Returns a group for every convolution and linear layer but the last, of its own outputs and nothing else.

    The batch norm is that which alone reads a layer's output; a network that cannot be traced has none.
    """
    unseen = set(layers_read_as_weights(model))
    names = [name for name in prunable_layers(model) if name not in unseen]
    norms = _norms_behind(model)
    return {
        name: ChannelGroup(
            conv=name,
            channels=len(model.get_submodule(name).get_parameter("weight")),
            filters=(ChannelSlice(name),),
            norms=tuple(ChannelSlice(norm) for norm in norms.get(name, ())),
            consumers=(),
        )
        for name in names[:-1]
    }


def alive(model: nn.Module, name: str, side: Side) -> Tensor:
    """Returns which filters or input channels of a layer have any weight that is not zero, bool."""
    weight = model.get_submodule(name).get_parameter("weight").detach()
    return weight.movedim(side, 0).flatten(1).any(1)


def without_dead(model: nn.Module, scores: Mapping[str, Tensor], side: Side) -> dict[str, Tensor]:
    """Returns `scores` with those of dead filters or input channels below all others."""
    return {
        name: values.masked_fill(~alive(model, name, side).to(values.device), -torch.inf)
        for name, values in scores.items()
    }


def zero_and_retrain(
    parent: nn.Module,
    ratios: Sequence[float],
    context: Context,
    plan: Callable[[nn.Module], ZeroingPlan],
    *,
    side: Side,
    one_shot: bool = False,
) -> Iterator[nn.Module]:
    """Yields models in which the least filters of each layer, and what they leave without use, are zero; retrained.

    What is zero stays zero in the retraining: the weights of convolutions and linear layers, as in torchprune.

    Args:
        parent: Not changed.
        ratios: Rising.
        context: Of the production.
        plan: For a model that may have zeros already.
        side: 0 sets filters to zero, 1 the weights that read an input channel.
        one_shot: Whether each ratio starts from the parent.

    Raises:
        UserError: If a ratio cannot be reached.
    """
    total = count_nonzero(parent)
    data = propagation_images(parent, context)
    model = context.previous or parent
    for ratio in ratios:
        start = parent if one_shot else model
        model = _zeroed(start, total - ratio * total, plan(start), data, side=side)
        context.retrain(model, ratio, masks=nonzero_masks(model))
        yield model


def _zeroed(
    start: nn.Module, budget: float, plan: ZeroingPlan, data: tuple[Tensor, Tensor], *, side: Side
) -> nn.Module:
    """The copy of `start` whose number of non-zero parameters, after the propagation, comes nearest to `budget`."""
    order, choices = plan
    sizes: dict[int, int] = {}

    def pruned(index: int) -> nn.Module:
        model = copy.deepcopy(start)
        apply_masks(model, _masks(model, order, choices[index], side))
        drop_dead_channels(model, *data)
        return model

    def size(index: int) -> int:
        if index not in sizes:
            sizes[index] = count_nonzero(pruned(index))
        return sizes[index]

    index = nearest_choice(range(len(choices)), budget, size)
    if index is None:
        raise UserError(
            f"too high a prune ratio: {round(budget)} parameters may stay, but with one filter in each of "
            f"{len(order)} layers {size(0)} are left; ask for a smaller ratio"
        )
    return pruned(index)


def _masks(model: nn.Module, order: Mapping[str, Tensor], counts: Counts, side: Side) -> dict[str, Tensor]:
    masks = {}
    for name, ranked in order.items():
        weight = model.get_submodule(name).get_parameter("weight")
        kept = torch.zeros(weight.shape[side], dtype=torch.bool, device=weight.device)
        kept[ranked[: counts[name]].to(weight.device)] = True
        shape = [1] * weight.dim()
        shape[side] = -1
        masks[f"{name}.weight"] = kept.view(shape).expand_as(weight)
    return masks


def _norms_behind(model: nn.Module) -> dict[str, list[str]]:
    """Batch norms that read the output of a layer directly, by the layer's name."""
    norms: dict[str, list[str]] = {}
    with contextlib.suppress(InvalidModelError):
        graph = trace_graph(model)
        for node in graph.nodes:
            if isinstance(graph.module(node), nn.BatchNorm2d):
                norms.setdefault(str(node.all_input_nodes[0].target), []).append(str(node.target))
    return norms
