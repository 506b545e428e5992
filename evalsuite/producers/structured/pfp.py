"""Provable filter pruning (PFP): empirical sensitivities of channels, and widths from one error for all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError, UserError, first_few
from evalsuite.models.surgery.attention import with_called_projections
from evalsuite.models.surgery.channel_removal import (
    ChannelGroup,
    ChannelGroups,
    ChannelSlice,
    remove_channels,
)
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.sensitivity import LEAST_SUM, log_failure_factor, weight_sensitivities
from evalsuite.producers.structured.base import (
    ChannelScope,
    PruningTarget,
    channels_for_budget,
    prune_and_retrain,
    rank_channels,
    without_repetitions,
)
from evalsuite.producers.structured.layer_inputs import LayerInputs, layer_inputs
from evalsuite.producers.structured.zeroed_filters import ZeroingPlan, alive, without_dead, zero_and_retrain

ERRORS = torch.logspace(12, -6, 18_001, dtype=torch.float64)
"""Errors at which widths are computed, largest first: 1000 per power of ten."""


@dataclass(frozen=True)
class ChannelSensitivity:
    """The sensitivities of the channels of one group.

    Attributes:
        channels: Of each channel, (C,), float64, in [0, 1].
        patches: Patches per image of the layer that reads them; the most if there are several.
        kernel: Weights per channel and output of that layer.
    """

    channels: Tensor
    patches: int
    kernel: int


@dataclass(frozen=True)
class ProvableFilterPruning(ChannelScope, Producer):
    """Provable filter pruning (PFP): the channels of least empirical sensitivity are removed.

    A channel's sensitivity is the largest share that one of its weights has in an output of the next layer,
    over images, patches, kernel elements and outputs. How many channels each layer keeps follows from one
    error for all layers, which is searched to reach the ratio.

    Attributes:
        images: Training images that the sensitivities are taken from.

    References:
        Liebenwein et al. 2020, arXiv 1911.07412, definition 1 and theorem 2; "PFP" of Liebenwein et al. 2021,
        "Lost in Pruning", in the deterministic form that keeps the largest. With ``scope = "all"`` it is torchprune's:
        each layer stops reading its least sensitive input channels, the residual stream and the image included, by
        zeros. Otherwise channels are removed physically, those of the residual stream with ``scope = "coupled"``
        alone, by the most sensitive of their readers. The images are training images, there validation images.
    """

    images: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < 1:
            raise SuiteError(f"pfp: found images = {self.images}, expected 1 or more")

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""
        if self.scope == "all":
            images, _ = context.batch(self.images, "pfp")
            return zero_and_retrain(parent, ratios, context, partial(zeroing_plan, images=images), side=1)

        def step(model: nn.Module, target: PruningTarget) -> nn.Module:
            groups = self.groups(model, context)
            sensitivities = channel_sensitivities(model, groups, context.batch(self.images, "pfp")[0])
            order = rank_channels({name: sensitivity.channels for name, sensitivity in sensitivities.items()})
            kept = channels_for_budget(model, order, widths_by_error(sensitivities), target.budget, groups)
            return remove_channels(model, kept, groups)

        return prune_and_retrain(parent, ratios, context, step, self.groups(parent, context))


def zeroing_plan(model: nn.Module, images: Tensor) -> ZeroingPlan:
    """Returns the input channels of each layer, best first, and the sets of counts that falling errors give.

    Args:
        model: May have channels that are zero already; they come last.
        images: Float in [0, 1], (N, C, H, W).

    References:
        The allocation of lucaslie/torchprune: as `widths_by_error`, but with the ceiling of the expected numbers.
    """
    weights = weight_sensitivities(model, images, reduction="max")
    sensitivities = {
        name: ChannelSensitivity(
            layer.values.movedim(1, 0).flatten(1).amax(1).double().cpu(),
            layer.patches,
            layer.values[0, 0].numel(),
        )
        for name, layer in weights.items()
    }
    scores = without_dead(model, {name: layer.channels for name, layer in sensitivities.items()}, 1)
    widths = {name: int(alive(model, name, 1).sum()) for name in scores}
    choices = widths_by_error(sensitivities, torch.ceil)
    limited = ({name: min(width, widths[name]) for name, width in choice.items()} for choice in choices)
    return rank_channels(scores), without_repetitions(limited)


def channel_sensitivities(
    model: nn.Module, groups: ChannelGroups, images: Tensor
) -> dict[str, ChannelSensitivity]:
    """Returns the sensitivities of the channels of each group.

    Args:
        model: Not changed.
        groups: Its groups.
        images: Float in [0, 1], (N, C, H, W).
    """
    unread = [name for name, group in groups.items() if not group.consumers]
    if unread:
        raise UserError(
            f"pfp ranks units by the layer that reads them, and none reads {first_few(unread)}: queries and keys "
            "are multiplied with each other; use filter-l1, fpgm or taylor for them"
        )
    names = dict.fromkeys(part.name for group in groups.values() for part in group.consumers)
    if any(group.kind in ("heads", "v dimensions") for group in groups.values()):
        model = with_called_projections(model)  # else the inputs of some libraries' projections are not seen
    readers = layer_inputs(model, [ChannelSlice(name) for name in names], images)
    shares = {name: channel_shares(reader) for name, reader in readers.items()}
    return {name: _group_sensitivity(group, readers, shares) for name, group in groups.items()}


def channel_shares(reader: LayerInputs) -> Tensor:
    """Returns for each channel the largest share of one of its products in an output of the layer, (channels,).

    Activations are split by their sign, and so are the weights: for positive activations ``a`` it is the
    maximum of ``w+ a / sum(w+ a)`` and ``w- a / sum(w- a)`` over patches, outputs and kernel elements. Of
    a sum of zero no product has a share.
    """
    weight = reader.weight
    largest = torch.zeros_like(weight)
    for rows in reader.rows():
        for part in (rows.clamp(min=0), rows.clamp(max=0).neg()):
            if not part.any():  # behind a ReLU nothing is negative
                continue
            for sign in (weight.clamp(min=0), weight.clamp(max=0).neg()):
                torch.maximum(largest, _largest_shares(part, sign), out=largest)
    return largest.view(len(weight), reader.channels, reader.columns).amax((0, 2))


def _group_sensitivity(
    group: ChannelGroup, readers: Mapping[str, LayerInputs], shares: Mapping[str, Tensor]
) -> ChannelSensitivity:
    """That of the layers that read a group's channels, by the shares of each of their inputs."""
    channels = torch.arange(group.channels)
    read = [shares[part.name][part.entries(channels)].view(-1, part.columns) for part in group.consumers]
    return ChannelSensitivity(
        torch.stack([part.amax(1) for part in read]).amax(0).double().cpu(),
        max(readers[part.name].patches for part in group.consumers),
        max(readers[part.name].columns * part.columns for part in group.consumers),
    )


def widths_by_error(
    sensitivities: Mapping[str, ChannelSensitivity], rounded: Callable[[Tensor], Tensor] = torch.round
) -> list[dict[str, int]]:
    """Returns the widths that falling errors give, least first; the last is all channels.

    Args:
        sensitivities: By layer.
        rounded: Of expected numbers to whole ones: torchprune takes the ceiling.

    References:
        Liebenwein et al. 2020, arXiv 1911.07412, theorem 2, as torchprune computes it: of ``m = ceil(3 (6 +
        2 eps) c / eps^2)`` draws, ``c = 6 sum(sens) ln(8 (patches + 1) kernel / failure)``, as many channels
        as are expected to be drawn at least once; at least one.
    """
    widths = {
        name: expected_widths(sensitivity, ERRORS, rounded) for name, sensitivity in sensitivities.items()
    }
    table = torch.stack([*widths.values()], dim=1)
    full = torch.tensor([[len(sensitivity.channels) for sensitivity in sensitivities.values()]])
    distinct = torch.unique_consecutive(torch.cat([table, full]), dim=0)
    return [dict(zip(widths, row, strict=True)) for row in distinct.tolist()]


def expected_widths(
    sensitivity: ChannelSensitivity, errors: Tensor, rounded: Callable[[Tensor], Tensor] = torch.round
) -> Tensor:
    """Returns how many channels each of `errors` keeps, int64 of their shape; see `widths_by_error`."""
    total = sensitivity.channels.sum()
    if total == 0:
        return torch.ones(len(errors), dtype=torch.int64)
    constant = 6 * total * log_failure_factor(sensitivity.patches, sensitivity.kernel)
    draws = (3 * (6 + 2 * errors) * constant / errors.square()).ceil()
    missed = torch.log1p(-(sensitivity.channels / total).clamp(max=1 - 1e-15))
    counts = -torch.expm1(draws[:, None] * missed).sum(1)
    return rounded(counts).clamp(min=1).long()


def _largest_shares(rows: Tensor, weight: Tensor) -> Tensor:
    """Largest share over `rows` of each weight's product in its output, both non-negative, shaped as `weight`."""
    sums = rows @ weight.T
    inverse = torch.where(sums > LEAST_SUM, 1 / sums, torch.zeros_like(sums))
    factors = [(rows * inverse[:, [output]]).amax(0) for output in range(len(weight))]
    return (torch.stack(factors) * weight).clamp(max=1)
