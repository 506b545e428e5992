"""The contract of a producer, and what it is given."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from evalsuite.cost_axes import DEFAULT_AXIS
from evalsuite.errors import InvalidModelError, SkippedError, UserError
from evalsuite.models.inference import logits
from evalsuite.models.norms import has_norms, reestimated
from evalsuite.random_streams import generator
from evalsuite.training.batches import pixels
from evalsuite.training.history import Span, history, phase_of, remember
from evalsuite.training.hooks import Hooks
from evalsuite.training.loop import Masks, Plan, masked, train, training_seed
from evalsuite.training.origin import Origin
from evalsuite.training.progress import TrainingCheckpoint
from evalsuite.training.recipe import Recipe
from evalsuite.types import Array, ImageSet, Phase

NO_HOOKS = Hooks(phase="retraining")
RECALIBRATING = 1000
"""Training images of which batch norms are estimated anew, to see what that alone repairs."""


@dataclass(frozen=True)
class Context:
    """Is what a producer may use.

    Attributes:
        train: Labelled training images.
        recipe: How to retrain.
        seed: Address of the producer's own draws: ``evalsuite.random_streams.generator(context.seed, ...)``.
        previous: The last candidate of an interrupted run, at a smaller ratio than the first that is asked
            for; ``None`` at the start.
        origin: How the parent was made; ``None`` if nobody knows, and then nothing can start afresh.
        validation: Labelled images on which models are judged before and after a training, and by which recipes
            may select or track; never the test images.
        lineage: What the model went through from which the producer goes on: the parent, or `previous`.
        progress: Folder of the progress of long trainings, and the digest of all that they depend on;
            ``None`` keeps none.
    """

    train: ImageSet
    recipe: Recipe
    seed: int
    previous: nn.Module | None = None
    origin: Origin | None = None
    validation: ImageSet | None = None
    lineage: tuple[Phase, ...] = ()
    progress: TrainingCheckpoint | None = None
    _phases: list[Phase] = field(default_factory=list, init=False, repr=False, compare=False)
    _fits: Counter[float] = field(default_factory=Counter, init=False, repr=False, compare=False)
    _rewound: dict[float, nn.Module] = field(default_factory=dict, init=False, repr=False, compare=False)

    def retrain(self, model: nn.Module, ratio: float, *, masks: Masks | None = None) -> None:
        """Retrains `model` in place with the recipe's full schedule; masked weights stay zero."""
        self.fit(model, ratio, masks=masks)

    def fit(
        self,
        model: nn.Module,
        ratio: float,
        *,
        masks: Masks | None = None,
        recipe: Recipe | None = None,
        start: float = 0.0,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        """Trains `model` in place and leaves it in evaluation mode: the one way to train.

        The training goes into the model's history, and a killed one goes on from its last saved epoch.

        Args:
            model: What to train, on the device where it is.
            ratio: The target that this training is for: with the seed the address of its order of images.
            masks: Names of parameters to bool tensors: True is kept, False is zero after every step.
            recipe: Another one than the context's.
            start: Epoch of the schedule at which to begin, perhaps a fraction: weight rewinding resumes there.
            hooks: Penalty, gradients, weights and masks that change on the way. A training that prunes so ends with
                its last epoch: a better one would be one from before the pruning.
        """
        chosen = recipe or self.recipe
        if hooks.phase == "pruning":
            chosen = replace(chosen, select="last")
        index = self._fits[ratio]
        self._fits[ratio] += 1
        before = self.history(model)
        plan = Plan(
            masks=masks or {},
            hooks=hooks,
            start=start,
            validation=self.validation,
            progress=None if self.progress is None else self.progress.of(ratio, index),
        )
        seed = training_seed(self.seed, "retrain", ratio)
        masked(model, plan.masks)
        pruned, recalibrated = self._judged(model), self._recalibrated(model)
        curve = train(model, self.train, chosen, seed=seed, plan=plan)
        span = Span(hooks.phase, start, chosen.epochs)
        phase = phase_of(model, self.train, chosen, span, curve=curve)
        phase = replace(phase, before=pruned, recalibrated=recalibrated, after=self._judged(model))
        self._phases.append(phase)
        remember(model, (*before, phase))

    def fresh(self) -> nn.Module:
        """Returns the parent's architecture with the parent's first weights, in training mode.

        The weights are those that a parent trained here had before its first step. For a parent that was
        read from a checkpoint they are drawn at the same address, which is not what it started from.

        Raises:
            SkippedError: If nobody knows the parent's architecture.
        """
        return self._origin.initial()

    def rewound(self, epoch: float) -> nn.Module:
        """Returns the parent as it was after `epoch` epochs of its own training, bit for bit.

        Raises:
            SkippedError: If the parent was not trained here, or not for so long.
        """
        if epoch not in self._rewound:
            self._rewound[epoch] = self._origin.rewound(epoch, self.train, validation=self.validation)
        return copy.deepcopy(self._rewound[epoch])

    def batch(self, count: int, *key: str | int | float) -> tuple[Tensor, Tensor]:
        """Returns training images, never augmented, with their labels, on the parent's device.

        Args:
            count: How many; all of them if there are no more.
            key: Tells several draws apart; the same key gives the same images.

        Returns:
            float32 in [0, 1], (count, C, H, W), and int64, (count,).
        """
        rows = generator(self.seed, "batch", *key).permutation(len(self.train.images))[:count]
        return self._taken(rows)

    def per_class(self, count: int, *key: str | int | float) -> tuple[Tensor, Tensor]:
        """Returns `count` training images of each class, sorted by class; otherwise like `batch`.

        Raises:
            UserError: If a class has fewer.
        """
        labels = self._labels
        order = generator(self.seed, "per class", *key).permutation(len(labels))
        rows = [order[labels[order] == one][:count] for one in range(self.train.classes)]
        if (least := min(map(len, rows))) < count:
            raise UserError(
                f"image set {self.train.name!r} has a class with {least} training images, "
                f"but {count} of each are asked for; ask for fewer"
            )
        return self._taken(np.concatenate(rows))

    def credit(self, model: nn.Module, source: nn.Module) -> None:
        """Writes down that `model` owes its mask or shape to the trained `source`: its history is that of both.

        Copies of a model carry its history by themselves; this is for weights that were rewound or drawn anew.
        """
        own = (phase for phase in self.history(model) if phase.what != "pretraining")
        remember(model, (*self.history(source), *own))

    def history(self, model: nn.Module) -> tuple[Phase, ...]:
        """Returns what `model` went through; one that carries nothing is taken to come of all that was trained."""
        found = history(model)
        return (*self.lineage, *self._phases) if found is None else found

    @property
    def device(self) -> torch.device:
        """Where the parent is."""
        return torch.device("cpu") if self.origin is None else self.origin.device

    @property
    def _origin(self) -> Origin:
        if self.origin is None:
            raise SkippedError(
                "this producer starts from new or earlier weights, but nobody knows how the parent was built; "
                "give the context an origin"
            )
        return self.origin

    @cached_property
    def _labels(self) -> Array:
        if self.train.labels is None:
            raise UserError(f"image set {self.train.name!r} has no labels, expected a labelled training set")
        return np.asarray(self.train.labels, dtype=np.int64)

    def _judged(self, model: nn.Module) -> float | None:
        """Accuracy on the validation split, if there is one, in full precision; unknown where nothing is finite."""
        if self.validation is None or self.validation.labels is None:
            return None
        device = next(model.parameters()).device
        with contextlib.suppress(InvalidModelError):
            found = logits(model, self.validation.images, device=device)
            return float((found.argmax(axis=1) == self.validation.labels).mean())
        return None

    def _recalibrated(self, model: nn.Module) -> float | None:
        """The same once the batch norms have the statistics of training images."""
        if self.validation is None or not has_norms(model):
            return None
        rows = generator(self.seed, "recalibrate").permutation(len(self.train.images))[:RECALIBRATING]
        return self._judged(reestimated(model, self.train.images[np.sort(rows)]))

    def _taken(self, rows: Array) -> tuple[Tensor, Tensor]:
        images = pixels(self.train.images, rows)
        return images.to(self.device), torch.from_numpy(self._labels[rows]).to(self.device)


class Producer(ABC):
    """Makes pruned models of a parent; derive a frozen dataclass whose fields are the keys of the suite's table.

    Attributes:
        dense: It prunes nothing: a control whose ratio is 0 everywhere, measured but on no curve of pruning.
        axis: What it saves, which its ratios are counted in: a field of `evalsuite.types.Cost` that
            `evalsuite.models.cost.counted` knows. Nearly all save non-zero parameters.
    """

    dense: ClassVar[bool] = False
    axis: ClassVar[str] = DEFAULT_AXIS

    @property
    def parts(self) -> tuple[Producer, ...]:
        """Other producers that this one uses: what it makes depends on their code."""
        return ()

    @property
    def remembered(self) -> dict[str, Any]:
        """What results must know of it where it is not there: that it prunes nothing, or what it saves."""
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
