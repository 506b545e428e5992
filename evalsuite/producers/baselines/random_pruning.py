"""Random pruning, the baseline of every criterion: of weights, of filters, and at initialisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from evalsuite.models.surgery.channel_removal import ChannelGroups
from evalsuite.producers.at_init.scores import InitialProducer
from evalsuite.producers.base import Context
from evalsuite.producers.structured.base import ChannelScores, FilterProducer
from evalsuite.producers.unstructured.allocation import Allocation, masks_by_allocation
from evalsuite.producers.unstructured.base import WeightProducer, WeightScores, global_masks, random_scores
from evalsuite.random_streams import generator


@dataclass(frozen=True)
class Random(WeightProducer):
    """Random pruning, the control: weights go in an order drawn once, whatever they are.

    References:
        A control in Frankle et al. 2021, arXiv 2009.08576; layers lose the same share in expectation.
    """

    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns uniform draws, the same at every ratio, so that masks are nested."""
        return random_scores(model, context.seed, "random")


@dataclass(frozen=True)
class FilterRandom(FilterProducer):
    """Random filters, the control: they go in an order drawn once, whatever they hold.

    References:
        The control of Mittal et al. 2018, arXiv 1801.10447. At each ratio the order is drawn anew among the
        filters that are left, which has the same distribution as one order for all ratios.
    """

    def scores(self, model: nn.Module, groups: ChannelGroups, context: Context) -> ChannelScores:  # noqa: ARG002  # data-free
        """Returns uniform draws, addressed by layer and width."""
        widths = {name: group.channels for name, group in groups.items()}
        return {
            name: torch.from_numpy(generator(context.seed, "filter-random", name, width).random(width))
            for name, width in widths.items()
        }


@dataclass(frozen=True)
class RandomInit(InitialProducer):
    """Random pruning at initialisation with a stated allocation: what matters is how much each layer loses.

    Attributes:
        allocation: ``global`` (the same share of each layer in expectation), or exact counts: ``uniform``,
            ``uniform-plus``, ``erk``.

    References:
        Liu et al. 2022, arXiv 2202.02643: random pruning with the ERK allocation is a strong baseline.
    """

    allocation: Literal["global"] | Allocation = "erk"

    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns uniform draws, the same at every ratio."""
        return random_scores(model, context.seed, "random-init")

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks with the allocation's counts, exact in sum."""
        scores = self.scores(model, context)
        if self.allocation == "global":
            return global_masks(model, scores, keep)
        return masks_by_allocation(model, scores, self.allocation, keep)
