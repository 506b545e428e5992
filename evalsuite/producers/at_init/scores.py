"""Pruning at initialisation (SNIP, GraSP, SynFlow, magnitude): mask the first weights, then train once."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError
from evalsuite.models.architectures.base import Normalized
from evalsuite.models.cost import prunable_parameters
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.base import (
    WeightScores,
    apply_masks,
    global_masks,
    magnitudes,
    nonzero_budget,
    prunable_weights,
    saliencies,
    weight_budget,
)
from evalsuite.random_streams import generator


@dataclass(frozen=True)
class InitialProducer(Producer):
    """A method that masks the parent's first weights, and trains them once with the parent's recipe.

    Every ratio starts anew. Biases and norms count as the parent's do, although many are zero at first.
    """

    @abstractmethod
    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns a score per weight of an untrained network in training mode; the largest are kept."""

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks that keep `keep` weights of `model`, a copy that may be changed."""
        return global_masks(model, self.scores(model, context), keep)

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose ratio is within one weight of the target.

        Raises:
            SkippedError: If the parent's architecture is unknown.
        """
        for ratio in ratios:
            model = context.fresh()
            keep = weight_budget(parent, nonzero_budget(parent, ratio))
            masks = self.masks(copy.deepcopy(model), keep, context)
            context.fit(model, ratio, masks=masks, recipe=context.parent_recipe)
            yield model


@dataclass(frozen=True)
class Snip(InitialProducer):
    """SNIP: before training, the weights to whose removal the loss is least sensitive are pruned.

    Attributes:
        images: Size of the one batch.

    References:
        Lee et al. 2019, arXiv 1810.02340, equations 4 and 5: the absolute gradient of the loss along a
        weight's mask, which is that of weight times gradient. The division by the sum of all changes no order and is
        left out. The weights are those that are trained; the paper scores others, drawn with variance
        scaling.
    """

    images: int = 128

    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns absolute products of weight and gradient on one batch."""
        return saliencies(model, *context.batch(self.images, "snip"))


@dataclass(frozen=True)
class Grasp(InitialProducer):
    """GraSP: before training, the weights whose removal keeps the gradient flow strongest are pruned.

    Attributes:
        per_class: Training images of each class.
        temperature: Divisor of the logits.

    References:
        Wang et al. 2020, arXiv 2002.07376, equation 8 and algorithm 1: ``-w (H g)``, the highest are pruned.
        The images are shuffled before they are cut in two halves; the authors' code cuts them sorted by class,
        so that its halves hold different classes. It also draws linear weights anew, which is left out.
    """

    per_class: int = 25
    temperature: float = 200.0

    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns ``w (H g)``, g summed and H g summed over two halves."""
        images, labels = context.per_class(self.per_class, "grasp")
        order = torch.from_numpy(generator(context.seed, "grasp", "halves").permutation(len(labels)))
        halves = [(images[rows], labels[rows]) for rows in order.to(labels.device).tensor_split(2)]
        weights = prunable_parameters(model)
        tensors = list(weights.values())
        parts = [torch.autograd.grad(self._loss(model, *half), tensors) for half in halves]
        gradient = [sum(pair) for pair in zip(*parts, strict=True)]
        hessian_gradient = [torch.zeros_like(weight) for weight in tensors]
        for half in halves:
            slopes = torch.autograd.grad(self._loss(model, *half), tensors, create_graph=True)
            product = torch.stack([(g * s).sum() for g, s in zip(gradient, slopes, strict=True)]).sum()
            for total, part in zip(hessian_gradient, torch.autograd.grad(product, tensors), strict=True):
                total += part
        return {
            name: (weight * product).detach()
            for (name, weight), product in zip(weights.items(), hessian_gradient, strict=True)
        }

    def _loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(model(images) / self.temperature, labels)


@dataclass(frozen=True)
class Synflow(InitialProducer):
    """SynFlow: without data, in many rounds, the weights through which least synaptic flow passes are pruned.

    Attributes:
        rounds: Number of rounds; after round k the share ``s^(k / rounds)`` of the weights is left.

    References:
        Tanaka et al. 2020, arXiv 2006.05467, equation 3 and algorithm 1: ``|w dR/dw|``, R the sum of the
        outputs for an input of ones when all weights are absolute. As in the authors' code, biases, norms
        and their running statistics are absolute too, the network is in evaluation mode and computes in
        float64. The ones are what the network sees behind its preprocessing.
    """

    rounds: int = 100

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise SuiteError(f"synflow: found rounds = {self.rounds}, expected at least 1")

    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns the flow through each weight of `model`, whose weights are absolute already."""
        body = model.network if isinstance(model, Normalized) else model
        weights = prunable_parameters(model)
        first = next(iter(weights.values()))
        ones = torch.ones((1, *context.train.images.shape[1:]), dtype=first.dtype, device=first.device)
        gradients = torch.autograd.grad(body(ones).sum(), list(weights.values()))
        return {
            name: (weight * gradient).detach().abs()
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks after all rounds; each round scores what the last one left."""
        positive = model.double().eval()
        with torch.no_grad():
            for value in positive.state_dict().values():
                value.abs_()
        weights = prunable_weights(positive)
        total = sum(weight.numel() for weight in weights.values())
        masks: dict[str, Tensor] = {}
        for number in range(1, self.rounds + 1):
            last = number == self.rounds
            count = keep if last else round(total * (keep / total) ** (number / self.rounds))
            masks = global_masks(positive, self.scores(positive, context), max(count, len(weights)))
            apply_masks(positive, masks)
        return masks


@dataclass(frozen=True)
class MagnitudeInit(InitialProducer):
    """Magnitude pruning of the first weights: the control of methods that prune at initialisation.

    References:
        Frankle et al. 2021, arXiv 2009.08576: one global threshold.
    """

    def scores(self, model: nn.Module, context: Context) -> WeightScores:  # noqa: ARG002  # data-free
        """Returns absolute first weights."""
        return magnitudes(model)
