"""Layer-wise sparsity allocation: uniform, uniform-plus and Erdos-Renyi kernel (ERK)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor, nn

from evalsuite.errors import UserError
from evalsuite.producers.unstructured.base import (
    WeightScores,
    layerwise_masks,
    nonzero_per_layer,
    prunable_weights,
)
from evalsuite.types import Floats

Allocation = Literal["uniform", "uniform-plus", "erk"]
LAST_LAYER_SHARE = 0.2
"""Share of its weights that the last layer keeps at least under ``uniform-plus``."""
_BISECTIONS = 200  # of the interval of the scale: to the last bit


def masks_by_allocation(
    model: nn.Module, scores: WeightScores, allocation: Allocation, keep: int
) -> dict[str, Tensor]:
    """Returns masks of each layer's weights of highest score, as many as the allocation gives it, exact in sum.

    Raises:
        UserError: If the allocation is not possible with so few weights.
    """
    return layerwise_masks(model, scores, layer_counts(model, allocation, keep))


def layer_counts(model: nn.Module, allocation: Allocation, keep: int) -> dict[str, int]:
    """Returns how many weights each prunable layer keeps: whole numbers that sum to `keep`.

    Every layer keeps one at least, and never more than it has; what a full layer cannot take goes to the
    others in proportion.

    Args:
        model: Its zero weights are gone already.
        allocation: ``uniform`` keeps the same share of each layer. ``uniform-plus`` keeps the first
            convolution dense, `LAST_LAYER_SHARE` of the last layer at least, and the same share of the rest. ``erk``
            keeps a share in proportion to the sum of a weight's dimensions over their product.
        keep: Weights to keep in all.

    Raises:
        UserError: If the allocation is not possible with so few weights.

    References:
        ``uniform-plus``: Gale et al. 2019, arXiv 1902.09574, as restated by Lee et al. 2021, arXiv
        2010.07611, section 4. ``erk``: Evci et al. 2020, arXiv 1911.11134, section 3 (Erdos-Renyi kernel).
    """
    weights, upper = prunable_weights(model), list(nonzero_per_layer(model).values())
    lower = [min(1, count) for count in upper]
    if allocation == "uniform-plus":
        first = next((i for i, weight in enumerate(weights.values()) if weight.ndim == 4), 0)
        lower[-1] = min(upper[-1], math.ceil(LAST_LAYER_SHARE * [*weights.values()][-1].numel()))
        lower[first] = upper[first]
    if sum(lower) > keep:
        raise UserError(
            f"too high a prune ratio for allocation {allocation!r}: {keep} weights may stay, but the layers "
            f"keep {sum(lower)} at least; ask for a smaller ratio or another allocation"
        )
    shares = [sum(w.shape) if allocation == "erk" else w.numel() for w in weights.values()]
    return dict(zip(weights, apportion(shares, lower, upper, keep), strict=True))


def apportion(shares: Sequence[float], lower: Sequence[int], upper: Sequence[int], keep: int) -> list[int]:
    """Returns whole numbers in proportion to `shares`, within bounds, that sum to `keep` or to the upper bounds.

    Remainders go to the largest fractions, ties to the earlier.

    >>> apportion([1, 1, 2], [0, 0, 0], [9, 9, 9], 5)
    [1, 1, 3]
    >>> apportion([1, 1, 2], [0, 0, 0], [9, 9, 2], 6)  # the last is full: the others share what is left
    [2, 2, 2]
    """
    weight, low, high = (np.asarray(numbers, dtype=np.float64) for numbers in (shares, lower, upper))
    keep = min(keep, int(high.sum()))
    exact = _scale_to_total(weight, low, high, keep)
    counts = np.floor(exact + 1e-9)  # a whole share stays so whatever the last bit says
    order = np.argsort(-(exact - counts), kind="stable")
    remainder = keep - int(counts.sum())
    step = 1 if remainder > 0 else -1
    for index in order[::step]:
        if remainder and low[index] <= counts[index] + step <= high[index]:
            counts[index] += step
            remainder -= step
    return [int(count) for count in counts]


def _scale_to_total(shares: Floats, low: Floats, high: Floats, total: int) -> Floats:
    """`shares` times one scale, clipped to their bounds, with sum `total`: the scale is found by bisection."""
    under, over = 0.0, float((high / shares).max()) + 1.0
    for _ in range(_BISECTIONS):
        middle = (under + over) / 2
        if np.clip(middle * shares, low, high).sum() < total:
            under = middle
        else:
            over = middle
    scaled: Floats = np.clip(over * shares, low, high)
    return scaled
