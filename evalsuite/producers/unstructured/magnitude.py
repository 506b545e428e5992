"""Magnitude pruning: by one global threshold, by layer allocations, layer-adaptive (LAMP), and |weight x gradient|."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evalsuite.models.inference import evaluation_mode
from evalsuite.producers.base import Context
from evalsuite.producers.unstructured.allocation import masks_by_allocation
from evalsuite.producers.unstructured.base import (
    WeightProducer,
    WeightScores,
    magnitudes,
    prunable_weights,
    saliencies,
)
from evalsuite.producers.unstructured.dead_weights import PropagatingProducer


@dataclass(frozen=True)
class Magnitude(PropagatingProducer):
    """Global magnitude pruning (WT): the smallest absolute weights of the whole network go first.

    References:
        Han et al. 2015, arXiv 1506.02626; Renda et al. 2020, arXiv 2003.02389; "WT" of Liebenwein et al.
        2021, "Lost in Pruning", with ``propagate = true``: without it no weight is dropped for having no
        gradient. With the iterative schedule this is the lottery with learning-rate rewinding.
    """

    def scores(self, model: nn.Module, context: Context) -> WeightScores:  # noqa: ARG002  # data-free
        """Returns absolute weights."""
        return magnitudes(model)


@dataclass(frozen=True)
class MagnitudeLayerwise(WeightProducer):
    """Layer-wise magnitude pruning: every layer loses the same share of its weights, the smallest ones.

    References:
        Han et al. 2015, arXiv 1506.02626, with one rate for all layers. First and last layer take part.
    """

    def scores(self, model: nn.Module, context: Context) -> WeightScores:  # noqa: ARG002  # data-free
        """Returns absolute weights."""
        return magnitudes(model)

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks with the allocation's counts, exact in sum."""
        return masks_by_allocation(model, self.scores(model, context), "uniform", keep)


@dataclass(frozen=True)
class UniformPlus(WeightProducer):
    """Uniform+ magnitude pruning: first convolution dense, a fifth of the last layer at least, else uniform.

    References:
        Gale et al. 2019, arXiv 1902.09574; the form of Lee et al. 2021, arXiv 2010.07611. Ratios at which
        these minima leave nothing to the other layers are refused.
    """

    def scores(self, model: nn.Module, context: Context) -> WeightScores:  # noqa: ARG002  # data-free
        """Returns absolute weights."""
        return magnitudes(model)

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks with the allocation's counts, exact in sum."""
        return masks_by_allocation(model, self.scores(model, context), "uniform-plus", keep)


@dataclass(frozen=True)
class Erk(WeightProducer):
    """Magnitude pruning with the Erdos-Renyi-kernel allocation: large layers lose most.

    References:
        Evci et al. 2020, arXiv 1911.11134, section 3: density in proportion to the sum of a layer's
        dimensions over their product; layers that would be denser than dense stay dense and the others are
        rescaled. It is used there during sparse training, here with magnitude after training.
    """

    def scores(self, model: nn.Module, context: Context) -> WeightScores:  # noqa: ARG002  # data-free
        """Returns absolute weights."""
        return magnitudes(model)

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks with the allocation's counts, exact in sum."""
        return masks_by_allocation(model, self.scores(model, context), "erk", keep)


@dataclass(frozen=True)
class Lamp(WeightProducer):
    """Layer-adaptive magnitude pruning (LAMP): a weight's square over all squares in its layer not below it.

    References:
        Lee et al. 2021, arXiv 2010.07611, equation 1. Its code keeps all ties; here the earlier of two equal
        weights is taken for the larger one. Its levels are 20 % of what is left; here the suite's ratios.
    """

    def scores(self, model: nn.Module, context: Context) -> WeightScores:  # noqa: ARG002  # data-free
        """Returns float64 scores in [0, 1]; the largest weight of each layer has 1."""
        return {name: _lamp_scores(weight) for name, weight in prunable_weights(model).items()}


@dataclass(frozen=True)
class GradientMagnitude(WeightProducer):
    """Sensitivity after training: the weights of smallest absolute product with their gradient go first.

    Attributes:
        images: Training images over which the gradient of the loss is averaged.

    References:
        "Global gradient magnitude" of Blalock et al. 2020, arXiv 2003.03033; the criterion is equation 5 of
        Lee et al. 2019, arXiv 1810.02340, applied to a trained network in evaluation mode.
    """

    images: int = 128

    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns absolute products of weights and gradients of the mean cross-entropy."""
        with evaluation_mode(model):
            return saliencies(model, *context.batch(self.images, "gradient-magnitude"))


def _lamp_scores(weight: Tensor) -> Tensor:
    squares = weight.flatten().double().square()
    falling = torch.sort(squares, descending=True, stable=True)
    shares = falling.values / falling.values.cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.empty_like(shares).index_copy_(0, falling.indices, shares).view_as(weight)
