"""What structured producers share: removable units, their order, the widths that reach a ratio, and the cascade."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from evalsuite.errors import ContractError, InvalidModelError, SuiteError, UserError, first_few
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.cost import PROJECTIONS, count_nonzero
from evalsuite.models.surgery.channel_removal import (
    HEAD_DIMENSIONS,
    ChannelGroup,
    ChannelGroups,
    LeftOut,
    channel_groups,
    head_dimension_groups,
    head_dimensions_left_out,
    head_groups,
    heads_left_out,
    prunable_units,
    remove_channels,
)
from evalsuite.models.surgery.coupled_channels import coupled_groups
from evalsuite.plugin_config import OPTIONAL_KEY
from evalsuite.producers.base import Context, Producer, nearest_choice
from evalsuite.producers.structured.zeroed_filters import (
    ZeroingPlan,
    alive,
    layer_groups,
    without_dead,
    zero_and_retrain,
)

Widths = Mapping[str, int]
"""Names of groups to numbers of channels; a convolution that is a group by itself has so many filters."""
ChannelScores = Mapping[str, Tensor]
"""Names of groups to one score per channel, (channels,); the largest are kept."""
KeptChannels = Mapping[str, Tensor]
"""Names of groups to the channels that stay: rising int64."""
_HALF = Fraction(1, 2)  # exact: in floating point 5.5 / 11 * 11 may fall short of 5.5


@dataclass(frozen=True)
class PruningTarget:
    """The size that one pruning step is to reach.

    Attributes:
        ratio: Share of the parent's parameters that is to be removed: with the seed the address of a training.
        budget: Non-zero parameters that may stay, biases and norms included.
        widths: Of the parent's groups.
    """

    ratio: float
    budget: float
    widths: Widths


PruningStep = Callable[[nn.Module, PruningTarget], nn.Module]
"""Makes a smaller model of a copy that it may change."""


@dataclass(frozen=True)
class ChannelScope:
    """The part of a producer's settings that decides which units it removes.

    Attributes:
        scope: ``inside`` takes the channels that one convolution computes alone and that are neither added nor
            concatenated to others: of a residual block all convolutions but the last (Li et al. 2017 and most
            since), of a plain network all; and of transformers and ConvNeXt the hidden units of MLPs and the heads of
            attention. ``coupled`` takes those that layers share too, the residual stream and what is
            concatenated, as Torch-Pruning does (Fang et al. 2023, arXiv 2301.12900); a share p of the channels is then
            about 1 - (1 - p)^2 of the parameters. Networks whose shortcuts pad with zeros have no such channels.
            ``all`` removes nothing but sets to zero: filters of every layer but the last, each layer for itself, the
            residual stream included, and what then has no use (Liebenwein et al. 2021, "Lost in Pruning"); see
            `evalsuite.producers.structured.zeroed_filters`.
        units: Only one kind of units: ``filters`` (with the channels of a residual stream), ``hidden units`` of MLPs,
            or ``heads``; not with the scope ``all``, which has filters alone. ``qk dimensions`` and ``v dimensions``
            make heads narrower, which units = ``all`` leaves as wide as they are: the same entries of the queries and
            keys, or of the values, of every head; ``head dimensions`` are both.
    """

    scope: Literal["inside", "coupled", "all"] = "inside"
    units: Literal[
        "all", "filters", "hidden units", "heads", "qk dimensions", "v dimensions", "head dimensions"
    ] = field(default="all", metadata=OPTIONAL_KEY)

    def __post_init__(self) -> None:
        if self.scope == "all" and self.units != "all":
            raise SuiteError(
                f"found units = {self.units!r} with scope = 'all', which has filters alone; leave units out"
            )
        if self.scope == "coupled" and self.units in (*HEAD_DIMENSIONS, "head dimensions"):
            raise SuiteError(
                f"found units = {self.units!r} with scope = 'coupled', which has no effect on heads; leave scope out"
            )

    def groups(self, model: nn.Module, context: Context) -> ChannelGroups:
        """Returns the groups of units in the producer's scope, by name.

        Raises:
            UserError: If the scope is ``coupled`` and Torch-Pruning is wrong about the network, or if no head can
                become narrower and that is what is asked for.
        """
        if self.units in (*HEAD_DIMENSIONS, "head dimensions"):
            return dimension_groups(model, self.units)
        groups = layer_groups(model) if self.scope == "all" else unit_groups(model)
        if self.scope == "coupled":
            shared = {group.conv: group for group in coupled_groups(model, context.train.images.shape[1:])}
            groups = {**shared, **{name: group for name, group in groups.items() if name not in shared}}
        kinds = ("filters", "embedding") if self.units == "filters" else (self.units,)
        return {name: group for name, group in groups.items() if self.units == "all" or group.kind in kinds}


@dataclass(frozen=True)
class FilterProducer(ChannelScope, Producer):
    """A method that removes the units of lowest score, retrains, and goes on.

    The classifier's outputs are never among them, and at least one unit of each group stays. The filters that
    compute a channel of several convolutions count as one long filter, and so do the rows of queries, keys and values
    of a head; a hidden unit is a row of the first layer of its MLP.

    Attributes:
        allocation: ``uniform`` removes the same share of units from every group, ``global`` sets one threshold on the
            scores of all groups of a kind. Filters, hidden units and heads have scores of other sizes, so that they
            are ranked among themselves and all kinds lose the same share of their units (Fang et al. 2024, arXiv
            2407.04616, "isomorphic pruning").
        schedule: ``iterative`` starts each ratio from the last one's model, ``one-shot`` from the parent.
    """

    allocation: Literal["uniform", "global"] = "uniform"
    schedule: Literal["iterative", "one-shot"] = "iterative"
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"schedule": {"cascade": "iterative"}}

    @abstractmethod
    def scores(self, model: nn.Module, groups: ChannelGroups, context: Context) -> ChannelScores:
        """Returns one score per channel of each of the model's `groups`; the largest are kept."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole channels allow."""
        if self.scope == "all":
            one_by_one = self.schedule == "one-shot"
            plan = partial(self.zeroing_plan, context=context)
            return zero_and_retrain(parent, ratios, context, plan, side=0, one_shot=one_by_one)

        def step(model: nn.Module, target: PruningTarget) -> nn.Module:
            groups = self.groups(model, context)
            scores = self.scores(model, groups, context)
            uniform = self.allocation == "uniform"
            kinds = {name: group.kind for name, group in groups.items()}
            choices = uniform_widths(target.widths) if uniform else global_widths(scores, kinds)
            kept = channels_for_budget(model, rank_channels(scores), choices, target.budget, groups)
            return remove_channels(model, kept, groups)

        first = step if self.schedule == "iterative" else one_shot(parent, step)
        return prune_and_retrain(parent, ratios, context, first, self.groups(parent, context))

    def zeroing_plan(self, model: nn.Module, context: Context) -> ZeroingPlan:
        """Returns the filters of each layer, best first, and how many of those that are not zero may stay."""
        scores = without_dead(model, self.scores(model, layer_groups(model), context), 0)
        widths = {name: int(alive(model, name, 0).sum()) for name in scores}
        choices = uniform_widths(widths) if self.allocation == "uniform" else global_widths(scores)
        return rank_channels(scores), choices


def prune_and_retrain(
    parent: nn.Module,
    ratios: Sequence[float],
    context: Context,
    step: PruningStep,
    groups: ChannelGroups | None = None,
) -> Iterator[nn.Module]:
    """Yields what `step` makes for each ratio, retrained with the full schedule.

    Each ratio starts from the last one's model (learning-rate rewinding: Renda et al. 2020, arXiv 2003.02389).

    Args:
        parent: Not changed.
        ratios: Rising.
        context: Of the production.
        step: The pruning of one ratio, before its retraining.
        groups: Groups of the parent that can lose channels; by default those of `removable_groups`.

    Raises:
        UserError: If no unit of the network can be removed alone.
    """
    groups = removable_groups(parent) if groups is None else groups
    widths = {name: group.channels for name, group in groups.items()}
    if not widths:
        raise UserError(no_units_sentence(parent))
    total = count_nonzero(parent)
    model = context.previous or parent
    for ratio in ratios:
        model = step(copy.deepcopy(model), PruningTarget(ratio, total - ratio * total, widths))
        context.retrain(model, ratio)
        yield model


def one_shot(parent: nn.Module, step: PruningStep) -> PruningStep:
    """Returns `step` as it is for ratios that all start from `parent`."""
    return lambda _, target: step(copy.deepcopy(parent), target)


def removable_groups(model: nn.Module) -> ChannelGroups:
    """Returns the layers whose filters can be removed alone, by name: in a residual block all but the last.

    Hidden units of MLPs are among them, heads are not: see `unit_groups`.
    """
    return {group.conv: group for group in channel_groups(model)}


def unit_groups(model: nn.Module) -> ChannelGroups:
    """Returns all groups of units that can be removed alone, by name: filters, hidden units and heads."""
    return {group.conv: group for group in (*channel_groups(model), *head_groups(model))}


def dimension_groups(model: nn.Module, units: str) -> ChannelGroups:
    """Returns the widths of heads that can shrink, by name.

    Args:
        model: With attention.
        units: A kind of units, or ``head dimensions`` for both.

    Raises:
        UserError: If there is none, with the reasons.
    """
    groups = {
        group.conv: group
        for group in head_dimension_groups(model)
        if units in (group.kind, "head dimensions")
    }
    if not groups:
        network = unwrap_model(model)
        reasons = [f"{layer.name}: {layer.reason}" for layer in head_dimensions_left_out(network)]
        raise UserError(
            f"{type(network).__name__} has no {units} that can be removed "
            f"({first_few(reasons) if reasons else 'it has no attention'}); leave units out, or take another kind"
        )
    return groups


def layers_without_units(model: nn.Module) -> list[LeftOut]:
    """Returns the layers of the network whose outputs cannot be removed alone, by their own names, with the reasons."""
    network = unwrap_model(model)
    try:
        return [*heads_left_out(network), *prunable_units(network)[1]]
    except InvalidModelError as error:
        return [LeftOut(type(network).__name__, str(error))]


def no_units_sentence(model: nn.Module) -> str:
    """Returns why a network has nothing to remove, for an error: its layers with the reasons."""
    reasons = [f"{layer.name}: {layer.reason}" for layer in layers_without_units(model)]
    return (
        f"{type(unwrap_model(model)).__name__} has no filters, hidden units or heads that can be removed alone "
        f"({first_few(reasons)}); use an unstructured producer for it"
    )


def layer_weight(model: nn.Module, name: str) -> Tensor:
    """Returns the weight of the layer `name`, detached; of a `torch.nn.MultiheadAttention` its input projections."""
    return weight_parameter(model, name).detach()


def weight_parameter(model: nn.Module, name: str) -> nn.Parameter:
    """Returns the weight of the layer `name`; of a `torch.nn.MultiheadAttention` its input projections."""
    module = model.get_submodule(name)
    return module.get_parameter(PROJECTIONS[0] if isinstance(module, nn.MultiheadAttention) else "weight")


def per_filter(
    model: nn.Module, groups: ChannelGroups, score: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Returns `score` of the filters of each group, (channels, weights) to (channels,)."""
    return {
        name: score(filter_weights(group, lambda layer: layer_weight(model, layer)))
        for name, group in groups.items()
    }


def filter_weights(group: ChannelGroup, values: Callable[[str], Tensor]) -> Tensor:
    """Returns the values at the weights that compute each channel of a group, (channels, weights).

    Args:
        group: If several layers compute its channels, their filters are concatenated.
        values: Of a layer, in the shape of its weight.
    """
    channels = torch.arange(group.channels)
    parts = [values(part.name)[part.entries(channels)] for part in group.filters]
    return torch.cat([part.reshape(group.channels, -1) for part in parts], dim=1)


def l1_norms(filters: Tensor) -> Tensor:
    """Returns the L1 norm of each filter, (channels, weights) to (channels,)."""
    return filters.abs().sum(1)


def l2_norms(filters: Tensor) -> Tensor:
    """Returns the L2 norm of each filter, (channels, weights) to (channels,)."""
    return filters.square().sum(1).sqrt()


def uniform_widths(widths: Widths) -> list[dict[str, int]]:
    """Returns all sets of widths that one common share gives, rounded half up, from one filter in each layer on.

    >>> uniform_widths({"a": 2, "b": 4})
    [{'a': 1, 'b': 1}, {'a': 1, 'b': 2}, {'a': 1, 'b': 3}, {'a': 2, 'b': 3}, {'a': 2, 'b': 4}]
    """
    shares = sorted(
        {Fraction(2 * count + 1, 2 * width) for width in widths.values() for count in range(width)}
        | {Fraction(0)}
    )
    return without_repetitions(
        {name: max(1, int(share * width + _HALF)) for name, width in widths.items()} for share in shares
    )


def global_widths(scores: ChannelScores, kinds: Mapping[str, str] | None = None) -> list[dict[str, int]]:
    """Returns the sets of widths that one threshold on the scores of all layers of a kind gives, least first.

    Each layer's best filter always stays; ties go in the order of the layers. Several kinds keep equal shares of their
    units: what is ranked i-th of n in its kind comes at (i + 1/2) / n.

    Args:
        scores: By layer.
        kinds: Kind of the units of each layer; by default all are of one.

    >>> global_widths({"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([2.0, 3.0])})
    [{'a': 1, 'b': 1}, {'a': 1, 'b': 2}, {'a': 2, 'b': 2}]
    """
    ranked: list[tuple[Fraction, str]] = []
    for kind in dict.fromkeys((kinds or {}).get(name, "") for name in scores):
        names = [name for name in scores if (kinds or {}).get(name, "") == kind]
        order = _ranked_layers({name: scores[name] for name in names})
        ranked += [(Fraction(2 * place + 1, 2 * len(order)), name) for place, name in enumerate(order)]
    widths = dict.fromkeys(scores, 1)
    choices = [dict(widths)]
    for _, name in sorted(ranked, key=lambda entry: entry[0]):
        widths[name] += 1
        choices.append(dict(widths))
    return choices


def _ranked_layers(scores: ChannelScores) -> list[str]:
    """The layer of each unit but the best of every layer, by falling score."""
    names = list(scores)
    others = [scores[name].detach().double().cpu().sort(descending=True).values[1:] for name in names]
    layers = torch.cat([torch.full((len(values),), index) for index, values in enumerate(others)])
    order = torch.sort(torch.cat(others), descending=True, stable=True).indices
    return [names[layer] for layer in layers[order].tolist()]


def without_repetitions(choices: Iterator[dict[str, int]]) -> list[dict[str, int]]:
    """Returns `choices` without those that equal the one before."""
    distinct: list[dict[str, int]] = []
    for widths in choices:
        if not distinct or widths != distinct[-1]:
            distinct.append(widths)
    return distinct


def rank_channels(scores: ChannelScores) -> dict[str, Tensor]:
    """Returns the filters of each layer, best first; ties fall to the earlier filter.

    Raises:
        ContractError: If a score is NaN.
    """
    if any(bool(values.isnan().any()) for values in scores.values()):
        raise ContractError("a producer's scores have NaN among them, expected numbers to rank filters by")
    return {
        name: torch.sort(values.detach().double().cpu(), descending=True, stable=True).indices
        for name, values in scores.items()
    }


def channels_for_budget(
    model: nn.Module,
    order: Mapping[str, Tensor],
    choices: Sequence[Widths],
    budget: float,
    groups: ChannelGroups | None = None,
) -> dict[str, Tensor]:
    """Returns the channels to keep so that the number of non-zero parameters comes as near to `budget` as it can.

    Args:
        model: The model that loses the channels.
        order: Channels of each group, best first.
        choices: Sets of widths, none of which shrinks from one to the next; wider than `model` means all.
        budget: Non-zero parameters.
        groups: Groups of the model; by default those of `removable_groups`.

    Raises:
        UserError: If even the narrowest has more.
    """
    groups = removable_groups(model) if groups is None else groups

    def size_with(widths: Widths) -> int:
        return count_nonzero(remove_channels(model, top_channels(order, widths), groups))

    widths = nearest_choice(choices, budget, size_with)
    if widths is None:
        unit = "filter" if {group.kind for group in groups.values()} == {"filters"} else "unit"
        raise UserError(
            f"too high a prune ratio: {round(budget)} parameters may stay, but with one {unit} in each of "
            f"{len(order)} layers {size_with(choices[0])} are left; ask for a smaller ratio"
        )
    return top_channels(order, widths)


def top_channels(order: Mapping[str, Tensor], widths: Widths) -> dict[str, Tensor]:
    """Returns the first `widths` channels of each group's order, rising."""
    return {name: order[name][: widths[name]].sort().values for name in order}


def removed_masks(kept: KeptChannels, model: nn.Module) -> dict[str, Tensor]:
    """Returns for each layer a bool mask on the model's device, (out,): the filters that are to be removed."""
    masks = {}
    for name, filters in kept.items():
        mask = torch.ones(len(layer_weight(model, name)), dtype=torch.bool)
        mask[filters] = False
        masks[name] = mask.to(layer_weight(model, name).device)
    return masks
