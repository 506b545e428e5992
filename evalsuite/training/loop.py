"""The training loop: seeded by address, masks enforced after every step, last epoch kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalsuite.errors import CellError, DataError
from evalsuite.randomness import address
from evalsuite.records import Array, ImageSet
from evalsuite.training.recipe import Recipe, learning_rate

Masks = Mapping[str, Tensor]
"""Names of parameters to bool tensors of their shape: True is kept, False stays zero."""


def train(
    model: nn.Module, images: ImageSet, recipe: Recipe, *, seed: int, masks: Masks | None = None
) -> None:
    """Trains `model` in place with cross-entropy and leaves it in evaluation mode.

    Nothing is selected by test accuracy: the last epoch stands.

    Args:
        model: Takes float images in [0, 1], (B, C, H, W); returns logits (B, K).
        images: Labelled training images.
        recipe: How.
        seed: Address of the order of the images and their augmentation; the same seed gives the same weights.
        masks: Parameters that stay zero where the mask is False.

    Raises:
        DataError: If the images have no labels.
        CellError: If the loss stops being finite.
    """
    if images.labels is None:
        raise DataError(f"image set {images.name!r} has no labels: expected a labelled set to train on")
    labels = torch.from_numpy(np.array(images.labels, dtype=np.int64))
    draws = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    device = next(model.parameters()).device
    held = _held(model, masks or {})
    model.train()
    with _seeded(device, seed):
        for at, batch, wanted in _steps(images.images, labels, recipe, draws):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe, at)
            loss = functional.cross_entropy(model(batch.to(device)), wanted.to(device))
            if not torch.isfinite(loss):
                raise CellError(
                    f"training diverged: the loss is {loss.item()} in epoch {int(at) + 1}; "
                    f"lower the learning rate (now {recipe.learning_rate:g})"
                )
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            _enforce(held)
    model.eval()


def augmented(batch: Tensor, augment: str, draws: torch.Generator) -> Tensor:
    """Returns a batch (B, C, H, W) shifted by a random crop and perhaps flipped, each image by itself."""
    if augment == "none":
        return batch
    count, _, height, width = batch.shape
    reach = height // 8
    padded = functional.pad(batch, (reach,) * 4)
    corner = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=draws)
    rows, columns = corner[0] + torch.arange(height), corner[1] + torch.arange(width)
    if augment == "crop-flip":
        flip = torch.rand((count, 1), generator=draws) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    cropped = padded[index, :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def training_seed(seed: int, *key: str | int | float) -> int:
    """Returns the address of one training: the run's seed and what is trained."""
    return address(seed, "train", *key)


@contextlib.contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds what the model itself draws (dropout), and gives everybody else's random state back."""
    on_card = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_card else []):
        torch.default_generator.manual_seed(seed)
        if on_card:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _steps(
    images: Array, labels: Tensor, recipe: Recipe, draws: torch.Generator
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yields for each step where its middle is, in epochs, and a batch of images with their labels.

    The middle: at its end the last step would have a learning rate of zero, and milestones would come early.
    """
    steps = -(-len(labels) // recipe.batch_size)
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(labels), generator=draws)
        for step, rows in enumerate(torch.split(order, recipe.batch_size)):
            batch = augmented(_batch(images, rows), recipe.augment, draws)
            yield epoch + (step + 0.5) / steps, batch, labels[rows]


def _batch(images: Array, rows: Tensor) -> Tensor:
    chosen = images[rows.numpy()]
    batch = torch.from_numpy(np.ascontiguousarray(chosen)).float()
    return batch / 255 if chosen.dtype == np.uint8 else batch


def _held(model: nn.Module, masks: Masks) -> list[tuple[Tensor, Tensor]]:
    """Parameters with their masks as floats; they are zeroed once at the start."""
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
