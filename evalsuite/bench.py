"""One candidate on its image sets: each forward pass happens once, and its outputs are handed out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from evalsuite.data.views import Gallery, View
from evalsuite.errors import ContractError, DataError, InvalidModelError
from evalsuite.metrics import confidence, correct, nll
from evalsuite.models.forward import Prepared, logits, prepared
from evalsuite.records import Array, Floats, ImageSet

PROBE = 32  # images that go through the model twice before any number is believed


@dataclass(frozen=True)
class Outputs:
    """Is what a model said about an image set.

    Attributes:
        logits: float32 (N, K).
        labels: int64 (N,), or ``None`` for images out of distribution.
    """

    logits: Array
    labels: Array | None

    @cached_property
    def predictions(self) -> Array:
        """Most likely classes, int64 (N,)."""
        found: Array = np.argmax(self.logits, axis=1)
        return found

    @cached_property
    def correct(self) -> Array:
        """Whether each prediction is right, bool (N,)."""
        return correct(self.logits, self.known)

    @cached_property
    def confidence(self) -> Floats:
        """Largest probability, float64 (N,)."""
        return confidence(self.logits)

    @cached_property
    def nll(self) -> Floats:
        """Negative log-likelihood of the label in nats, float64 (N,)."""
        return nll(self.logits, self.known)

    @property
    def known(self) -> Array:
        """The labels.

        Raises:
            DataError: If the images are out of distribution.
        """
        if self.labels is None:
            raise DataError("these images are out of distribution and have no labels: use another view")
        return self.labels


class Bench:
    """Puts one model on the image sets that its evaluators asked for.

    Args:
        model: Takes float images in [0, 1], (B, C, H, W); returns logits (B, K). It is put into evaluation
            mode.
        gallery: Where the images come from.
        parent: Bench of the unpruned network of the same seed; ``None`` if this is it.
        seed: Address of an evaluator's own draws; the same for parent and candidates.
    """

    def __init__(
        self, model: nn.Module, gallery: Gallery, *, parent: Bench | None = None, seed: int = 0
    ) -> None:
        self.model = model.eval()
        self.gallery = gallery
        self.seed = seed
        self.passes: Counter[View] = Counter()
        self._parent = parent
        self._outputs: dict[View, Outputs] = {}
        self._allowed: Collection[View] | None = None
        self._ready: Prepared | None = None

    @property
    def parent(self) -> Bench:
        """The unpruned network's bench; its own for the parent itself."""
        return self._parent or self

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    @property
    def ready(self) -> nn.Module:
        """The model prepared for many passes: a copy with batch norms folded, its weights frozen."""
        if self._ready is None:
            self._ready = prepared(self.model, device=self.device)
        return self._ready

    @property
    def classes(self) -> int:
        """Number of classes of the suite's data set."""
        return self.images(View()).classes

    def allow(self, views: Collection[View] | None) -> None:
        """Restricts what may be asked for to the `views` that an evaluator declared; ``None`` allows all."""
        self._allowed = views

    def images(self, view: View) -> ImageSet:
        """Returns the images of `view`."""
        return self.gallery.images(view)

    def condition(self, view: View) -> str:
        """Returns the name of the condition that `view` shows."""
        return self.gallery.condition(view)

    def outputs(self, view: View) -> Outputs:
        """Returns what the model says about `view`, computed at the first call.

        Raises:
            ContractError: If the evaluator did not declare the view in its needs.
            InvalidModelError: If the model breaks its contract on these images.
        """
        if self._allowed is not None and view not in self._allowed:
            raise ContractError(f"an evaluator asked for {view}, which its needs do not name; add it there")
        if view not in self._outputs:
            self._outputs[view] = self._passed(view)
        return self._outputs[view]

    def _passed(self, view: View) -> Outputs:
        images = self.images(view)
        if not self._outputs:
            self._probe()
        self.passes[view] += 1
        return Outputs(self._logits(images.images), images.labels)

    def _logits(self, images: Array) -> Array:
        found = logits(self.ready, images, device=self.device)
        if found.shape[1] != self.classes:
            raise InvalidModelError(
                f"the model returns {found.shape[1]} logits per image, but the data set has {self.classes} classes; "
                "use a model that was trained for it"
            )
        return found

    def _probe(self) -> None:
        """A model whose answer to the same images changes has no number to report."""
        few = self.images(View()).images[:PROBE]
        first, second = self._logits(few), self._logits(few)
        if not np.array_equal(first, second):
            worst = float(np.abs(first - second).max())
            raise InvalidModelError(
                f"two forward passes over the same images differ by up to {worst:g}; "
                "remove what is random from the model (dropout in evaluation, sampling)"
            )
