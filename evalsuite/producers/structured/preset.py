"""Filter pruning with preset ratios per stage, as in the paper that began it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from evalsuite.errors import SuiteError
from evalsuite.models.surgery.removal import remove_channels
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.structured.filter_scores import l1, per_filter
from evalsuite.producers.structured.removal import Goal, Widths, groups, nearest, one_shot, ranks, shrinking

PRESETS: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "vgg16-a": ((0.5, 0.0, 0.0, 0.5), (2,)),
    "resnet56-a": ((0.1, 0.1, 0.1), (16, 20, 38, 54)),
    "resnet56-b": ((0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54)),
    "resnet110-a": ((0.5, 0.0, 0.0), (36,)),
    "resnet110-b": ((0.5, 0.4, 0.3), (36, 38, 74)),
    "resnet34-a": ((0.3, 0.3, 0.3, 0.0), (2, 8, 14, 16, 26, 28, 30, 32)),
    "resnet34-b": ((0.5, 0.6, 0.4, 0.0), (2, 8, 14, 16, 26, 28, 30, 32)),
}
"""Shares of filters that go per stage, and the convolutions, counted from 1, that stay whole (Li et al. 2017)."""


@dataclass(frozen=True)
class LiL1(Producer):
    """Filter pruning by L1 norm with preset shares per stage, one-shot.

    The shares say how much faster one stage is thinned than another: at each ratio all are multiplied by one
    number, so that the ratio is reached; at the number 1 the network is the published one.

    Attributes:
        preset: Name of a published setting; sets `stages` and `whole`.
        stages: Share of filters that goes from each stage; a stage is the layers of one width. Without any, all
            stages count alike.
        whole: Convolutions that keep all filters, by their number; the first of the network is 1, and 1 x 1
            convolutions are not counted.

    References:
        Li et al. 2017, arXiv 1608.08710, section 4: ``int(width (1 - p))`` filters are kept. Its networks
        stand in `PRESETS`.
    """

    preset: str = ""
    stages: tuple[float, ...] = ()
    whole: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.preset and (self.preset not in PRESETS or self.stages or self.whole):
            raise SuiteError(
                f"li-l1: found preset = {self.preset!r}, expected one of {', '.join(PRESETS)}, "
                "with neither stages nor whole"
            )
        if any(not 0 <= share < 1 for share in self.stages) or not any(self.stages or (1,)):
            raise SuiteError(
                f"li-l1: found stages = {self.stages}, expected shares from 0 to below 1, not all zero"
            )

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose number of parameters is as near to the target as whole filters allow."""

        def step(model: nn.Module, goal: Goal) -> nn.Module:
            ladder = scaled(goal.widths, self.shares(model, goal.widths))
            order = ranks(per_filter(model, groups(model), l1))
            return remove_channels(model, nearest(model, order, ladder, goal.budget))

        return shrinking(parent, ratios, context, one_shot(parent, step))

    def shares(self, model: nn.Module, widths: Widths) -> dict[str, float]:
        """Returns the share of filters that goes from each layer at the number 1.

        Raises:
            SuiteError: If the number of stages is not that of the network.
        """
        shares, whole = PRESETS[self.preset] if self.preset else (self.stages, self.whole)
        kinds = sorted(set(widths.values()))
        if shares and len(shares) != len(kinds):
            raise SuiteError(
                f"li-l1: found {len(shares)} stages, but the network has layers of {len(kinds)} widths "
                f"({', '.join(map(str, kinds))}); give one share for each"
            )
        spared = {name for place, name in enumerate(_counted(model), 1) if place in whole}
        chosen = shares or (0.5,) * len(kinds)
        return {name: 0.0 if name in spared else chosen[kinds.index(width)] for name, width in widths.items()}


def scaled(widths: Widths, shares: dict[str, float]) -> list[dict[str, int]]:
    """Returns the widths ``int(width (1 - t share))``, at least one, for all t, least first.

    >>> scaled({"a": 4, "b": 4}, {"a": 0.5, "b": 0.25})
    [{'a': 1, 'b': 1}, {'a': 1, 'b': 2}, {'a': 2, 'b': 3}, {'a': 3, 'b': 3}, {'a': 4, 'b': 4}]
    """
    exact = {name: Fraction(str(share)) for name, share in shares.items()}
    steps = {
        Fraction(gone, width) / exact[name]
        for name, width in widths.items()
        for gone in range(width)
        if exact[name]
    }
    ladder = [
        {name: max(1, int(width * (1 - step * exact[name]))) for name, width in widths.items()}
        for step in sorted(steps, reverse=True)
    ]
    return [one for place, one in enumerate(ladder) if place == 0 or one != ladder[place - 1]]


def _counted(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    ]
