"""Magnitude pruning with other allocations than one global threshold, N:M patterns, and |w g|."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.cost import nonzero, prunable
from evalsuite.models.inference import evaluation_mode
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.allocation import allotted
from evalsuite.producers.unstructured.global_threshold import Scores, WeightProducer, magnitudes, weights_of


@dataclass(frozen=True)
class MagnitudeLayerwise(WeightProducer):
    """Layer-wise magnitude pruning: every layer loses the same share of its weights, the smallest ones.

    References:
        Han et al. 2015, arXiv 1506.02626, with one rate for all layers. First and last layer take part.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns absolute weights."""
        return magnitudes(model)

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks with the allocation's counts, exact in sum."""
        return allotted(model, self.scores(model, context), "uniform", keep)


@dataclass(frozen=True)
class UniformPlus(WeightProducer):
    """Uniform+ magnitude pruning: first convolution whole, a fifth of the last layer at least, else uniform.

    References:
        Gale et al. 2019, arXiv 1902.09574; the form of Lee et al. 2021, arXiv 2010.07611. Ratios at which
        these floors leave nothing to the others are refused.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns absolute weights."""
        return magnitudes(model)

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks with the allocation's counts, exact in sum."""
        return allotted(model, self.scores(model, context), "uniform-plus", keep)


@dataclass(frozen=True)
class Erk(WeightProducer):
    """Magnitude pruning with the Erdos-Renyi-kernel allocation: large layers lose most.

    References:
        Evci et al. 2020, arXiv 1911.11134, section 3: density in proportion to the sum of a layer's
        dimensions over their product; layers that would be denser than dense stay whole and the others are
        rescaled. It is used there during sparse training, here with magnitude after training.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns absolute weights."""
        return magnitudes(model)

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks with the allocation's counts, exact in sum."""
        return allotted(model, self.scores(model, context), "erk", keep)


@dataclass(frozen=True)
class Lamp(WeightProducer):
    """Layer-adaptive magnitude pruning (LAMP): a weight's square over all squares in its layer not below it.

    References:
        Lee et al. 2021, arXiv 2010.07611, equation 1. Its code keeps all ties; here the earlier of two equal
        weights is taken for the larger one. Its levels are 20 % of what is left; here the suite's ratios.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns float64 scores in [0, 1]; the largest weight of each layer has 1."""
        return {name: _lamp(weight) for name, weight in weights_of(model).items()}


def _lamp(weight: Tensor) -> Tensor:
    squares = weight.flatten().double().square()
    falling = torch.sort(squares, descending=True, stable=True)
    shares = falling.values / falling.values.cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.empty_like(shares).index_copy_(0, falling.indices, shares).view_as(weight)


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

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns absolute products of weights and gradients of the mean cross-entropy."""
        with evaluation_mode(model):
            return saliencies(model, *context.batch(self.images, "gradient-magnitude"))


def saliencies(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Returns the absolute product of each prunable weight and the slope of the mean cross-entropy along it."""
    weights = {name: layer.get_parameter("weight") for name, layer in prunable(model).items()}
    with torch.enable_grad():
        loss = functional.cross_entropy(model(images), labels)
        slopes = torch.autograd.grad(loss, list(weights.values()))
    return {
        name: (weight * slope).detach().abs()
        for (name, weight), slope in zip(weights.items(), slopes, strict=True)
    }


@dataclass(frozen=True)
class NM(Producer):
    """N:M sparsity: of every M consecutive inputs of a filter at one position, the N largest weights stay.

    M is fixed and N follows the ratio: the pattern whose measured ratio is nearest, so ``m = 4`` at ratio
    0.5 is the 2:4 of sparse tensor cores. Patterns are nested and pruned iteratively. Layers whose number of
    inputs M does not divide stay dense, as do biases and norms, so the ratios lie a little below ``1 - N/M``.

    Attributes:
        m: Weights per group.
        within: How far the nearest pattern's ratio may be from what is asked for.

    References:
        Mishra et al. 2021, arXiv 2104.08378; Zhou et al. 2021, arXiv 2102.04010. No paper fixes the axis for
        convolutions or a ladder of ratios: both are our choice.
    """

    m: int = 4
    within: float = 0.05

    def __post_init__(self) -> None:
        if self.m < 2 or self.within <= 0:
            raise SuiteError(
                f"n-m: found m = {self.m} and within = {self.within:g}, expected m >= 2, within > 0"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models of rising patterns, each retrained from the last.

        Raises:
            UserError: If no pattern is within `within` of a ratio, or two ratios have the same one.
        """
        model = copy.deepcopy(context.previous or parent)
        for ratio in ratios:
            masks = self._masks(model, parent, ratio)
            if all(bool((magnitude[~masks[f"{name}.weight"]] == 0).all())
                   for name, magnitude in magnitudes(model).items()):  # fmt: skip
                raise UserError(
                    f"ratio {ratio:g} has the same pattern of N out of {self.m} as the one before; "
                    "ask for fewer ratios or a larger m"
                )
            context.retrain(model, ratio, masks=masks)
            yield model

    def _masks(self, model: nn.Module, parent: nn.Module, ratio: float) -> dict[str, Tensor]:
        """The nearest pattern's masks."""
        grouped = sum(w.numel() for w in weights_of(parent).values() if w.shape[1] % self.m == 0)
        total = nonzero(parent)
        reachable = {n: (1 - n / self.m) * grouped / total for n in range(self.m - 1, 0, -1)}
        n = min(reachable, key=lambda one: abs(reachable[one] - ratio))
        if abs(reachable[n] - ratio) > self.within:
            known = ", ".join(f"{share:.4f} ({n}:{self.m})" for n, share in reachable.items())
            raise UserError(
                f"no pattern of {self.m} is within {self.within:g} of ratio {ratio:g}; this network has {known}"
            )
        return {f"{name}.weight": _pattern(one, n, self.m) for name, one in magnitudes(model).items()}


def _pattern(magnitude: Tensor, n: int, m: int) -> Tensor:
    """True for the `n` largest of every `m` consecutive inputs; ties fall to the earlier."""
    if magnitude.shape[1] % m:
        return magnitude != 0
    groups = magnitude.transpose(0, 1).reshape(-1, m, magnitude[:, 0].numel())  # (groups, m, everything else)
    order = torch.sort(groups, dim=1, descending=True, stable=True).indices[:, :n]
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, value=True)
    return kept.view(magnitude.transpose(0, 1).shape).transpose(0, 1) & (magnitude != 0)
