"""Was the network trained on images like these? Normalising twice, or not at all, is the commonest mistake."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from evalsuite.models.architecture import CIFAR_MEAN, CIFAR_STD, Normalized, core
from evalsuite.models.forward import logits
from evalsuite.models.libraries import IMAGENET_MEAN, IMAGENET_STD
from evalsuite.records import Array

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
