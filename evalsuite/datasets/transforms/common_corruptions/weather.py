"""Weather: snow, frost, fog, brightness, spatter."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import ndimage

from evalsuite.datasets.transforms.common_corruptions.batch import truncated
from evalsuite.datasets.transforms.common_corruptions.blur import blurred, streaked, zoom_matrix
from evalsuite.datasets.transforms.common_corruptions.frost import frost_layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalsuite.datasets.transforms.common_corruptions.batch import (
        Constants,
        CorruptionBatch,
        Floats,
        Pixels,
    )

    Integers = NDArray[np.int32]


_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def snow(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the image paled and under flakes: (loc, scale, zoom, threshold, radius, sigma, mix).

    Approximate, since the flakes are smeared by `streaked`; in U(-135°, -45°).
    """
    *flakes, mix = constants
    layer = _flakes(batch, *flakes)
    values = batch.images.astype(np.float32)
    gray = values if batch.grey else np.einsum("c,nchw->nhw", _LUMA, values)[:, None]
    pale = np.maximum(values, gray * np.float32(1.5) + np.float32(127.5))
    values *= np.float32(mix)
    values += pale * np.float32(1 - mix)
    values += layer + layer[..., ::-1, ::-1]  # and the layer once more, turned by 180°
    return truncated(values)


def frost(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns a x + b crop, with random crops of photographs or synthetic layers: (a, b, resizing).

    Grey images get grey frost, as in MNIST-C.
    """
    share, weight, _ = constants  # photographs are resized already
    layers = batch.textures or frost_layers(batch.seed, max(batch.height, batch.width))
    if batch.grey:
        layers = tuple(map(_luminance, layers))
    crops = np.empty_like(batch.images)
    for crop, (pick, down, right) in zip(crops, batch.uniform(3).tolist(), strict=True):
        layer = layers[int(pick * len(layers))]
        y, x = int(down * (layer.shape[1] - batch.height)), int(right * (layer.shape[2] - batch.width))
        crop[:] = layer[:, y : y + batch.height, x : x + batch.width]
    return _looked_up(_frosted(share, weight), crops, batch.images)


def _luminance(layer: Pixels) -> Pixels:
    """The grey levels of an RGB layer, shape (1, H, W)."""
    levels = np.rint(np.einsum("c,chw->hw", _LUMA, layer.astype(np.float32)))
    return np.asarray(levels, np.uint8)[None]


def fog(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns (x + c plasma) max / (max + c), where max is the image's own: (c, decay) = `constants`."""
    strength, decay = constants
    size = 1 << (max(batch.height, batch.width) - 1).bit_length()
    clouds = plasma(2 * batch.uniform(size, size) - 1, decay)[:, None, : batch.height, : batch.width]
    most = batch.images.max(axis=(1, 2, 3), keepdims=True).astype(np.float32)
    shine = np.float32(255 * strength)
    return truncated((batch.images + clouds * shine) * (most / (most + shine)))


def brightness(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the image with (shift,) = `constants` added to the value channel of HSV."""
    value = batch.images.max(axis=1, keepdims=True)
    return _looked_up(_brightened(*constants), value, batch.images)


def plasma(noise: Floats, decay: float) -> Floats:
    """Returns diamond-square clouds in [0, 1] that wrap around.

    Args:
        noise: U(-1, 1) for each pixel, shape (N, S, S), S a power of two; that of pixel (0, 0) is not used.
        decay: Divisor of the roughness from level to level.
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


def _flakes(batch: CorruptionBatch, *constants: float) -> Floats:
    """Draws a layer of 0…255 levels for each image, shape (N, 1, H, W)."""
    loc, scale, zoom, threshold, radius, sigma = constants
    down, across = (zoom_matrix(side, zoom).astype(np.float32) for side in (batch.height, batch.width))
    layer = (
        down @ (np.float32(loc) + np.float32(scale) * batch.normal(1, batch.height, batch.width)) @ across.T
    )
    layer[layer < threshold] = 0
    points = truncated(layer * 255).astype(np.float32)
    return np.rint(streaked(points, batch.angles(-135, -45), radius, sigma))


def _looked_up(table: Pixels, row: Pixels, column: Pixels) -> Pixels:
    """Returns table[row, column]: a function of two levels, each of which is a byte, is such a table."""
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
    conversion to HSV does for the least channel; black becomes grey. For the middle channel that conversion rounds
    otherwise, and one level may differ.
    """
    value = np.arange(256)[:, None] / 255
    saturation = np.where(value > 0, (value - value.T) / np.maximum(value, 1 / 255), 0)
    return truncated(np.minimum(value + shift, 1) * (1 - saturation) * 255)


_WATER = np.array([175, 238, 238], np.float32) / np.float32(255)  # pale turquoise
_MUD = np.array([63, 42, 20], np.float32) / np.float32(255)
_THIN = 0.8  # mud that covers less is left out
_WEAK, _STRONG = 50, 150  # thresholds of Canny's edges
_SHIFT = 15  # of the fixed point in which directions of gradients are compared
_TAN_22 = round(np.tan(np.pi / 8) * 2**_SHIFT)
_UNIT = 1 << 16  # a pixel, in the fixed point of distances
_DIAGONAL, _KNIGHT = round(1.4 * _UNIT), round(2.1969 * _UNIT)
_FARTHEST = 20 * _UNIT
_WITHIN_AN_IMAGE = np.pad(np.ones((1, 3, 3), int), ((1, 1), (0, 0), (0, 0)))
_EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))


def spatter(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the image under drops: (loc, scale, sigma px, threshold, strength, mud), mud 0 or 1.

    Strength is that of the light on water, or the px by which splashes of mud are smoothed. Grey images get splashes
    of one level at every severity, as in MNIST-C.
    """
    loc, scale, sigma, threshold, strength, mud = constants
    mud = mud or batch.grey
    liquid = blurred(loc + scale * batch.normal(batch.height, batch.width).astype(np.float64), sigma)
    liquid[liquid < threshold] = 0
    cover = splashes(liquid > threshold, strength) if mud else drops(liquid) * np.float32(strength)
    values = batch.images / np.float32(255)
    if mud:
        values *= 1 - cover[:, None]
    colour = _WATER if not mud else _MUD[:1] if batch.grey else _MUD
    values += cover[:, None] * colour[:, None, None]
    return truncated(values * np.float32(255))


def splashes(wet: NDArray[np.bool_], sigma: float) -> Floats:
    """Returns the share of each pixel that mud covers, float32, shape (N, H, W)."""
    cover = blurred(wet.astype(np.float32), sigma).astype(np.float32)
    cover[cover < _THIN] = 0
    return cover


def drops(liquid: Floats) -> Floats:
    """Returns the light on drops of water, up to 1 in each image, float32, shape (N, H, W).

    An image without a drop has no light; there the published operation divides zero by zero.
    """
    levels = (liquid * 255).astype(np.int32).astype(np.uint8)  # above 255 levels start anew, as published
    near = np.minimum(distances(edges(levels)), _FARTHEST)
    rim = equalized((_box_sum(near) // (9 * _UNIT)).astype(np.uint8))
    padded = _padded(rim.astype(np.int32), "reflect")
    relief = sum(
        weight * _shifted(padded, y, x) for y, row in enumerate(_EMBOSS) for x, weight in enumerate(row)
    )
    light = (_box_sum(np.clip(relief, 0, 255).astype(np.int32)) + 4) // 9  # rounded
    shine = levels * light.astype(np.float32)
    peak = shine.max(axis=(1, 2), keepdims=True)
    return shine / np.where(peak > 0, peak, 1)


def edges(levels: Pixels) -> NDArray[np.bool_]:
    """Returns Canny's edges with thresholds of 50 and 150 on |dx| + |dy| of Sobel's 3 x 3 gradients.

    Args:
        levels: uint8, shape (N, H, W); beyond the border the nearest pixel counts.
    """
    padded = _padded(levels.astype(np.int32), "edge")
    smooth_y = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    smooth_x = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    dx, dy = smooth_y[..., 2:] - smooth_y[..., :-2], smooth_x[:, 2:] - smooth_x[:, :-2]
    size = np.abs(dx) + np.abs(dy)
    thin = (size > _WEAK) & _crests(size, dx, dy)
    groups, count = ndimage.label(thin, _WITHIN_AN_IMAGE)
    strong = np.zeros(count + 1, bool)
    strong[groups[thin & (size > _STRONG)]] = True  # weak edges stay where they touch strong ones
    return strong[groups]


def _crests(size: Integers, dx: Integers, dy: Integers) -> NDArray[np.bool_]:
    """Finds where the gradient is largest along its direction, in steps of 45°; outside the image it is zero."""
    padded = _padded(size, "constant")

    def at(y: int, x: int) -> Integers:
        return _shifted(padded, 1 + y, 1 + x)

    across, down = np.abs(dx) * _TAN_22, np.abs(dy) << _SHIFT
    flat = down < across
    steep = down > across + (np.abs(dx) << (_SHIFT + 1))
    level = (size > at(0, -1)) & (size >= at(0, 1))
    upright = (size > at(-1, 0)) & (size >= at(1, 0))
    falling = (size > at(-1, -1)) & (size > at(1, 1))
    rising = (size > at(-1, 1)) & (size > at(1, -1))
    slanted = np.where((dx ^ dy) < 0, rising, falling)
    return np.where(flat, level, np.where(steep, upright, slanted))


def distances(targets: NDArray[np.bool_]) -> Integers:
    """Returns each pixel's distance to the nearest target in its image, in units of 2**-16 px, shape (N, H, W).

    A distance is that of the shortest path of steps to a neighbour (1), to a diagonal one (1.4) and of a
    knight's move (2.1969), as OpenCV approximates the Euclidean one. Two passes, down and back up: within a
    row, a running minimum adds the steps along the row to the distances that come from the rows before.
    """
    field = np.where(targets, 0, np.int32(2 * _FARTHEST))
    rows = np.ascontiguousarray(np.moveaxis(field, 0, -1))  # images last: long inner loops
    rows = _swept(rows)[::-1, ::-1]
    return np.moveaxis(_swept(rows)[::-1, ::-1], -1, 0)


def _swept(field: Integers) -> Integers:
    """Distances by steps from above and from the left, shape (H, W, N)."""
    height, width, count = field.shape
    slope = (np.arange(width, dtype=np.int32) * _UNIT)[:, None]
    swept = np.full((height + 2, width + 4, count), 2 * _FARTHEST, np.int32)
    costs = (
        (1, -2, _KNIGHT),
        (1, -1, _DIAGONAL),
        (1, 0, _UNIT),
        (1, 1, _DIAGONAL),
        (1, 2, _KNIGHT),
        (2, -1, _KNIGHT),
        (2, 1, _KNIGHT),
    )
    for y, row in enumerate(field, 2):
        best = row
        for up, right, cost in costs:
            best = np.minimum(best, swept[y - up, 2 + right : 2 + right + width] + np.int32(cost))
        swept[y, 2:-2] = np.minimum.accumulate(best - slope, axis=0) + slope
    return swept[2:, 2:-2]


def equalized(levels: Pixels) -> Pixels:
    """Returns levels spread so that their cumulative counts rise evenly from 0 to 255, image by image.

    An image of one level stays as it is.

    Args:
        levels: uint8, shape (N, H, W).
    """
    images, size = len(levels), levels[0].size
    number = levels.reshape(images, -1).astype(np.intp) + 256 * np.arange(images)[:, None]
    counts = np.bincount(number.ravel(), minlength=256 * images).reshape(images, 256)
    rest = size - counts[np.arange(images), levels.min(axis=(1, 2))]
    scale = np.float32(255) / np.maximum(rest, 1).astype(np.float32)
    spread = np.rint((counts.cumsum(axis=1) - (size - rest)[:, None]).astype(np.float32) * scale[:, None])
    spread = np.where(rest[:, None] > 0, spread, np.arange(256))
    return np.clip(spread, 0, 255).astype(np.uint8).take(number).reshape(levels.shape)


def _box_sum(values: Integers) -> Integers:
    """Sums 3 x 3 px; the border is mirrored without repeating its pixels."""
    padded = _padded(values, "reflect")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total: Integers = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    return total


def _padded(values: Integers, mode: Literal["edge", "reflect", "constant"]) -> Integers:
    return np.pad(values, ((0, 0), (1, 1), (1, 1)), mode=mode)


def _shifted(padded: Integers, y: int, x: int) -> Integers:
    return padded[:, y : y + padded.shape[1] - 2, x : x + padded.shape[2] - 2]
