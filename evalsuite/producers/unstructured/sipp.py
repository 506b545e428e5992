"""SiPP: weights are pruned by how much of a neuron's output they carry on real images."""

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
from evalsuite.producers.sensitivity import Sensitivity, scores_of, sensitivities
from evalsuite.producers.unstructured.global_threshold import Scores, WeightProducer, best, weights_of
from evalsuite.random_streams import generator
from evalsuite.types import Array, Floats

FAILURE = 1e-16
"""Probability that a bound may fail."""
CONSTANT = 3.0
"""Factor between sensitivities over some images and over all: the constant of the theorems."""
_HALVINGS = 50
_NEWTON = 12
_LEAST, _MOST = -30.0, 30.0  # powers of ten between which any price lies


@dataclass(frozen=True, eq=False)
class Groups:
    """Is all weights of a network by filter and sign.

    Attributes:
        values: Sensitivity of each weight, float64; 0 for weights that are gone.
        of: Number of each weight's group.
        slack: Per group, the logarithmic factor of its error bound.
        weight: Per group, its weight in the sum of bounds: one over the number of filters of its layer.
    """

    values: Floats
    of: Array
    slack: Floats
    weight: Floats

    @cached_property
    def sums(self) -> Floats:
        """Sum of sensitivities per group."""
        return np.bincount(self.of, weights=self.values, minlength=len(self.slack)).astype(np.float64)

    @cached_property
    def alive(self) -> Floats:
        """Number of weights with any sensitivity per group."""
        return np.bincount(self.of, weights=self.values > 0, minlength=len(self.slack)).astype(np.float64)

    @cached_property
    def shares(self) -> Floats:
        """Each weight's part of its group's sensitivity: the probability that one sample draws it."""
        total = self.sums[self.of]
        found: Floats = np.divide(self.values, total, out=np.zeros_like(self.values), where=total > 0)
        return found

    @cached_property
    def order(self) -> Array:
        """Rank of each weight in its group, the most sensitive first, from 0; ties fall to the earlier."""
        order = np.lexsort((-self.values, self.of))
        starts = np.searchsorted(self.of[order], np.arange(len(self.slack)))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order)) - starts[self.of[order]]
        return ranks

    def bounds(self, counts: Floats) -> Floats:
        """Returns the relative error that each group has at most with so many samples.

        With S the group's sum of sensitivities and c = `slack` S / 3 it is
        ``(c / m + sqrt((c / m)^2 + 6 c / m)) / 2``.
        """
        part = self.slack * self.sums / 3 / np.maximum(counts, 1e-300)
        found: Floats = (part + np.sqrt(part * part + 6 * part)) / 2
        return found


def samples(groups: Groups, keep: int, sampled: Callable[[Groups, Floats], NDArray[np.bool_]]) -> Floats:
    """Returns real numbers of samples per group that minimise the weighted sum of all error bounds.

    Minimised over m is ``sum_g weight_g bound_g(m_g)`` with ``0 <= m_g <= alive_g``, under the number of
    different weights that are expected to stay. The program is separable and convex, so at the optimum all
    groups below their limit have the same slope, the price of a sample, which is found by bisection.

    Args:
        groups: The weights.
        keep: Weights that shall stay.
        sampled: Which groups are sampled at given counts; the others keep one weight per sample.

    References:
        The program is that of lucaslie/torchprune, which gives it to a general solver, limits the draws, and
        searches for the limit that leaves the wanted number of weights.
    """
    low, high = _LEAST, _MOST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        counts = _at_price(groups, 10.0**middle)
        if expected(groups, counts, sampled(groups, counts)) > keep:
            low = middle
        else:
            high = middle
    return _at_price(groups, 10.0**high)


def expected(groups: Groups, counts: Floats, sampled: NDArray[np.bool_]) -> float:
    """Returns how many different weights stay on average: ``1 - exp(-m p)`` of one with share p if sampled."""
    chance = -np.expm1(-counts[groups.of] * groups.shares)
    whole = np.minimum(counts, groups.alive)
    return float(chance[sampled[groups.of]].sum() + whole[~sampled].sum())


def _at_price(groups: Groups, price: float) -> Floats:
    """The counts at which one more sample lowers a group's weighted bound by `price`, within the group's limits.

    With c as in `Groups.bounds`, a bound e needs ``m = c (3 + 2 e) / (2 e^2)`` samples, so that at the price q
    ``e^3 = p (3 + e)`` with ``p = q c / weight``. Newton's method falls on the root from above.
    """
    c = groups.slack * groups.sums / 3
    p = price * c / groups.weight
    bound = np.cbrt(3 * p) + np.sqrt(p)
    with np.errstate(divide="ignore", invalid="ignore"):  # a group without sensitivity has no bound
        for _ in range(_NEWTON):
            bound -= (bound**3 - p * (3 + bound)) / (3 * bound**2 - p)
        counts = np.minimum(c * (3 + 2 * bound) / (2 * bound**2), groups.alive)
    return np.where(c > 0, counts, 0.0)


Sampled = Callable[[Groups, Floats], NDArray[np.bool_]]
"""From groups and their numbers of samples to which groups are sampled; the others keep their best."""


@dataclass(frozen=True)
class Sipp(WeightProducer):
    """SiPP, deterministic: the weights of largest empirical sensitivity stay, wherever they are.

    Attributes:
        images: Training images that are looked at.

    References:
        Baykal et al. 2019, arXiv 1910.05422, "SiPPDet"; "SiPP" of Liebenwein et al. 2021, "Lost in Pruning".
        Their images come from the validation split, 183 for a ResNet-20, and weights without a gradient are
        dropped besides; here it is `images` training images, and nothing else is dropped.
    """

    images: int = 128

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns sensitivities: mean over patches, largest over images."""
        images, _ = context.batch(self.images, "sipp")
        return scores_of(sensitivities(model, images, reduction="mean"))


@dataclass(frozen=True)
class SippRandom(WeightProducer):
    """SiPP, randomised: weights are sampled in proportion to sensitivity and rescaled to keep expectations.

    Attributes:
        images: Training images that are looked at.

    References:
        Baykal et al. 2019, arXiv 1910.05422, "SiPPRand". The number of samples per filter and sign minimises
        the sum of the published error bounds, as in lucaslie/torchprune; see `evalsuite.producers.unstructured.sipp`,
        which solves that convex program through its dual. Differs from there in that exactly the wanted
        number of weights stays: sampling stops at it, and is reweighted by inclusion probabilities (Cohen
        and Kaplan 2007, bottom-k sketches) instead of by how often a weight was drawn.
    """

    images: int = 128

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns sensitivities: largest over patches and images."""
        return scores_of(_peaks(model, context, self.images))

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks of `keep` weights and rescales all of these in `model`, in place."""
        return resampled(model, keep, _peaks(model, context, self.images), everywhere, seed=context.seed)


@dataclass(frozen=True)
class SippHybrid(WeightProducer):
    """SiPP, hybrid: each filter and sign is sampled or keeps its best, whichever has the smaller error bound.

    Attributes:
        images: Training images that are looked at.

    References:
        Baykal et al. 2019, arXiv 1910.05422, "SiPPHybrid", with the allocation and the deviations of
        `SippRandom`.
    """

    images: int = 128

    def scores(self, model: nn.Module, context: Context) -> Scores:
        """Returns sensitivities: largest over patches and images."""
        return scores_of(_peaks(model, context, self.images))

    def masks(self, model: nn.Module, keep: int, context: Context) -> dict[str, Tensor]:
        """Returns masks of `keep` weights and rescales the sampled ones of `model`, in place."""
        return resampled(model, keep, _peaks(model, context, self.images), where_better, seed=context.seed)


def everywhere(groups: Groups, counts: Floats) -> NDArray[np.bool_]:  # noqa: ARG001  # of one kind with the next
    """Returns which groups are sampled if all are."""
    return np.ones(len(groups.sums), dtype=np.bool_)


def where_better(groups: Groups, counts: Floats) -> NDArray[np.bool_]:
    """Returns where the bound of `counts` samples is below `CONSTANT` times the sensitivity that would go."""
    gone = np.where(groups.order >= np.ceil(counts)[groups.of], groups.values, 0.0)
    kept_bound = CONSTANT * np.bincount(groups.of, weights=gone, minlength=len(groups.sums))
    return np.asarray(kept_bound > groups.bounds(np.ceil(counts)), dtype=np.bool_)


def resampled(
    model: nn.Module, keep: int, found: Mapping[str, Sensitivity], sampled: Sampled, *, seed: int
) -> dict[str, Tensor]:
    """Returns masks of `keep` weights and rescales the sampled ones of `model`, in place.

    A weight with sensitivity share p of a group that gets m samples has the rate ``m p``. With E a
    standard exponential draw its rank is ``m p / E``, and the largest ranks stay: drawing without
    replacement in the order in which sampling with replacement would first meet the weights. Where t is
    the largest rank that goes, a weight is there with probability ``1 - exp(-m p / t)``, by whose
    inverse it is multiplied, so that every neuron's sum keeps its expectation. A group that is not
    sampled keeps its m most sensitive weights as they are.

    Args:
        model: Whose weights.
        keep: Weights to keep in all.
        found: Sensitivities: largest over patches and images.
        sampled: Which groups are sampled at which counts; the others keep their best.
        seed: Address of the draws.
    """
    groups = grouped(model, found)
    counts = samples(groups, keep, sampled)
    random = sampled(groups, counts)[groups.of]
    rates = counts[groups.of] * groups.shares
    waiting = generator(seed, "sipp", int(groups.alive.sum())).exponential(size=len(rates))
    ranks = np.where(random, rates / waiting, counts[groups.of] / (1 + groups.order))
    masks = best(model, _split(model, ranks), keep)
    _rescale(model, masks, ranks, np.where(random, rates, np.inf))
    return masks


def grouped(model: nn.Module, found: Mapping[str, Sensitivity]) -> Groups:
    """Returns the weights of `model` by filter and sign, with what the bounds need to know of each group."""
    values, of, slack, weight = [], [], [], []
    first = 0
    for name, tensor in weights_of(model).items():
        filters, flat = tensor.shape[0], tensor.flatten(1).cpu().numpy()
        own = found[name].values.flatten(1).double().cpu().numpy()
        of.append((first + 2 * np.arange(filters)[:, None] + (flat < 0)).ravel())
        values.append(np.where(flat != 0, own, 0.0).ravel())
        kernel = math.prod(tensor.shape[2:])
        constant = 2 * CONSTANT * math.log(8 * (found[name].patches + 1) * kernel / FAILURE)
        slack.append(np.full(2 * filters, constant))
        weight.append(np.full(2 * filters, 1 / filters))
        first += 2 * filters
    return Groups(*(np.concatenate(one) for one in (values, of, slack, weight)))


def _peaks(model: nn.Module, context: Context, count: int) -> dict[str, Sensitivity]:
    images, _ = context.batch(count, "sipp")
    return sensitivities(model, images, reduction="max")


def _split(model: nn.Module, flat: Floats) -> dict[str, Tensor]:
    """A vector over all weights as one tensor per layer."""
    weights = weights_of(model)
    parts = torch.split(torch.from_numpy(flat), [weight.numel() for weight in weights.values()])
    return {name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=True)}


def _rescale(model: nn.Module, masks: Mapping[str, Tensor], ranks: Floats, rates: Floats) -> None:
    """Divides the weights that stay by the probability that they do; those with an infinite rate always do."""
    kept = torch.cat([mask.flatten() for mask in masks.values()]).numpy()
    there = torch.cat([weight.flatten() != 0 for weight in weights_of(model).values()]).cpu().numpy()
    threshold = ranks[there & ~kept & np.isfinite(rates)].max(initial=0.0)
    if threshold == 0:  # everything stays
        return
    chance = -np.expm1(-rates / threshold)
    chance[~kept | (ranks < threshold) | (rates == 0)] = 1.0  # a layer's best stays whatever its rank
    for name, one in _split(model, chance).items():
        weight = model.get_submodule(name).get_parameter("weight").data
        weight.div_(one.to(weight))
