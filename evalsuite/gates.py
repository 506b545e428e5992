"""What images and models must pass before any number about them is believed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from evalsuite.errors import DataError, InvalidModelError
from evalsuite.records import Array

PROBE = 32
"""Images that go through the model several times."""

COMPANY = 0.1
"""How far an image's logits may move with the others in its batch, in standard deviations of the logits.
Integer arithmetic that scales by the batch moves them by a few hundredths, batch statistics by whole units."""

CONSTANT = 1e-6
"""Logits whose spread over images is this share of their magnitude or less are the same."""


def check_model(model: nn.Module, logits: Callable[[Array], Array], images: Array) -> None:
    """Checks that a model is deterministic, in evaluation mode, looks at each image alone, and looks at all.

    Args:
        model: The module that `logits` asks.
        logits: Takes images, returns finite logits (N, K).
        images: Some that the model should know, uint8 or float32 in [0, 1], (N, C, H, W).

    Raises:
        InvalidModelError: If it is not; the sentence says what to do.
        DataError: If the images are too dark to be images.
    """
    few = images[:PROBE]
    _check_range(few)
    first = logits(few)
    _check_repeatable(first, logits(few))
    _check_mode(model)
    alone = few[: 1 + len(few) // 4]
    crowd = np.concatenate([alone, _pale_negatives(few)[: PROBE - len(alone)]])
    again = logits(crowd)
    _check_varied(np.concatenate([few, crowd]), np.concatenate([first, again]))
    _check_company(first[: len(alone)], again[: len(alone)], spread=float(first.std(axis=0).max()))


def _check_range(images: Array) -> None:
    """A whole set that is nearly black was scaled twice, or cast to integers."""
    brightest = float(images.max())
    if images.dtype == np.uint8 and brightest <= 1:
        raise DataError(
            f"the first {len(images)} test images hold no value above {brightest:g} of 255; "
            "give uint8 in 0..255, or float32 in [0, 1] that is not rounded"
        )
    if images.dtype != np.uint8 and brightest <= 1.01 / 255:  # up to rounding
        raise DataError(
            f"the first {len(images)} test images hold no value above {brightest:g} of 1, as if they had been "
            "divided by 255 twice; give float32 in [0, 1], or uint8"
        )


def _check_repeatable(first: Array, second: Array) -> None:
    """A model whose answer to the same images changes has no number to report."""
    if not np.array_equal(first, second):
        worst = float(np.abs(first - second).max())
        raise InvalidModelError(
            f"two forward passes over the same images differ by up to {worst:g}; "
            "remove what is random from the model (dropout in evaluation, sampling)"
        )


def _check_mode(model: nn.Module) -> None:
    training = [name for name, module in model.named_modules() if getattr(module, "training", False)]
    if training:
        raise InvalidModelError(
            f"{training[0] or 'the model'} stays in training mode when the model is put into evaluation mode; "
            "let its train() set the mode that it is given"
        )


def _check_varied(images: Array, answers: Array) -> None:
    if (images == images[0]).all():
        return  # the same images deserve the same logits
    if np.ptp(answers, axis=0).max() <= CONSTANT * np.abs(answers).max():
        raise InvalidModelError(
            "the model returns the same logits for every image, those of the data and pale negatives of them: nothing "
            "of an image reaches its output; check that its weights were loaded, and that no layer is empty"
        )


def _check_company(first: Array, again: Array, *, spread: float) -> None:
    worst = float(np.abs(first - again).max())
    if worst > COMPANY * max(spread, CONSTANT):
        raise InvalidModelError(
            f"the logits of an image change by up to {worst:.3g} with the other images in its batch; "
            "normalise by running statistics and not by those of the batch (evaluation mode, "
            "track_running_stats=True)"
        )


def _pale_negatives(images: Array) -> Array:
    """Other company: unlike the images of the data, and with other statistics."""
    if images.dtype == np.uint8:
        return 255 - images // 4
    pale: Array = 1 - images / 4
    return pale
