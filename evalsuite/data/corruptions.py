"""The 15 common corruptions of CIFAR-10-C, generated with the constants for 32 px.

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

from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.data import corruption_blur as blur
from evalsuite.data import corruption_digital as digital
from evalsuite.data import corruption_noise as noise
from evalsuite.data import corruption_weather as weather
from evalsuite.data.corruption_batch import Batch
from evalsuite.errors import DataError, UnknownNameError
from evalsuite.randomness import BLOCK, blocks
from evalsuite.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalsuite.data.corruption_batch import Constants, Pixels

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST_SIDE = 16
_PIXELS_AT_ONCE = 1 << 18  # 256 images of 32 px


@dataclass(frozen=True, slots=True)
class Kind:
    """Is a corruption: what it does, and the constants of severities 1 to 5 that it does it with."""

    apply: Callable[[Batch, Constants], Pixels]
    constants: tuple[Constants, Constants, Constants, Constants, Constants]


_TABLE: Mapping[str, Mapping[str, Kind]] = {
    "noise": {
        "gaussian_noise": Kind(noise.gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))),
        "shot_noise": Kind(noise.shot_noise, ((500,), (250,), (100,), (75,), (50,))),
        "impulse_noise": Kind(noise.impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    },
    "blur": {
        "defocus_blur": Kind(blur.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
        "glass_blur": Kind(blur.glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
        "motion_blur": Kind(blur.motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
        "zoom_blur": Kind(blur.zoom_blur, ((1.06,), (1.11,), (1.16,), (1.21,), (1.26,))),
    },
    "weather": {
        "snow": Kind(
            weather.snow,
            (
                (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
                (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
                (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
                (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
                (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
            ),
        ),
        "frost": Kind(weather.frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
        "fog": Kind(weather.fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
        "brightness": Kind(weather.brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    },
    "digital": {
        "contrast": Kind(digital.contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
        "elastic_transform": Kind(
            digital.elastic_transform,
            ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
        ),
        "pixelate": Kind(digital.pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
        "jpeg_compression": Kind(digital.jpeg_compression, ((80,), (65,), (58,), (50,), (40,))),
    },
}
_KINDS: Mapping[str, Kind] = {name: kind for family in _TABLE.values() for name, kind in family.items()}

FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {family: tuple(_TABLE[family]) for family in _TABLE}
)
"""Names of the corruptions by family, in canonical order."""

CORRUPTIONS: tuple[str, ...] = tuple(_KINDS)
"""Names of the 15 corruptions in canonical order."""

EXTRA: tuple[str, ...] = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Names reserved for the corruptions meant for validation, never for the mean; not generated yet."""

APPROXIMATE: frozenset[str] = frozenset({"motion_blur", "snow"})
"""Kinds whose kernel is our own, since the published one is that of a program."""


def corrupt(
    images: Pixels, kind: str, severity: int, *, seed: int, textures: Sequence[Pixels] = ()
) -> Pixels:
    """Returns the images under one corruption.

    Args:
        images: uint8, shape (N, 3, S, S), S at least 16 px; may be memory-mapped or a transposed view.
        kind: One of `CORRUPTIONS`.
        severity: 1 to 5. More is not always worse: frost, glass_blur and elastic_transform do not rise.
        seed: Address of all draws; the same seed gives the same result.
        textures: Photographs of frost, RGB, uint8, each of shape (H, W, 3), full size; the first five
            are drawn from, evenly. Empty: painted frost. Other kinds ignore them.

    Returns:
        uint8, shape (N, 3, S, S), C-contiguous.

    Raises:
        DataError: If images, severity or textures are not as said.
        UnknownNameError: If there is no such kind.

    >>> grey = np.full((2, 3, 32, 32), 128, np.uint8)
    >>> corrupt(grey, "contrast", 5, seed=0)[0, 0, 0, 0]
    np.uint8(128)
    >>> fog = corrupt(grey, "fog", 3, seed=0)
    >>> bool((fog[:1] == corrupt(grey[:1], "fog", 3, seed=0)).all())
    True
    """
    chosen = _kind(kind)
    _check(images, severity)
    photographs = _checked(textures) if kind == "frost" else ()
    constants = chosen.constants[severity - 1]
    result = np.empty(images.shape, np.uint8)
    draws = blocks(len(images), seed, kind, severity)
    while run := list(islice(draws, max(1, _PIXELS_AT_ONCE // (BLOCK * images.shape[-1] ** 2)))):
        rows = slice(run[0][0].start, run[-1][0].stop)
        part = np.ascontiguousarray(images[rows])
        result[rows] = chosen.apply(Batch(part, tuple(rng for _, rng in run), seed, photographs), constants)
    return result


def label(kind: str, *, textures: Sequence[Pixels]) -> str:
    """Returns what reports call a corruption: ``frost*`` when the frost is painted, else its name.

    Raises:
        UnknownNameError: If there is no such kind.

    >>> label("frost", textures=()), label("fog", textures=())
    ('frost*', 'fog')
    """
    _kind(kind)
    return "frost*" if kind == "frost" and len(textures) == 0 else kind


def _kind(name: str) -> Kind:
    if name not in _KINDS:
        raise UnknownNameError(unknown("corruption", name, _KINDS))
    return _KINDS[name]


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


def _checked(textures: Sequence[Pixels]) -> tuple[Pixels, ...]:
    for texture in textures:
        if texture.dtype != np.uint8 or texture.ndim != 3 or texture.shape[2] != 3:
            raise DataError(
                f"frost texture: found {texture.dtype} of shape {texture.shape}, expected uint8 of shape "
                "(H, W, 3)"
            )
    return tuple(textures)
