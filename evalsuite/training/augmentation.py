"""Random changes of training images beside crops and mixing: corruptions, RandAugment, AugMix, random erasing.

Every draw has an address, so that the images of a step depend on the seed and the step and on no earlier one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evalsuite.condition_splits import corruption_kinds
from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt, undefined_because
from evalsuite.errors import UserError
from evalsuite.random_streams import address, generator
from evalsuite.training.recipe import Recipe
from evalsuite.types import Array, ImageSet

if TYPE_CHECKING:
    from collections.abc import Callable

SEVERITIES = 6
"""Severities that a training image may have: 0, clean, to 5."""


def corrupted(images: Array, corruptions: tuple[str, ...], *key: str | int | float) -> Array:
    """Returns a batch in which each image has a corruption and a severity of its own, both uniform; 0 is clean.

    Args:
        images: uint8, or float in [0, 1], which is rounded to 256 levels; (N, C, H, W).
        corruptions: Names of sets or corruptions; none leaves the images as they are.
        key: Address of the draws.

    References:
        Liebenwein et al. 2021, arXiv 2103.03014, section 6, and its code ``CIFAR10_C_Mix1``. There every image was
        corrupted once per kind and severity, and the copies are drawn from; here each is corrupted anew, with the
        constants of CIFAR-10-C, and frost is always synthetic.
    """
    if not corruptions:
        return images
    kinds = corruption_kinds(corruptions, where="recipe")
    draws = generator(*key)
    chosen = draws.integers(len(kinds), size=len(images))
    severities = draws.integers(SEVERITIES, size=len(images))
    whole = (
        np.array(images) if images.dtype == np.uint8 else np.rint(np.asarray(images) * 255).astype(np.uint8)
    )
    for kind, severity in sorted({*zip(chosen.tolist(), severities.tolist(), strict=True)}):
        if severity:
            rows = np.flatnonzero((chosen == kind) & (severities == severity))
            whole[rows] = corrupt(whole[rows], kinds[kind], severity, seed=address(*key))
    return whole


def corrupted_set(images: ImageSet, recipe: Recipe, seed: int) -> ImageSet:
    """Returns the validation images as a recipe trains on them: corrupted once, where it has corruptions."""
    if not recipe.corruptions:
        return images
    return replace(images, images=corrupted(images.images, recipe.corruptions, seed, "validation"))


def check_corruptions(recipe: Recipe, shape: tuple[int, ...]) -> None:
    """Checks that the corruptions of a recipe are defined for images of a shape, (C, H, W).

    Raises:
        UserError: If one is not.
    """
    for kind in recipe.all_corruptions:
        if reason := undefined_because(kind, shape):
            raise UserError(f"recipe: {reason}; leave it out of corruptions")


def auto_augmented(batch: Tensor, recipe: Recipe, *key: str | int) -> Tensor:
    """Returns a batch under RandAugment or AugMix of torchvision, each image with draws of its own.

    Args:
        batch: float32 in [0, 1], (B, C, H, W), C 1 or 3: it is rounded to 256 levels.
        recipe: `Recipe.auto_augment` and its settings.
        key: Address of the draws.

    References:
        Cubuk et al. 2020, arXiv 1909.13719; Hendrycks et al. 2020, arXiv 1912.02781, without the consistency loss.
    """
    if recipe.auto_augment == "none":
        return batch
    transform = _auto_augmentation(recipe.auto_augment, recipe.augment_magnitude)
    levels = (batch * 255).round().to(torch.uint8)
    with _seeded(*key):
        return torch.stack([transform(image) for image in levels]).float() / 255


def erased(batch: Tensor, recipe: Recipe, *key: str | int) -> Tensor:
    """Returns a batch in which a box of some images is zero, each image with the recipe's probability.

    References:
        Zhong et al. 2020, arXiv 1708.04896, as ``torchvision.transforms.v2.RandomErasing``.
    """
    if not recipe.erasing:
        return batch
    from torchvision.transforms import v2

    transform = v2.RandomErasing(p=recipe.erasing)
    with _seeded(*key):
        return torch.stack([transform(image) for image in batch])


@cache
def _auto_augmentation(name: str, magnitude: int) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    transform: Any = (
        v2.RandAugment(magnitude=magnitude) if name == "randaugment" else v2.AugMix(severity=magnitude)
    )
    return transform  # type: ignore[no-any-return]  # torchvision has no types


@contextlib.contextmanager
def _seeded(*key: str | int) -> Iterator[None]:
    """Draws of torch's global generator come from an address within the block, and leave no trace."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(address(*key))
        yield
