"""What unstructured producers share: a score per weight, budgets of weights, and masks of the best weights."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import ContractError, UserError
from evalsuite.models.cost import count_nonzero, prunable_parameters, weight_name
from evalsuite.producers.base import Context, Producer
from evalsuite.random_streams import generator

WeightScores = Mapping[str, Tensor]
"""Names of prunable layers to one score per weight."""
PruningSchedule = Literal["iterative", "one-shot"]


@dataclass(frozen=True)
class WeightProducer(Producer):
    """A method that prunes the weights of lowest score over all convolutions and linear layers, and retrains.

    Biases and norms are never pruned, and no layer ever ends empty: its best weight stays.

    Attributes:
        schedule: ``iterative`` goes on from the last ratio, each step retrained with the full schedule
            (learning-rate rewinding: Renda et al. 2020, arXiv 2003.02389); ``one-shot`` starts from the
            parent at each ratio.
    """

    schedule: PruningSchedule = "iterative"

    @abstractmethod
    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns for each prunable layer's name a score of its weight's shape; the largest are kept."""

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks that keep `keep` weights of `model`; by default the best of the whole network.

        `model` is the producer's own copy: a method that also rescales what it keeps may do so here.
        """
        return global_masks(model, self.scores(model, context), keep)

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose ratio is within one weight of the target, retrained under fixed masks."""
        model = copy.deepcopy(context.previous or parent)
        for ratio in ratios:
            if self.schedule == "one-shot":
                model = copy.deepcopy(parent)
            masks = self.masks_for_parameters(model, nonzero_budget(parent, ratio), context)
            context.retrain(model, ratio, masks=masks)
            yield model

    def masks_for_parameters(self, model: nn.Module, budget: int, context: Context) -> dict[str, Tensor]:
        """Returns masks that leave `budget` non-zero parameters, biases and norms included."""
        return self.masks(model, weight_budget(model, budget), context)


def nonzero_budget(parent: nn.Module, ratio: float) -> int:
    """Returns how many non-zero parameters may stay at `ratio`, biases and norms included."""
    total = count_nonzero(parent)
    return total - round(ratio * total)


def weight_budget(model: nn.Module, budget: int) -> int:
    """Returns how many weights may stay where `budget` non-zero parameters may, biases and norms included.

    Raises:
        UserError: If that is too few to leave one weight in each layer that has any.
    """
    counts = nonzero_per_layer(model)
    fixed = count_nonzero(model) - sum(counts.values())
    layers = sum(map(bool, counts.values()))
    if budget - fixed < layers:
        raise UserError(
            f"too high a prune ratio: of {budget} parameters that may stay, {fixed} are biases and norms, "
            f"which leaves {max(budget - fixed, 0)} weights for {layers} layers; ask for a smaller ratio"
        )
    return budget - fixed


def prunable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights that may be pruned, detached, by layer, in the order of the model."""
    return {name: weight.detach() for name, weight in prunable_parameters(model).items()}


def nonzero_per_layer(model: nn.Module) -> dict[str, int]:
    """Returns the number of weights that are not zero in each prunable layer."""
    return {name: int(weight.count_nonzero()) for name, weight in prunable_weights(model).items()}


def magnitudes(model: nn.Module) -> dict[str, Tensor]:
    """Returns the absolute weights of each prunable layer."""
    return {name: weight.abs() for name, weight in prunable_weights(model).items()}


def saliencies(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Returns the absolute product of each prunable weight and the gradient of the mean cross-entropy along it.

    Args:
        model: Its mode is that of the forward pass.
        images: Float in [0, 1], (N, C, H, W).
        labels: int64, (N,).

    References:
        Lee et al. 2019, arXiv 1810.02340, equation 5, without the division by the sum of all.
    """
    weights = prunable_parameters(model)
    with torch.enable_grad():
        loss = functional.cross_entropy(model(images), labels)
        gradients = torch.autograd.grad(loss, list(weights.values()))
    return {
        name: (weight * gradient).detach().abs()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def random_scores(model: nn.Module, seed: int, *key: str | int | float) -> dict[str, Tensor]:
    """Returns one uniform draw of [0, 1) per weight, float64, by layer, whatever the weights are."""
    return {
        name: torch.from_numpy(generator(seed, *key, name).random(weight.shape))
        for name, weight in prunable_weights(model).items()
    }


def masks_for_budget(model: nn.Module, scores: WeightScores, budget: int) -> dict[str, Tensor]:
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
    return global_masks(model, scores, weight_budget(model, budget))


def global_masks(model: nn.Module, scores: WeightScores, keep: int) -> dict[str, Tensor]:
    """Returns masks of the `keep` weights of highest score in the whole model; see `masks_for_budget`."""
    weights = prunable_weights(model)
    ranked = torch.cat([_ranking(weight, scores[name]) for name, weight in weights.items()])
    parts = torch.split(_top_mask(ranked, keep), [weight.numel() for weight in weights.values()])
    return {
        weight_name(name): part.view_as(weight)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def layerwise_masks(model: nn.Module, scores: WeightScores, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Returns masks of the ``counts[layer]`` weights of highest score in each layer; see `masks_for_budget`."""
    return {
        weight_name(name): _top_mask(_ranking(weight, scores[name]), counts[name]).view_as(weight)
        for name, weight in prunable_weights(model).items()
    }


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets the weights of `model` to zero, in place, where a mask is False."""
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = model.get_parameter(name)
            parameter.mul_(mask.to(parameter))


def nonzero_masks(model: nn.Module) -> dict[str, Tensor]:
    """Returns the masks that are False where prunable weights of `model` are zero."""
    return {weight_name(name): weight != 0 for name, weight in prunable_weights(model).items()}


def _top_mask(ranked: Tensor, keep: int) -> Tensor:
    mask = torch.zeros(len(ranked), dtype=torch.bool)
    mask[torch.sort(ranked, descending=True, stable=True).indices[:keep]] = True
    return mask & (ranked > -torch.inf)


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
