"""Filters that a growing penalty pushes out before they are removed: GReg-1, GReg-2 and TPP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError
from evalsuite.models.surgery.removal import remove_channels
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.filter_scores import per_filter
from evalsuite.producers.structured.removal import (
    Goal,
    Kept,
    groups,
    nearest,
    ranks,
    removed,
    shrinking,
    uniform,
)
from evalsuite.training.hooks import Hooks
from evalsuite.training.recipe import Recipe


@dataclass(frozen=True)
class Pushing:
    """Is how hard and how long filters are pushed.

    Attributes:
        epochs: Of the whole phase; 0 is as many as the retraining's.
        ceiling: The largest factor of the penalty.
        hold: Share of the phase for which the factor stays there.
        learning_rate: Constant; 0 takes the retraining's schedule.
    """

    epochs: int = 0
    ceiling: float = 1.0
    hold: float = 1 / 11
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.ceiling <= 0 or not 0 <= self.hold < 1 or self.learning_rate < 0:
            raise SuiteError(
                f"found epochs = {self.epochs}, ceiling = {self.ceiling:g}, hold = {self.hold:g} and learning_rate "
                f"= {self.learning_rate:g}, expected epochs and a rate from 0 on, a ceiling above 0 and a share below 1"
            )

    def recipe(self, retraining: Recipe) -> Recipe:
        """Returns the recipe of the phase."""
        epochs = self.epochs or retraining.epochs
        if not self.learning_rate:
            return replace(retraining, epochs=epochs)
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

    def strength(self, epochs: float, *, start: float = 0.0) -> Strength:
        """Returns the factor that grows evenly from `start` to the ceiling and stays there."""
        return lambda at: start + (self.ceiling - start) * min(1.0, at / ((1 - self.hold) * epochs))


@dataclass(frozen=True)
class GReg1(Pushing, Producer):
    """GReg-1: the filters of least mean |w| are picked, an L2 penalty on them alone grows, then they are removed.

    The paper adds 1e-4 to the factor every 10 steps (CIFAR) until it is 1, and holds for 10 000: with the
    default `ceiling` and `hold` the factor is the same function of the step if the phase has 110 000 steps.

    Attributes:
        limit: The factor stops growing early once in all layers the kept filters are so many times as large as
            the picked ones.

    References:
        Wang et al. 2021, arXiv 2012.09243; the early stop is that of its code. Differs from the paper in that the
        factor grows at every step by a part of the phase, that every layer loses the same share (preset ones in
        the paper's ResNet-50), and that the phase does not end sooner where the growth does.
    """

    limit: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_limit("greg-1", self.limit)

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, goal: Goal) -> nn.Module:
            kept = picked(model, goal)
            recipe = self.recipe(context.recipe)
            brake = GrowthLimit(self.limit, together=True)
            push = pushing(removed(kept, model), self.strength(recipe.epochs), brake)
            context.fit(model, goal.ratio, recipe=recipe, hooks=Hooks(before_step=push, state=brake.state))
            return remove_channels(model, kept)

        return shrinking(parent, ratios, context, step)


@dataclass(frozen=True)
class GReg2(Pushing, Producer):
    """GReg-2: an L2 penalty on all filters grows a little and parts them, then the picked ones are pushed out.

    Attributes:
        parting: Factor at which the filters are picked.
        share: Of the epochs until then, at least one: 10 000 of 119 000 steps in the paper (CIFAR).
        recovery: Factor on the kept filters from then on; below zero it lets them grow.
        limit: The factor of a layer stops growing early once its kept filters are so many times as large as the
            picked ones.

    References:
        Wang et al. 2021, arXiv 2012.09243: the factor grows to 1e-2 on all filters, then on to 1 on the picked
        ones, while the kept ones have -1e-4 throughout, as in its code. Otherwise as `GReg1`.
    """

    parting: float = 1e-2
    share: float = 1 / 12
    recovery: float = -1e-4
    limit: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_limit("greg-2", self.limit)
        if not 0 < self.parting < self.ceiling or not 0 < self.share < 1:
            raise SuiteError(
                f"greg-2: found parting = {self.parting:g} and share = {self.share:g}, expected a factor above 0 and "
                "below the ceiling, and a share between 0 and 1"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, goal: Goal) -> nn.Module:
            recipe = self.recipe(context.recipe)
            first = replace(recipe, epochs=max(1, round(self.share * recipe.epochs)))
            rest = replace(recipe, epochs=max(1, recipe.epochs - first.epochs))
            everything = {
                name: torch.ones(group.channels, dtype=torch.bool) for name, group in groups(model).items()
            }
            growing = pushing(everything, lambda at: self.parting * at / first.epochs)
            context.fit(model, goal.ratio, recipe=first, hooks=Hooks(before_step=growing))
            kept = picked(model, goal)
            away = removed(kept, model)
            brake = GrowthLimit(self.limit, together=False)
            push = pushing(away, self.strength(rest.epochs, start=self.parting), brake)
            spare = pushing({name: ~mask for name, mask in away.items()}, lambda _: self.recovery)
            hooks = Hooks(before_step=in_turn(push, spare), state=brake.state)
            context.fit(model, goal.ratio, recipe=rest, hooks=hooks)
            return remove_channels(model, kept)

        return shrinking(parent, ratios, context, step)


@dataclass(frozen=True)
class TrainabilityPreserving(Pushing, Producer):
    """Trainability-preserving pruning (TPP): filters to be removed are decorrelated from all others and pushed out.

    Attributes:
        decorrelation: Weight of the Gram matrices in the loss, times the growing factor of the L2 penalty.

    References:
        Wang and Fu 2023, arXiv 2207.12534: the entries of W W^T in the rows and columns of the picked filters
        are pulled to zero, and the growing L2 penalty holds for the picked filters and for the scale and
        shift of their batch norm. As in its code, squared entries are averaged over W W^T and summed over
        layers, and their weight grows with the penalty. The growth is that of `GReg1` without its early stop,
        which that code has not; its layer by layer setting to zero at the end is left out, for the filters are
        removed there.
    """

    decorrelation: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decorrelation < float("inf"):
            raise SuiteError(f"tpp: found decorrelation = {self.decorrelation}, expected a number from 0 on")

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, goal: Goal) -> nn.Module:
            kept = picked(model, goal)
            away = removed(kept, model)
            norms = {norm.name: away[name] for name, group in groups(model).items() for norm in group.norms}
            recipe = self.recipe(context.recipe)
            strength = self.strength(recipe.epochs)
            push = pushing({**away, **norms}, strength)
            part = decorrelating(away, lambda at: self.decorrelation * strength(at))
            context.fit(model, goal.ratio, recipe=recipe, hooks=Hooks(before_step=in_turn(push, part)))
            return remove_channels(model, kept)

        return shrinking(parent, ratios, context, step)


def picked(model: nn.Module, goal: Goal) -> Kept:
    """Returns the filters that stay: the same share of each layer, those of largest mean |w|."""
    scores = per_filter(model, groups(model), lambda filters: filters.abs().mean(1))
    return nearest(model, ranks(scores), uniform(goal.widths), goal.budget)


def _check_limit(name: str, limit: float) -> None:
    if not limit > 0:
        raise SuiteError(f"{name}: found limit = {limit:g}, expected a number above 0")


Strength = Callable[[float], float]
"""From an epoch to the factor of a penalty."""
Pull = Callable[[nn.Module, float], None]
"""Changes the gradients of a model at an epoch: the hook ``before_step``."""
_KEPT = 0.9
"""Share of a running mean that is left after one more value."""


@dataclass(frozen=True)
class GrowthLimit:
    """Stops the growth of a penalty where the filters that it pushes have all but vanished: GReg's early stop.

    A running mean follows, layer by layer, how many times as large the kept filters are as the pushed ones (mean
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
        found = {}
        for name, ratio in ratios.items():
            held = self.state.setdefault(f"{name}/held", torch.full_like(ratio, torch.inf))
            stops = (least if self.together else ratio) >= self.limit
            held.copy_(torch.where(stops, held.clamp(max=grown), held))
            found[name] = held.clamp(max=grown)
        return found

    def _ratio(self, model: nn.Module, name: str, mask: Tensor) -> Tensor:
        sizes = model.get_submodule(name).get_parameter("weight").detach().abs().flatten(1).mean(1)
        now = sizes[~mask].mean() / sizes[mask].mean()
        now = now.nan_to_num(nan=torch.inf, posinf=torch.inf)  # nothing is pushed here
        mean = self.state.get(f"{name}/ratio", now)
        self.state[f"{name}/ratio"] = ratio = _KEPT * mean + (1 - _KEPT) * now
        return ratio


def in_turn(*pulls: Pull) -> Pull:
    """Returns a hook that calls one after the other."""

    def all_of_them(model: nn.Module, at: float) -> None:
        for pull in pulls:
            pull(model, at)

    return all_of_them


def pushing(masks: Mapping[str, Tensor], strength: Strength, brake: GrowthLimit | None = None) -> Pull:
    """Returns a hook that adds ``strength(at) w`` to the gradients of some filters, and of their biases.

    Args:
        masks: Names of layers to bool (out,): True is pushed.
        strength: Factor of the penalty by epoch.
        brake: Holds the factor of a layer where it has done its work.
    """

    def push(model: nn.Module, at: float) -> None:
        grown = strength(at)
        factors = dict.fromkeys(masks, grown) if brake is None else brake.factors(model, masks, grown)
        for name, mask in masks.items():
            for parameter in model.get_submodule(name).parameters(recurse=False):
                if parameter.grad is not None:
                    chosen = mask.to(parameter).view(-1, *[1] * (parameter.dim() - 1))
                    parameter.grad.add_(parameter.detach() * chosen * factors[name])

    return push


def decorrelating(masks: Mapping[str, Tensor], strength: Strength) -> Pull:
    """Returns a hook that adds the gradients of ``strength(at) correlation(model, masks)``.

    Args:
        masks: Names of layers to bool (out,): True is to be removed.
        strength: Weight of the correlation in the loss by epoch.
    """

    def part(model: nn.Module, at: float) -> None:
        weights = [model.get_submodule(name).get_parameter("weight") for name in masks]
        for weight, slope in zip(
            weights, torch.autograd.grad(correlation(model, masks), weights), strict=True
        ):
            if weight.grad is not None:
                weight.grad.add_(slope, alpha=strength(at))

    return part


def correlation(model: nn.Module, masks: Mapping[str, Tensor]) -> Tensor:
    """Returns the mean squared entry of W W^T in rows and columns of the filters to be removed, summed over layers.

    Args:
        model: Gradients flow to its weights.
        masks: Names of layers to bool (out,): True is to be removed.
    """
    total = next(model.parameters()).new_zeros(())
    for name, mask in masks.items():
        filters = model.get_submodule(name).get_parameter("weight").flatten(1)
        apart = mask[:, None] | mask[None, :]
        total = total + (filters @ filters.T)[apart].square().sum() / len(filters) ** 2
    return total
