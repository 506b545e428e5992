"""Which known network a state dict belongs to, and how much it multiplies."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evalsuite.errors import CheckpointError, SuiteError
from evalsuite.models.cost import cost
from evalsuite.models.guessing import Fit, guess
from evalsuite.models.loading import load_candidate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

LARGEST = 4096
"""Pixels along a side of an image that multiply-accumulates are counted for."""

_CIFAR, _IMAGENET, _INCEPTION = (3, 32, 32), (3, 224, 224), (3, 299, 299)
_SHAPE = re.compile(r"(\d{1,4})x(\d{1,4})x(\d{1,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Is which known architecture some weights fit, and what the two cost together.

    Attributes:
        fits: The architecture with its settings; a sentence if there is none, or more than one.
        image: (C, H, W) of the image that multiply-accumulates are counted for; ``None`` if there are none.
        macs: Multiply-accumulates of convolutions and linear layers for one image; ``None`` if not counted.
        macs_nonzero: Those of them that are not by a zero weight.
        uncounted: Why there are none; empty if there are.
    """

    fits: str
    image: tuple[int, int, int] | None = None
    macs: int | None = None
    macs_nonzero: int | None = None
    uncounted: str = ""


def identity(weights: Mapping[str, Tensor], *, image_shape: Sequence[int] | None = None) -> Identity:
    """Returns which known architecture `weights` fit and, if it is exactly one, its multiply-accumulates.

    Args:
        weights: As `read_weights` returns them.
        image_shape: (C, H, W) of an image; without it, what the architecture was made for: 3x32x32, for
            torchvision's 3x224x224 (Inception v3: 3x299x299).
    """
    try:
        fit = guess(weights)
    except CheckpointError as error:
        return Identity(
            fits=str(error), uncounted="the order of the layers is unknown without an architecture"
        )
    settings = ", ".join(f"{key}={value}" for key, value in fit.settings.items())
    fits = f"{fit.reference}{' with fewer channels' if fit.shrunk else ''} ({settings})"
    channels, height, width = image_shape or _usual(fit)
    try:
        plugin = replace(fit.architecture, mean=(0.0,) * channels, std=(1.0,) * channels)  # costs nothing
        model = load_candidate(weights, plugin, image_shape=(channels, height, width))
    except (CheckpointError, SuiteError) as error:
        return Identity(fits=fits, uncounted=f"{error}; images of another shape: --image")
    found = cost(model, (channels, height, width))
    return Identity(
        fits=fits, image=(channels, height, width), macs=found.macs, macs_nonzero=found.macs_nonzero
    )


def image_shape(text: str) -> tuple[int, int, int]:
    """Returns the shape of an image that is written as channels, height and width.

    Raises:
        SuiteError: If it is written otherwise, or a number is 0 or above `LARGEST`.

    >>> image_shape("3x32x32")
    (3, 32, 32)
    """
    found = _SHAPE.fullmatch(text.strip())
    sizes = [int(size) for size in found.groups()] if found else []
    if not sizes or not all(0 < size <= LARGEST for size in sizes):
        raise SuiteError(
            f"image {text!r}: expected channels x height x width, such as 3x32x32, of 1 to {LARGEST}"
        )
    channels, height, width = sizes
    return channels, height, width


def _usual(fit: Fit) -> tuple[int, int, int]:
    """The image that an architecture was made for."""
    if fit.origin != "torchvision":
        return _CIFAR
    return _INCEPTION if fit.reference == "torchvision:inception_v3" else _IMAGENET
