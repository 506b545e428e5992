"""Pruning during training: gradual magnitude pruning (GMP) and gradient rewiring (Grad R)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.base import (
    apply_masks,
    global_masks,
    magnitudes,
    nonzero_budget,
    nonzero_per_layer,
    prunable_weights,
    weight_budget,
)
from evalsuite.training.hooks import Hooks
from evalsuite.training.recipe import Recipe, learning_rate

Start = Literal["parent", "scratch"]
_ROUNDING = 1e-9  # a share that is a whole number of prunings stays so whatever the last bit says


def starting_point(parent: nn.Module, start: Start, context: Context) -> tuple[nn.Module, Recipe]:
    """Returns a copy of the parent, or its first weights, and the recipe of its training."""
    if start == "parent":
        return copy.deepcopy(parent), context.recipe
    return context.fresh(), context.parent_recipe


@dataclass(frozen=True)
class GradualMagnitude(Producer):
    """Gradual magnitude pruning (GMP): during one training the share of zeros rises along a cubic.

    Every ratio starts anew. Pruned weights stay zero.

    Attributes:
        start: ``parent`` trains the trained network on, ``scratch`` its first weights.
        begin: Share of the training after which pruning begins.
        end: Share of the training after which the final share of zeros is reached.
        pruning_steps: How often weights are pruned between `begin` and `end`, at even distances; every training
            step prunes if there are fewer of them.

    References:
        Zhu and Gupta 2017, arXiv 1710.01878, equation 1 with n = `pruning_steps`, with one global threshold in place of
        one per layer (as the global form of Gale et al. 2019, arXiv 1902.09574). The paper gives the distance in
        steps, 100 to 1000, which short trainings do not have.
    """

    start: Start = "parent"
    begin: float = 0.0
    end: float = 0.75
    pruning_steps: int = 100
    renamed_settings: ClassVar[Mapping[str, str]] = {"times": "pruning_steps"}

    def __post_init__(self) -> None:
        if not (0 <= self.begin < self.end <= 1 and self.pruning_steps > 0):
            raise SuiteError(
                f"gradual-magnitude: found begin = {self.begin:g}, end = {self.end:g}, "
                f"pruning_steps = {self.pruning_steps}; expected 0 <= begin < end <= 1 and pruning_steps > 0"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose ratio is within one weight of the target."""
        for ratio in ratios:
            model, recipe = starting_point(parent, self.start, context)
            last = weight_budget(parent, nonzero_budget(parent, ratio))
            ramp = SparsityRamp(self, recipe.epochs, sum(nonzero_per_layer(model).values()), last)
            context.fit(model, ratio, recipe=recipe, hooks=Hooks(after_step=ramp.step, state=ramp.masks))
            apply_masks(model, ramp.masks)
            apply_masks(model, global_masks(model, magnitudes(model), last))
            yield model


@dataclass(frozen=True)
class SparsityRamp:
    """The schedule of one training from `first` to `last` weights.

    Attributes:
        settings: Begin, end and number of pruning steps.
        epochs: Of the training.
        first: Weights at the beginning.
        last: Weights at the end.
        masks: The weights that are left, by parameter; empty before the first pruning.
    """

    settings: GradualMagnitude
    epochs: float
    first: int
    last: int
    masks: dict[str, Tensor] = field(default_factory=dict)

    def kept(self, at: float) -> int:
        """Returns how many weights stay after `at` epochs.

        >>> ramp = SparsityRamp(GradualMagnitude(begin=0.0, end=0.5), 8, first=100, last=20)
        >>> [ramp.kept(at) for at in (0, 2, 4, 8)]
        [100, 30, 20, 20]
        """
        begin, end = self.settings.begin * self.epochs, self.settings.end * self.epochs
        progress = min(max((at - begin) / (end - begin), 0.0), 1.0)
        progress = (
            math.floor(progress * self.settings.pruning_steps + _ROUNDING) / self.settings.pruning_steps
        )
        return self.last + round((self.first - self.last) * (1 - progress) ** 3)

    def step(self, model: nn.Module, at: float, step: int) -> None:  # noqa: ARG002  # the hook's signature
        """Keeps pruned weights at zero, and prunes where the schedule says so."""
        apply_masks(model, self.masks)
        kept = self.kept(at)
        if kept < (sum(int(mask.sum()) for mask in self.masks.values()) or self.first):
            self.masks.update(global_masks(model, magnitudes(model), kept))
            apply_masks(model, self.masks)


@dataclass(frozen=True)
class GradR(Producer):
    """Gradient rewiring (Grad R): connections are cut where they change sign, and grow back with their old one.

    A weight is ``sign(w_0) relu(theta)``; theta follows the gradient also where the weight is zero, and a
    Laplace prior on theta pulls it to where the target share is below zero. As the share of zeros drifts
    around the target, the largest theta are kept at the end, exactly as many as asked for, and the
    network is retrained under this fixed mask. Every ratio starts anew.

    Attributes:
        start: ``scratch`` rewires from the first weights, ``parent`` from the trained ones.
        alpha: Strength of the prior.

    References:
        Chen et al. 2021, arXiv 2105.04916, algorithm 1, made for spiking networks with Adam. Here the
        network is an ordinary one and the recipe's optimiser moves theta; the published limit of at least
        half zeros is removed by taking the prior's quantile on its upper side; the final mask and the
        retraining are ours.
    """

    start: Start = "scratch"
    alpha: float = 1e-3

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise SuiteError(f"grad-r: found alpha = {self.alpha:g}, expected a number above 0")

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose ratio is within one weight of the target."""
        for ratio in ratios:
            model, recipe = starting_point(parent, self.start, context)
            keep = weight_budget(parent, nonzero_budget(parent, ratio))
            share = keep / sum(weight.numel() for weight in prunable_weights(model).values())
            rewiring = Rewiring.of(model, recipe, self.alpha, share)
            context.fit(
                model, ratio, recipe=recipe, hooks=Hooks(after_step=rewiring.step, state=rewiring.state)
            )
            masks = global_masks(rewiring.without_zeros(model), rewiring.thetas(), keep)
            context.retrain(model, ratio, masks=masks)
            yield model


@dataclass(frozen=True)
class Rewiring:
    """The state behind the weights during one rewiring: their signs, and theta.

    Attributes:
        recipe: Its learning rate is that of the prior.
        alpha: Strength of the prior.
        center: Mean of the prior.
        state: ``<layer>/sign`` and ``<layer>/theta``, of the weight's shape.
    """

    recipe: Recipe
    alpha: float
    center: float
    state: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, recipe: Recipe, alpha: float, share: float) -> Rewiring:
        """Returns the initial state: theta is the absolute weight, and the prior has `share` of its mass above zero."""
        state = {}
        for name, weight in prunable_weights(model).items():
            state[f"{name}/sign"], state[f"{name}/theta"] = weight.sign(), weight.abs()
        return cls(recipe, alpha, laplace_mean(share, alpha), state)

    def step(self, model: nn.Module, at: float, step: int) -> None:  # noqa: ARG002  # the hook's signature
        """Moves theta by the optimiser's change of the weights and by the prior, and sets the weights by it."""
        rate = learning_rate(self.recipe, at)
        for name, weight in prunable_weights(model).items():
            sign, theta = self.state[f"{name}/sign"], self.state[f"{name}/theta"]
            prior = rate * self.alpha * torch.sign(theta - self.center)
            theta += sign * weight - theta.clamp_min(0) - prior
            weight.copy_(sign * theta.clamp_min(0))

    def thetas(self) -> dict[str, Tensor]:
        """Returns theta by layer."""
        return {
            name.removesuffix("/theta"): value
            for name, value in self.state.items()
            if name.endswith("/theta")
        }

    def without_zeros(self, model: nn.Module) -> nn.Module:
        """Returns a copy of `model` in which no weight is zero, so that theta alone ranks them."""
        signs_only = copy.deepcopy(model)
        for name, weight in prunable_weights(signs_only).items():
            weight.copy_(self.state[f"{name}/sign"])
        return signs_only


def laplace_mean(share: float, alpha: float) -> float:
    """Returns the mean of a Laplace distribution of scale ``1 / alpha`` that has `share` of its mass above zero.

    >>> laplace_mean(0.5, 0.001)
    0.0
    >>> round(laplace_mean(0.05, 1.0), 4)
    -2.3026
    """
    return math.log(2 * share) / alpha if share <= 0.5 else -math.log(2 * (1 - share)) / alpha
