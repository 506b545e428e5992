"""Weather: snow, frost, fog, brightness."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.data.corruption_batch import truncated
from evalsuite.data.corruption_blur import streaked, zoom_matrix
from evalsuite.data.corruption_frost import frost_layers

if TYPE_CHECKING:
    from evalsuite.data.corruption_batch import Batch, Constants, Floats, Pixels

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def snow(batch: Batch, constants: Constants) -> Pixels:
    """Returns the image paled and under flakes: (loc, scale, zoom, threshold, radius, sigma, mix).

    Approximate, since the flakes are smeared by `streaked`; in U(-135°, -45°).
    """
    *flakes, mix = constants
    layer = _flakes(batch, *flakes)
    values = batch.images.astype(np.float32)
    gray = np.einsum("c,nchw->nhw", _LUMA, values)[:, None]
    pale = np.maximum(values, gray * np.float32(1.5) + np.float32(127.5))
    values *= np.float32(mix)
    values += pale * np.float32(1 - mix)
    values += layer + layer[..., ::-1, ::-1]  # and the layer once more, turned by 180°
    return truncated(values)


def frost(batch: Batch, constants: Constants) -> Pixels:
    """Returns a x + b crop, with random crops of photographs or painted layers: (a, b, resizing)."""
    share, weight, _ = constants  # photographs come resized
    layers = batch.textures or frost_layers(batch.seed, batch.side)
    crops = np.empty_like(batch.images)
    for crop, (pick, down, right) in zip(crops, batch.uniform(3).tolist(), strict=True):
        layer = layers[int(pick * len(layers))]
        y, x = int(down * (layer.shape[1] - batch.side)), int(right * (layer.shape[2] - batch.side))
        crop[:] = layer[:, y : y + batch.side, x : x + batch.side]
    return _looked_up(_frosted(share, weight), crops, batch.images)


def fog(batch: Batch, constants: Constants) -> Pixels:
    """Returns (x + c plasma) max / (max + c), where max is the image's own: (c, decay) = `constants`."""
    strength, decay = constants
    size = 1 << (batch.side - 1).bit_length()
    clouds = plasma(2 * batch.uniform(size, size) - 1, decay)[:, None, : batch.side, : batch.side]
    most = batch.images.max(axis=(1, 2, 3), keepdims=True).astype(np.float32)
    shine = np.float32(255 * strength)
    return truncated((batch.images + clouds * shine) * (most / (most + shine)))


def brightness(batch: Batch, constants: Constants) -> Pixels:
    """Returns the image with (shift,) = `constants` added to the value channel of HSV."""
    value = batch.images.max(axis=1, keepdims=True)
    return _looked_up(_brightened(*constants), value, batch.images)


def plasma(noise: Floats, decay: float) -> Floats:
    """Returns diamond-square clouds in [0, 1] that wrap around.

    Args:
        noise: U(-1, 1) for each pixel, shape (N, S, S), S a power of two; that of pixel (0, 0) is not used.
        decay: What the roughness is divided by from level to level.
    """
    kicks = np.ascontiguousarray(np.moveaxis(noise, 0, -1))  # images last: long inner loops at every level
    field = np.zeros_like(kicks)
    step = len(field)
    while step >= 2:  # the published field starts at a roughness of 100²: only ratios matter, it is rescaled
        half = step // 2
        corners = field[::step, ::step]
        across = corners + np.roll(corners, -1, axis=1)
        down = corners + np.roll(corners, -1, axis=0)
        centres = (across + np.roll(across, -1, axis=0)) / 4 + kicks[half::step, half::step]
        field[half::step, half::step] = centres
        field[::step, half::step] = (across + centres + np.roll(centres, 1, axis=0)) / 4 + kicks[
            ::step, half::step
        ]
        field[half::step, ::step] = (down + centres + np.roll(centres, 1, axis=1)) / 4 + kicks[
            half::step, ::step
        ]
        step = half
        kicks *= np.float32(1 / decay**2)
    field -= field.min(axis=(0, 1))
    field /= field.max(axis=(0, 1))
    return np.moveaxis(field, -1, 0)


def _flakes(batch: Batch, *constants: float) -> Floats:
    """Draws a layer of 0…255 levels for each image, shape (N, 1, S, S)."""
    loc, scale, zoom, threshold, radius, sigma = constants
    matrix = zoom_matrix(batch.side, zoom).astype(np.float32)
    layer = (
        matrix @ (np.float32(loc) + np.float32(scale) * batch.normal(1, batch.side, batch.side)) @ matrix.T
    )
    layer[layer < threshold] = 0
    points = truncated(layer * 255).astype(np.float32)
    return np.rint(streaked(points, batch.angles(-135, -45), radius, sigma))


def _looked_up(table: Pixels, row: Pixels, column: Pixels) -> Pixels:
    """Returns table[row, column]; levels are pairs of bytes, so every function of two of them is a table."""
    return table.take((row.astype(np.uint16) << 8) | column)


@lru_cache(maxsize=8)
def _frosted(share: float, weight: float) -> Pixels:
    """Tabulates the level for each level of the frost (rows) and of the image (columns)."""
    level = np.arange(256)
    return truncated(share * level + weight * level[:, None])


@lru_cache(maxsize=8)
def _brightened(shift: float) -> Pixels:
    """Tabulates the level for each value, that is largest channel (rows), and each channel (columns).

    With v the value and v' the shifted one, a channel c becomes c v'/v, computed as v' (1 - (v - c)/v) as the
    way through HSV does for the least channel; black becomes grey. For the middle channel that way rounds
    otherwise, and one level may differ.
    """
    value = np.arange(256)[:, None] / 255
    saturation = np.where(value > 0, (value - value.T) / np.maximum(value, 1 / 255), 0)
    return truncated(np.minimum(value + shift, 1) * (1 - saturation) * 255)
