"""The corruptions of CIFAR-10-C, Tiny ImageNet-C and ImageNet-C: the 15 common ones and the 4 extra.

Every draw has an address: row i of a result depends on the seed, the kind, the severity, i and the pixels of
row i, never on how many images there are. Differences from the published files, which were made once and
without seeds:

* motion_blur and snow smear with a kernel of our own, `streaked` in ``blur``, and are approximate;
* frost needs photographs, whose licence does not let us ship them; without them a synthetic layer is drawn, and the
  corruption is called ``frost-synthetic``;
* images of one channel have the operations of MNIST-C: frost and spatter in grey, brightness on the one value, and JPEG
  without chroma; saturation is undefined there. With other channel counts only those kinds are defined that treat
  each value or each channel alone (`undefined_because`);
* images need not be square: what the published operations do with the side is done with height and width;
* the others are the published operations, with other random draws.

References:
    Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
    ICLR 2019, arXiv 1903.12261.
    Mu and Gilmer, MNIST-C: A Robustness Benchmark for Computer Vision, 2019, arXiv 1906.02337.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from evalsuite.datasets.transforms.common_corruptions import blur, digital, noise, weather
from evalsuite.datasets.transforms.common_corruptions.batch import PIXELS_AT_ONCE, CorruptionBatch, block_size
from evalsuite.datasets.transforms.common_corruptions.frost import photographs
from evalsuite.errors import DataError, UnknownNameError
from evalsuite.random_streams import generator
from evalsuite.registry import unknown_name
from evalsuite.types import SYNTHETIC_FROST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from evalsuite.datasets.transforms.common_corruptions.batch import Constants, Pixels

    Operation = Callable[[CorruptionBatch, Constants], Pixels]
    Severities = tuple[Constants, Constants, Constants, Constants, Constants]

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST_SIDE = 16
"""Least height and width of an image, px."""

_FAMILIES: Mapping[str, Mapping[str, Operation]] = {
    "noise": {
        "gaussian_noise": noise.gaussian_noise,
        "shot_noise": noise.shot_noise,
        "impulse_noise": noise.impulse_noise,
    },
    "blur": {
        "defocus_blur": blur.defocus_blur,
        "glass_blur": blur.glass_blur,
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
    "spatter": weather.spatter,
    "saturate": digital.saturate,
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
"""Names of the four corruptions for validation: the family ``extra``, never part of the mean."""

CHANNELS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("snow", "frost", "brightness", "jpeg_compression", "spatter"), (1, 3)),
        "saturate": (3,),  # grey has no saturation
    }
)
"""Numbers of channels for which a kind is defined; all others act on each value or each channel alone."""

APPROXIMATE: frozenset[str] = frozenset({"motion_blur", "snow"})
"""Kinds whose kernel is our own: the published one is ImageMagick's."""


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
        images: uint8, shape (N, C, H, W), H and W at least 16 px; may be memory-mapped or a transposed view.
        kind: One of `CORRUPTIONS` or `EXTRA`.
        severity: 1 to 5. More is not always worse: frost, glass_blur and elastic_transform do not rise.
        seed: Address of all draws; the same seed gives the same result.
        textures: Photographs of frost, RGB, uint8, each of shape (H, W, 3), full size; the first five
            are drawn from, evenly. Empty: synthetic frost. Other kinds ignore them.
        constants: ``cifar``, ``tiny-imagenet`` or ``imagenet``: the table published for 32, 64 or 224 px.
            None: the one nearest in size to the shorter side (`nearest_size`): 32 px have the constants of CIFAR-10-C,
            64 and 96 px those of Tiny ImageNet-C, 128 px and more those of ImageNet-C. Lengths in a table
            are px and stay as they are at any side.

    Returns:
        uint8, shape (N, C, H, W), C-contiguous.

    Raises:
        DataError: If images, severity or textures are not as described, or the kind is not defined for such images.
        UnknownNameError: If there is no such kind or no such table.

    >>> grey = np.full((2, 3, 32, 32), 128, np.uint8)
    >>> corrupt(grey, "contrast", 5, seed=0)[0, 0, 0, 0]
    np.uint8(128)
    >>> fog = corrupt(grey, "fog", 3, seed=0)
    >>> bool((fog[:1] == corrupt(grey[:1], "fog", 3, seed=0)).all())
    True
    """
    result, filled = np.empty(images.shape, np.uint8), 0
    for part in corrupted_blocks(images, kind, severity, seed=seed, textures=textures, constants=constants):
        result[filled : filled + len(part)] = part
        filled += len(part)
    return result


def corrupted_blocks(
    images: Pixels,
    kind: str,
    severity: int,
    *,
    seed: int,
    textures: Sequence[Pixels] = (),
    constants: Size | None = None,
) -> Iterator[Pixels]:
    """Yields what `corrupt` returns, a few images at a time and in order; of mapped images memory holds no more.

    Raises:
        DataError: As `corrupt` does.
        UnknownNameError: As `corrupt` does.
    """
    operation = _operation(kind)
    _check(images, kind, severity)
    height, width = images.shape[-2:]
    row = CONSTANTS[_size(constants, min(height, width))][kind][severity - 1]
    layers = photographs(textures, max(height, width), factor=row[-1]) if kind == "frost" else ()
    block = block_size(height, width)
    at_once = block * max(1, PIXELS_AT_ONCE // (block * height * width))
    for start in range(0, len(images), at_once):
        part = np.ascontiguousarray(images[start : start + at_once])
        numbers = range(start // block, -(-(start + len(part)) // block))
        draws = tuple(generator(seed, kind, severity, number) for number in numbers)
        yield operation(CorruptionBatch(part, draws, seed, layers), row)


def undefined_because(kind: str, shape: tuple[int, ...]) -> str:
    """Returns why a corruption is not defined for images of a shape; empty if it is.

    Args:
        kind: One of `CORRUPTIONS` or `EXTRA`.
        shape: Of one image, (C, H, W).

    Raises:
        UnknownNameError: If there is no such kind.

    >>> undefined_because("snow", (1, 28, 28)), undefined_because("fog", (5, 24, 40))
    ('', '')
    >>> undefined_because("snow", (2, 32, 32))
    'snow is defined for images of 1 or 3 channels, these have 2'
    """
    _operation(kind)
    channels, height, width = shape
    if min(height, width) < SMALLEST_SIDE:
        return f"{kind} is defined from {SMALLEST_SIDE} px on, these images have {height} x {width}"
    defined = CHANNELS.get(kind)
    if defined is None or channels in defined:
        return ""
    return f"{kind} is defined for images of {' or '.join(map(str, defined))} channels, these have {channels}"


def reported_kind(kind: str, *, textures: Sequence[Pixels]) -> str:
    """Returns the name of a corruption in conditions: ``frost-synthetic`` for frost without photographs, else its kind.

    Raises:
        UnknownNameError: If there is no such kind.

    >>> reported_kind("frost", textures=()), reported_kind("fog", textures=())
    ('frost-synthetic', 'fog')
    """
    _operation(kind)
    return SYNTHETIC_FROST if kind == "frost" and len(textures) == 0 else kind


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
        raise UnknownNameError(unknown_name("corruption", kind, _OPERATIONS))
    return _OPERATIONS[kind]


def _size(constants: Size | None, side: int) -> Size:
    if constants is None:
        return nearest_size(side)
    if constants not in SIZES:
        raise UnknownNameError(unknown_name("table of corruption constants", constants, SIZES))
    return constants


def _check(images: Pixels, kind: str, severity: int) -> None:
    if severity not in SEVERITIES:
        raise DataError(f"corruption severity: found {severity!r}, expected one of 1, 2, 3, 4, 5")
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4:
        raise DataError(
            f"images to corrupt: found {images.dtype} of shape {shape}, expected uint8 of shape (N, C, H, W)"
        )
    if reason := undefined_because(kind, shape[1:]):
        raise DataError(f"images to corrupt: {reason}")


Size = Literal["cifar", "tiny-imagenet", "imagenet"]
SIZES: tuple[Size, ...] = get_args(Size)
"""Names of the tables, from the smallest published images to the largest."""

PUBLISHED_SIDE: Mapping[Size, int] = MappingProxyType({"cifar": 32, "tiny-imagenet": 64, "imagenet": 224})
"""Side of the images that a table was published for, px."""


def _scaled(factor: float, *rows: tuple[float, float, float]) -> Severities:
    """Turns shares of the image side into px."""
    first, second, third, fourth, fifth = (tuple(factor * value for value in row) for row in rows)
    return first, second, third, fourth, fifth


_CIFAR: Mapping[str, Severities] = {
    "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "shot_noise": ((500,), (250,), (100,), (75,), (50,)),
    "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "elastic_transform": (  # (0.05, 0.2, 0.07) and so on of 32 px
        (0, 0, 2.56),
        (1.6, 6.4, 2.24),
        (2.56, 1.92, 1.92),
        (3.2, 1.28, 1.6),
        (3.2, 0.96, 0.96),
    ),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
    "speckle_noise": ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,)),
    "gaussian_blur": ((0.4,), (0.6,), (0.7,), (0.8,), (1,)),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}

_TINY_IMAGENET: Mapping[str, Severities] = {
    "gaussian_noise": ((0.04,), (0.08,), (0.12,), (0.15,), (0.18,)),
    "shot_noise": ((250,), (100,), (50,), (30,), (15,)),
    "impulse_noise": ((0.01,), (0.02,), (0.05,), (0.08,), (0.14,)),
    "defocus_blur": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    "motion_blur": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    "zoom_blur": _CIFAR["zoom_blur"],
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    "frost": ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
    "fog": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    "elastic_transform": _scaled(
        64, (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)
    ),
    "pixelate": ((0.9,), (0.8,), (0.7,), (0.6,), (0.5,)),
    "jpeg_compression": ((65,), (58,), (50,), (40,), (25,)),
    "speckle_noise": ((0.15,), (0.2,), (0.25,), (0.3,), (0.35,)),
    "gaussian_blur": ((0.5,), (0.75,), (1,), (1.25,), (1.5,)),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.6, 0),
        (0.65, 0.1, 0.8, 0.7, 0.6, 0),
        (0.65, 0.3, 1, 0.69, 0.6, 0),
        (0.65, 0.1, 0.7, 0.68, 0.6, 1),
        (0.65, 0.1, 0.5, 0.67, 0.6, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
}

_IMAGENET: Mapping[str, Severities] = {
    "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    "shot_noise": ((60,), (25,), (12,), (5,), (3,)),
    "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    "elastic_transform": _scaled(  # 244 for 224: a slip of the published files, kept
        244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
    ),
    "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
    "speckle_noise": ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,)),
    "gaussian_blur": ((1,), (2,), (3,), (4,), (6,)),
    "spatter": (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}

CONSTANTS: Mapping[Size, Mapping[str, Severities]] = MappingProxyType(
    {"cifar": _CIFAR, "tiny-imagenet": _TINY_IMAGENET, "imagenet": _IMAGENET}
)
"""Constants by table, kind and severity; the function of each kind explains them."""


def nearest_size(side: int) -> Size:
    """Returns the table whose published images are nearest in size, by the ratio of their sides.

    >>> nearest_size(32), nearest_size(64), nearest_size(96), nearest_size(128), nearest_size(224)
    ('cifar', 'tiny-imagenet', 'tiny-imagenet', 'imagenet', 'imagenet')
    """
    return min(SIZES, key=lambda size: max(side / PUBLISHED_SIDE[size], PUBLISHED_SIDE[size] / side))
