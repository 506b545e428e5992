"""The training loop: seeded by address, masks enforced after every step, no selection by test accuracy."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import CellError, DataError, UserError
from evalsuite.models.cost import weights_digest
from evalsuite.random_streams import address
from evalsuite.training.batches import TrainingBatch, batches
from evalsuite.training.hooks import Hooks
from evalsuite.training.progress import TrainingCheckpoint
from evalsuite.training.recipe import Recipe, learning_rate
from evalsuite.training.state import State, accuracy, autocast
from evalsuite.types import ImageSet

Masks = Mapping[str, Tensor]
"""Names of parameters to bool tensors of their shape: True is kept, False stays zero."""


@dataclass(frozen=True)
class Plan:
    """Is what one training does beside the recipe.

    Attributes:
        masks: Parameters that stay zero where the mask is False.
        hooks: What a pruning method adds to each step.
        start: Epoch of the schedule to begin at; may be a fraction.
        stop: Epoch to stop at; ``None`` is the recipe's end. A training that stops early leaves the weights as
            they are on the way: no average, no selection.
        validation: Labelled images, where the recipe selects or tracks by them.
        progress: Where to keep how far it is; ``None`` keeps nothing.
    """

    masks: Masks = field(default_factory=dict)
    hooks: Hooks = field(default_factory=Hooks)
    start: float = 0.0
    stop: float | None = None
    validation: ImageSet | None = None
    progress: TrainingCheckpoint | None = None


def train(
    model: nn.Module, images: ImageSet, recipe: Recipe, *, seed: int, plan: Plan | None = None
) -> tuple[float, ...]:
    """Trains `model` in place with cross-entropy and leaves it in evaluation mode.

    Nothing is selected by test accuracy: the last epoch stands, or the best one on a validation split.

    Args:
        model: Takes float images in [0, 1], (B, C, H, W); returns logits (B, K).
        images: Labelled training images.
        recipe: How.
        seed: Address of the order of the images and their augmentation; the same seed gives the same weights.
        plan: Masks, hooks, a part of the schedule, where to keep progress; by default nothing of that.

    Returns:
        Validation accuracy after each epoch, where the recipe tracks it; else nothing.

    Raises:
        DataError: If the images have no labels.
        UserError: If the recipe needs a validation split that is not there, or starts after its end.
        CellError: If the loss stops being finite.
    """
    plan = plan or Plan()
    labels = _labels(images)
    stop = recipe.epochs if plan.stop is None else plan.stop
    _check(recipe, plan, stop)
    device = next(model.parameters()).device
    key = "" if plan.progress is None else _key(model, recipe, plan, seed)
    state = State(model, recipe, plan.hooks.state)
    held = masked(model, plan.masks)
    first = state.resumed(plan.progress, key, otherwise=int(plan.start))
    model.train()
    with _own_randomness(device):
        for epoch in range(first, math.ceil(stop)):
            for batch in batches(images.images, labels, recipe, seed=seed, epoch=epoch):
                if plan.start <= batch.at < stop:
                    _step(state, batch, plan.hooks, held)
            if epoch + 1 <= stop:
                _close(state, epoch + 1, plan)
                state.saved(plan.progress, key, epoch + 1, last=epoch + 1 >= stop)
    if stop == recipe.epochs:
        state.settle()
        _enforce(held)
    model.eval()
    return tuple(state.curve) if recipe.track else ()


def training_seed(seed: int, *key: str | int | float) -> int:
    """Returns the address of one training: the run's seed and what is trained."""
    return address(seed, "train", *key)


def _step(state: State, batch: TrainingBatch, hooks: Hooks, held: list[tuple[Tensor, Tensor]]) -> None:
    model, recipe, optimiser = state.model, state.recipe, state.optimiser
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(recipe, batch.at)
    _reseed(state.device, batch.seed)
    loss = _loss(state, batch)
    extra = hooks.penalty(model) if hooks.penalty else None
    if extra is not None:
        loss = loss + extra
    if not torch.isfinite(loss):
        raise CellError(
            f"training diverged: the loss is {loss.item()} in epoch {int(batch.at) + 1}; "
            f"lower the learning rate (now {recipe.learning_rate:g})"
        )
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    if hooks.before_step:
        hooks.before_step(model, batch.at)
    optimiser.step()
    _enforce(held)
    if hooks.after_step:
        hooks.after_step(model, batch.at, batch.step)
    state.average()


def _loss(state: State, batch: TrainingBatch) -> Tensor:
    """Cross-entropy with the recipe's smoothing, shared out between the labels of images that were mixed."""
    device, smoothing = state.device, state.recipe.label_smoothing
    images = batch.images.to(device, memory_format=torch.channels_last)
    with autocast(device, state.recipe):
        logits = state.model(images)
    logits = logits.float()
    loss = functional.cross_entropy(logits, batch.labels.to(device), label_smoothing=smoothing)
    if batch.share == 1.0:
        return loss
    other = functional.cross_entropy(logits, batch.others.to(device), label_smoothing=smoothing)
    return batch.share * loss + (1 - batch.share) * other


def _close(state: State, epochs: int, plan: Plan) -> None:
    if plan.hooks.after_epoch:
        plan.hooks.after_epoch(state.model, epochs)
    recipe = state.recipe
    if plan.validation is not None and (recipe.track or recipe.select == "validation"):
        with state.averaged():
            state.judge(accuracy(state.model, plan.validation, recipe))


def _check(recipe: Recipe, plan: Plan, stop: float) -> None:
    if not 0 <= plan.start <= stop <= recipe.epochs:
        raise UserError(
            f"found a training from epoch {plan.start:g} to {stop:g}, expected rising epochs within the recipe's "
            f"{recipe.epochs}"
        )
    if (recipe.track or recipe.select == "validation") and plan.validation is None:
        raise UserError(
            "the recipe selects or tracks by the validation split, but there is none; "
            "use select = 'last' and track = false"
        )


def _key(model: nn.Module, recipe: Recipe, plan: Plan, seed: int) -> str:
    """All that tells this training from another one of the same data and code."""
    masks = hashlib.sha256()
    for name, mask in sorted(plan.masks.items()):
        masks.update(name.encode() + mask.cpu().contiguous().numpy().tobytes())
    return repr((weights_digest(model), recipe, masks.hexdigest(), plan.start, plan.stop, seed))


def _labels(images: ImageSet) -> Tensor:
    if images.labels is None:
        raise DataError(f"image set {images.name!r} has no labels: expected a labelled set to train on")
    return torch.from_numpy(np.array(images.labels, dtype=np.int64))


@contextlib.contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Gives everybody else's random state back: what the model draws (dropout) is seeded at every step."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _reseed(device: torch.device, seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def masked(model: nn.Module, masks: Masks) -> list[tuple[Tensor, Tensor]]:
    """Sets the parameters of `model` to zero, in place, where `masks` are False; returns them with their masks."""
    parameters = dict(model.named_parameters())
    held: list[tuple[Tensor, Tensor]] = [
        (parameters[name], mask.to(parameters[name])) for name, mask in masks.items()
    ]
    _enforce(held)
    return held


def _enforce(held: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for parameter, mask in held:
            parameter.mul_(mask)
