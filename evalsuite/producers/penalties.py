"""Growing penalties that push filters out before they are removed, and what stops their growth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Strength = Callable[[float], float]
"""From an epoch to the factor of a penalty."""
Pull = Callable[[nn.Module, float], None]
"""Changes the gradients of a model at an epoch: the hook ``before_step``."""
_KEPT = 0.9
"""Share of a running mean that is left after one more value."""


@dataclass(frozen=True)
class Brake:
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


def pushing(masks: Mapping[str, Tensor], strength: Strength, brake: Brake | None = None) -> Pull:
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
