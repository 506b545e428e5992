"""The thin baseline: the same architecture with fewer channels everywhere, never pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from evalsuite.errors import InvalidModelError, SkippedError, SuiteError, UserError
from evalsuite.models.cost import cost, count_nonzero, count_parameters, weight_name
from evalsuite.models.surgery.channel_removal import ChannelGroups, remove_channels
from evalsuite.models.surgery.coupled_channels import coupled_groups
from evalsuite.models.surgery.width_scaling import scalable_widths, with_widths
from evalsuite.producers.base import Context, Producer, nearest_choice
from evalsuite.producers.baselines.controls import Control
from evalsuite.producers.baselines.scratch import draw_new_weights
from evalsuite.producers.structured.base import Widths, uniform_widths, unit_groups
from evalsuite.producers.unstructured.base import prunable_weights
from evalsuite.random_streams import address
from evalsuite.training.history import set_history

SizeFunction = Callable[[nn.Module], int]


@dataclass(frozen=True)
class Thin(Control):
    """Thin dense network: every layer has the same share of its width, and weights of its own from the start.

    All layers take part, those of a residual stream too; the last one keeps its outputs. It is drawn anew and
    trained as the parent was, once for each ratio.

    Attributes:
        match: What it has in common with the model that it is compared with: the number of its parameters or,
            of another method's model, the multiply-accumulates of weights that are not zero.
        of: Name of that method, or its table; without one the model has the share of the parent's parameters
            that the ratio leaves.

    References:
        The idea of ThinResNet, arXiv 2309.12854. Widths are ``width * share``, rounded half up, at least one.
        First weights are those of `ScratchE`. Networks whose layers cannot take other widths one by one,
        transformers and ConvNeXt among them, keep the same share of every set of units that can be removed:
        channels of the embedding, hidden units and heads; where the embedding cannot be followed, of the others.
    """

    of: str | dict[str, Any] = ""
    match: Literal["parameters", "macs"] = "parameters"

    def __post_init__(self) -> None:
        if self.of:
            super().__post_init__()
        elif self.match != "parameters":
            raise SuiteError(
                f"thin: found match = {self.match!r} without of, expected the name of the method whose "
                "multiply-accumulates it is to have"
            )

    @property
    def inner_producers(self) -> tuple[Producer, ...]:
        """The other producer, if there is one."""
        return super().inner_producers if self.of else ()

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields trained networks whose size is as near to the target as one share for all layers allows.

        Raises:
            SkippedError: If the architecture has no thinner version.
        """
        shape = context.train.images.shape[1:]
        size = count_parameters if self.match == "parameters" else _MacCount(shape)
        for ratio in ratios:
            budget = self._budget(parent, ratio, context)
            model = thin_network(parent, budget, shape, size=size)
            dense = {
                weight_name(name): torch.ones_like(weight, dtype=torch.bool)
                for name, weight in prunable_weights(model).items()
            }
            draw_new_weights(model, dense, context, address(context.seed, "thin", ratio))
            set_history(model, ())
            context.fit(model, ratio, recipe=context.parent_recipe)
            yield model

    def _budget(self, parent: nn.Module, ratio: float, context: Context) -> float:
        """What the thin network may cost: as much as the other method's model, or the share of the parent."""
        if not self.of:
            total = count_nonzero(parent)
            return total - ratio * total
        pruned = self.pruned(parent, ratio, context)
        if self.match == "parameters":
            return count_nonzero(pruned)
        return cost(pruned, context.train.images.shape[1:]).macs_nonzero or 0


def thin_network(
    parent: nn.Module, budget: float, image_shape: Sequence[int], *, size: SizeFunction
) -> nn.Module:
    """Returns an untrained network of the parent's architecture whose size comes as near to `budget` as it can.

    Args:
        parent: Not changed.
        budget: In units of `size`.
        image_shape: Of one image, (C, H, W).
        size: Of a network; it must rise with every width.

    Raises:
        UserError: If even one channel in each layer is too large.
        SkippedError: If the architecture has no thinner version.
    """
    try:
        layers = scalable_widths(parent, image_shape)
        return _nearest(layers, budget, size, lambda widths: with_widths(parent, widths, image_shape))
    except SkippedError:
        groups = _all_units(parent, image_shape)
        if not groups:
            raise
        units = {name: group.channels for name, group in groups.items()}
        return _nearest(units, budget, size, partial(_with_units, parent, groups))


def _nearest(
    widths: Widths, budget: float, size: SizeFunction, build: Callable[[Widths], nn.Module]
) -> nn.Module:
    """The network with one share of all `widths` whose size comes as near to `budget` as it can."""
    choices = uniform_widths(widths)
    nearest = nearest_choice(choices, budget, lambda choice: size(build(choice)))
    if nearest is None:
        raise UserError(
            f"too high a prune ratio: a thin network may have the size {round(budget)}, but with one channel "
            f"in each layer it has {size(build(choices[0]))}; ask for a smaller ratio"
        )
    return build(nearest)


def _all_units(parent: nn.Module, image_shape: Sequence[int]) -> ChannelGroups:
    """All sets of units of a network, those that layers share among them, if Torch-Pruning can follow these."""
    try:
        groups = unit_groups(parent)
    except InvalidModelError:
        return {}
    try:
        shared = {group.conv: group for group in coupled_groups(parent, image_shape)}
    except UserError:
        return groups
    return {**groups, **shared}


def _with_units(parent: nn.Module, groups: ChannelGroups, widths: Widths) -> nn.Module:
    return remove_channels(parent, {name: torch.arange(width) for name, width in widths.items()}, groups)


@dataclass(frozen=True)
class _MacCount:
    """The number of multiply-accumulates for an image of one shape."""

    image_shape: Sequence[int]

    def __call__(self, model: nn.Module) -> int:
        return cost(model, self.image_shape).macs or 0
