"""What a pruning method adds to the one training loop, so that none needs a loop of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from evalsuite.types import PhaseName


@dataclass(frozen=True)
class Hooks:
    """Is a set of calls that the loop makes; each may be left out.

    ``at`` is where the step's middle lies, in epochs of the recipe (0.5 is half-way through the first one);
    ``step`` counts the steps from the start of the recipe's first epoch, this one included, so the first is 1.

    Attributes:
        penalty: ``penalty(model)`` is added to the loss; ``None`` adds nothing.
        before_step: ``before_step(model, at)`` between backward pass and step: gradients may be changed.
        after_step: ``after_step(model, at, step)`` after the step and after the plan's masks: weights may be
            set to zero or moved in place; parameters may not be replaced.
        after_epoch: ``after_epoch(model, epochs)`` with the number of epochs that are done; the model is in
            training mode.
        state: Whatever the calls remember from one to the next, as tensors. It is saved with the progress of
            a long training and put back when a killed one goes on, so a hook keeps its memory here only.
        phase: What the history calls a training with these hooks.
    """

    penalty: Callable[[nn.Module], Tensor | None] | None = None
    before_step: Callable[[nn.Module, float], None] | None = None
    after_step: Callable[[nn.Module, float, int], None] | None = None
    after_epoch: Callable[[nn.Module, int], None] | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    phase: PhaseName = "pruning"
