"""The training loop: seeded by address, masks enforced after every step, no selection by test accuracy."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import CellError, DataError, UserError
from evalsuite.models.cost import weights_digest
from evalsuite.models.inference import evaluation_mode
from evalsuite.random_streams import address
from evalsuite.training.augmentation import check_corruptions, corrupted_set
from evalsuite.training.batches import TrainingBatch, batches
from evalsuite.training.checkpoint import TrainingCheckpoint
from evalsuite.training.hooks import Hooks
from evalsuite.training.precision import with_precision
from evalsuite.training.recipe import Recipe, learning_rate
from evalsuite.training.state import TrainingState, accuracy, autocast
from evalsuite.training.stochastic_depth import stochastic_depth
from evalsuite.types import ImageSet

Masks = Mapping[str, Tensor]
"""Names of parameters to bool tensors of their shape: False stays zero."""


@dataclass(frozen=True)
class TrainingOptions:
    """Options of one training beside the recipe.

    Attributes:
        masks: Parameters that stay zero where the mask is False.
        hooks: Functions of a pruning method that the loop calls.
        start: Epoch of the schedule to begin at; may be a fraction.
        stop: Epoch to stop at; ``None`` is the recipe's end. A training that stops early leaves the weights of
            its last step: no average, no selection.
        validation: Labelled images, where the recipe selects or tracks by them.
        checkpoint: File that an interrupted training is resumed from; ``None`` saves nothing.
        teacher: The network that a recipe with distillation learns from, seen in evaluation mode.
    """

    masks: Masks = field(default_factory=dict)
    hooks: Hooks = field(default_factory=Hooks)
    start: float = 0.0
    stop: float | None = None
    validation: ImageSet | None = None
    checkpoint: TrainingCheckpoint | None = None
    teacher: nn.Module | None = None


def train(
    model: nn.Module, images: ImageSet, recipe: Recipe, *, seed: int, options: TrainingOptions | None = None
) -> tuple[float, ...]:
    """Trains `model` in place with cross-entropy and leaves it in evaluation mode.

    No weights are selected by test accuracy: they are those of the last epoch, or of the best on a validation split.

    Args:
        model: Takes float images in [0, 1], (B, C, H, W); returns logits (B, K).
        images: Labelled training images.
        recipe: Optimiser, schedule, augmentation and so on.
        seed: Address of the order of the images and their augmentation; the same seed gives the same weights.
        options: Masks, hooks, a part of the schedule, a checkpoint; by default none of these.

    Returns:
        Validation accuracy after each epoch, where the recipe tracks it; else nothing.

    Raises:
        DataError: If the images have no labels.
        UserError: If the recipe needs a validation split and there is none, or the training starts after its end.
        CellError: If the loss stops being finite.
    """
    options = options or TrainingOptions()
    labels = _labels(images)
    stop = recipe.epochs if options.stop is None else options.stop
    _check(recipe, options, stop)
    check_corruptions(recipe, images.images.shape[1:])
    if options.validation is not None and (recipe.track or recipe.select == "validation"):
        options = replace(options, validation=corrupted_set(options.validation, recipe, seed))
    device = next(model.parameters()).device
    recipe = with_precision(recipe, device)
    key = "" if options.checkpoint is None else _key(model, recipe, options, seed)
    state = TrainingState(model, recipe, options.hooks.state)
    masked = apply_masks(model, options.masks)
    finished = state.resume(options.checkpoint, key)
    first = int(options.start) if finished is None else finished
    model.train()
    teacher = options.teacher if recipe.distillation != "none" else None
    with _fork_random_state(device), stochastic_depth(model, recipe.stochastic_depth), _frozen(teacher):
        for epoch in range(first, math.ceil(stop)):
            for batch in batches(images.images, labels, recipe, seed=seed, epoch=epoch):
                if options.start <= batch.epoch < stop:
                    _step(state, batch, options, masked)
            if epoch + 1 <= stop:
                _end_epoch(state, epoch + 1, options)
                state.save(options.checkpoint, key, epoch + 1, last=epoch + 1 >= stop)
    if stop == recipe.epochs:
        state.load_selected_weights()
        _zero_masked(masked)
    model.eval()
    return tuple(state.curve) if recipe.track else ()


def training_seed(seed: int, *key: str | int | float) -> int:
    """Returns the seed of one training, an address made of the run's seed and a key of the training."""
    return address(seed, "train", *key)


def _step(
    state: TrainingState, batch: TrainingBatch, options: TrainingOptions, masked: list[tuple[Tensor, Tensor]]
) -> None:
    model, recipe, optimiser, hooks = state.model, state.recipe, state.optimiser, options.hooks
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(recipe, batch.epoch)
    _reseed(state.device, batch.seed)
    loss = _loss(state, batch, options.teacher)
    penalty = hooks.penalty(model) if hooks.penalty else None
    if penalty is not None:
        loss = loss + penalty
    if not torch.isfinite(loss):
        raise CellError(
            f"training diverged: the loss is {loss.item()} in epoch {int(batch.epoch) + 1}; "
            f"lower the learning rate (now {recipe.learning_rate:g})"
        )
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    if hooks.before_step:
        hooks.before_step(model, batch.epoch)
    optimiser.step()
    _zero_masked(masked)
    if hooks.after_step:
        hooks.after_step(model, batch.epoch, batch.step)
    state.update_average()


def _loss(state: TrainingState, batch: TrainingBatch, teacher: nn.Module | None) -> Tensor:
    """The loss against the labels, and that against the teacher where the recipe distils."""
    recipe, images = state.recipe, batch.images.to(state.device, memory_format=state.memory_format)
    with autocast(state.device, recipe):
        logits = state.model(images)
    loss = _label_loss(state, batch, logits.float())
    if recipe.distillation == "none" or teacher is None:
        return loss
    with torch.no_grad(), autocast(state.device, recipe):
        targets = teacher(images).float()
    weight = recipe.distillation_weight
    return (1 - weight) * loss + weight * distillation_loss(logits.float(), targets, recipe)


def distillation_loss(logits: Tensor, teacher: Tensor, recipe: Recipe) -> Tensor:
    """Returns the loss of a student's logits against those of its teacher, both (B, K).

    References:
        Touvron et al. 2021, arXiv 2012.12877: equation 3 for ``hard``, the second term of equation 2 for ``soft``
        (Hinton et al. 2015, arXiv 1503.02531).
    """
    if recipe.distillation == "hard":
        return functional.cross_entropy(logits, teacher.argmax(1))
    scaled, targets = ((values / recipe.temperature).log_softmax(1) for values in (logits, teacher))
    return recipe.temperature**2 * functional.kl_div(scaled, targets, reduction="batchmean", log_target=True)


def _label_loss(state: TrainingState, batch: TrainingBatch, logits: Tensor) -> Tensor:
    """Cross-entropy with the recipe's smoothing, weighted between the labels of images that were mixed."""
    device, smoothing = state.device, state.recipe.label_smoothing
    loss = functional.cross_entropy(logits, batch.labels.to(device), label_smoothing=smoothing)
    if batch.label_weight == 1.0:
        return loss
    mixed_loss = functional.cross_entropy(logits, batch.mixed_labels.to(device), label_smoothing=smoothing)
    return batch.label_weight * loss + (1 - batch.label_weight) * mixed_loss


def _end_epoch(state: TrainingState, epochs: int, options: TrainingOptions) -> None:
    if options.hooks.after_epoch:
        options.hooks.after_epoch(state.model, epochs)
    recipe = state.recipe
    if options.validation is not None and (recipe.track or recipe.select == "validation"):
        with state.averaged_weights():
            state.record_validation(accuracy(state.model, options.validation, recipe))


def _check(recipe: Recipe, options: TrainingOptions, stop: float) -> None:
    if not 0 <= options.start <= stop <= recipe.epochs:
        raise UserError(
            f"found a training from epoch {options.start:g} to {stop:g}, expected rising epochs within the recipe's "
            f"{recipe.epochs}"
        )
    if recipe.distillation != "none" and options.teacher is None:
        raise UserError(
            "the recipe has distillation, but this training has no teacher: a parent has none, and a network trained "
            "anew by its parent's recipe neither; put distillation into [retraining]"
        )
    if (recipe.track or recipe.select == "validation") and options.validation is None:
        raise UserError(
            "the recipe selects or tracks by the validation split, but there is none; "
            "use select = 'last' and track = false"
        )


def _key(model: nn.Module, recipe: Recipe, options: TrainingOptions, seed: int) -> str:
    """Everything that distinguishes this training from others with the same data and code."""
    masks = hashlib.sha256()
    for name, mask in sorted(options.masks.items()):
        masks.update(name.encode() + mask.cpu().contiguous().numpy().tobytes())
    taught = () if options.teacher is None else (weights_digest(options.teacher),)
    return repr(
        (weights_digest(model), recipe, masks.hexdigest(), options.start, options.stop, seed, *taught)
    )


def _labels(images: ImageSet) -> Tensor:
    if images.labels is None:
        raise DataError(f"image set {images.name!r} has no labels: expected a labelled set to train on")
    return torch.from_numpy(np.array(images.labels, dtype=np.int64))


def _frozen(teacher: nn.Module | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if teacher is None else evaluation_mode(teacher)


@contextlib.contextmanager
def _fork_random_state(device: torch.device) -> Iterator[None]:
    """Restores the global random state after the block, in which every step seeds the draws of the model (dropout)."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _reseed(device: torch.device, seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def apply_masks(model: nn.Module, masks: Masks) -> list[tuple[Tensor, Tensor]]:
    """Sets the parameters of `model` to zero, in place, where `masks` are False; returns them with their masks."""
    parameters = dict(model.named_parameters())
    masked: list[tuple[Tensor, Tensor]] = [
        (parameters[name], mask.to(parameters[name])) for name, mask in masks.items()
    ]
    _zero_masked(masked)
    return masked


def _zero_masked(masked: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for parameter, mask in masked:
            parameter.mul_(mask)
