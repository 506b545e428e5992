"""Hooks that a pruning method adds to the training loop, so that no method needs a loop of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from evalsuite.types import PhaseName


@dataclass(frozen=True)
class Hooks:
    """Functions that the training loop calls; each is optional.

    ``at`` is the position of the step's middle, in epochs of the recipe (0.5 is half-way through the first one);
    ``step`` counts the steps from the start of the recipe's first epoch, this one included, so the first is 1.

    Attributes:
        penalty: ``penalty(model)`` is added to the loss; ``None`` adds nothing.
        before_step: ``before_step(model, at)`` between backward pass and step: gradients may be changed.
        after_step: ``after_step(model, at, step)`` after the step and after the masks: weights may be
            set to zero or moved in place; parameters may not be replaced.
        after_epoch: ``after_epoch(model, epochs)`` with the number of finished epochs; the model is in
            training mode.
        state: Tensors that the functions use from one call to the next. They are saved in the checkpoint of
            a long training and loaded when a killed one goes on, so a hook must not have other state.
        phase: Name of a training with these hooks in the history.
    """

    penalty: Callable[[nn.Module], Tensor | None] | None = None
    before_step: Callable[[nn.Module, float], None] | None = None
    after_step: Callable[[nn.Module, float, int], None] | None = None
    after_epoch: Callable[[nn.Module, int], None] | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    phase: PhaseName = "pruning"
