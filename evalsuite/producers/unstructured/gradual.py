"""Pruning during training: masks that grow step by step, and connections that are rewired."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError
from evalsuite.producers.at_init.scores import first_recipe
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.global_threshold import (
    alive,
    allowed,
    best,
    enforce,
    magnitudes,
    room,
    weights_of,
)
from evalsuite.training.hooks import Hooks
from evalsuite.training.recipe import Recipe, learning_rate

Start = Literal["parent", "scratch"]
_ROUNDING = 1e-9  # a share that is a whole number of prunings stays so whatever the last bit says


def started(parent: nn.Module, start: Start, context: Context) -> tuple[nn.Module, Recipe]:
    """Returns a copy of the parent, or its first weights, and the recipe that belongs to it."""
    if start == "parent":
        return copy.deepcopy(parent), context.recipe
    return context.fresh(), first_recipe(context)


@dataclass(frozen=True)
class GradualMagnitude(Producer):
    """Gradual magnitude pruning (GMP): during one training the share of zeros rises along a cubic.

    Every ratio starts anew. What is gone stays gone.

    Attributes:
        start: ``parent`` trains the trained network on, ``scratch`` its first weights.
        begin: Share of the training after which pruning begins.
        end: Share of the training after which the final share of zeros is reached.
        times: How often weights are taken between `begin` and `end`, at even distances; each step takes some if
            there are fewer steps.

    References:
        Zhu and Gupta 2017, arXiv 1710.01878, equation 1 with n = `times`, with one global threshold in place of
        one per layer (as the global form of Gale et al. 2019, arXiv 1902.09574). The paper gives the distance in
        steps, 100 to 1000, which short trainings do not have.
    """

    start: Start = "parent"
    begin: float = 0.0
    end: float = 0.75
    times: int = 100

    def __post_init__(self) -> None:
        if not (0 <= self.begin < self.end <= 1 and self.times > 0):
            raise SuiteError(
                f"gradual-magnitude: found begin = {self.begin:g}, end = {self.end:g}, times = {self.times}; "
                "expected 0 <= begin < end <= 1 and times > 0"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose ratio is within one weight of the target."""
        for ratio in ratios:
            model, recipe = started(parent, self.start, context)
            last = room(parent, allowed(parent, ratio))
            ramp = Ramp(self, recipe.epochs, sum(alive(model).values()), last)
            context.fit(model, ratio, recipe=recipe, hooks=Hooks(after_step=ramp.step, state=ramp.masks))
            enforce(model, ramp.masks)
            enforce(model, best(model, magnitudes(model), last))
            yield model


@dataclass(frozen=True)
class Ramp:
    """Is one training's way from `first` to `last` weights; it remembers in `masks` what is gone."""

    settings: GradualMagnitude
    epochs: float
    first: int
    last: int
    masks: dict[str, Tensor] = field(default_factory=dict)

    def kept(self, at: float) -> int:
        """Returns how many weights stay after `at` epochs.

        >>> ramp = Ramp(GradualMagnitude(begin=0.0, end=0.5), 8, first=100, last=20)
        >>> [ramp.kept(at) for at in (0, 2, 4, 8)]
        [100, 30, 20, 20]
        """
        begin, end = self.settings.begin * self.epochs, self.settings.end * self.epochs
        done = min(max((at - begin) / (end - begin), 0.0), 1.0)
        done = math.floor(done * self.settings.times + _ROUNDING) / self.settings.times
        return self.last + round((self.first - self.last) * (1 - done) ** 3)

    def step(self, model: nn.Module, at: float, step: int) -> None:  # noqa: ARG002  # the contract's
        """Keeps zero what is gone, and prunes when it is time."""
        enforce(model, self.masks)
        kept = self.kept(at)
        if kept < (sum(int(mask.sum()) for mask in self.masks.values()) or self.first):
            self.masks.update(best(model, magnitudes(model), kept))
            enforce(model, self.masks)


@dataclass(frozen=True)
class GradR(Producer):
    """Gradient rewiring (Grad R): connections are cut where they change sign, and grow back with their old one.

    A weight is ``sign(w_0) relu(theta)``; theta follows the gradient also where the weight is zero, and a
    Laplace prior on theta pulls it to where the wanted share is below zero. As the share of zeros drifts
    around the wanted one, the largest theta are kept at the end, exactly as many as asked for, and the
    network is retrained under this fixed mask. Every ratio starts anew.

    Attributes:
        start: ``scratch`` rewires from the first weights, ``parent`` from the trained ones.
        alpha: Strength of the prior.

    References:
        Chen et al. 2021, arXiv 2105.04916, algorithm 1, made for spiking networks with Adam. Here the
        network is an ordinary one and the recipe's optimiser moves theta; the published limit of at least
        half zeros is lifted by taking the prior's quantile on its upper side; the final mask and the
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
            model, recipe = started(parent, self.start, context)
            keep = room(parent, allowed(parent, ratio))
            share = keep / sum(weight.numel() for weight in weights_of(model).values())
            wires = Wires.of(model, recipe, self.alpha, share)
            context.fit(model, ratio, recipe=recipe, hooks=Hooks(after_step=wires.step, state=wires.state))
            masks = best(wires.whole(model), wires.thetas(), keep)
            context.retrain(model, ratio, masks=masks)
            yield model


@dataclass(frozen=True)
class Wires:
    """Is what lies behind the weights during one rewiring: their signs, and theta."""

    recipe: Recipe
    alpha: float
    center: float
    state: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, recipe: Recipe, alpha: float, share: float) -> Wires:
        """Returns the start: theta is the absolute weight, and the prior has `share` of its mass above zero."""
        state = {}
        for name, weight in weights_of(model).items():
            state[f"{name}/sign"], state[f"{name}/theta"] = weight.sign(), weight.abs()
        return cls(recipe, alpha, laplace_center(share, alpha), state)

    def step(self, model: nn.Module, at: float, step: int) -> None:  # noqa: ARG002  # the contract's
        """Moves theta by what the optimiser did to the weights and by the prior, and sets the weights by it."""
        rate = learning_rate(self.recipe, at)
        for name, weight in weights_of(model).items():
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

    def whole(self, model: nn.Module) -> nn.Module:
        """Returns a copy of `model` in which no weight sleeps, so that theta alone ranks them."""
        awake = copy.deepcopy(model)
        for name, weight in weights_of(awake).items():
            weight.copy_(self.state[f"{name}/sign"])
        return awake


def laplace_center(share: float, alpha: float) -> float:
    """Returns the mean of a Laplace distribution of scale ``1 / alpha`` that has `share` of its mass above zero.

    >>> laplace_center(0.5, 0.001)
    0.0
    >>> round(laplace_center(0.05, 1.0), 4)
    -2.3026
    """
    return math.log(2 * share) / alpha if share <= 0.5 else -math.log(2 * (1 - share)) / alpha
