"""How a network is trained: a record, and the learning rate that it means at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from evalsuite.errors import SuiteError


@dataclass(frozen=True)
class Recipe:
    """Is everything that stochastic gradient descent needs to know.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step; the last, smaller batch of an epoch is used too.
        learning_rate: At the end of the warm-up.
        momentum: Of SGD.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: L2 penalty on all parameters.
        schedule: ``cosine`` to zero, ``step`` (times `gamma` at each milestone) or ``constant``; a
            step has the rate of its middle.
        milestones: Epochs at which ``step`` drops the learning rate.
        gamma: Factor of each drop.
        warmup_epochs: Linear rise from zero; may be a fraction.
        augment: ``none``, ``crop`` (pad by an eighth of the side, crop at random) or ``crop-flip``.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    augment: Literal["none", "crop", "crop-flip"] = "none"

    def __post_init__(self) -> None:
        positive = {"epochs": self.epochs, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        for name, value in positive.items():
            if not value > 0:
                raise SuiteError(f"recipe: found {name} = {value}, expected a number above 0")
        for name, share in {"momentum": self.momentum, "gamma": self.gamma}.items():
            if not 0 <= share < 1:
                raise SuiteError(f"recipe: found {name} = {share}, expected at least 0 and below 1")
        if self.weight_decay < 0 or self.warmup_epochs < 0:
            raise SuiteError("recipe: weight_decay and warmup_epochs must not be negative")
        if self.milestones and self.schedule != "step":
            raise SuiteError(
                f"recipe: milestones mean nothing to schedule {self.schedule!r}; use schedule = 'step'"
            )
        if self.nesterov and not self.momentum:
            raise SuiteError("recipe: nesterov needs a momentum above 0")


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Returns the learning rate at a (fractional) `epoch`.

    >>> [round(learning_rate(Recipe(epochs=10, learning_rate=1.0), e), 3) for e in (0, 5, 10)]
    [1.0, 0.5, 0.0]
    """
    if epoch < recipe.warmup_epochs:
        return recipe.learning_rate * epoch / recipe.warmup_epochs
    if recipe.schedule == "step":
        return recipe.learning_rate * recipe.gamma ** sum(
            epoch >= milestone for milestone in recipe.milestones
        )
    if recipe.schedule == "cosine":
        length = max(recipe.epochs - recipe.warmup_epochs, 1e-12)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - recipe.warmup_epochs) / length))
    return recipe.learning_rate
