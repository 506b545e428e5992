"""What the trainings of a suite start from, depend on, and leave behind."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from evalsuite.config.suite import Suite
from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import DataError
from evalsuite.plugin_config import PluginConfig
from evalsuite.producers.base import Context, Producer
from evalsuite.random_streams import address
from evalsuite.runs.digests import digest_of
from evalsuite.runs.store import Key, Store
from evalsuite.training.checkpoint import TrainingCheckpoint
from evalsuite.training.history import Span, phase_of, set_history
from evalsuite.training.loop import TrainingOptions, train
from evalsuite.training.origin import Origin
from evalsuite.training.recipe import Recipe
from evalsuite.types import DENSE, Candidate, ImageSet


@dataclass(frozen=True)
class TrainingInputs:
    """The trainings of one suite: of its parents, and of what producers train.

    Attributes:
        suite: Model and recipes.
        store: In whose folder long trainings keep their progress.
        image_source: Training and validation images.
        device: Where to train.
    """

    suite: Suite
    store: Store
    image_source: ImageSource
    _: dataclasses.KW_ONLY
    device: torch.device

    def parent(self, seed: int, digest: str) -> nn.Module:
        """Returns the parent of one seed after its training; `digest` is that of all it depends on."""
        origin, recipe, images = self.origin(seed), self.suite.recipe, self.images
        model = origin.initial()
        options = TrainingOptions(
            validation=self.validation(recipe), checkpoint=self._progress(DENSE, seed, digest).of(0.0, 0)
        )
        curve = train(model, images, recipe, seed=origin.training_seed, options=options)
        span = Span("pretraining", 0.0, recipe.epochs)
        set_history(model, [phase_of(model, images, recipe, span, curve=curve)])
        return model

    def context(
        self, choice: PluginConfig[Producer], parent: Candidate, last: Candidate | None, *, digest: str
    ) -> Context:
        """Returns what a producer may use that goes on from the candidate `last`, or starts at the parent."""
        recipe = self.suite.retraining_of(choice.label)
        kept = digest_of({"parent": parent.weights, "producer": digest})
        return Context(
            train=self.images,
            recipe=recipe,
            seed=address(parent.seed, "producer", choice.name),
            origin=self.origin(parent.seed),
            validation=self.judging,
            initial_history=(last or parent).history,
            progress=self._progress(choice.label, parent.seed, kept),
            pruned_only=frozenset(self.suite.pruned_only),
        )

    def origin(self, seed: int) -> Origin:
        """Returns how the parent of one seed is made."""
        recipe = None if self.suite.checkpoint else self.suite.recipe
        return Origin(self.suite.model.plugin, seed, recipe, device=self.device)

    def inputs(self, recipe: Recipe) -> dict[str, Any]:
        """Returns what any training by `recipe` depends on, beside its seed, as plain JSON."""
        split = View(split="validation")
        return {
            "recipe": dataclasses.asdict(recipe),
            "train": self.image_source.digest(View(split="train")),
            "validation": "" if self.judging is None else self.image_source.digest(split),
            "threads": self.suite.threads,
            "device": self.device.type,
        }

    def validation(self, recipe: Recipe) -> ImageSet | None:
        """Returns the images to select or track by, where `recipe` wants them."""
        wanted = recipe.track or recipe.select == "validation"
        return self.image_source.images(View(split="validation")) if wanted else None

    @property
    def judging(self) -> ImageSet | None:
        """The validation split, on which candidates are judged before and after retraining; if the data has one."""
        try:
            images = self.image_source.images(View(split="validation"))
        except DataError:
            return None
        return None if images.labels is None else images

    @property
    def images(self) -> ImageSet:
        """The training images."""
        return self.image_source.images(View(split="train"))

    def _progress(self, method: str, seed: int, digest: str) -> TrainingCheckpoint:
        return TrainingCheckpoint(self.store.weights_path(Key(method, seed, 0.0)).parent, digest)
