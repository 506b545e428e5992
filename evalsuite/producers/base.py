"""The contract of a producer, and the context in which it prunes and retrains."""

from __future__ import annotations

import contextlib
import copy
import warnings
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.cost_axes import DEFAULT_AXIS
from evalsuite.errors import InvalidModelError, SkippedError, UserError
from evalsuite.models.batch_norm import has_batch_norms, reestimate_batch_norms
from evalsuite.models.inference import logits
from evalsuite.random_streams import generator
from evalsuite.training.augmentation import corrupted
from evalsuite.training.batches import float_pixels
from evalsuite.training.checkpoint import TrainingCheckpoint
from evalsuite.training.history import Span, history, phase_of, set_history
from evalsuite.training.hooks import Hooks
from evalsuite.training.loop import Masks, TrainingOptions, apply_masks, train, training_seed
from evalsuite.training.origin import Origin
from evalsuite.training.recipe import Recipe
from evalsuite.types import Array, ImageSet, Phase

T = TypeVar("T")

NO_HOOKS = Hooks(phase="retraining")
RECALIBRATION_IMAGES = 1000
"""Training images of which batch norms are estimated anew, to measure what that alone repairs."""


class FitOptions(TypedDict, total=False):
    """The optional arguments of `Context.fit`.

    Attributes:
        masks: Names of parameters to bool tensors: True is kept, False is zero after every step.
        recipe: Another one than the context's.
        start: Epoch of the schedule at which to begin, perhaps a fraction: weight rewinding resumes there.
        hooks: Penalty, gradients, weights and masks that change during the training. A training that prunes in
            this way ends with its last epoch: a better one would be one from before the pruning.
    """

    masks: Masks | None
    recipe: Recipe | None
    start: float
    hooks: Hooks


@dataclass(frozen=True)
class Context:
    """What a producer may use: images, recipes, draws, and the one way to train.

    Attributes:
        train: Labelled training images.
        recipe: How to retrain.
        seed: Address of the producer's own draws: ``evalsuite.random_streams.generator(context.seed, ...)``.
        previous: The last candidate of an interrupted run, at a smaller ratio than the first that is asked
            for; ``None`` at the start.
        origin: How the parent was made; ``None`` if that is unknown: nothing can then start from first weights.
        validation: Labelled images on which accuracy is measured before and after a training, and by which recipes
            may select or track; never the test images.
        initial_history: The trainings behind the model from which the producer goes on: the parent, or `previous`.
        progress: Folder of the progress of long trainings, and the digest of all that they depend on;
            ``None`` saves none.
        pruned_only: Target ratios at which nothing is retrained: steps on the way to the next candidate.
        teacher: The parent, which a recipe with distillation learns from; ``None`` where no recipe distils.
    """

    train: ImageSet
    recipe: Recipe
    seed: int
    previous: nn.Module | None = None
    origin: Origin | None = None
    validation: ImageSet | None = None
    initial_history: tuple[Phase, ...] = ()
    progress: TrainingCheckpoint | None = None
    teacher: nn.Module | None = None
    pruned_only: frozenset[float] = frozenset()
    _phases: list[Phase] = field(default_factory=list, init=False, repr=False, compare=False)
    _fit_counts: Counter[float] = field(default_factory=Counter, init=False, repr=False, compare=False)
    _rewound: dict[float, nn.Module] = field(default_factory=dict, init=False, repr=False, compare=False)

    def retrain(self, model: nn.Module, ratio: float, *, masks: Masks | None = None) -> None:
        """Retrains `model` in place with the recipe's full schedule; masked weights stay zero."""
        self.fit(model, ratio, masks=masks)

    def fit(self, model: nn.Module, ratio: float, **options: Unpack[FitOptions]) -> None:
        """Trains `model` in place and leaves it in evaluation mode: the one way to train.

        The training goes into the model's history, and a killed one goes on from its last saved epoch.

        Args:
            model: What to train, on the device where it is.
            ratio: The target that this training is for: with the seed the address of its order of images.
            options: See `FitOptions`.
        """
        hooks = options.get("hooks", NO_HOOKS)
        if ratio in self.pruned_only and hooks.phase == "retraining":
            apply_masks(model, options.get("masks") or {})
            model.eval()
            return
        recipe = options.get("recipe") or self.recipe
        if hooks.phase == "pruning":
            recipe = replace(recipe, select="last")
        index = self._fit_counts[ratio]
        self._fit_counts[ratio] += 1
        earlier = self.history(model)
        training = TrainingOptions(
            masks=options.get("masks") or {},
            hooks=hooks,
            start=options.get("start", 0.0),
            validation=self.validation,
            checkpoint=None if self.progress is None else self.progress.of(ratio, index),
            teacher=self.teacher if recipe.distillation != "none" else None,
        )
        apply_masks(model, training.masks)
        before, recalibrated = self._validation_accuracy(model), self._recalibrated_accuracy(model)
        seed = training_seed(self.seed, "retrain", ratio)
        curve = train(model, self.train, recipe, seed=seed, options=training)
        span = Span(hooks.phase, training.start, recipe.epochs)
        phase = phase_of(model, self.train, recipe, span, curve=curve)
        after = self._validation_accuracy(model)
        phase = replace(phase, before=before, recalibrated=recalibrated, after=after)
        self._phases.append(phase)
        set_history(model, (*earlier, phase))

    @property
    def parent_recipe(self) -> Recipe:
        """How a network that starts from first weights is trained: as its parent was, if that is known."""
        return (None if self.origin is None else self.origin.recipe) or self.recipe

    def fresh(self) -> nn.Module:
        """Returns the parent's architecture with the parent's first weights, in training mode.

        The weights are those that a parent trained here had before its first step. For a parent that was
        read from a checkpoint they are drawn at the same address, which is not what it started from.

        Raises:
            SkippedError: If the parent's architecture is unknown.
        """
        return self.known_origin.initial()

    def rewound(self, epoch: float) -> nn.Module:
        """Returns the parent as it was after `epoch` epochs of its own training, bit for bit.

        Raises:
            SkippedError: If the parent was not trained here, or not for so long.
        """
        if epoch not in self._rewound:
            self._rewound[epoch] = self.known_origin.rewound(epoch, self.train, validation=self.validation)
        return copy.deepcopy(self._rewound[epoch])

    def batch(self, count: int, *key: str | int | float) -> tuple[Tensor, Tensor]:
        """Returns training images, never augmented, with their labels, on the parent's device.

        They are corrupted where the recipe corrupts training images.

        Args:
            count: How many; all of them if there are no more.
            key: Separates several draws; the same key gives the same images.

        Returns:
            float32 in [0, 1], (count, C, H, W), and int64, (count,).
        """
        rows = generator(self.seed, "batch", *key).permutation(len(self.train.images))[:count]
        return self._training_images(rows, "batch", *key)

    def per_class(self, count: int, *key: str | int | float) -> tuple[Tensor, Tensor]:
        """Returns `count` training images of each class, sorted by class; otherwise like `batch`.

        Raises:
            UserError: If a class has fewer.
        """
        labels = self._labels
        order = generator(self.seed, "per class", *key).permutation(len(labels))
        rows = [order[labels[order] == label][:count] for label in range(self.train.classes)]
        if (least := min(map(len, rows))) < count:
            raise UserError(
                f"image set {self.train.name!r} has a class with {least} training images, "
                f"but {count} of each are asked for; ask for fewer"
            )
        return self._training_images(np.concatenate(rows), "per class", *key)

    def inherit_history(self, model: nn.Module, source: nn.Module) -> None:
        """Records that `model` owes its mask or shape to the trained `source`: its history is that of both.

        Copies of a model carry its history by themselves; this is for weights that were rewound or drawn anew.
        """
        later = (phase for phase in self.history(model) if phase.what != "pretraining")
        set_history(model, (*self.history(source), *later))

    def history(self, model: nn.Module) -> tuple[Phase, ...]:
        """Returns the trainings of `model`; one without a record is taken to come of all that were done here."""
        recorded = history(model)
        return (*self.initial_history, *self._phases) if recorded is None else recorded

    def credit(self, model: nn.Module, source: nn.Module) -> None:
        """Calls `inherit_history`, whose name it was up to evalsuite 0.1."""
        warnings.warn("Context.credit is now Context.inherit_history", DeprecationWarning, stacklevel=2)
        self.inherit_history(model, source)

    @property
    def lineage(self) -> tuple[Phase, ...]:
        """`initial_history`, by its name up to evalsuite 0.1."""
        warnings.warn("Context.lineage is now Context.initial_history", DeprecationWarning, stacklevel=2)
        return self.initial_history

    @property
    def device(self) -> torch.device:
        """Where the parent is."""
        return torch.device("cpu") if self.origin is None else self.origin.device

    @property
    def known_origin(self) -> Origin:
        """`origin`, where there is one.

        Raises:
            SkippedError: If there is none.
        """
        if self.origin is None:
            raise SkippedError(
                "this producer starts from new or earlier weights, but how the parent was built is unknown; "
                "give the context an origin"
            )
        return self.origin

    @cached_property
    def _labels(self) -> Array:
        if self.train.labels is None:
            raise UserError(f"image set {self.train.name!r} has no labels, expected a labelled training set")
        return np.asarray(self.train.labels, dtype=np.int64)

    def _validation_accuracy(self, model: nn.Module) -> float | None:
        """Accuracy on the validation split, in full precision; ``None`` without one, or if logits are not finite."""
        if self.validation is None or self.validation.labels is None:
            return None
        device = next(model.parameters()).device
        with contextlib.suppress(InvalidModelError):
            predictions = logits(model, self.validation.images, device=device).argmax(axis=1)
            return float((predictions == self.validation.labels).mean())
        return None

    def _recalibrated_accuracy(self, model: nn.Module) -> float | None:
        """The same once the batch norms have the statistics of training images."""
        if self.validation is None or not has_batch_norms(model):
            return None
        order = generator(self.seed, "recalibrate").permutation(len(self.train.images))
        images = self.train.images[np.sort(order[:RECALIBRATION_IMAGES])]
        return self._validation_accuracy(reestimate_batch_norms(model, images))

    def _training_images(self, rows: Array, *key: str | int | float) -> tuple[Tensor, Tensor]:
        raw = corrupted(self.train.images[rows], self.recipe.corruptions, self.seed, "corrupt", *key)
        images = float_pixels(raw)
        return images.to(self.device), torch.from_numpy(self._labels[rows]).to(self.device)


class Producer(ABC):
    """A pruning method: derive a frozen dataclass whose fields are the keys of the suite's table.

    Attributes:
        dense: Whether it prunes nothing: a control whose ratio is 0 everywhere, measured but on no curve of pruning.
        axis: The cost that it saves and that its ratios are counted in: a field of `evalsuite.types.Cost` that
            `evalsuite.models.cost.weight_cost` knows. Nearly all save non-zero parameters.
    """

    dense: ClassVar[bool] = False
    axis: ClassVar[str] = DEFAULT_AXIS

    @property
    def inner_producers(self) -> tuple[Producer, ...]:
        """Other producers that this one uses: its candidates depend on their code."""
        return ()

    @property
    def code_entries(self) -> tuple[str, ...]:
        """Modules beside its own class that its candidates depend on: of a user's function."""
        return ()

    @property
    def run_metadata(self) -> dict[str, Any]:
        """What a run stores of it for results, which never import it: that it prunes nothing, or what it saves."""
        dense = {"dense": True} if self.dense else {}
        return {**dense, **({"axis": self.axis} if self.axis != DEFAULT_AXIS else {})}

    @abstractmethod
    def produce(self, parent: nn.Module, ratios: Sequence[float], context: Context) -> Iterator[nn.Module]:
        """Yields one pruned and retrained model for each of the rising `ratios`.

        The caller measures the ratio of what is yielded, saves it, and checks that the parent is untouched
        and that measured ratios rise. A ratio is the share of the parent's non-zero parameters, biases and
        norms included, that is gone; or, of another `axis`, the share of that.

        Args:
            parent: The trained network, in evaluation mode; copy it.
            ratios: Rising, in (0, 1).
            context: Training images, recipe, seed, and where to go on.

        Raises:
            UserError: If a ratio cannot be reached.
        """


def nearest_choice(choices: Sequence[T], budget: float, size: Callable[[T], float]) -> T | None:
    """Returns the choice whose size comes nearest to `budget`; ``None`` if even the first is larger.

    Args:
        choices: Rising in size.
        budget: In units of `size`.
        size: Of a choice; called for some of them only.

    >>> nearest_choice([1, 4, 9], 7, float), nearest_choice([1, 4, 9], 20, float), nearest_choice([1, 4], 0.5, float)
    (9, 9, None)
    """
    index = bisect_left(choices, budget, key=size)
    if index == 0 and size(choices[0]) > budget:
        return None
    return min(choices[max(index - 1, 0) : index + 1], key=lambda choice: abs(size(choice) - budget))
