"""The corruptions of CIFAR-10-C, Tiny ImageNet-C and ImageNet-C: the 15 common ones and the 4 extra.

Every draw has an address: row i of a result depends on the seed, the kind, the severity, i and the pixels of
row i, never on how many images there are. Differences from the published files, which were made once and
without seeds:

* motion_blur and snow smear with a kernel of our own (`corruption_blur.streaked`) and are approximate;
* frost needs photographs, which are not ours to ship; without them it is painted, and called ``frost*``;
* the others are the published operations, with other random draws.

References:
    Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
    ICLR 2019, arXiv 1903.12261.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.data import corruption_blur as blur
from evalsuite.data import corruption_digital as digital
from evalsuite.data import corruption_noise as noise
from evalsuite.data import corruption_weather as weather
from evalsuite.data.corruption_batch import PIXELS_AT_ONCE, Batch, block_size
from evalsuite.data.corruption_constants import CONSTANTS, SIZES, Size, nearest_size
from evalsuite.data.corruption_frost import photographs
from evalsuite.data.corruption_glass import glass_blur
from evalsuite.data.corruption_saturate import saturate
from evalsuite.data.corruption_spatter import spatter
from evalsuite.errors import DataError, UnknownNameError
from evalsuite.randomness import generator
from evalsuite.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalsuite.data.corruption_batch import Constants, Pixels

    Operation = Callable[[Batch, Constants], Pixels]

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST_SIDE = 16


_FAMILIES: Mapping[str, Mapping[str, Operation]] = {
    "noise": {
        "gaussian_noise": noise.gaussian_noise,
        "shot_noise": noise.shot_noise,
        "impulse_noise": noise.impulse_noise,
    },
    "blur": {
        "defocus_blur": blur.defocus_blur,
        "glass_blur": glass_blur,
        "motion_blur": blur.motion_blur,
        "zoom_blur": blur.zoom_blur,
    },
    "weather": {
        "snow": weather.snow,
        "frost": weather.frost,
        "fog": weather.fog,
        "brightness": weather.brightness,
    },
    "digital": {
        "contrast": digital.contrast,
        "elastic_transform": digital.elastic_transform,
        "pixelate": digital.pixelate,
        "jpeg_compression": digital.jpeg_compression,
    },
}
_EXTRA: Mapping[str, Operation] = {
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}
_OPERATIONS: Mapping[str, Operation] = {
    kind: operation for operations in (*_FAMILIES.values(), _EXTRA) for kind, operation in operations.items()
}

FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {family: tuple(_FAMILIES[family]) for family in _FAMILIES}
)
"""Names of the 15 corruptions by family, in canonical order."""

CORRUPTIONS: tuple[str, ...] = tuple(kind for family in FAMILIES.values() for kind in family)
"""Names of the 15 corruptions in canonical order."""

EXTRA: tuple[str, ...] = tuple(_EXTRA)
"""Names of the four corruptions meant for validation: the family ``extra``, never part of the mean."""

APPROXIMATE: frozenset[str] = frozenset({"motion_blur", "snow"})
"""Kinds whose kernel is our own, since the published one is that of a program."""


def corrupt(
    images: Pixels,
    kind: str,
    severity: int,
    *,
    seed: int,
    textures: Sequence[Pixels] = (),
    constants: Size | None = None,
) -> Pixels:
    """Returns the images under one corruption.

    Args:
        images: uint8, shape (N, 3, S, S), S at least 16 px; may be memory-mapped or a transposed view.
        kind: One of `CORRUPTIONS` or `EXTRA`.
        severity: 1 to 5. More is not always worse: frost, glass_blur and elastic_transform do not rise.
        seed: Address of all draws; the same seed gives the same result.
        textures: Photographs of frost, RGB, uint8, each of shape (H, W, 3), full size; the first five
            are drawn from, evenly. Empty: painted frost. Other kinds ignore them.
        constants: ``cifar``, ``tiny-imagenet`` or ``imagenet``: the table published for 32, 64 or 224 px.
            None: the one nearest in size (`nearest_size`), so that 32 px have the constants of CIFAR-10-C,
            64 and 96 px those of Tiny ImageNet-C, 128 px and more those of ImageNet-C. Lengths in a table
            are px and stay as they are at any side.

    Returns:
        uint8, shape (N, 3, S, S), C-contiguous.

    Raises:
        DataError: If images, severity or textures are not as said.
        UnknownNameError: If there is no such kind or no such table.

    >>> grey = np.full((2, 3, 32, 32), 128, np.uint8)
    >>> corrupt(grey, "contrast", 5, seed=0)[0, 0, 0, 0]
    np.uint8(128)
    >>> fog = corrupt(grey, "fog", 3, seed=0)
    >>> bool((fog[:1] == corrupt(grey[:1], "fog", 3, seed=0)).all())
    True
    """
    operation = _operation(kind)
    _check(images, severity)
    side = images.shape[-1]
    row = CONSTANTS[_size(constants, side)][kind][severity - 1]
    layers = photographs(textures, side, factor=row[-1]) if kind == "frost" else ()
    result = np.empty(images.shape, np.uint8)
    block = block_size(side)
    at_once = block * max(1, PIXELS_AT_ONCE // (block * side**2))
    for start in range(0, len(images), at_once):
        part = np.ascontiguousarray(images[start : start + at_once])
        numbers = range(start // block, -(-(start + len(part)) // block))
        draws = tuple(generator(seed, kind, severity, number) for number in numbers)
        result[start : start + at_once] = operation(Batch(part, draws, seed, layers), row)
    return result


def label(kind: str, *, textures: Sequence[Pixels]) -> str:
    """Returns what reports call a corruption: ``frost*`` when the frost is painted, else its name.

    Raises:
        UnknownNameError: If there is no such kind.

    >>> label("frost", textures=()), label("fog", textures=())
    ('frost*', 'fog')
    """
    _operation(kind)
    return "frost*" if kind == "frost" and len(textures) == 0 else kind


def family(kind: str) -> str:
    """Returns the family of a corruption: ``noise``, ``blur``, ``weather``, ``digital`` or ``extra``.

    Raises:
        UnknownNameError: If there is no such kind.

    >>> family("fog"), family("spatter")
    ('weather', 'extra')
    """
    _operation(kind)
    return next((name for name, kinds in FAMILIES.items() if kind in kinds), "extra")


def _operation(kind: str) -> Operation:
    if kind not in _OPERATIONS:
        raise UnknownNameError(unknown("corruption", kind, _OPERATIONS))
    return _OPERATIONS[kind]


def _size(constants: Size | None, side: int) -> Size:
    if constants is None:
        return nearest_size(side)
    if constants not in SIZES:
        raise UnknownNameError(unknown("table of corruption constants", constants, SIZES))
    return constants


def _check(images: Pixels, severity: int) -> None:
    if severity not in SEVERITIES:
        raise DataError(f"corruption severity: found {severity!r}, expected one of 1, 2, 3, 4, 5")
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or shape[1] != 3:
        raise DataError(
            f"images to corrupt: found {images.dtype} of shape {shape}, expected uint8 of shape (N, 3, S, S)"
        )
    if shape[2] != shape[3] or shape[2] < SMALLEST_SIDE:
        raise DataError(
            f"images to corrupt: found {shape[2]} x {shape[3]} px, expected squares of at least "
            f"{SMALLEST_SIDE} px"
        )
