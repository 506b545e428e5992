"""Unstructured pruning: single weights are set to zero by a global threshold on a score."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evalsuite.errors import ContractError, UserError
from evalsuite.models.cost import nonzero, prunable
from evalsuite.producers.contract import Context, Producer
from evalsuite.randomness import generator


class WeightProducer(Producer):
    """Prunes the weights of lowest score over all convolutions and linear layers, retrains, and goes on.

    Biases and norms are never pruned, and no layer ever ends empty: its best weight stays.
    """

    @abstractmethod
    def scores(self, model: nn.Module, context: Context) -> Mapping[str, Tensor]:
        """Returns for each prunable layer's name a score of its weight's shape; the largest are kept."""

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose ratio is within one weight of the target.

        Each step starts from the last, removes what is missing to the next ratio, and retrains with the full
        schedule and fixed masks (learning-rate rewinding: Renda et al. 2020, arXiv 2003.02389).
        """
        model = copy.deepcopy(context.previous or parent)
        total = nonzero(parent)
        for ratio in ratios:
            masks = masks_keeping(model, self.scores(model, context), total - round(ratio * total))
            context.retrain(model, ratio, masks=masks)
            yield model


def masks_keeping(model: nn.Module, scores: Mapping[str, Tensor], budget: int) -> dict[str, Tensor]:
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
    layers = prunable(model)
    weights = {name: layer.get_parameter("weight").detach() for name, layer in layers.items()}
    fixed = nonzero(model) - sum(int(weight.count_nonzero()) for weight in weights.values())
    keep = budget - fixed
    alive = sum(bool(weight.any()) for weight in weights.values())
    if keep < alive:
        raise UserError(
            f"too high a prune ratio: of {budget} parameters that may stay, {fixed} are biases and norms, "
            f"which leaves {max(keep, 0)} weights for {alive} layers; ask for a smaller ratio"
        )
    ranked = torch.cat([_ranking(weights[name], scores[name]) for name in layers])
    kept = torch.zeros(len(ranked), dtype=torch.bool)
    kept[torch.sort(ranked, descending=True, stable=True).indices[:keep]] = True
    kept &= ranked > -torch.inf
    parts = torch.split(kept, [weight.numel() for weight in weights.values()])
    return {f"{name}.weight": part.view_as(weights[name]) for name, part in zip(layers, parts, strict=True)}


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
        gradient.
    """

    def scores(self, model: nn.Module, context: Context) -> Mapping[str, Tensor]:  # noqa: ARG002  # data-free
        """Returns absolute weights."""
        return {name: layer.get_parameter("weight").abs() for name, layer in prunable(model).items()}


@dataclass(frozen=True)
class Random(WeightProducer):
    """Random pruning, the control: weights go in an order drawn once, whatever they are.

    References:
        A control in Frankle et al. 2021, arXiv 2009.08576; layers lose the same share in expectation.
    """

    def scores(self, model: nn.Module, context: Context) -> Mapping[str, Tensor]:
        """Returns uniform draws, the same at every ratio, so that masks are nested."""
        return {
            name: torch.from_numpy(
                generator(context.seed, "random", name).random(layer.get_parameter("weight").shape)
            )
            for name, layer in prunable(model).items()
        }
