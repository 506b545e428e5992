"""One candidate on its image sets: each forward pass happens once, and all evaluators share its outputs."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch

from evalsuite.datasets.views import View
from evalsuite.errors import ContractError, DataError, InvalidModelError, SkippedError
from evalsuite.metrics.class_rules import scored_logits
from evalsuite.metrics.logits import confidence, correct, nll
from evalsuite.model_checks import PROBE, check_model
from evalsuite.models.features import Head, classifier_head, classifier_layer, features_and_logits
from evalsuite.models.inference import BATCH_SIZE, InferenceModel, logits, prepare_for_inference
from evalsuite.models.scored import ScoredNetwork

if TYPE_CHECKING:
    from torch import nn

    from evalsuite.datasets.source import ImageSource
    from evalsuite.types import Array, Floats, ImageSet, Phase, ScoringRule

T = TypeVar("T")
WITHOUT_LIKELIHOODS = (
    'precision = "screened" has predictions alone on these images; choose "exact" for likelihoods'
)
"""Why a number is missing on a set that was screened."""


class _OldName:
    """An attribute that evaluators of evalsuite 0.1 used under another name, which works for one release.

    A descriptor and no ``__getattr__``: that would hide from type checkers which attributes there are, and from
    users the ``AttributeError`` of their own model.
    """

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.message = (
            f"{owner.__name__}.{name} is now called {owner.__name__}.{self.new}; the old name stops working with the "
            "next release"
        )

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        warnings.warn(self.message, DeprecationWarning, stacklevel=2)
        return getattr(instance, self.new)


@dataclass(frozen=True)
class Outputs:
    """The outputs of a model on an image set.

    Attributes:
        logits: float32 (N, K).
        labels: int64 (N,), or ``None`` for images out of distribution.
        features: Penultimate features, float32 (N, D); ``None`` where no evaluator requested them, or the model
            has none.
    """

    logits: Array
    labels: Array | None
    features: Array | None = None

    @cached_property
    def predictions(self) -> Array:
        """Most likely classes, int64 (N,)."""
        classes: Array = np.argmax(self.logits, axis=1)
        return classes

    @cached_property
    def correct(self) -> Array:
        """Whether each prediction is right, bool (N,)."""
        return correct(self.logits, self.true_labels)

    @cached_property
    def confidence(self) -> Floats:
        """Largest probability, float64 (N,)."""
        return confidence(self.logits)

    @cached_property
    def nll(self) -> Floats:
        """Negative log-likelihood of the label in nats, float64 (N,)."""
        return nll(self.logits, self.true_labels)

    @property
    def true_labels(self) -> Array:
        """The labels, int64 (N,).

        Raises:
            DataError: If the images are out of distribution.
        """
        if self.labels is None:
            raise DataError("these images are out of distribution and have no labels: use another view")
        return self.labels

    known = _OldName("true_labels")


@dataclass(frozen=True)
class ScreenedOutputs(Outputs):
    """Predictions of a model on an image set in screened precision: there are no likelihoods.

    Attributes:
        again: Which images were passed again in single precision, bool (N,).
        changed: How many of these have another prediction in bfloat16.
    """

    again: Array = field(default_factory=lambda: np.zeros(0, bool))
    changed: int = 0

    @property
    def confidence(self) -> Floats:
        """Raises an error: probabilities need single precision on every image."""
        raise ContractError(f"confidence: {WITHOUT_LIKELIHOODS}")

    @property
    def nll(self) -> Floats:
        """Raises an error: likelihoods need single precision on every image."""
        raise ContractError(f"nll: {WITHOUT_LIKELIHOODS}")


class Bench:
    """One model, and its outputs on the image sets that its evaluators need.

    Args:
        model: Takes float images in [0, 1], (B, C, H, W); returns logits (B, K). It is put into evaluation
            mode, and kept as `network`.
        image_source: Where the images come from.
        parent: Bench of the unpruned network of the same seed; ``None`` if this is it.
        seed: Address of an evaluator's own draws; the same for parent and candidates.
        history: Every training that the model went through; empty if it is unknown.
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
        self.network = model.eval()
        self.image_source = image_source
        self.seed = seed
        self.history = history
        self.batch_size = BATCH_SIZE
        self.passes: Counter[View] = Counter()
        self._parent = parent
        self._control: Bench | None = None
        self._memo: dict[Hashable, object] = {}
        self._outputs: dict[View, Outputs] = {}
        self._declared_views: Collection[View] | None = None
        self._feature_views: set[View] = set()
        self._model: nn.Module | None = None
        self._inference_model: InferenceModel | None = None
        self._classifier: nn.Linear | SkippedError | None = None

    @property
    def model(self) -> nn.Module:
        """The model as it is scored on the suite's images: `network`, or behind the rule of their classes."""
        if self._model is None:
            rule = self.images(View()).rule
            self._model = self.network if rule is None else ScoredNetwork(self.network, rule).eval()
        return self._model

    @property
    def parent(self) -> Bench:
        """The unpruned network's bench; its own for the parent itself."""
        return self._parent or self

    @property
    def control(self) -> Bench | None:
        """The parent's control: an unpruned network that was trained independently; ``None`` if there is none."""
        return self.parent._control

    def set_control(self, control: Bench | None) -> None:
        """Sets the control of the parent, which its candidates share."""
        self.parent._control = control

    def memoise(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Returns what `compute` returned at the first call with `key`: a parent's results serve all candidates.

        Args:
            key: Of everything but the model and its images that the result depends on, beginning with the name
                of the evaluator.
            compute: Depends on this bench alone.
        """
        if key not in self._memo:
            self._memo[key] = compute()
        return cast("T", self._memo[key])

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))

    @property
    def inference_model(self) -> InferenceModel:
        """The model prepared for many passes: a copy with batch norms folded, its weights frozen."""
        if self._inference_model is None:
            self._inference_model = prepare_for_inference(self.model, device=self.device)
        return self._inference_model

    @property
    def gradient_model(self) -> InferenceModel:
        """The prepared model whose gradients PGD follows; whether it broke an image is for `inference_model` to say."""
        return self.inference_model

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
        return classifier_head(self._classifier_layer())

    def request_features(self, views: Collection[View]) -> None:
        """Requests the penultimate features of `views` too; call it before their passes, or they run again."""
        self._feature_views.update(views)

    def restrict_inputs(self, views: Collection[View] | None) -> None:
        """Restricts `outputs` to the `views` that an evaluator declared; ``None`` allows all."""
        self._declared_views = views

    def images(self, view: View) -> ImageSet:
        """Returns the images of `view`."""
        return self.image_source.images(view)

    def condition(self, view: View) -> str:
        """Returns the name of the condition that `view` shows."""
        return self.image_source.condition(view)

    def outputs(self, view: View) -> Outputs:
        """Returns the outputs of the model on `view`, computed at the first call.

        Raises:
            ContractError: If the evaluator did not declare the view in its needs.
            InvalidModelError: If the model breaks its contract on these images.
        """
        if self._declared_views is not None and view not in self._declared_views:
            raise ContractError(f"an evaluator asked for {view}, which its needs do not name; add it there")
        outputs = self._outputs.get(view)
        if outputs is None or (outputs.features is None and self._takes_features(view)):
            self._outputs[view] = self._forward(view)
        return self._outputs[view]

    def is_screened(self, view: View) -> bool:  # noqa: ARG002  # only runs screen
        """Returns whether `outputs` has the predictions of a view alone; see `ScreenedOutputs`."""
        return False

    def has_outputs(self, view: View) -> bool:
        """Returns whether the outputs of the model on `view` are computed already."""
        return view in self._outputs

    def _forward(self, view: View) -> Outputs:
        images = self.images(view)
        self._check_first()
        if self._takes_features(view):
            try:
                self.passes[view] += 1
                features, values = features_and_logits(
                    self.inference_model,
                    images.images,
                    self._classifier_layer(),
                    device=self.device,
                    batch_size=self.batch_size,
                )
                return Outputs(self._checked(values), images.labels, features)
            except (
                SkippedError
            ) as error:  # features that are wrong on these images are used on no others either
                self._classifier = error
        self.passes[view] += 1
        values = self._logits(images.images)
        return Outputs(scored_logits(values, self._rule_beside(images)), images.labels)

    def _check_first(self) -> None:
        """Checks the contract of the model before its first outputs."""
        if not self._outputs:
            check_model(self.inference_model.model, self._logits, self.images(View()).images)

    def _rule_beside(self, images: ImageSet) -> ScoringRule | None:
        """The rule of a set whose classes are not those of the suite's images; theirs is part of the model."""
        return None if images.rule == self.images(View()).rule else images.rule

    def _logits(self, images: Array) -> Array:
        return self._checked(
            logits(self.inference_model, images, device=self.device, batch_size=self.batch_size)
        )

    def _checked(self, values: Array) -> Array:
        rule = self.images(View()).rule
        spare = (
            rule is not None and rule.kind == "many_to_one" and -1 in rule.indices
        )  # a column for no class
        if values.shape[1] != self.classes + spare:
            raise InvalidModelError(
                f"the model returns {values.shape[1]} logits per image, but the data set has {self.classes} classes; "
                "use a model that was trained for it"
            )
        return values

    def _takes_features(self, view: View) -> bool:
        """Whether the features of a view are requested and the model has some."""
        if view not in self._feature_views:
            return False
        try:
            self._classifier_layer()
        except SkippedError:
            return False
        return True

    def _classifier_layer(self) -> nn.Linear:
        """The classifier, which is searched for once."""
        if self._classifier is None:
            try:
                probe = self.images(View()).images[:PROBE]
                self._classifier = classifier_layer(self.inference_model, probe, device=self.device)
            except SkippedError as error:
                self._classifier = error
        if isinstance(self._classifier, SkippedError):
            raise self._classifier
        return self._classifier

    allow = _OldName("restrict_inputs")
    contrast = _OldName("set_control")
    gallery = _OldName("image_source")
    ready = _OldName("inference_model")
    remember = _OldName("memoise")
    want = _OldName("request_features")
