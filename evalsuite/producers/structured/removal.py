"""What all structured producers share: which filters can go, in which order, and how many to reach a ratio."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from evalsuite.errors import ContractError, UserError
from evalsuite.models.cost import nonzero
from evalsuite.models.surgery.coupling import coupled_groups
from evalsuite.models.surgery.removal import Groups, channel_groups, remove_channels
from evalsuite.producers.base import Context

Widths = Mapping[str, int]
"""Names of groups to numbers of channels; a convolution that is a group of its own has so many filters."""
Scores = Mapping[str, Tensor]
"""Names of groups to one score per channel, (channels,); the largest are kept."""
Kept = Mapping[str, Tensor]
"""Names of groups to the channels that stay: rising int64."""
_HALF = Fraction(1, 2)  # exact: in floating point 5.5 / 11 * 11 may fall short of 5.5


@dataclass(frozen=True)
class Goal:
    """Is what one step of shrinking is to reach.

    Attributes:
        ratio: Share of the parent's parameters that is to be gone: with the seed the address of a training.
        budget: Non-zero parameters that may stay, biases and norms included.
        widths: Of the parent's groups.
    """

    ratio: float
    budget: float
    widths: Widths


Step = Callable[[nn.Module, Goal], nn.Module]
"""Makes a smaller model of a copy that it may change."""


@dataclass(frozen=True)
class Scoped:
    """Is what a producer says about which channels it removes.

    Attributes:
        scope: ``inside`` takes the channels that one convolution makes alone and nobody adds or appends to
            others: of a residual block all convolutions but the last (Li et al. 2017 and most since), of a plain
            network all. ``coupled`` takes those that convolutions share too, the residual stream and what is
            concatenated, as Torch-Pruning does (Fang et al. 2023, arXiv 2301.12900); a share p of the channels
            is then about 1 - (1 - p)^2 of the parameters. Networks whose shortcuts pad with zeros have no
            such channels.
    """

    scope: Literal["inside", "coupled"] = "inside"

    def groups(self, model: nn.Module, context: Context) -> Groups:
        """Returns the groups of channels in the producer's scope, by name.

        Raises:
            UserError: If the scope is ``coupled`` and Torch-Pruning is wrong about the network.
        """
        if self.scope == "inside":
            return groups(model)
        return {group.conv: group for group in coupled_groups(model, context.train.images.shape[1:])}


def shrinking(
    parent: nn.Module,
    ratios: Sequence[float],
    context: Context,
    step: Step,
    own: Groups | None = None,
) -> Iterator[nn.Module]:
    """Yields what `step` makes for each ratio, retrained with the full schedule.

    Each ratio starts from the last one's model (learning-rate rewinding: Renda et al. 2020, arXiv 2003.02389).

    Args:
        parent: Is left alone.
        ratios: Rising.
        context: Of the production.
        step: What one ratio takes before the retraining.
        own: Groups of the parent that can lose channels; `groups` if none are given.

    Raises:
        UserError: If no filter of the network can be removed alone.
    """
    found = groups(parent) if own is None else own
    widths = {name: group.channels for name, group in found.items()}
    if not widths:
        raise UserError(
            f"{type(parent).__name__} has no layer whose filters can be removed alone; "
            "use an unstructured producer for it"
        )
    total = nonzero(parent)
    model = context.previous or parent
    for ratio in ratios:
        goal = Goal(ratio, total - ratio * total, widths)
        model = step(copy.deepcopy(model), goal)
        context.retrain(model, ratio)
        yield model


def one_shot(parent: nn.Module, step: Step) -> Step:
    """Returns `step` as it is for ratios that all start from `parent`."""
    return lambda _, goal: step(copy.deepcopy(parent), goal)


def groups(model: nn.Module) -> Groups:
    """Returns the layers whose filters can be removed alone, by name: in a residual block all but the last."""
    return {group.conv: group for group in channel_groups(model)}


def weight(model: nn.Module, name: str) -> Tensor:
    """Returns the weight of the layer `name`, detached."""
    return model.get_submodule(name).get_parameter("weight").detach()


def uniform(widths: Widths) -> list[dict[str, int]]:
    """Returns all sets of widths that one common share gives, rounded half up, from one filter in each layer on.

    >>> uniform({"a": 2, "b": 4})
    [{'a': 1, 'b': 1}, {'a': 1, 'b': 2}, {'a': 1, 'b': 3}, {'a': 2, 'b': 3}, {'a': 2, 'b': 4}]
    """
    shares = sorted(
        {Fraction(2 * kept + 1, 2 * width) for width in widths.values() for kept in range(width)}
        | {Fraction(0)}
    )
    return _distinct(
        {name: max(1, int(share * width + _HALF)) for name, width in widths.items()} for share in shares
    )


def together(scores: Scores) -> list[dict[str, int]]:
    """Returns the sets of widths that one threshold on the scores of all layers gives, least first.

    Each layer's best filter always stays; ties go in the order of the layers.

    >>> together({"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([2.0, 3.0])})
    [{'a': 1, 'b': 1}, {'a': 1, 'b': 2}, {'a': 2, 'b': 2}]
    """
    names = list(scores)
    rest = [scores[name].detach().double().cpu().sort(descending=True).values[1:] for name in names]
    layers = torch.cat([torch.full((len(one),), place) for place, one in enumerate(rest)])
    order = torch.sort(torch.cat(rest), descending=True, stable=True).indices
    widths = dict.fromkeys(names, 1)
    ladder = [dict(widths)]
    for layer in layers[order].tolist():
        widths[names[layer]] += 1
        ladder.append(dict(widths))
    return ladder


def ranks(scores: Scores) -> dict[str, Tensor]:
    """Returns the filters of each layer, best first; ties fall to the earlier filter.

    Raises:
        ContractError: If a score is NaN.
    """
    if any(bool(one.isnan().any()) for one in scores.values()):
        raise ContractError("a producer's scores have NaN among them, expected numbers to rank filters by")
    return {
        name: torch.sort(one.detach().double().cpu(), descending=True, stable=True).indices
        for name, one in scores.items()
    }


def nearest(
    model: nn.Module,
    order: Mapping[str, Tensor],
    ladder: Sequence[Widths],
    budget: float,
    own: Groups | None = None,
) -> dict[str, Tensor]:
    """Returns the channels to keep so that the number of non-zero parameters comes as near to `budget` as it can.

    Args:
        model: To be cut.
        order: Channels of each group, best first.
        ladder: Sets of widths, none of which shrinks from one to the next; wider than `model` means all.
        budget: Non-zero parameters.
        own: Groups of the model; `groups` if none are given.

    Raises:
        UserError: If even the narrowest has more.
    """
    found = groups(model) if own is None else own

    def left(widths: Widths) -> int:
        return nonzero(remove_channels(model, best(order, widths), found))

    above = bisect_left(ladder, budget, key=left)
    if above == len(ladder):  # nothing to remove: earlier steps went as far already
        return best(order, ladder[-1])
    if above == 0 and (least := left(ladder[0])) > budget:
        raise UserError(
            f"too high a prune ratio: {round(budget)} parameters may stay, but with one filter in each of "
            f"{len(order)} layers {least} are left; ask for a smaller ratio"
        )
    return best(order, min(ladder[max(above - 1, 0) : above + 1], key=lambda one: abs(left(one) - budget)))


def best(order: Mapping[str, Tensor], widths: Widths) -> dict[str, Tensor]:
    """Returns the first `widths` channels of each group's order, rising."""
    return {name: order[name][: widths[name]].sort().values for name in order}


def removed(kept: Kept, model: nn.Module) -> dict[str, Tensor]:
    """Returns for each layer a bool mask on the model's device, (out,): the filters that are to go."""
    masks = {}
    for name, filters in kept.items():
        mask = torch.ones(len(weight(model, name)), dtype=torch.bool)
        mask[filters] = False
        masks[name] = mask.to(weight(model, name).device)
    return masks


def _distinct(ladder: Iterator[dict[str, int]]) -> list[dict[str, int]]:
    found: list[dict[str, int]] = []
    for widths in ladder:
        if not found or widths != found[-1]:
            found.append(widths)
    return found
