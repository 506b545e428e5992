"""Scratch baselines (Liu et al. 2019): masks and networks of other methods, trained from new weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import nn

from evalsuite.errors import SkippedError
from evalsuite.models.cost import cost, weight_name
from evalsuite.producers.base import Context
from evalsuite.producers.baselines.controls import Control
from evalsuite.producers.unstructured.base import nonzero_masks, prunable_weights
from evalsuite.random_streams import address, generator
from evalsuite.training.history import set_history
from evalsuite.training.loop import Masks
from evalsuite.training.recipe import Recipe


@dataclass(frozen=True)
class ScratchE(Control):
    """Scratch-E: the pruned mask or network, trained from new weights for as many epochs as the parent.

    References:
        Liu et al. 2019, arXiv 1810.05270, section 3. Weights are normal with variance 2 / n, n the mean
        number of inputs of a layer's outputs that are left; Liu et al. count a layer's outputs. Networks with
        parameters outside of layers (tokens, position tables, scales) are drawn as their architecture draws
        them: see `draw_new_weights`.
    """

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models of the other method's masks and shapes; the other method's training is not in their history."""
        return train_from_new_weights(self, parent, ratios, context, lambda _: context.parent_recipe)


@dataclass(frozen=True)
class ScratchB(Control):
    """Scratch-B: the pruned mask or network, trained from new weights for as much compute as the parent.

    Attributes:
        formula: ``liu`` is ``int(K1 F_parent / F_pruned)`` epochs, ``wang`` is ``int(K1 F_parent / F_pruned
            + K2)``: K1 the parent's epochs, K2 the retraining's, F the multiply-accumulates of weights that
            are not zero.
        max_speedup: Largest ``F_parent / F_pruned`` that counts; 0 is no limit. Liu et al. stop at 2 on ImageNet.

    References:
        Liu et al. 2019, arXiv 1810.05270, section 3; Wang et al. 2023, arXiv 2301.05219. Milestones and
        warm-up are stretched with the epochs. F counts linear layers too, the authors' script does not.
    """

    formula: Literal["liu", "wang"] = "liu"
    max_speedup: float = 0.0
    renamed_settings: ClassVar[Mapping[str, str]] = {"most": "max_speedup"}

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models of the other method's masks and shapes; the other method's training is not in their history."""
        return train_from_new_weights(
            self, parent, ratios, context, lambda pruned: self.recipe(parent, pruned, context)
        )

    def recipe(self, parent: nn.Module, pruned: nn.Module, context: Context) -> Recipe:
        """Returns the parent's recipe, stretched by the multiply-accumulates that `pruned` saves."""
        shape = context.train.images.shape[1:]
        dense, sparse = (cost(model, shape).macs_nonzero or 1 for model in (parent, pruned))
        speedup = min(dense / sparse, self.max_speedup or math.inf)
        retraining = context.recipe.epochs if self.formula == "wang" else 0
        return stretch_recipe(context.parent_recipe, int(context.parent_recipe.epochs * speedup + retraining))


def train_from_new_weights(
    control: Control,
    parent: nn.Module,
    ratios: Sequence[float],
    context: Context,
    recipe: Callable[[nn.Module], Recipe],
) -> Iterator[nn.Module]:
    """Yields the mask or smaller network of another method, trained from new weights.

    Args:
        control: Of that method.
        parent: Is left alone.
        ratios: Rising.
        context: Of the production.
        recipe: From the pruned network to how it is trained.
    """
    for ratio in ratios:
        model = control.pruned(parent, ratio, context)
        masks = nonzero_masks(model)
        model_recipe = recipe(model)
        draw_new_weights(model, masks, context, address(context.seed, "scratch", ratio))
        set_history(model, ())
        context.fit(model, ratio, masks=masks, recipe=model_recipe)
        yield model


def stretch_recipe(recipe: Recipe, epochs: int) -> Recipe:
    """Returns `recipe` over another number of epochs, its learning rates at the same shares of the training.

    >>> stretch_recipe(Recipe(epochs=160, schedule="step", milestones=(80, 120)), 220).milestones
    (110, 165)
    """
    factor = epochs / recipe.epochs
    milestones = tuple(round(milestone * factor) for milestone in recipe.milestones)
    return replace(
        recipe,
        epochs=epochs,
        milestones=milestones,
        warmup_epochs=min(recipe.warmup_epochs * factor, float(epochs)),
    )


def draw_new_weights(model: nn.Module, masks: Masks, context: Context, seed: int) -> None:
    """Draws all parameters of `model` anew, in place.

    By `redraw_weights` if all parameters are of layers that can draw their own. Tokens, position tables and scales
    of layers are drawn by the architecture alone, so that a network with such parameters gets what its architecture
    draws for the parent's widths, cut to its own: as many leading entries of each tensor, under `masks`.

    Args:
        model: The parent's architecture, perhaps with fewer units.
        masks: Names of parameters to bool tensors: True is kept.
        context: Names the architecture.
        seed: Of the draws.

    Raises:
        SkippedError: If the architecture is needed and unknown, or has other tensors.
    """
    if not _loose_parameters(model):
        redraw_weights(model, masks, seed)
        return
    drawn = dict(replace(context.known_origin, seed=seed).initial().state_dict())
    with torch.no_grad():
        for name, value in model.state_dict().items():
            source = drawn.get(name)
            if (
                source is None
                or source.dim() != value.dim()
                or any(map(int.__lt__, source.shape, value.shape))
            ):
                raise SkippedError(
                    f"{name} is not among the tensors that the architecture draws, or is larger there than it draws it"
                )
            value.copy_(source[tuple(map(slice, value.shape))] if value.dim() else source)
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)


def _loose_parameters(model: nn.Module) -> list[str]:
    """Names of modules with parameters of their own that have no ``reset_parameters`` to draw them."""
    return [
        name
        for name, module in model.named_modules()
        if [*module.parameters(recurse=False)] and not callable(getattr(module, "reset_parameters", None))
    ]


def redraw_weights(model: nn.Module, masks: Masks, seed: int) -> None:
    """Draws all parameters of `model` anew, in place, prunable weights by the inputs that `masks` leave them.

    Weights are normal with variance 2 / n, n the mean number of inputs per output that are left. Biases and
    norms are initialised as their layers do.

    Raises:
        SkippedError: If a layer has no ``reset_parameters``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise SkippedError(
                    f"layer {name} has parameters, but no reset_parameters() to draw them anew"
                )
    for name, weight in prunable_weights(model).items():
        inputs = int(masks[weight_name(name)].sum()) / weight.shape[0]
        normal = generator(seed, name).normal(scale=math.sqrt(2 / max(inputs, 1.0)), size=weight.shape)
        weight.copy_(torch.from_numpy(normal))
