"""Pruning at initialisation: the mask is found before any training, then the network is trained once."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import SuiteError
from evalsuite.models.architectures.base import Normalized
from evalsuite.models.cost import prunable
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.allocation import Allocation, allotted
from evalsuite.producers.unstructured.global_threshold import (
    Scores,
    allowed,
    best,
    draws,
    enforce,
    magnitudes,
    room,
    weights_of,
)
from evalsuite.producers.unstructured.layerwise import saliencies
from evalsuite.random_streams import generator
from evalsuite.training.recipe import Recipe


def first_recipe(context: Context) -> Recipe:
    """Returns how a network that starts from first weights is trained: as its parent was, if that is known."""
    known = None if context.origin is None else context.origin.recipe
    return known or context.recipe


@dataclass(frozen=True)
class InitialProducer(Producer):
    """Finds a mask on the parent's first weights, and trains them under it once with the parent's recipe.

    Every ratio starts anew. Biases and norms count as the parent's do, although many are zero at first.
    """

    @abstractmethod
    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns a score per weight of an untrained network in training mode; the largest are kept."""

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks that keep `keep` weights of `model`, a copy that may be changed."""
        return best(model, self.scores(model, context), keep)

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose ratio is within one weight of the target.

        Raises:
            SkippedError: If nobody knows the parent's architecture.
        """
        for ratio in ratios:
            model = context.fresh()
            keep = room(parent, allowed(parent, ratio))
            masks = self.masks(copy.deepcopy(model), keep, context)
            context.fit(model, ratio, masks=masks, recipe=first_recipe(context))
            yield model


@dataclass(frozen=True)
class Snip(InitialProducer):
    """SNIP: before training, the weights to whose removal the loss is least sensitive go.

    Attributes:
        images: Size of the one batch.

    References:
        Lee et al. 2019, arXiv 1810.02340, equations 4 and 5: the absolute slope of the loss along a weight's
        mask, which is that of weight times gradient. The division by the sum of all changes no order and is
        left out. The weights are those that are trained; the paper scores others, drawn with variance
        scaling.
    """

    images: int = 128

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns absolute products of weight and gradient on one batch."""
        return saliencies(model, *context.batch(self.images, "snip"))


@dataclass(frozen=True)
class Grasp(InitialProducer):
    """GraSP: before training, the weights whose removal keeps the gradient flow strongest go.

    Attributes:
        per_class: Training images of each class.
        temperature: By which logits are divided.

    References:
        Wang et al. 2020, arXiv 2002.07376, equation 8 and algorithm 1: ``-w (H g)``, the highest go. The
        images are shuffled before they are cut in two halves; the authors' code cuts them sorted by class,
        so that its halves hold different classes. It also draws linear weights anew, which is left out.
    """

    per_class: int = 25
    temperature: float = 200.0

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns ``w (H g)``, g summed and H g summed over two halves."""
        images, labels = context.per_class(self.per_class, "grasp")
        order = torch.from_numpy(generator(context.seed, "grasp", "halves").permutation(len(labels)))
        halves = [(images[rows], labels[rows]) for rows in order.to(labels.device).tensor_split(2)]
        weights = {name: layer.get_parameter("weight") for name, layer in prunable(model).items()}
        flows = [torch.autograd.grad(self._loss(model, *half), list(weights.values())) for half in halves]
        total = [sum(parts) for parts in zip(*flows, strict=True)]
        curved = [torch.zeros_like(weight) for weight in weights.values()]
        for half in halves:
            slopes = torch.autograd.grad(self._loss(model, *half), list(weights.values()), create_graph=True)
            product = torch.stack([(g * s).sum() for g, s in zip(total, slopes, strict=True)]).sum()
            for sum_, part in zip(curved, torch.autograd.grad(product, list(weights.values())), strict=True):
                sum_ += part
        return {name: (w * h).detach() for (name, w), h in zip(weights.items(), curved, strict=True)}

    def _loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(model(images) / self.temperature, labels)


@dataclass(frozen=True)
class Synflow(InitialProducer):
    """SynFlow: without data, in many rounds, the weights go through which least synaptic flow passes.

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

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns the flow through each weight of `model`, whose weights are absolute already."""
        body = model.network if isinstance(model, Normalized) else model
        weights = {name: layer.get_parameter("weight") for name, layer in prunable(model).items()}
        first = next(iter(weights.values()))
        ones = torch.ones((1, *context.train.images.shape[1:]), dtype=first.dtype, device=first.device)
        slopes = torch.autograd.grad(body(ones).sum(), list(weights.values()))
        return {
            name: (weight * slope).detach().abs()
            for (name, weight), slope in zip(weights.items(), slopes, strict=True)
        }

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks after all rounds; each round scores what the last one left."""
        positive = model.double().eval()
        with torch.no_grad():
            for value in positive.state_dict().values():
                value.abs_()
        weights = weights_of(positive)
        total = sum(weight.numel() for weight in weights.values())
        masks: dict[str, Tensor] = {}
        for done in range(1, self.rounds + 1):
            left = keep if done == self.rounds else round(total * (keep / total) ** (done / self.rounds))
            masks = best(positive, self.scores(positive, context), max(left, len(weights)))
            enforce(positive, masks)
        return masks


@dataclass(frozen=True)
class MagnitudeInit(InitialProducer):
    """Magnitude pruning of the first weights: the control of methods that prune at initialisation.

    References:
        Frankle et al. 2021, arXiv 2009.08576: one global threshold.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns absolute first weights."""
        return magnitudes(model)


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

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns uniform draws, the same at every ratio."""
        return draws(model, context.seed, "random-init")

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks with the allocation's counts, exact in sum."""
        found = self.scores(model, context)
        if self.allocation == "global":
            return best(model, found, keep)
        return allotted(model, found, self.allocation, keep)
