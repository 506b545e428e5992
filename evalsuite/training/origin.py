"""The origin of a parent: its architecture, its seed and the recipe of its training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from evalsuite.errors import SkippedError
from evalsuite.models.architectures.base import Architecture, build_model
from evalsuite.training.history import Span, phase_of, set_history
from evalsuite.training.loop import TrainingOptions, train, training_seed
from evalsuite.training.recipe import Recipe
from evalsuite.types import ImageSet

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Origin:
    """The origin of a parent, from which it can be initialised and trained again.

    Attributes:
        architecture: Its architecture.
        seed: Seed of the run; addresses initial weights and training.
        recipe: Recipe of its training in this run; ``None`` if it was read from a checkpoint.
        device: Device of its weights.
    """

    architecture: Architecture
    seed: int
    recipe: Recipe | None = None
    device: torch.device = CPU

    def initial(self) -> nn.Module:
        """Returns the network with its initial weights, in training mode; they are the same in every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training_seed(self.seed, "initialise"))
            model = build_model(self.architecture).to(self.device)
        set_history(model, ())
        return model

    @property
    def training_seed(self) -> int:
        """Seed of the parent's training."""
        return training_seed(self.seed, "parent")

    def rewound(self, epoch: float, images: ImageSet, *, validation: ImageSet | None = None) -> nn.Module:
        """Returns the parent as it was after `epoch` epochs of its training, in evaluation mode, bit for bit.

        Raises:
            SkippedError: If it was not trained in this run, or for fewer epochs.
        """
        if self.recipe is None:
            raise SkippedError(
                "the parent was read from a checkpoint, so its weights at an earlier epoch are unknown; "
                "let the suite train its parent to rewind"
            )
        if not 0 <= epoch <= self.recipe.epochs:
            raise SkippedError(
                f"found epoch {epoch:g} to rewind to, expected one of the parent's {self.recipe.epochs}"
            )
        model = self.initial()
        options = TrainingOptions(stop=epoch, validation=validation)
        train(model, images, self.recipe, seed=self.training_seed, options=options)
        set_history(model, (phase_of(model, images, self.recipe, Span("pretraining", 0.0, epoch)),))
        return model
