"""Checks of images and models before any number about them is reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.errors import DataError, InvalidModelError
from evalsuite.models.architectures.base import (
    CIFAR_MEAN,
    CIFAR_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalized,
    unwrap_model,
)
from evalsuite.models.inference import logits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from evalsuite.types import Array

PROBE = 32
"""Images that go through the model several times."""

BATCH_TOLERANCE = 0.1
"""How far an image's logits may move with the others in its batch, in standard deviations of the logits.
Integer arithmetic that scales by the batch moves them by a few hundredths, batch statistics by whole units."""

CONSTANT = 1e-6
"""Logits whose spread over images is this share of their magnitude or less are the same."""


def check_model(model: nn.Module, logits: Callable[[Array], Array], images: Array) -> None:
    """Checks that a model is deterministic, in evaluation mode, independent of the batch, and depends on its input.

    Args:
        model: The module behind `logits`.
        logits: Takes images, returns finite logits (N, K).
        images: Some of the suite's own images, uint8 or float32 in [0, 1], (N, C, H, W).

    Raises:
        InvalidModelError: If it is not; the sentence says what to do.
        DataError: If the images are too dark to be images.
    """
    probe = images[:PROBE]
    _check_range(probe)
    first = logits(probe)
    _check_repeatable(first, logits(probe))
    _check_mode(model)
    repeated = probe[: 1 + len(probe) // 4]
    other_batch = np.concatenate([repeated, _pale_negatives(probe)[: PROBE - len(repeated)]])
    second = logits(other_batch)
    _check_varied(np.concatenate([probe, other_batch]), np.concatenate([first, second]))
    _check_batch_independence(
        first[: len(repeated)], second[: len(repeated)], spread=float(first.std(axis=0).max())
    )


def _check_range(images: Array) -> None:
    """Refuses nearly black images: they were scaled twice, or cast to integers."""
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
    """Refuses a model whose logits for the same images change: it has no number to report."""
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
        return  # the same images have the same logits
    if np.ptp(answers, axis=0).max() <= CONSTANT * np.abs(answers).max():
        raise InvalidModelError(
            "the model returns the same logits for every image, those of the data and pale negatives of them: nothing "
            "of an image reaches its output; check that its weights were loaded, and that no layer is empty"
        )


def _check_batch_independence(first: Array, second: Array, *, spread: float) -> None:
    worst = float(np.abs(first - second).max())
    if worst > BATCH_TOLERANCE * max(spread, CONSTANT):
        raise InvalidModelError(
            f"the logits of an image change by up to {worst:.3g} with the other images in its batch; "
            "normalise by running statistics and not by those of the batch (evaluation mode, "
            "track_running_stats=True)"
        )


def _pale_negatives(images: Array) -> Array:
    """Images that are unlike those of the data, and have other statistics."""
    if images.dtype == np.uint8:
        return 255 - images // 4
    pale: Array = 1 - images / 4
    return pale


PREPROCESSING_PROBE = 256
"""Images of the preprocessing check: enough to see a difference of `CLEAR_GAIN`."""
CLEAR_GAIN = 0.1
"""Gain in accuracy that chance does not explain."""


def check_preprocessing(
    model: nn.Module, images: Array, labels: Array, *, name: str = "the parent"
) -> tuple[str, ...]:
    """Returns a warning if another normalisation makes the model clearly more accurate; else nothing.

    More accurate than as it is given, and than a prediction that does not depend on the image can be: where the classes
    of the probe differ in size, a model that gives nearly all images one class gains by giving them another.

    Args:
        model: A network behind its normalisation; any other model is not checked.
        images: uint8 or float32 in [0, 1], (N, C, H, W); the first `PREPROCESSING_PROBE` are used.
        labels: int64 (N,).
        name: What the warning calls the model.
    """
    if not isinstance(model, Normalized):
        return ()
    probe, true_labels = images[:PREPROCESSING_PROBE], labels[:PREPROCESSING_PROBE]
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    accuracy = _accuracy(model, probe, true_labels)
    largest_class = float(np.bincount(true_labels).max() / len(true_labels))
    network = unwrap_model(model)
    accuracies = {
        text: _accuracy(Normalized(network, mean=other[0], std=other[1]).eval(), probe, true_labels)
        for text, other in _other_normalisations(mean, std).items()
    }
    best = max(accuracies, key=lambda text: accuracies[text])
    if accuracies[best] < max(accuracy, largest_class) + CLEAR_GAIN:
        return ()
    return (
        f"{name} is right on {accuracy:.1%} of {len(probe)} images as given (mean {_text(mean)}, "
        f"std {_text(std)}), but on {accuracies[best]:.1%} {best}; check --mean and --std, for one candidate the "
        "columns mean and std of a manifest.",
    )


def check_stated_heads(stated: nn.Module, built: nn.Module, images: Array, labels: Array) -> tuple[str, ...]:
    """Returns a warning if a parent is clearly more accurate with the attention heads that it is built with.

    Args:
        stated: The parent with the number of heads that a setting states.
        built: The same weights with the number that the network is built with.
        images: As for `check_preprocessing`.
        labels: int64 (N,).
    """
    probe, true_labels = images[:PREPROCESSING_PROBE], labels[:PREPROCESSING_PROBE]
    accuracy, other = (_accuracy(model, probe, true_labels) for model in (stated, built))
    if other < accuracy + CLEAR_GAIN:
        return ()
    return (
        f"the parent is right on {accuracy:.1%} of {len(probe)} images with num_heads as stated, but on {other:.1%} "
        "with the heads that its network is built with; state it for the candidates alone (key or column num_heads)",
    )


def _other_normalisations(
    mean: Sequence[float], std: Sequence[float]
) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """Means and standard deviations that the training may have used, by their description."""
    published: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "with the mean and standard deviation of CIFAR-10": (CIFAR_MEAN, CIFAR_STD),
        "with those of ImageNet": (IMAGENET_MEAN, IMAGENET_STD),
    }
    return (published if len(mean) == len(CIFAR_MEAN) else {}) | {
        "without normalisation": ([0.0] * len(mean), [1.0] * len(std)),
        "with mean and standard deviation 0.5": ([0.5] * len(mean), [0.5] * len(std)),
        # (x - m) / s, then again: a network with a normalisation of its own may have been trained behind another
        "normalised once more": ([m + m * s for m, s in zip(mean, std, strict=True)], [s * s for s in std]),
    }


def _accuracy(model: nn.Module, images: Array, labels: Array) -> float:
    return float(np.mean(logits(model, images).argmax(axis=1) == labels))


def _text(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
