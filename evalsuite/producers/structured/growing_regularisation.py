"""Pruning by growing regularisation: GReg-1, GReg-2 and trainability-preserving pruning (TPP)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError
from evalsuite.models.surgery.channel_removal import remove_channels
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.base import (
    KeptChannels,
    PruningTarget,
    channels_for_budget,
    layer_weight,
    per_filter,
    prune_and_retrain,
    rank_channels,
    removable_groups,
    removed_masks,
    uniform_widths,
)
from evalsuite.training.hooks import Hooks
from evalsuite.training.recipe import Recipe

PenaltyFactor = Callable[[float], float]
"""From an epoch to the factor of a penalty."""
GradientHook = Callable[[nn.Module, float], None]
"""Changes the gradients of a model at an epoch: the hook ``before_step``."""
_MEAN_DECAY = 0.9
"""Share of a running mean that is left after one more value."""


@dataclass(frozen=True)
class GrowingPenalty:
    """The growing L2 penalty of a producer: its size and its duration.

    Attributes:
        epochs: Of the whole phase; 0 is as many as the retraining's.
        max_penalty: The largest factor of the penalty.
        hold: Share of the phase for which the factor stays there.
        learning_rate: Constant; 0 takes the retraining's schedule.
    """

    epochs: int = 0
    max_penalty: float = 1.0
    hold: float = 1 / 11
    learning_rate: float = 1e-3
    renamed_settings: ClassVar[Mapping[str, str]] = {"ceiling": "max_penalty"}

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.max_penalty <= 0 or not 0 <= self.hold < 1 or self.learning_rate < 0:
            raise SuiteError(
                f"found epochs = {self.epochs}, max_penalty = {self.max_penalty:g}, hold = {self.hold:g} and "
                f"learning_rate = {self.learning_rate:g}, expected epochs and a rate from 0 on, a penalty above 0 "
                "and a share below 1"
            )

    def recipe(self, retraining: Recipe) -> Recipe:
        """Returns the recipe of the phase."""
        epochs = self.epochs or retraining.epochs
        if not self.learning_rate:
            return _with_epochs(retraining, epochs)
        return replace(
            retraining,
            epochs=epochs,
            learning_rate=self.learning_rate,
            schedule="constant",
            milestones=(),
            rates=(),
            floor=0.0,
            warmup_epochs=0.0,
        )

    def factor(self, epochs: float, *, start: float = 0.0) -> PenaltyFactor:
        """Returns the factor that grows evenly from `start` to the largest one and stays there."""
        growing = (1 - self.hold) * epochs
        return lambda at: start + (self.max_penalty - start) * min(1.0, at / growing)


@dataclass(frozen=True)
class GReg1(GrowingPenalty, Producer):
    """GReg-1: the filters of least mean |w| are picked, an L2 penalty on them alone grows, then they are removed.

    The paper adds 1e-4 to the factor every 10 steps (CIFAR) until it is 1, and holds for 10 000: with the
    default `max_penalty` and `hold` the factor is the same function of the step if the phase has 110 000 steps.

    Attributes:
        magnitude_ratio_limit: The factor stops growing early once in all layers the kept filters are so many times
            as large as the picked ones.

    References:
        Wang et al. 2021, arXiv 2012.09243; the early stop is that of its code. Differs from the paper in that the
        factor grows at every step by a part of the phase, that every layer loses the same share (preset ones in
        the paper's ResNet-50), and that the phase does not end sooner where the growth does.
    """

    magnitude_ratio_limit: float = 1000.0
    renamed_settings: ClassVar[Mapping[str, str]] = {
        "ceiling": "max_penalty",
        "limit": "magnitude_ratio_limit",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_limit("greg-1", self.magnitude_ratio_limit)

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, target: PruningTarget) -> nn.Module:
            kept = filters_to_keep(model, target)
            recipe = self.recipe(context.recipe)
            limit = GrowthLimit(self.magnitude_ratio_limit, together=True)
            penalty = penalty_hook(removed_masks(kept, model), self.factor(recipe.epochs), limit)
            hooks = Hooks(before_step=penalty, state=limit.state)
            context.fit(model, target.ratio, recipe=recipe, hooks=hooks)
            return remove_channels(model, kept)

        return prune_and_retrain(parent, ratios, context, step)


@dataclass(frozen=True)
class GReg2(GrowingPenalty, Producer):
    """GReg-2: an L2 penalty on all filters grows until they differ, then it grows on the picked ones alone.

    Attributes:
        pick_penalty: Factor at which the filters are picked.
        pick_share: Share of the epochs until then, at least one: 10 000 of 119 000 steps in the paper (CIFAR).
        kept_penalty: Factor on the kept filters from then on; below zero it lets them grow.
        magnitude_ratio_limit: The factor of a layer stops growing early once its kept filters are so many times as
            large as the picked ones.

    References:
        Wang et al. 2021, arXiv 2012.09243: the factor grows to 1e-2 on all filters, then on to 1 on the picked
        ones, while the kept ones have -1e-4 throughout, as in its code. Otherwise as `GReg1`.
    """

    pick_penalty: float = 1e-2
    pick_share: float = 1 / 12
    kept_penalty: float = -1e-4
    magnitude_ratio_limit: float = 1000.0
    renamed_settings: ClassVar[Mapping[str, str]] = {
        "ceiling": "max_penalty",
        "limit": "magnitude_ratio_limit",
        "parting": "pick_penalty",
        "recovery": "kept_penalty",
        "share": "pick_share",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_limit("greg-2", self.magnitude_ratio_limit)
        if not 0 < self.pick_penalty < self.max_penalty or not 0 < self.pick_share < 1:
            raise SuiteError(
                f"greg-2: found pick_penalty = {self.pick_penalty:g} and pick_share = {self.pick_share:g}, expected "
                "a factor above 0 and below max_penalty, and a share between 0 and 1"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, target: PruningTarget) -> nn.Module:
            recipe = self.recipe(context.recipe)
            picking = _with_epochs(recipe, max(1, round(self.pick_share * recipe.epochs)))
            removing = _with_epochs(recipe, max(1, recipe.epochs - picking.epochs))
            context.fit(model, target.ratio, recipe=picking, hooks=self._picking_hooks(model, picking))
            kept = filters_to_keep(model, target)
            hooks = self._removing_hooks(removed_masks(kept, model), removing)
            context.fit(model, target.ratio, recipe=removing, hooks=hooks)
            return remove_channels(model, kept)

        return prune_and_retrain(parent, ratios, context, step)

    def _picking_hooks(self, model: nn.Module, recipe: Recipe) -> Hooks:
        groups = removable_groups(model).items()
        everything = {name: torch.ones(group.channels, dtype=torch.bool) for name, group in groups}
        return Hooks(before_step=penalty_hook(everything, lambda at: self.pick_penalty * at / recipe.epochs))

    def _removing_hooks(self, masks: Mapping[str, Tensor], recipe: Recipe) -> Hooks:
        limit = GrowthLimit(self.magnitude_ratio_limit, together=False)
        on_picked = penalty_hook(masks, self.factor(recipe.epochs, start=self.pick_penalty), limit)
        on_kept = penalty_hook({name: ~mask for name, mask in masks.items()}, lambda _: self.kept_penalty)
        return Hooks(before_step=chained(on_picked, on_kept), state=limit.state)


@dataclass(frozen=True)
class TrainabilityPreserving(GrowingPenalty, Producer):
    """Trainability-preserving pruning (TPP): the filters to be removed are decorrelated from all others and penalised.

    Attributes:
        decorrelation: Weight of the Gram matrices in the loss, times the growing factor of the L2 penalty.

    References:
        Wang and Fu 2023, arXiv 2207.12534: the entries of W W^T in the rows and columns of the picked filters
        are pulled to zero, and the growing L2 penalty holds for the picked filters and for the scale and
        shift of their batch norm. As in its code, squared entries are averaged over W W^T and summed over
        layers, and their weight grows with the penalty. The growth is that of `GReg1` without its early stop,
        which that code does not have; its layer by layer setting to zero at the end is left out, for the filters
        are removed there.
    """

    decorrelation: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decorrelation < float("inf"):
            raise SuiteError(f"tpp: found decorrelation = {self.decorrelation}, expected a number from 0 on")

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, target: PruningTarget) -> nn.Module:
            kept = filters_to_keep(model, target)
            masks = removed_masks(kept, model)
            groups = removable_groups(model).items()
            norms = {norm.name: masks[name] for name, group in groups for norm in group.norms}
            recipe = self.recipe(context.recipe)
            factor = self.factor(recipe.epochs)
            penalty = penalty_hook({**masks, **norms}, factor)
            decorrelation = decorrelation_hook(masks, lambda at: self.decorrelation * factor(at))
            hooks = Hooks(before_step=chained(penalty, decorrelation))
            context.fit(model, target.ratio, recipe=recipe, hooks=hooks)
            return remove_channels(model, kept)

        return prune_and_retrain(parent, ratios, context, step)


def filters_to_keep(model: nn.Module, target: PruningTarget) -> KeptChannels:
    """Returns the filters that stay: the same share of each layer, those of largest mean |w|."""
    scores = per_filter(model, removable_groups(model), lambda filters: filters.abs().mean(1))
    return channels_for_budget(model, rank_channels(scores), uniform_widths(target.widths), target.budget)


@dataclass(frozen=True)
class GrowthLimit:
    """GReg's early stop: it ends the growth of a penalty where the penalised filters have all but vanished.

    A running mean follows, layer by layer, how many times as large the kept filters are as the penalised ones (mean
    |w|). Where it reaches `limit`, the factor of the penalty stays what it is.

    Attributes:
        limit: Of that ratio.
        together: Whether the layers stop all at once, when the last of them is there (GReg-1), or each by itself.
        state: What it remembers from step to step: for the state of hooks.
    """

    limit: float
    together: bool
    state: dict[str, Tensor] = field(default_factory=dict)

    def factors(self, model: nn.Module, masks: Mapping[str, Tensor], grown: float) -> dict[str, Tensor]:
        """Returns the factor of each layer at a step at which it would be `grown`, never less than before."""
        ratios = {name: self._ratio(model, name, mask) for name, mask in masks.items()}
        least = torch.stack([*ratios.values()]).amin()
        factors = {}
        for name, ratio in ratios.items():
            held = self.state.setdefault(f"{name}/held", torch.full_like(ratio, torch.inf))
            stops = (least if self.together else ratio) >= self.limit
            held.copy_(torch.where(stops, held.clamp(max=grown), held))
            factors[name] = held.clamp(max=grown)
        return factors

    def _ratio(self, model: nn.Module, name: str, mask: Tensor) -> Tensor:
        sizes = layer_weight(model, name).abs().flatten(1).mean(1)
        now = sizes[~mask].mean() / sizes[mask].mean()
        now = now.nan_to_num(nan=torch.inf, posinf=torch.inf)  # no filter of this layer is penalised
        mean = self.state.get(f"{name}/ratio", now)
        self.state[f"{name}/ratio"] = ratio = _MEAN_DECAY * mean + (1 - _MEAN_DECAY) * now
        return ratio


def chained(*hooks: GradientHook) -> GradientHook:
    """Returns a hook that calls one after the other."""

    def call_all(model: nn.Module, at: float) -> None:
        for hook in hooks:
            hook(model, at)

    return call_all


def penalty_hook(
    masks: Mapping[str, Tensor], factor: PenaltyFactor, limit: GrowthLimit | None = None
) -> GradientHook:
    """Returns a hook that adds ``factor(at) w`` to the gradients of some filters, and of their biases.

    Args:
        masks: Names of layers to bool (out,): True is penalised.
        factor: Factor of the penalty by epoch.
        limit: Stops the growth of a layer's factor.
    """

    def penalise(model: nn.Module, at: float) -> None:
        grown = factor(at)
        factors = dict.fromkeys(masks, grown) if limit is None else limit.factors(model, masks, grown)
        for name, mask in masks.items():
            for parameter in model.get_submodule(name).parameters(recurse=False):
                if parameter.grad is not None:
                    chosen = mask.to(parameter).view(-1, *[1] * (parameter.dim() - 1))
                    parameter.grad.add_(parameter.detach() * chosen * factors[name])

    return penalise


def decorrelation_hook(masks: Mapping[str, Tensor], factor: PenaltyFactor) -> GradientHook:
    """Returns a hook that adds the gradients of ``factor(at) correlation(model, masks)``.

    Args:
        masks: Names of layers to bool (out,): True is to be removed.
        factor: Weight of the correlation in the loss by epoch.
    """

    def decorrelate(model: nn.Module, at: float) -> None:
        weights = [model.get_submodule(name).get_parameter("weight") for name in masks]
        gradients = torch.autograd.grad(correlation(model, masks), weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            if weight.grad is not None:
                weight.grad.add_(gradient, alpha=factor(at))

    return decorrelate


def correlation(model: nn.Module, masks: Mapping[str, Tensor]) -> Tensor:
    """Returns the mean squared entry of W W^T in rows and columns of the filters to be removed, summed over layers.

    Args:
        model: Gradients flow to its weights.
        masks: Names of layers to bool (out,): True is to be removed.
    """
    total = next(model.parameters()).new_zeros(())
    for name, mask in masks.items():
        filters = model.get_submodule(name).get_parameter("weight").flatten(1)
        entries = mask[:, None] | mask[None, :]
        total = total + (filters @ filters.T)[entries].square().sum() / len(filters) ** 2
    return total


def _with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """`recipe` over another number of epochs, its warm-up within them."""
    return replace(recipe, epochs=epochs, warmup_epochs=min(recipe.warmup_epochs, float(epochs)))


def _check_limit(name: str, limit: float) -> None:
    if not limit > 0:
        raise SuiteError(f"{name}: found magnitude_ratio_limit = {limit:g}, expected a number above 0")
