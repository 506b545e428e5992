"""How many weights each layer keeps, where a method decides that before it looks at any weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor, nn

from evalsuite.errors import UserError
from evalsuite.producers.unstructured.global_threshold import Scores, alive, best_in_layers, weights_of
from evalsuite.types import Floats

Allocation = Literal["uniform", "uniform-plus", "erk"]
LAST = 0.2
"""Share of its weights that the last layer keeps at least under ``uniform-plus``."""
_HALVINGS = 200  # of the interval of the scale: to the last bit


def allotted(model: nn.Module, scores: Scores, allocation: Allocation, keep: int) -> dict[str, Tensor]:
    """Returns masks of the weights of highest score in each layer, as many as an allocation says, exact in sum.

    Raises:
        UserError: If the allocation is not possible with so few weights.
    """
    return best_in_layers(model, scores, layer_counts(model, allocation, keep))


def layer_counts(model: nn.Module, allocation: Allocation, keep: int) -> dict[str, int]:
    """Returns how many weights each prunable layer keeps: whole numbers that sum to `keep`.

    Every layer keeps one at least, and never more than it has; what a full layer cannot take goes to the
    others in proportion, until nothing is left over.

    Args:
        model: Its zero weights are gone already.
        allocation: ``uniform`` keeps the same share of each layer. ``uniform-plus`` keeps the first
            convolution whole, `LAST` of the last layer at least, and the same share of the rest. ``erk``
            keeps a share in proportion to the sum of a weight's dimensions over their product.
        keep: Weights to keep in all.

    Raises:
        UserError: If the allocation is not possible with so few weights.

    References:
        ``uniform-plus``: Gale et al. 2019, arXiv 1902.09574, as restated by Lee et al. 2021, arXiv
        2010.07611, section 4. ``erk``: Evci et al. 2020, arXiv 1911.11134, section 3 (Erdos-Renyi kernel).
    """
    weights, most = weights_of(model), list(alive(model).values())
    least = [min(1, count) for count in most]
    if allocation == "uniform-plus":
        first = next((i for i, weight in enumerate(weights.values()) if weight.ndim == 4), 0)
        least[-1] = min(most[-1], math.ceil(LAST * [*weights.values()][-1].numel()))
        least[first] = most[first]
    if sum(least) > keep:
        raise UserError(
            f"too high a prune ratio for allocation {allocation!r}: {keep} weights may stay, but the layers "
            f"keep {sum(least)} at least; ask for a smaller ratio or another allocation"
        )
    shares = [sum(w.shape) if allocation == "erk" else w.numel() for w in weights.values()]
    return dict(zip(weights, apportioned(shares, least, most, keep), strict=True))


def apportioned(shares: Sequence[float], least: Sequence[int], most: Sequence[int], keep: int) -> list[int]:
    """Returns whole numbers in proportion to `shares`, within bounds, that sum to `keep` or to all there are.

    Remainders go to the largest fractions, ties to the earlier.

    >>> apportioned([1, 1, 2], [0, 0, 0], [9, 9, 9], 5)
    [1, 1, 3]
    >>> apportioned([1, 1, 2], [0, 0, 0], [9, 9, 2], 6)  # the last is full: the others share what is left
    [2, 2, 2]
    """
    weight, low, high = (np.asarray(numbers, dtype=np.float64) for numbers in (shares, least, most))
    keep = min(keep, int(high.sum()))
    real = _scaled(weight, low, high, keep)
    whole = np.floor(real + 1e-9)  # a share that is whole stays so whatever the last bit says
    order = np.argsort(-(real - whole), kind="stable")
    missing = keep - int(whole.sum())
    step = 1 if missing > 0 else -1
    for index in order[::step]:
        if missing and low[index] <= whole[index] + step <= high[index]:
            whole[index] += step
            missing -= step
    return [int(count) for count in whole]


def _scaled(shares: Floats, low: Floats, high: Floats, total: int) -> Floats:
    """`shares` times one scale, clipped to their bounds, with sum `total`: the scale is found by bisection."""
    under, over = 0.0, float((high / shares).max()) + 1.0
    for _ in range(_HALVINGS):
        middle = (under + over) / 2
        if np.clip(middle * shares, low, high).sum() < total:
            under = middle
        else:
            over = middle
    found: Floats = np.clip(over * shares, low, high)
    return found
