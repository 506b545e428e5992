"""N:M sparsity: of every M consecutive weights N stay, the pattern of sparse tensor cores."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from evalsuite.errors import SuiteError, UserError
from evalsuite.models.cost import count_nonzero, weight_name
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.base import magnitudes, prunable_weights


@dataclass(frozen=True)
class NM(Producer):
    """N:M sparsity: of every M consecutive inputs of a filter at one position, the N largest weights stay.

    M is fixed and N follows the ratio: the pattern whose measured ratio is nearest, so ``m = 4`` at ratio
    0.5 is the 2:4 of sparse tensor cores. Patterns are nested and pruned iteratively. Layers whose number of
    inputs M does not divide stay dense, as do biases and norms, so the ratios lie a little below ``1 - N/M``.

    Attributes:
        m: Weights per group.
        ratio_tolerance: How far the nearest pattern's ratio may be from what is asked for.

    References:
        Mishra et al. 2021, arXiv 2104.08378; Zhou et al. 2021, arXiv 2102.04010. No paper fixes the axis for
        convolutions or a sequence of ratios: both are our choice.
    """

    m: int = 4
    ratio_tolerance: float = 0.05
    renamed_settings: ClassVar[Mapping[str, str]] = {"within": "ratio_tolerance"}

    def __post_init__(self) -> None:
        if self.m < 2 or self.ratio_tolerance <= 0:
            raise SuiteError(
                f"n-m: found m = {self.m} and ratio_tolerance = {self.ratio_tolerance:g}, expected m >= 2, "
                "ratio_tolerance > 0"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models of rising patterns, each retrained from the last.

        Raises:
            UserError: If no pattern is within `ratio_tolerance` of a ratio, or two ratios have the same one.
        """
        model = copy.deepcopy(context.previous or parent)
        for ratio in ratios:
            masks = self._masks(model, parent, ratio)
            removed = (magnitude[~masks[weight_name(name)]] for name, magnitude in magnitudes(model).items())
            if not any(bool(weights.any()) for weights in removed):
                raise UserError(
                    f"ratio {ratio:g} has the same pattern of N out of {self.m} as the one before; "
                    "ask for fewer ratios or a larger m"
                )
            context.retrain(model, ratio, masks=masks)
            yield model

    def _masks(self, model: nn.Module, parent: nn.Module, ratio: float) -> dict[str, Tensor]:
        """The nearest pattern's masks."""
        weights = prunable_weights(parent).values()
        grouped = sum(weight.numel() for weight in weights if weight.shape[1] % self.m == 0)
        total = count_nonzero(parent)
        reachable = {n: (1 - n / self.m) * grouped / total for n in range(self.m - 1, 0, -1)}
        n = min(reachable, key=lambda n: abs(reachable[n] - ratio))
        if abs(reachable[n] - ratio) > self.ratio_tolerance:
            patterns = ", ".join(f"{share:.4f} ({n}:{self.m})" for n, share in reachable.items())
            raise UserError(
                f"no pattern of {self.m} is within {self.ratio_tolerance:g} of ratio {ratio:g}; "
                f"this network has {patterns}"
            )
        return {
            weight_name(name): _pattern_mask(magnitude, n, self.m)
            for name, magnitude in magnitudes(model).items()
        }


def _pattern_mask(magnitude: Tensor, n: int, m: int) -> Tensor:
    """True for the `n` largest of every `m` consecutive inputs; ties fall to the earlier."""
    if magnitude.shape[1] % m:
        return magnitude != 0
    groups = magnitude.transpose(0, 1).reshape(-1, m, magnitude[:, 0].numel())  # (groups, m, everything else)
    order = torch.sort(groups, dim=1, descending=True, stable=True).indices[:, :n]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, value=True)
    return mask.view(magnitude.transpose(0, 1).shape).transpose(0, 1) & (magnitude != 0)
