"""Unstructured pruning: single weights are set to zero by a global threshold on a score."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from evalsuite.errors import ContractError, UserError
from evalsuite.models.cost import nonzero, prunable
from evalsuite.producers.base import Context, Producer
from evalsuite.random_streams import generator

Scores = Mapping[str, Tensor]
"""Names of prunable layers to one score per weight."""
Schedule = Literal["iterative", "one-shot"]


@dataclass(frozen=True)
class WeightProducer(Producer):
    """Prunes the weights of lowest score over all convolutions and linear layers, retrains, and goes on.

    Biases and norms are never pruned, and no layer ever ends empty: its best weight stays.

    Attributes:
        schedule: ``iterative`` goes on from the last ratio, each step retrained with the full schedule
            (learning-rate rewinding: Renda et al. 2020, arXiv 2003.02389); ``one-shot`` starts from the
            parent at each ratio.
    """

    schedule: Schedule = "iterative"

    @abstractmethod
    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns for each prunable layer's name a score of its weight's shape; the largest are kept."""

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks that keep `keep` weights of `model`; by default the best ones wherever they are.

        `model` is the producer's own copy: a method that also rescales what it keeps may do so here.
        """
        return best(model, self.scores(model, context), keep)

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose ratio is within one weight of the target, retrained under fixed masks."""
        model = copy.deepcopy(context.previous or parent)
        for ratio in ratios:
            if self.schedule == "one-shot":
                model = copy.deepcopy(parent)
            masks = self.masks(model, room(model, allowed(parent, ratio)), context)
            context.retrain(model, ratio, masks=masks)
            yield model


def allowed(parent: nn.Module, ratio: float) -> int:
    """Returns how many non-zero parameters may stay at `ratio`, biases and norms included."""
    total = nonzero(parent)
    return total - round(ratio * total)


def room(model: nn.Module, budget: int) -> int:
    """Returns how many weights may stay where `budget` non-zero parameters may, biases and norms included.

    Raises:
        UserError: If that is too few to leave one weight in each layer that has any.
    """
    counts = alive(model)
    fixed = nonzero(model) - sum(counts.values())
    layers = sum(map(bool, counts.values()))
    if budget - fixed < layers:
        raise UserError(
            f"too high a prune ratio: of {budget} parameters that may stay, {fixed} are biases and norms, "
            f"which leaves {max(budget - fixed, 0)} weights for {layers} layers; ask for a smaller ratio"
        )
    return budget - fixed


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights that may be pruned, detached, by layer, in the order of the model."""
    return {name: layer.get_parameter("weight").detach() for name, layer in prunable(model).items()}


def alive(model: nn.Module) -> dict[str, int]:
    """Returns the number of weights that are not zero in each prunable layer."""
    return {name: int(weight.count_nonzero()) for name, weight in weights_of(model).items()}


def magnitudes(model: nn.Module) -> dict[str, Tensor]:
    """Returns the absolute weights of each prunable layer."""
    return {name: weight.abs() for name, weight in weights_of(model).items()}


def masks_keeping(model: nn.Module, scores: Scores, budget: int) -> dict[str, Tensor]:
    """Returns masks that leave exactly `budget` non-zero parameters in the whole model.

    Args:
        model: Weights that are zero already stay so.
        scores: Per layer, of its weight's shape; ties fall to the earlier layer and position.
        budget: Non-zero parameters to leave, biases and norms included.

    Returns:
        Parameter names (``<layer>.weight``) to bool masks.

    Raises:
        UserError: If `budget` is too small to leave one weight in each layer that has any.
        ContractError: If a score is NaN.
    """
    return best(model, scores, room(model, budget))


def best(model: nn.Module, scores: Scores, keep: int) -> dict[str, Tensor]:
    """Returns masks of the `keep` weights of highest score in the whole model; see `masks_keeping`."""
    weights = weights_of(model)
    ranked = torch.cat([_ranking(weight, scores[name]) for name, weight in weights.items()])
    parts = torch.split(_top(ranked, keep), [weight.numel() for weight in weights.values()])
    return {
        f"{name}.weight": part.view_as(weight)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def best_in_layers(model: nn.Module, scores: Scores, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Returns masks of the ``counts[layer]`` weights of highest score in each layer; see `masks_keeping`."""
    return {
        f"{name}.weight": _top(_ranking(weight, scores[name]), counts[name]).view_as(weight)
        for name, weight in weights_of(model).items()
    }


def enforce(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets the weights of `model` to zero, in place, where a mask is False."""
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = model.get_parameter(name)
            parameter.mul_(mask.to(parameter))


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns the masks that the zeros among the prunable weights of `model` amount to."""
    return {f"{name}.weight": weight != 0 for name, weight in weights_of(model).items()}


def _top(ranked: Tensor, keep: int) -> Tensor:
    kept = torch.zeros(len(ranked), dtype=torch.bool)
    kept[torch.sort(ranked, descending=True, stable=True).indices[:keep]] = True
    return kept & (ranked > -torch.inf)


def _ranking(weight: Tensor, score: Tensor) -> Tensor:
    """Scores as a flat float64 vector: pruned weights last, the layer's best weight first of all."""
    flat = score.detach().double().cpu().flatten().clone()
    if flat.isnan().any():
        raise ContractError("a producer's scores have NaN among them, expected numbers to rank weights by")
    pruned = weight.cpu().flatten() == 0
    flat[pruned] = -torch.inf
    if not pruned.all():
        flat[flat.argmax()] = torch.inf
    return flat


@dataclass(frozen=True)
class Magnitude(WeightProducer):
    """Global magnitude pruning (WT): the smallest absolute weights of the whole network go first.

    References:
        Han et al. 2015, arXiv 1506.02626; Renda et al. 2020, arXiv 2003.02389; "WT" of Liebenwein et al.
        2021, "Lost in Pruning". Differs from the latter's code in that no weight is dropped for having no
        gradient. With the iterative schedule this is the lottery with learning-rate rewinding.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:  # noqa: ARG002  # data-free
        """Returns absolute weights."""
        return magnitudes(model)


@dataclass(frozen=True)
class Random(WeightProducer):
    """Random pruning, the control: weights go in an order drawn once, whatever they are.

    References:
        A control in Frankle et al. 2021, arXiv 2009.08576; layers lose the same share in expectation.
    """

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns uniform draws, the same at every ratio, so that masks are nested."""
        return draws(model, context.seed, "random")


def draws(model: nn.Module, seed: int, *key: str | int | float) -> dict[str, Tensor]:
    """Returns one uniform draw of [0, 1) per weight, float64, by layer, whatever the weights are."""
    return {
        name: torch.from_numpy(generator(seed, *key, name).random(weight.shape))
        for name, weight in weights_of(model).items()
    }
