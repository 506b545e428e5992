"""SiPP (sensitivity-informed provable pruning): deterministic, randomised and hybrid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evalsuite.producers.base import Context
from evalsuite.producers.sensitivity import (
    WeightSensitivity,
    log_failure_factor,
    sensitivity_values,
    weight_sensitivities,
)
from evalsuite.producers.unstructured.base import (
    WeightProducer,
    WeightScores,
    global_masks,
    prunable_weights,
)
from evalsuite.producers.unstructured.dead_weights import PropagatingProducer
from evalsuite.random_streams import generator
from evalsuite.types import Array, Floats

SENSITIVITY_CONSTANT = 3.0
"""Factor between sensitivities over some images and over all: the constant of the theorems."""
_BISECTIONS = 50
_NEWTON_STEPS = 12
_LEAST_PRICE, _LARGEST_PRICE = -30.0, 30.0  # powers of ten between which any price lies


@dataclass(frozen=True, eq=False)
class SignGroups:
    """All weights of a network by filter and sign.

    Attributes:
        values: Sensitivity of each weight, float64; 0 for pruned weights.
        index: Number of each weight's group.
        slack: Per group, the logarithmic factor of its error bound.
        weight: Per group, its weight in the sum of bounds: one over the number of filters of its layer.
    """

    values: Floats
    index: Array
    slack: Floats
    weight: Floats

    @cached_property
    def sums(self) -> Floats:
        """Sum of sensitivities per group."""
        return np.bincount(self.index, weights=self.values, minlength=len(self.slack)).astype(np.float64)

    @cached_property
    def nonzero(self) -> Floats:
        """Number of weights with any sensitivity per group."""
        return np.bincount(self.index, weights=self.values > 0, minlength=len(self.slack)).astype(np.float64)

    @cached_property
    def shares(self) -> Floats:
        """Each weight's part of its group's sensitivity: the probability that one sample draws it."""
        total = self.sums[self.index]
        shares: Floats = np.divide(self.values, total, out=np.zeros_like(self.values), where=total > 0)
        return shares

    @cached_property
    def order(self) -> Array:
        """Rank of each weight in its group, the most sensitive first, from 0; ties fall to the earlier."""
        order = np.lexsort((-self.values, self.index))
        starts = np.searchsorted(self.index[order], np.arange(len(self.slack)))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order)) - starts[self.index[order]]
        return ranks

    def bounds(self, counts: Floats) -> Floats:
        """Returns upper bounds of the relative error of each group at given numbers of samples.

        With S the group's sum of sensitivities and c = `slack` S / 3 it is
        ``(c / m + sqrt((c / m)^2 + 6 c / m)) / 2``.
        """
        part = self.slack * self.sums / 3 / np.maximum(counts, 1e-300)
        bounds: Floats = (part + np.sqrt(part * part + 6 * part)) / 2
        return bounds


SamplingRule = Callable[[SignGroups, Floats], NDArray[np.bool_]]
"""From groups and their numbers of samples to which groups are sampled; the others keep their best."""


def optimal_sample_counts(groups: SignGroups, keep: int, sampled: SamplingRule) -> Floats:
    """Returns real numbers of samples per group that minimise the weighted sum of all error bounds.

    Minimised over m is ``sum_g weight_g bound_g(m_g)`` with ``0 <= m_g <= nonzero_g``, under the number of
    different weights that are expected to stay. The program is separable and convex, so at the optimum all
    groups below their limit have the same slope, the price of a sample, which is found by bisection.

    Args:
        groups: The weights.
        keep: Weights to keep.
        sampled: Which groups are sampled at given counts; the others keep one weight per sample.

    References:
        The program is that of lucaslie/torchprune, which gives it to a general solver, limits the draws, and
        searches for the limit that leaves the right number of weights.
    """
    low, high = _LEAST_PRICE, _LARGEST_PRICE
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        counts = _counts_at_price(groups, 10.0**middle)
        if expected_kept(groups, counts, sampled(groups, counts)) > keep:
            low = middle
        else:
            high = middle
    return _counts_at_price(groups, 10.0**high)


def expected_kept(groups: SignGroups, counts: Floats, sampled: NDArray[np.bool_]) -> float:
    """Returns how many different weights stay on average: ``1 - exp(-m p)`` of one with share p if sampled."""
    probabilities = -np.expm1(-counts[groups.index] * groups.shares)
    largest = np.minimum(counts, groups.nonzero)
    return float(probabilities[sampled[groups.index]].sum() + largest[~sampled].sum())


def _counts_at_price(groups: SignGroups, price: float) -> Floats:
    """The counts at which one more sample lowers a group's weighted bound by `price`, within the group's limits.

    With c as in `SignGroups.bounds`, a bound e needs ``m = c (3 + 2 e) / (2 e^2)`` samples, so that at the price q
    ``e^3 = p (3 + e)`` with ``p = q c / weight``. Newton's method falls on the root from above.
    """
    c = groups.slack * groups.sums / 3
    p = price * c / groups.weight
    bound = np.cbrt(3 * p) + np.sqrt(p)
    with np.errstate(divide="ignore", invalid="ignore"):  # a group without sensitivity has no bound
        for _ in range(_NEWTON_STEPS):
            bound -= (bound**3 - p * (3 + bound)) / (3 * bound**2 - p)
        counts = np.minimum(c * (3 + 2 * bound) / (2 * bound**2), groups.nonzero)
    return np.where(c > 0, counts, 0.0)


@dataclass(frozen=True)
class Sipp(PropagatingProducer):
    """SiPP, deterministic: the weights of largest empirical sensitivity in the whole network stay.

    Attributes:
        images: Training images that the sensitivities are taken from.

    References:
        Baykal et al. 2019, arXiv 1910.05422, "SiPPDet"; "SiPP" of Liebenwein et al. 2021, "Lost in Pruning".
        Their images come from the validation split, 183 for a ResNet-20, here from the training images; weights
        without a gradient are dropped besides there, here with ``propagate = true``.
    """

    images: int = 128

    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns sensitivities: mean over patches, largest over images."""
        images, _ = context.batch(self.images, "sipp")
        return sensitivity_values(weight_sensitivities(model, images, reduction="mean"))


@dataclass(frozen=True)
class SippRandom(WeightProducer):
    """SiPP, randomised: weights are sampled in proportion to sensitivity and rescaled to keep expectations.

    Attributes:
        images: Training images that the sensitivities are taken from.

    References:
        Baykal et al. 2019, arXiv 1910.05422, "SiPPRand". The number of samples per filter and sign minimises
        the sum of the published error bounds, as in lucaslie/torchprune; `optimal_sample_counts` solves that
        convex program through its dual. Differs from there in that exactly the wanted
        number of weights stays: sampling stops at it, and is reweighted by inclusion probabilities (Cohen
        and Kaplan 2007, bottom-k sketches) instead of by how often a weight was drawn.
    """

    images: int = 128

    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns sensitivities: largest over patches and images."""
        return sensitivity_values(_largest_sensitivities(model, context, self.images))

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks of `keep` weights and rescales all of these in `model`, in place."""
        sensitivities = _largest_sensitivities(model, context, self.images)
        return sample_weights(model, keep, sensitivities, sample_everywhere, seed=context.seed)


@dataclass(frozen=True)
class SippHybrid(WeightProducer):
    """SiPP, hybrid: each filter and sign is sampled or keeps its best, whichever has the smaller error bound.

    Attributes:
        images: Training images that the sensitivities are taken from.

    References:
        Baykal et al. 2019, arXiv 1910.05422, "SiPPHybrid", with the allocation and the deviations of
        `SippRandom`.
    """

    images: int = 128

    def scores(self, model: nn.Module, context: Context) -> WeightScores:
        """Returns sensitivities: largest over patches and images."""
        return sensitivity_values(_largest_sensitivities(model, context, self.images))

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks of `keep` weights and rescales the sampled ones of `model`, in place."""
        sensitivities = _largest_sensitivities(model, context, self.images)
        return sample_weights(model, keep, sensitivities, sample_where_better, seed=context.seed)


def sample_everywhere(groups: SignGroups, counts: Floats) -> NDArray[np.bool_]:  # noqa: ARG001  # a SamplingRule
    """Returns which groups are sampled if all are."""
    return np.ones(len(groups.sums), dtype=np.bool_)


def sample_where_better(groups: SignGroups, counts: Floats) -> NDArray[np.bool_]:
    """Returns where the bound of `counts` samples is below `SENSITIVITY_CONSTANT` times the pruned sensitivity."""
    pruned = np.where(groups.order >= np.ceil(counts)[groups.index], groups.values, 0.0)
    best_bound = SENSITIVITY_CONSTANT * np.bincount(groups.index, weights=pruned, minlength=len(groups.sums))
    return np.asarray(best_bound > groups.bounds(np.ceil(counts)), dtype=np.bool_)


def sample_weights(
    model: nn.Module,
    keep: int,
    sensitivities: Mapping[str, WeightSensitivity],
    sampled: SamplingRule,
    *,
    seed: int,
) -> dict[str, Tensor]:
    """Returns masks of `keep` weights and rescales the sampled ones of `model`, in place.

    A weight with sensitivity share p of a group that gets m samples has the rate ``m p``. With E a
    standard exponential draw its rank is ``m p / E``, and the largest ranks stay: drawing without
    replacement in the order in which sampling with replacement would first meet the weights. Where t is
    the largest rank that is pruned, a weight is there with probability ``1 - exp(-m p / t)``, by whose
    inverse it is multiplied, so that every neuron's sum keeps its expectation. A group that is not
    sampled keeps its m most sensitive weights as they are.

    Args:
        model: Its weights are rescaled.
        keep: Weights to keep in all.
        sensitivities: Largest over patches and images.
        sampled: Which groups are sampled at which counts; the others keep their best.
        seed: Address of the draws.
    """
    groups = sign_groups(model, sensitivities)
    counts = optimal_sample_counts(groups, keep, sampled)
    is_sampled = sampled(groups, counts)[groups.index]
    rates = counts[groups.index] * groups.shares
    draws = generator(seed, "sipp", int(groups.nonzero.sum())).exponential(size=len(rates))
    ranks = np.where(is_sampled, rates / draws, counts[groups.index] / (1 + groups.order))
    masks = global_masks(model, _split_by_layer(model, ranks), keep)
    _rescale(model, masks, ranks, np.where(is_sampled, rates, np.inf))
    return masks


def sign_groups(model: nn.Module, sensitivities: Mapping[str, WeightSensitivity]) -> SignGroups:
    """Returns the weights of `model` by filter and sign, with the constants of the bounds."""
    values, index, slack, weight = [], [], [], []
    first = 0
    for name, tensor in prunable_weights(model).items():
        filters, flat = tensor.shape[0], tensor.flatten(1).cpu().numpy()
        sensitivity = sensitivities[name].values.flatten(1).double().cpu().numpy()
        index.append((first + 2 * np.arange(filters)[:, None] + (flat < 0)).ravel())
        values.append(np.where(flat != 0, sensitivity, 0.0).ravel())
        kernel = math.prod(tensor.shape[2:])
        constant = 2 * SENSITIVITY_CONSTANT * log_failure_factor(sensitivities[name].patches, kernel)
        slack.append(np.full(2 * filters, constant))
        weight.append(np.full(2 * filters, 1 / filters))
        first += 2 * filters
    return SignGroups(*(np.concatenate(arrays) for arrays in (values, index, slack, weight)))


def _largest_sensitivities(model: nn.Module, context: Context, count: int) -> dict[str, WeightSensitivity]:
    images, _ = context.batch(count, "sipp")
    return weight_sensitivities(model, images, reduction="max")


def _split_by_layer(model: nn.Module, flat: Floats) -> dict[str, Tensor]:
    """A vector over all weights as one tensor per layer."""
    weights = prunable_weights(model)
    parts = torch.split(torch.from_numpy(flat), [weight.numel() for weight in weights.values()])
    return {name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=True)}


def _rescale(model: nn.Module, masks: Mapping[str, Tensor], ranks: Floats, rates: Floats) -> None:
    """Divides the weights that stay by the probability that they do; those with an infinite rate always do."""
    kept = torch.cat([mask.flatten() for mask in masks.values()]).numpy()
    nonzero = torch.cat([weight.flatten() != 0 for weight in prunable_weights(model).values()]).cpu().numpy()
    threshold = ranks[nonzero & ~kept & np.isfinite(rates)].max(initial=0.0)
    if threshold == 0:  # everything stays
        return
    probabilities = -np.expm1(-rates / threshold)
    probabilities[~kept | (ranks < threshold) | (rates == 0)] = 1.0  # a layer's best stays whatever its rank
    for name, divisors in _split_by_layer(model, probabilities).items():
        weight = model.get_submodule(name).get_parameter("weight").data
        weight.div_(divisors.to(weight))
