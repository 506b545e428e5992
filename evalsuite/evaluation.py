"""One candidate on its image sets: each forward pass happens once, and its outputs are handed out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
import torch
from torch import nn

from evalsuite.datasets.source import ImageSource
from evalsuite.datasets.views import View
from evalsuite.errors import ContractError, DataError, InvalidModelError, SkippedError
from evalsuite.metrics.logits import confidence, correct, nll
from evalsuite.model_checks import PROBE, check_model
from evalsuite.models.features import Head, classifier, features_and_logits, head
from evalsuite.models.inference import BATCH_SIZE, Prepared, logits, prepared
from evalsuite.types import Array, Floats, ImageSet, Phase

Found = TypeVar("Found")


@dataclass(frozen=True)
class Outputs:
    """Is what a model said about an image set.

    Attributes:
        logits: float32 (N, K).
        labels: int64 (N,), or ``None`` for images out of distribution.
        features: Penultimate features, float32 (N, D); ``None`` where nobody wants them, or the model has none.
    """

    logits: Array
    labels: Array | None
    features: Array | None = None

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
        image_source: Where the images come from.
        parent: Bench of the unpruned network of the same seed; ``None`` if this is it.
        seed: Address of an evaluator's own draws; the same for parent and candidates.
        history: Every training that the model went through; empty where nobody knows.
    """

    def __init__(
        self,
        model: nn.Module,
        image_source: ImageSource,
        *,
        parent: Bench | None = None,
        seed: int = 0,
        history: tuple[Phase, ...] = (),
    ) -> None:
        self.model = model.eval()
        self.image_source = image_source
        self.seed = seed
        self.history = history
        self.batch_size = BATCH_SIZE
        self.passes: Counter[View] = Counter()
        self._parent = parent
        self._control: Bench | None = None
        self._memo: dict[Hashable, object] = {}
        self._outputs: dict[View, Outputs] = {}
        self._allowed: Collection[View] | None = None
        self._wanted: set[View] = set()
        self._ready: Prepared | None = None
        self._classifier: nn.Linear | SkippedError | None = None

    @property
    def parent(self) -> Bench:
        """The unpruned network's bench; its own for the parent itself."""
        return self._parent or self

    @property
    def control(self) -> Bench | None:
        """The parent's control: an unpruned network that was trained independently; ``None`` if there is none."""
        return self.parent._control

    def set_control(self, control: Bench | None) -> None:
        """Gives a parent its control, which its candidates share."""
        self.parent._control = control

    def memoise(self, key: Hashable, compute: Callable[[], Found]) -> Found:
        """Returns what `compute` returned at the first call with `key`: what a parent is asked for is asked once.

        Args:
            key: Of everything but the model and its images that the result depends on, beginning with the name
                of the test.
            compute: Looks at this bench alone.
        """
        if key not in self._memo:
            self._memo[key] = compute()
        return cast("Found", self._memo[key])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    @property
    def inference_model(self) -> Prepared:
        """The model prepared for many passes: a copy with batch norms folded, its weights frozen."""
        if self._ready is None:
            self._ready = prepared(self.model, device=self.device)
        return self._ready

    @property
    def classes(self) -> int:
        """Number of classes of the suite's data set."""
        return self.images(View()).classes

    @property
    def head(self) -> Head:
        """The classifier, which turns penultimate features into logits.

        Raises:
            SkippedError: If the model has no penultimate features; the sentence says why.
        """
        return head(self._last())

    def request_features(self, views: Collection[View]) -> None:
        """Asks for the penultimate features of `views` too; tell it before their passes, or they run again."""
        self._wanted.update(views)

    def restrict_inputs(self, views: Collection[View] | None) -> None:
        """Restricts what may be asked for to the `views` that an evaluator declared; ``None`` allows all."""
        self._allowed = views

    def images(self, view: View) -> ImageSet:
        """Returns the images of `view`."""
        return self.image_source.images(view)

    def condition(self, view: View) -> str:
        """Returns the name of the condition that `view` shows."""
        return self.image_source.condition(view)

    def outputs(self, view: View) -> Outputs:
        """Returns what the model says about `view`, computed at the first call.

        Raises:
            ContractError: If the evaluator did not declare the view in its needs.
            InvalidModelError: If the model breaks its contract on these images.
        """
        if self._allowed is not None and view not in self._allowed:
            raise ContractError(f"an evaluator asked for {view}, which its needs do not name; add it there")
        known = self._outputs.get(view)
        if known is None or (view in self._wanted and known.features is None and self._has_features()):
            self._outputs[view] = self._passed(view)
        return self._outputs[view]

    def _passed(self, view: View) -> Outputs:
        images = self.images(view)
        if not self._outputs:
            check_model(self.inference_model.model, self._logits, self.images(View()).images)
        if view in self._wanted and self._has_features():
            try:
                self.passes[view] += 1
                found, values = features_and_logits(
                    self.inference_model, images.images, self._last(), device=self.device
                )
                return Outputs(self._checked(values), images.labels, found)
            except SkippedError as error:  # they fail on these images: nobody gets them any more
                self._classifier = error
        self.passes[view] += 1
        return Outputs(self._logits(images.images), images.labels)

    def _logits(self, images: Array) -> Array:
        return self._checked(
            logits(self.inference_model, images, device=self.device, batch_size=self.batch_size)
        )

    def _checked(self, found: Array) -> Array:
        if found.shape[1] != self.classes:
            raise InvalidModelError(
                f"the model returns {found.shape[1]} logits per image, but the data set has {self.classes} classes; "
                "use a model that was trained for it"
            )
        return found

    def _last(self) -> nn.Linear:
        """The classifier, looked for once."""
        if self._classifier is None:
            try:
                few = self.images(View()).images[:PROBE]
                self._classifier = classifier(self.inference_model, few, device=self.device)
            except SkippedError as error:
                self._classifier = error
        if isinstance(self._classifier, SkippedError):
            raise self._classifier
        return self._classifier

    def _has_features(self) -> bool:
        try:
            self._last()
        except SkippedError:
            return False
        return True
