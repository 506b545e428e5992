"""Filter pruning by a score per filter: L1 and L2 norm, FPGM, batch-norm scale, Taylor, and L1 with preset ratios."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.inference import evaluation_mode
from evalsuite.models.surgery.channel_removal import ChannelGroup, ChannelGroups, remove_channels
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.base import (
    ChannelScores,
    FilterProducer,
    PruningTarget,
    Widths,
    channels_for_budget,
    filter_weights,
    l1_norms,
    l2_norms,
    layer_weight,
    one_shot,
    per_filter,
    prune_and_retrain,
    rank_channels,
    removable_groups,
    weight_parameter,
    without_repetitions,
)

PRESETS: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "vgg16-a": ((0.5, 0.0, 0.0, 0.5), (2,)),
    "resnet56-a": ((0.1, 0.1, 0.1), (16, 20, 38, 54)),
    "resnet56-b": ((0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54)),
    "resnet110-a": ((0.5, 0.0, 0.0), (36,)),
    "resnet110-b": ((0.5, 0.4, 0.3), (36, 38, 74)),
    "resnet34-a": ((0.3, 0.3, 0.3, 0.0), (2, 8, 14, 16, 26, 28, 30, 32)),
    "resnet34-b": ((0.5, 0.6, 0.4, 0.0), (2, 8, 14, 16, 26, 28, 30, 32)),
}
"""Shares of filters that go per stage, and the convolutions, counted from 1, that keep all (Li et al. 2017)."""


def batch_norm_scales(model: nn.Module, group: ChannelGroup) -> Tensor:
    """Returns the absolute scales of the batch or layer norms behind each channel of a group, (norms, channels).

    Raises:
        UserError: If there is no norm with a scale.
    """
    scales = _norm_scales(model, group)
    if not scales:
        layer = {"filters": "convolution", "heads": "attention"}.get(group.kind, "layer")
        name = group.conv.removeprefix("network.")
        raise UserError(
            f"the {layer} {name!r} has no batch norm behind it with a scale to rank its {group.kind} by; "
            "use a producer that scores the filters themselves"
        )
    return torch.stack(scales)


def has_norm_scale(model: nn.Module, group: ChannelGroup) -> bool:
    """Returns whether a norm with a scale stands behind the channels of a group."""
    return bool(_norm_scales(model, group))


def _norm_scales(model: nn.Module, group: ChannelGroup) -> list[Tensor]:
    channels = torch.arange(group.channels)
    norms = ((part, model.get_submodule(part.name)) for part in group.norms)
    return [
        layer.weight.detach().abs()[part.entries(channels)].view(group.channels, -1).mean(1)
        for part, layer in norms
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm) and layer.weight is not None
    ]


@dataclass(frozen=True)
class FilterL1(FilterProducer):
    """Filter pruning by L1 norm (FT): the same share of filters is removed from every layer, physically.

    With ``scope = "coupled"`` a shared channel's score is the sum over its filters, the sum of Torch-Pruning's
    group importance over convolutions' outputs.

    References:
        Li et al. 2017, arXiv 1608.08710, equation 1; Renda et al. 2020, arXiv 2003.02389; "FT" of Liebenwein
        et al. 2021, "Lost in Pruning", whose code prunes the residual stream too, but each of its
        convolutions for itself, by setting filters to zero. Li et al. rank the filters of a residual stream
        by those of the shortcut alone.
    """

    def scores(self, model: nn.Module, groups: ChannelGroups, context: Context) -> ChannelScores:  # noqa: ARG002  # data-free
        """Returns the L1 norm of each filter."""
        return per_filter(model, groups, l1_norms)


@dataclass(frozen=True)
class FilterL2(FilterProducer):
    """Filter pruning by L2 norm: the same share of filters is removed from every layer.

    References:
        He et al. 2018, arXiv 1808.06866, equation 2 with p = 2, as a score after training. For shared channels
        its square is the importance of Fang et al. 2023, arXiv 2301.12900, a sum of squares over the group, here
        over convolutions' outputs alone.
    """

    def scores(self, model: nn.Module, groups: ChannelGroups, context: Context) -> ChannelScores:  # noqa: ARG002  # data-free
        """Returns the L2 norm of each filter."""
        return per_filter(model, groups, l2_norms)


@dataclass(frozen=True)
class Fpgm(FilterProducer):
    """Filter pruning via geometric median (FPGM): filters nearest to all others of their layer are removed.

    References:
        He et al. 2019, arXiv 1811.00250, equation 6: the sum of Euclidean distances to the other filters,
        signs included. Differs from the paper in that filters are removed at once, not softly during the training;
        ``scope = "coupled"`` is ours: distances are those between the long filters of shared channels.
    """

    def scores(self, model: nn.Module, groups: ChannelGroups, context: Context) -> ChannelScores:  # noqa: ARG002  # data-free
        """Returns the sum of each filter's distances to the others of its layer."""
        return per_filter(model, groups, _distances)


@dataclass(frozen=True)
class BatchNormScale(FilterProducer):
    """Filter pruning by the scale of the batch norm behind it, without sparse training.

    References:
        Liu et al. 2017, arXiv 1708.06519: the score and the global threshold of network slimming, see
        `Slimming` for the method itself. If several batch norms stand behind a channel, as behind shared
        ones, it is the mean of their scales, as in Torch-Pruning's importance of that name. Layer norms count
        alike. Units without a norm behind them, such as heads, hidden units and the channels of a squeeze
        (squeeze-and-excitation), all stay.
    """

    allocation: Literal["uniform", "global"] = "global"

    def groups(self, model: nn.Module, context: Context) -> ChannelGroups:
        """Returns the groups that a norm with a scale stands behind.

        Raises:
            UserError: If there is none.
        """
        groups = super().groups(model, context)
        scaled = {name: group for name, group in groups.items() if _norm_scales(model, group)}
        if groups and not scaled:
            batch_norm_scales(model, next(iter(groups.values())))
        return scaled

    def scores(self, model: nn.Module, groups: ChannelGroups, context: Context) -> ChannelScores:  # noqa: ARG002  # data-free
        """Returns the absolute scale of each filter's batch norm."""
        return {name: batch_norm_scales(model, group).mean(0) for name, group in groups.items()}


@dataclass(frozen=True)
class Taylor(FilterProducer):
    """First-order Taylor importance: the squared change of the loss if a filter were set to zero.

    Attributes:
        images: Training images that the gradients come from.
        batch_size: Images per gradient.

    References:
        Molchanov et al. 2019, arXiv 1906.10771, equations 8 and 9: the sum over a filter's weights of
        (g w)^2, summed over batches; one threshold for all layers of a kind. All filters of a shared channel, and
        all rows of a head, are one set of weights: the sum is not divided by their number. Differs from the paper
        in that the network is in evaluation mode and does not train between the batches.
    """

    allocation: Literal["uniform", "global"] = "global"
    images: int = 512
    batch_size: int = 64
    renamed_settings: ClassVar[Mapping[str, str]] = {"batch": "batch_size"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.images, self.batch_size) < 1:
            raise SuiteError(
                f"taylor: found images = {self.images} and batch_size = {self.batch_size}, expected 1 or more"
            )

    def scores(self, model: nn.Module, groups: ChannelGroups, context: Context) -> ChannelScores:
        """Returns the sum over batches and weights of (g w)^2."""
        names = [*dict.fromkeys(part.name for group in groups.values() for part in group.filters)]
        weights = [weight_parameter(model, name) for name in names]
        totals = {name: weights[0].new_zeros(group.channels) for name, group in groups.items()}
        images, labels = context.batch(self.images, "taylor")
        with evaluation_mode(model), torch.enable_grad():
            for batch, classes in zip(
                torch.split(images, self.batch_size), torch.split(labels, self.batch_size), strict=True
            ):
                loss = functional.cross_entropy(model(batch), classes)
                gradients = dict(zip(names, torch.autograd.grad(loss, weights), strict=True))
                for name, group in groups.items():
                    totals[name] += _squared_effects(model, group, gradients)
        return totals


@dataclass(frozen=True)
class LiL1(Producer):
    """Filter pruning by L1 norm with preset shares per stage, one-shot.

    The shares set how much faster one stage is pruned than another: at each ratio all are multiplied by one
    number, so that the ratio is reached; at the number 1 the network is the published one.

    Attributes:
        preset: Name of a published setting; sets `stages` and `skipped`.
        stages: Share of filters that is removed from each stage; a stage is the layers of one width. Without any,
            all stages count alike.
        skipped: Convolutions that keep all filters, by their number; the first of the network is 1, and 1 x 1
            convolutions are not counted.

    References:
        Li et al. 2017, arXiv 1608.08710, section 4: ``int(width (1 - p))`` filters are kept. Its networks
        are in `PRESETS`.
    """

    preset: str = ""
    stages: tuple[float, ...] = ()
    skipped: tuple[int, ...] = ()
    renamed_settings: ClassVar[Mapping[str, str]] = {"whole": "skipped"}

    def __post_init__(self) -> None:
        if self.preset and (self.preset not in PRESETS or self.stages or self.skipped):
            raise SuiteError(
                f"li-l1: found preset = {self.preset!r}, expected one of {', '.join(PRESETS)}, "
                "with neither stages nor skipped"
            )
        if any(not 0 <= share < 1 for share in self.stages) or not any(self.stages or (1,)):
            raise SuiteError(
                f"li-l1: found stages = {self.stages}, expected shares from 0 to below 1, not all zero"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, target: PruningTarget) -> nn.Module:
            choices = scaled_widths(target.widths, self.shares(model, target.widths))
            order = rank_channels(per_filter(model, removable_groups(model), l1_norms))
            return remove_channels(model, channels_for_budget(model, order, choices, target.budget))

        return prune_and_retrain(parent, ratios, context, one_shot(parent, step))

    def shares(self, model: nn.Module, widths: Widths) -> dict[str, float]:
        """Returns the share of filters that is removed from each layer at the number 1.

        Raises:
            SuiteError: If the number of stages is not that of the network.
        """
        stages, skipped = PRESETS[self.preset] if self.preset else (self.stages, self.skipped)
        distinct = sorted(set(widths.values()))
        if stages and len(stages) != len(distinct):
            raise SuiteError(
                f"li-l1: found {len(stages)} stages, but the network has layers of {len(distinct)} widths "
                f"({', '.join(map(str, distinct))}); give one share for each"
            )
        dense = {name for number, name in enumerate(_spatial_convolutions(model), 1) if number in skipped}
        shares = stages or (0.5,) * len(distinct)
        return {
            name: 0.0 if name in dense else shares[distinct.index(width)] for name, width in widths.items()
        }


def scaled_widths(widths: Widths, shares: dict[str, float]) -> list[dict[str, int]]:
    """Returns the widths ``int(width (1 - t share))``, at least one, for all t, least first.

    >>> scaled_widths({"a": 4, "b": 4}, {"a": 0.5, "b": 0.25})
    [{'a': 1, 'b': 1}, {'a': 1, 'b': 2}, {'a': 2, 'b': 3}, {'a': 3, 'b': 3}, {'a': 4, 'b': 4}]
    """
    exact = {name: Fraction(str(share)) for name, share in shares.items()}
    factors = {
        Fraction(removed, width) / exact[name]
        for name, width in widths.items()
        for removed in range(width)
        if exact[name]
    }
    return without_repetitions(
        {name: max(1, int(width * (1 - factor * exact[name]))) for name, width in widths.items()}
        for factor in sorted(factors, reverse=True)
    )


def _squared_effects(model: nn.Module, group: ChannelGroup, gradients: Mapping[str, Tensor]) -> Tensor:
    return filter_weights(group, lambda layer: gradients[layer] * layer_weight(model, layer)).square().sum(1)


def _distances(filters: Tensor) -> Tensor:
    flat = filters.double()
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def _spatial_convolutions(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    ]
