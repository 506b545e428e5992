"""Lottery tickets: masks of trained networks on weights from earlier in training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from evalsuite.errors import SuiteError
from evalsuite.producers.base import Context, Producer
from evalsuite.producers.unstructured.base import global_masks, magnitudes, nonzero_budget, weight_budget


@dataclass(frozen=True)
class Lottery(Producer):
    """Iterative magnitude pruning with weight rewinding: the weights that stay go back to their early values.

    Each step prunes the last trained ticket by global magnitude, sets what is left to the parent's weights
    after `rewind` epochs, and resumes the parent's recipe from there. With learning-rate rewinding the
    trained weights are kept and only the schedule starts over: that is ``magnitude``.

    Attributes:
        rewind: Epoch of the parent's training, perhaps a fraction; 0 is the original lottery ticket.

    References:
        Frankle and Carbin 2019, arXiv 1803.03635; Frankle et al. 2020, arXiv 1912.05671 (rewinding). Levels
        are the suite's ratios in place of 20 % of what is left, and ties are broken by position, not dropped.
        The order of images after rewinding is drawn anew, and momentum starts from zero.
    """

    rewind: float = 0.0

    def __post_init__(self) -> None:
        if self.rewind < 0:
            raise SuiteError(f"lottery: found rewind = {self.rewind:g}, expected an epoch from 0 on")

    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields models whose ratio is within one weight of the target.

        Raises:
            SkippedError: If the parent was not trained here, or not for so long.
        """
        trained = copy.deepcopy(context.previous or parent)
        for ratio in ratios:
            masks = global_masks(
                trained, magnitudes(trained), weight_budget(parent, nonzero_budget(parent, ratio))
            )
            ticket = context.rewound(self.rewind)
            context.inherit_history(ticket, trained)
            context.fit(ticket, ratio, masks=masks, recipe=context.parent_recipe, start=self.rewind)
            trained = ticket
            yield ticket
