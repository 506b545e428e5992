"""Layers of frost: photographs, resized, and a synthetic frost for data roots without them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from evalsuite.datasets.transforms.common_corruptions.batch import truncated
from evalsuite.errors import DataError
from evalsuite.random_streams import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalsuite.datasets.transforms.common_corruptions.batch import Floats, Pixels

_USED = 5  # the published operation ships six photographs and draws from five
_LAYERS = 5
_CRYSTALS = 14  # per layer
_MEAN, _SPREAD = 150.0, 48.0  # levels; the mean is that of the published photographs
_TINT = np.array([0.94, 1.0, 1.06])  # towards blue
_BARB = np.deg2rad(60)  # ice grows in sixths of a turn


def photographs(textures: Sequence[Pixels], side: int, *, factor: float) -> tuple[Pixels, ...]:
    """Returns the first five photographs resized by `factor`, bilinear, uint8, each of shape (3, H, W).

    Raises:
        DataError: If a texture is no photograph, or too small to crop squares of `side` px from.
    """
    for texture in textures:
        if texture.dtype != np.uint8 or texture.ndim != 3 or texture.shape[2] != 3:
            raise DataError(
                f"frost texture: found {texture.dtype} of shape {texture.shape}, expected uint8 of shape "
                "(H, W, 3)"
            )
    layers = tuple(_resized(texture, factor).transpose(2, 0, 1) for texture in textures[:_USED])
    for layer in layers:
        if min(layer.shape[1:]) <= side:
            height, width = layer.shape[1:]
            raise DataError(
                f"frost texture: found {height} x {width} px after resizing by {factor:g}, expected more "
                f"than {side} on both sides; give a larger photograph, or none for synthetic frost"
            )
    return layers


def _resized(texture: Pixels, factor: float) -> Pixels:
    """Samples at the centres of the new pixels without smoothing; by 0.2 that is the third of every five."""
    if factor == 1:
        return texture
    values: Floats = texture.astype(np.float32)
    for axis in (0, 1):
        size = texture.shape[axis]
        centre = np.clip((np.arange(round(size * factor)) + 0.5) / factor - 0.5, 0, size - 1)
        centre = centre.round(6)  # so that integers are exact
        low = np.floor(centre).astype(np.intp)
        share = np.expand_dims((centre - low).astype(np.float32), (1, 2) if axis == 0 else (0, 2))
        values = (
            values.take(low, axis) * (1 - share) + values.take(np.minimum(low + 1, size - 1), axis) * share
        )
    return (values + np.float32(0.5)).astype(np.uint8)


@lru_cache(maxsize=4)
def frost_layers(seed: int, side: int) -> tuple[Pixels, ...]:
    """Returns five layers of synthetic ice crystals, uint8, each of shape (3, 4 side, 4 side).

    Each crystal is a feather: a bright spine with barbs at 60 degrees, grown until it meets its neighbours.
    """
    return tuple(
        _layer(generator(seed, "frost layer", number), 4 * side, side / 32) for number in range(_LAYERS)
    )


def _layer(draws: np.random.Generator, size: int, scale: float) -> Pixels:
    points = np.moveaxis(np.mgrid[:size, :size], 0, -1).astype(np.float64)
    bends = [_clouds(draws, size, 5 * scale) for _ in range(2)]  # crystals are not straight
    points += 3 * scale * np.stack(bends, axis=-1)
    patches, grain = _clouds(draws, size, 9 * scale), _clouds(draws, size, 0.6)
    ice = _feathers(draws, points, scale) + 0.8 * patches + 0.35 * grain
    levels: Floats = _TINT[:, None, None] * (_MEAN + _SPREAD * (ice - ice.mean()) / ice.std())
    return truncated(levels)


def _feathers(draws: np.random.Generator, points: Floats, scale: float) -> Floats:
    """Draws the crystals, shape (size, size): each pixel belongs to the nearest seed."""
    size = len(points)
    seeds = draws.uniform(0, size, (_CRYSTALS, 2))
    turn = draws.uniform(0, np.pi, _CRYSTALS)
    away = points[:, :, None] - seeds
    distance = np.hypot(away[..., 0], away[..., 1])
    owner = distance.argmin(axis=-1)
    y, x = np.moveaxis(np.take_along_axis(away, owner[..., None, None], axis=2)[:, :, 0], -1, 0)
    along = np.cos(turn)[owner] * x + np.sin(turn)[owner] * y
    across = np.abs(np.cos(turn)[owner] * y - np.sin(turn)[owner] * x)
    spine: Floats = np.exp(-across / (2 * scale))
    barbs: Floats = np.abs(2 * (((along - across / np.tan(_BARB)) / (6 * scale)) % 1) - 1) ** 2
    nearest, second = np.moveaxis(np.partition(distance, 1, axis=-1)[..., :2], -1, 0)
    seam: Floats = np.exp(-(second - nearest) / (2 * scale))
    feathers: Floats = 2 * spine + 1.8 * barbs + 1.2 * seam
    return feathers


def _clouds(draws: np.random.Generator, size: int, sigma: float) -> Floats:
    """Draws smooth noise of unit spread."""
    noise: Floats = ndimage.gaussian_filter(draws.standard_normal((size, size)), sigma, mode="wrap")
    noise /= noise.std()
    return noise
