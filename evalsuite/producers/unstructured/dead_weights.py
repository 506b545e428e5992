"""Unstructured pruning that also drops what has no gradient left, as the published code of "Lost in Pruning" does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from evalsuite.models.cost import count_nonzero
from evalsuite.plugin_config import OPTIONAL_KEY
from evalsuite.producers.base import Context
from evalsuite.producers.propagation import drop_dead_parameters, propagation_images, zeroed_masks
from evalsuite.producers.unstructured.base import (
    WeightProducer,
    apply_masks,
    global_masks,
    prunable_weights,
    weight_budget,
)

_SEARCH_STEPS = 12


@dataclass(frozen=True)
class PropagatingProducer(WeightProducer):
    """A method that may also drop the parameters that its pruning leaves without use.

    Attributes:
        propagate: Whether parameters whose gradient over a few hundred training images is exactly zero after the
            pruning are set to zero too: weights around dead channels, their norms and biases. They cost nothing, so
            that more of the others may stay at the same ratio; and they stay zero in the retraining.

    References:
        ``WeightNet`` of lucaslie/torchprune, the code of Liebenwein et al. 2021, "Lost in Pruning". Differs in that
        the ratio is searched to the weight and not to 0.5 %, that a layer is never emptied, and that norms
        stay zero in the retraining, where torchprune holds convolutions and linear layers alone.
    """

    propagate: bool = field(default=False, metadata=OPTIONAL_KEY)

    def masks_for_parameters(self, model: nn.Module, budget: int, context: Context) -> dict[str, Tensor]:
        """Returns masks that leave `budget` non-zero parameters; with `propagate` those that have a use, if it can be.

        Raises:
            UserError: If the budget leaves no weight for each layer.
        """
        keep = weight_budget(model, budget)
        if not self.propagate:
            return self.masks(model, keep, context)
        scores, data = self.scores(model, context), propagation_images(model, context)

        def pruned(count: int) -> nn.Module:
            smaller = copy.deepcopy(model)
            apply_masks(smaller, global_masks(model, scores, count))
            drop_dead_parameters(smaller, *data)
            return smaller

        most = sum(int(weight.count_nonzero()) for weight in prunable_weights(model).values())
        return zeroed_masks(nearest_to_budget(pruned, keep, most, budget))


def nearest_to_budget(pruned: Callable[[int], nn.Module], least: int, most: int, budget: int) -> nn.Module:
    """Returns the network whose number of non-zero parameters comes nearest to `budget`, of a few that are tried.

    Args:
        pruned: From a number of weights to the network that keeps these less those without use.
        least: Weights to keep at least: with them the network is not above the budget.
        most: Weights that there are.
        budget: Non-zero parameters.
    """
    best, keep, low, high = pruned(least), least, least, most
    best_missing = missing = budget - count_nonzero(best)
    for _ in range(_SEARCH_STEPS):
        if missing == 0 or low >= high:
            break
        low, high = (keep, high) if missing > 0 else (low, keep)
        step = keep + missing  # right if the weights without use stay as many
        keep = step if low < step < high else high if step >= high == most else (low + high) // 2
        if keep in (low, high) and keep != most:
            break
        current = pruned(keep)
        missing = budget - count_nonzero(current)
        if abs(missing) < abs(best_missing):
            best, best_missing = current, missing
        if keep == most and missing > 0:
            break
    return best
