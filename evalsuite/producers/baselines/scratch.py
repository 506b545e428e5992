"""Scratch baselines: the masks and networks that other methods find, trained from new weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from evalsuite.errors import SkippedError
from evalsuite.models.cost import cost
from evalsuite.producers.at_init.scores import first_recipe
from evalsuite.producers.base import Context
from evalsuite.producers.baselines.controls import Control
from evalsuite.producers.unstructured.global_threshold import masks_of, weights_of
from evalsuite.random_streams import address, generator
from evalsuite.training.history import remember
from evalsuite.training.loop import Masks
from evalsuite.training.recipe import Recipe


@dataclass(frozen=True)
class ScratchE(Control):
    """Scratch-E: the pruned mask or network, trained from new weights for as many epochs as the parent.

    References:
        Liu et al. 2019, arXiv 1810.05270, section 3. Weights are normal with variance 2 / n, n the mean
        number of inputs of a layer's outputs that are left; Liu et al. count a layer's outputs.
    """

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models of the other method's masks and shapes; the finder's training is not in their history."""
        return anew(self, parent, ratios, context, lambda _: first_recipe(context))


@dataclass(frozen=True)
class ScratchB(Control):
    """Scratch-B: the pruned mask or network, trained from new weights for as much compute as the parent.

    Attributes:
        formula: ``liu`` is ``int(K1 F_parent / F_pruned)`` epochs, ``wang`` is ``int(K1 F_parent / F_pruned
            + K2)``: K1 the parent's epochs, K2 the retraining's, F the multiply-accumulates of weights that
            are not zero.
        most: Largest ``F_parent / F_pruned`` that counts; 0 is no limit. Liu et al. stop at 2 on ImageNet.

    References:
        Liu et al. 2019, arXiv 1810.05270, section 3; Wang et al. 2023, arXiv 2301.05219. Milestones and
        warm-up are stretched with the epochs. F counts linear layers too, the authors' script does not.
    """

    formula: Literal["liu", "wang"] = "liu"
    most: float = 0.0

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models of the other method's masks and shapes; the finder's training is not in their history."""
        return anew(self, parent, ratios, context, lambda found: self.recipe(parent, found, context))

    def recipe(self, parent: nn.Module, found: nn.Module, context: Context) -> Recipe:
        """Returns the parent's recipe, stretched to what `found` costs."""
        shape = context.train.images.shape[1:]
        dense, sparse = (cost(one, shape).macs_nonzero or 1 for one in (parent, found))
        first = first_recipe(context)
        saved = min(dense / sparse, self.most or math.inf)
        epochs = first.epochs * saved + (context.recipe.epochs if self.formula == "wang" else 0)
        return stretched(first, int(epochs))


def anew(
    control: Control,
    parent: nn.Module,
    ratios: Sequence[float],
    context: Context,
    recipe: Callable[[nn.Module], Recipe],
) -> Iterator[nn.Module]:
    """Yields what another method leaves, its mask or its smaller network, trained from new weights.

    Args:
        control: Of that method.
        parent: Is left alone.
        ratios: Rising.
        context: Of the production.
        recipe: From what was found to how it is trained.
    """
    for ratio in ratios:
        model = control.found(parent, ratio, context)
        masks = masks_of(model)
        chosen = recipe(model)
        redraw(model, masks, address(context.seed, "scratch", ratio))
        remember(model, ())
        context.fit(model, ratio, masks=masks, recipe=chosen)
        yield model


def stretched(recipe: Recipe, epochs: int) -> Recipe:
    """Returns `recipe` over another number of epochs, its learning rates at the same shares of the way.

    >>> stretched(Recipe(epochs=160, schedule="step", milestones=(80, 120)), 220).milestones
    (110, 165)
    """
    factor = epochs / recipe.epochs
    moved = tuple(round(milestone * factor) for milestone in recipe.milestones)
    return replace(recipe, epochs=epochs, milestones=moved, warmup_epochs=recipe.warmup_epochs * factor)


def redraw(model: nn.Module, masks: Masks, seed: int) -> None:
    """Draws all parameters of `model` anew, in place: prunable weights by what `masks` leave of their inputs.

    Weights are normal with variance 2 / n, n the mean number of inputs per output that are left. Biases and
    norms start as their layers start them.

    Raises:
        SkippedError: If a layer does not say how it starts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, module in model.named_modules():
            start = getattr(module, "reset_parameters", None)
            if callable(start):
                start()
            elif any(True for _ in module.parameters(recurse=False)):
                raise SkippedError(
                    f"layer {name} has parameters, but no reset_parameters() to draw them anew"
                )
    for name, weight in weights_of(model).items():
        inputs = int(masks[f"{name}.weight"].sum()) / weight.shape[0]
        normal = generator(seed, name).normal(scale=math.sqrt(2 / max(inputs, 1.0)), size=weight.shape)
        weight.copy_(torch.from_numpy(normal))
