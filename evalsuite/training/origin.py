"""Where a parent comes from: its architecture and seed, and how it was trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from evalsuite.errors import SkippedError
from evalsuite.models.architectures.base import Architecture, assemble
from evalsuite.training.history import Span, phase_of, remember
from evalsuite.training.loop import Plan, train, training_seed
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Origin:
    """Is what it takes to make a parent again, or a part of the way.

    Attributes:
        architecture: What it is built from.
        seed: Of the run; addresses initial weights and training.
        recipe: How it was trained here; ``None`` if it was read from a checkpoint.
        device: Where it is.
    """

    architecture: Architecture
    seed: int
    recipe: Recipe | None = None
    device: torch.device = CPU

    def initial(self) -> nn.Module:
        """Returns the network with its first weights, in training mode: always the same ones."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training_seed(self.seed, "initialise"))
            model = assemble(self.architecture).to(self.device)
        remember(model, ())
        return model

    @property
    def training(self) -> int:
        """Address of the parent's training."""
        return training_seed(self.seed, "parent")

    def rewound(self, epoch: float, images: ImageSet, *, validation: ImageSet | None = None) -> nn.Module:
        """Returns the parent as it was after `epoch` epochs of its training, in evaluation mode, bit for bit.

        Raises:
            SkippedError: If it was not trained here, or not for so long.
        """
        if self.recipe is None:
            raise SkippedError(
                "the parent was read from a checkpoint, so nobody knows its weights at an earlier epoch; "
                "let the suite train its parent to rewind"
            )
        if not 0 <= epoch <= self.recipe.epochs:
            raise SkippedError(
                f"found epoch {epoch:g} to rewind to, expected one of the parent's {self.recipe.epochs}"
            )
        model = self.initial()
        train(model, images, self.recipe, seed=self.training, plan=Plan(stop=epoch, validation=validation))
        remember(model, (phase_of(model, images, self.recipe, Span("pretraining", 0.0, epoch)),))
        return model
