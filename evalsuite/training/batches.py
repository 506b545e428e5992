"""Batches of training images: their order, augmentation and mixing are addressed by epoch and step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from evalsuite.random_streams import address, generator
from evalsuite.training.augmentation import auto_augmented, corrupted, erased
from evalsuite.training.recipe import Recipe
from evalsuite.types import Array


@dataclass(frozen=True)
class TrainingBatch:
    """The images and labels of one training step.

    Attributes:
        epoch: Position of the middle of the step, in epochs. At its end the last step would have a learning rate
            of zero, and milestones would come early.
        step: Steps from the first epoch on, this one included.
        seed: Seed of the draws that the model itself makes in this step, as for dropout.
        images: float32, (B, C, H, W).
        labels: int64, (B,).
        mixed_labels: Labels of the images that were mixed in, (B,).
        label_weight: Weight of `labels`; 1 where nothing was mixed in.
    """

    epoch: float
    step: int
    seed: int
    images: Tensor
    labels: Tensor
    mixed_labels: Tensor
    label_weight: float = 1.0


def batches(
    images: Array, labels: Tensor, recipe: Recipe, *, seed: int, epoch: int
) -> Iterator[TrainingBatch]:
    """Yields the batches of one epoch, each image once; they depend on the epoch's number, not on earlier epochs."""
    order = torch.randperm(len(labels), generator=_torch_generator(seed, "order", epoch))
    parts = torch.split(order, recipe.batch_size)
    for step, rows in enumerate(parts):
        draws = _torch_generator(seed, "augment", epoch, step)
        raw = corrupted(images[rows.numpy()], recipe.corruptions, seed, "corrupt", epoch, step)
        cropped = augmented(float_pixels(raw), recipe.augment, draws, padding=recipe.padding or None)
        recoloured = auto_augmented(cropped, recipe, seed, "auto-augment", epoch, step)
        plain = TrainingBatch(
            epoch=epoch + (step + 0.5) / len(parts),
            step=epoch * len(parts) + step + 1,
            seed=address(seed, "model", epoch, step),
            images=erased(recoloured, recipe, seed, "erase", epoch, step),
            labels=labels[rows],
            mixed_labels=labels[rows],
        )
        yield mixed(plain, recipe, generator(seed, "mix", epoch, step))


def pixels(images: Array, rows: Array) -> Tensor:
    """Returns some rows of `images` as float32 in [0, 1]."""
    return float_pixels(images[rows])


def float_pixels(images: Array) -> Tensor:
    """Returns all of `images`, uint8 or float in [0, 1], as float32 in [0, 1]."""
    batch = torch.from_numpy(np.ascontiguousarray(images)).float()
    return batch / 255 if images.dtype == np.uint8 else batch


def augmented(batch: Tensor, augment: str, draws: torch.Generator, *, padding: int | None = None) -> Tensor:
    """Returns a batch (B, C, H, W) shifted by a random crop and perhaps flipped, each image with draws of its own."""
    if augment == "none":
        return batch
    count, _, height, width = batch.shape
    reach = height // 8 if padding is None else padding
    padded = functional.pad(batch, (reach,) * 4)
    corner = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=draws)
    rows, columns = corner[0] + torch.arange(height), corner[1] + torch.arange(width)
    if augment == "crop-flip":
        flip = torch.rand((count, 1), generator=draws) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    cropped = padded[index, :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def mixed(batch: TrainingBatch, recipe: Recipe, draws: np.random.Generator) -> TrainingBatch:
    """Returns `batch` with other images of it mixed in, if the recipe has mixup or CutMix.

    References:
        Zhang et al. 2018, arXiv 1710.09412; Yun et al. 2019, arXiv 1905.04899, with the share of the labels
        taken from the box as it was clipped.
    """
    kinds = [kind for kind, alpha in (("mixup", recipe.mixup), ("cutmix", recipe.cutmix)) if alpha]
    if not kinds:
        return batch
    kind = kinds[int(draws.integers(len(kinds)))]
    alpha = recipe.mixup if kind == "mixup" else recipe.cutmix
    weight = float(draws.beta(alpha, alpha))
    partner = torch.from_numpy(draws.permutation(len(batch.labels)))
    if kind == "mixup":
        images = weight * batch.images + (1 - weight) * batch.images[partner]
    else:
        rows, columns = _box(batch.images.shape[2:], 1 - weight, draws)
        images = batch.images.clone()
        images[:, :, rows, columns] = batch.images[partner][:, :, rows, columns]
        height, width = batch.images.shape[2:]
        weight = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return replace(batch, images=images, mixed_labels=batch.labels[partner], label_weight=weight)


def _box(side: torch.Size, area: float, draws: np.random.Generator) -> tuple[slice, slice]:
    """A box of a share `area` of the image around a random centre, clipped at the border."""
    spans = []
    for length in side:
        centre, half = int(draws.integers(length)), int(length * area**0.5) // 2
        spans.append(slice(max(centre - half, 0), min(centre + half, length)))
    return spans[0], spans[1]


def _torch_generator(*key: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(address(*key))
