"""What images and models must pass before any number about them is believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from evalsuite.errors import DataError, InvalidModelError
from evalsuite.models.architectures.base import CIFAR_MEAN, CIFAR_STD, Normalized, core
from evalsuite.models.architectures.zoos import IMAGENET_MEAN, IMAGENET_STD
from evalsuite.models.inference import logits
from evalsuite.types import Array

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


PROBED = 256
"""Images: enough to see a difference of `CLEAR`."""
CLEAR = 0.1
"""Gain in accuracy that chance does not explain."""


def doubt(model: nn.Module, images: Array, labels: Array, *, who: str = "the parent") -> tuple[str, ...]:
    """Returns a warning if other preprocessing makes the model clearly more accurate; else nothing.

    Args:
        model: A network behind its preprocessing.
        images: uint8 or float32 in [0, 1], (N, C, H, W); the first `PROBED` are used.
        labels: int64 (N,).
        who: What the warning calls the model.
    """
    if not isinstance(model, Normalized):
        return ()
    few, known = images[:PROBED], labels[:PROBED]
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    zero, one = [0.0] * len(mean), [1.0] * len(std)
    others = _usual(len(mean)) | {
        "without normalisation": (zero, one),
        "with mean and standard deviation 0.5": ([0.5] * len(mean), [0.5] * len(std)),
        # (x - m) / s, then again: the network may bring its own normalisation and mean it twice
        "normalised once more": ([m + m * s for m, s in zip(mean, std, strict=True)], [s * s for s in std]),
    }
    given = _accuracy(model, few, known)
    found = {
        name: _accuracy(Normalized(core(model), mean=settings[0], std=settings[1]).eval(), few, known)
        for name, settings in others.items()
    }
    best = max(found, key=lambda name: found[name])
    if found[best] < given + CLEAR:
        return ()
    return (
        f"{who} is right on {given:.1%} of {len(few)} images as given (mean {_text(mean)}, "
        f"std {_text(std)}), but on {found[best]:.1%} {best}; check --mean and --std, for one candidate the "
        "columns mean and std of a manifest.",
    )


def _usual(channels: int) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """What colour images are normalised with most often."""
    if channels != len(CIFAR_MEAN):
        return {}
    return {
        "with the mean and standard deviation of CIFAR-10": (CIFAR_MEAN, CIFAR_STD),
        "with those of ImageNet": (IMAGENET_MEAN, IMAGENET_STD),
    }


def _accuracy(model: nn.Module, images: Array, labels: Array) -> float:
    return float(np.mean(logits(model, images).argmax(axis=1) == labels))


def _text(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
