"""Blurs: defocus, glass, motion, zoom, Gaussian."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage, sparse

from evalsuite.datasets.transforms.common_corruptions.batch import truncated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalsuite.datasets.transforms.common_corruptions.batch import (
        Constants,
        CorruptionBatch,
        Floats,
        Pixels,
    )

    Operator = sparse.csr_array[Any, tuple[int, int]]
    Indices = NDArray[np.intp]


_SMALLEST_GRID = 8  # reach of the grid that a disk is drawn on, px
_SPARSE = (
    1 << 20
)  # weights up to which a sparse operator is faster than Fourier transforms and fits the cache
_EXCESS = 1e-6  # keeps even areas at their level when levels are truncated, as most of the published sums do
_LARGEST_PRODUCT = 512  # px up to which products with whole matrices are faster than sums over taps
_ROUNDING = 1e-9  # levels by which sums of numbers up to 255 may differ in another order, with room
_NEGLIGIBLE = 1e-7  # share of a kernel that cannot move a level


def defocus_blur(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the correlation with a smoothed disk, with (radius px, sigma px) = `constants`.

    The border is mirrored without repeating its pixels.
    """
    kernel = disk(*constants)
    images = batch.images.astype(np.float64)
    if np.count_nonzero(kernel) * batch.height * batch.width <= _SPARSE:
        return truncated(_applied(_defocus(batch.height, batch.width, *constants), images))
    reach = len(kernel) // 2
    padded = np.pad(images, [(0, 0), (0, 0), (reach, reach), (reach, reach)], mode="reflect")
    from scipy import signal  # a second of imports, for this kind alone

    return truncated(signal.fftconvolve(padded, kernel[None, None].astype(np.float64), "valid", axes=(2, 3)))


def gaussian_blur(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the image smoothed by a Gaussian with (sigma px,) = `constants`."""
    (sigma,) = constants
    return smoothed(batch.images, sigma)


def motion_blur(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the image smeared at an angle in U(-45°, 45°), approximately: (radius px, sigma px)."""
    values = streaked(batch.images.astype(np.float32), batch.angles(-45, 45), *constants)
    return truncated(values + np.float32(0.5))  # rounded, as by ImageMagick, which made the files


def zoom_blur(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the mean of the image and of its zooms 1, 1 + step, … below the nominal end: (end, step)."""
    return truncated(_applied(_zooms(batch.height, batch.width, *constants), batch.images.astype(np.float64)))


def streaked(layers: NDArray[np.float32], angles: NDArray[np.float32], radius: float, sigma: float) -> Floats:
    """Returns layers smeared to one side, each at its own angle.

    The kernel is one half of a Gaussian: the value at distance i = 0 … 2 radius along the angle (x to the
    right, y downwards), at the nearest pixel, has the weight exp(-i²/2 sigma²), and all weights sum to one.
    Beyond the border the nearest pixel counts. This approximates ImageMagick, which made the official files.

    Args:
        layers: Values, shape (N, C, H, W).
        angles: Degrees, shape (N,).
        radius: px.
        sigma: px.
    """
    order = np.argsort(angles, kind="stable")  # neighbours in angle share their offsets: few, long additions
    distance = np.arange(2 * int(radius) + 1)
    weights = np.exp(-(distance**2) / (2 * sigma**2))
    weights = weights[weights > _NEGLIGIBLE] / weights.sum()
    turn = np.deg2rad(angles[order].astype(np.float64))
    steps = np.stack([np.sin(turn), np.cos(turn)], axis=-1) * distance[: len(weights), None, None]
    offsets = np.ceil(steps - 0.5).astype(np.int64)  # shape (taps, N, 2): rows down, columns right
    return _summed(layers[order], offsets, weights)[np.argsort(order)]


def zoom_matrix(side: int, factor: float) -> Floats:
    """Returns the matrix M for which M X Mᵀ is X zoomed by `factor` about its centre, bilinear, same size."""
    crop = int(np.ceil(side / factor))
    top = (side - crop) // 2
    zoomed = ndimage.zoom(np.eye(crop), (factor, 1), order=1)
    trim = (len(zoomed) - side) // 2
    matrix = np.zeros((side, side))
    matrix[:, top : top + crop] = zoomed[trim : trim + side]
    return matrix


def _summed(layers: NDArray[np.float32], offsets: NDArray[np.int64], weights: Floats) -> Floats:
    """Adds up shifted layers: runs of layers with the same offset are one slice."""
    height, width = layers.shape[-2:]
    low, high = offsets.min(axis=(0, 1)), offsets.max(axis=(0, 1))
    margin = (int(-low[1]), int(high[1]), int(-low[0]), int(high[0]))
    source = torch.nn.functional.pad(torch.from_numpy(layers), margin, mode="replicate")
    total = torch.zeros(layers.shape)
    for corners, weight in zip(offsets - low, weights.tolist(), strict=True):
        changes = np.flatnonzero((corners[1:] != corners[:-1]).any(axis=1)) + 1
        starts = [0, *changes.tolist()]
        for start, stop in zip(starts, [*starts[1:], len(corners)], strict=True):
            y, x = corners[start].tolist()
            total[start:stop].add_(source[start:stop, :, y : y + height, x : x + width], alpha=weight)
    return total.numpy()


def _applied(operator: Operator, images: Floats) -> Floats:
    """Applies an operator on the pixels of a channel; pixels come first: the inner loop is the batch."""
    columns = torch.from_numpy(images).reshape(-1, operator.shape[1]).t().contiguous()
    result = torch.from_numpy(operator @ columns.numpy())
    return result.t().contiguous().reshape(images.shape).numpy()


@lru_cache(maxsize=8)
def _defocus(height: int, width: int, radius: float, sigma: float) -> Operator:
    """Correlation with the disk as an operator on the pixels."""
    kernel = disk(radius, sigma)
    taps = np.argwhere(kernel)
    mirrored = np.pad(np.arange(height * width).reshape(height, width), len(kernel) // 2, mode="reflect")
    sources = np.stack([mirrored[y : y + height, x : x + width].ravel() for y, x in taps])
    targets = np.broadcast_to(np.arange(height * width), sources.shape)
    weights = np.broadcast_to(kernel[tuple(taps.T)][:, None], sources.shape).astype(np.float64)
    return _operator(targets.ravel(), sources.ravel(), weights.ravel())


def disk(radius: float, sigma: float) -> NDArray[np.float32]:
    """Returns a disk, smoothed by a Gaussian of 3 x 3 px, or of 5 x 5 px for a radius above 8 px, float32.

    The grid reaches 8 px or the radius; its own border is mirrored while the disk is smoothed. In float32,
    because whether its sum falls short of one decides whether a white sky becomes 254 or 255.
    """
    reach, width = (_SMALLEST_GRID, 1) if radius <= _SMALLEST_GRID else (int(radius), 2)
    squares = np.arange(-reach, reach + 1) ** 2
    flat = (squares[:, None] + squares <= radius**2).astype(np.float32)
    flat /= flat.sum()
    tails = np.exp(-(np.arange(width + 1) ** 2) / (2 * sigma**2))
    weights = (tails / (2 * tails.sum() - 1)).astype(np.float32)
    for axis in (1, 0):
        margin = [(width, width) if axis == side else (0, 0) for side in (0, 1)]
        shifted = np.lib.stride_tricks.sliding_window_view(
            np.pad(flat, margin, mode="reflect"), 2 * width + 1, axis=axis
        )
        total = shifted[..., width] * weights[0]
        for tap in range(1, width + 1):
            total = total + (shifted[..., width + tap] + shifted[..., width - tap]) * weights[tap]
        flat = total
    return flat


@lru_cache(maxsize=8)
def _zooms(height: int, width: int, end: float, step: float) -> Operator:
    """Mean of the image and all its zooms: ten entries per row; A X Bᵀ zoom by zoom costs ten times more."""
    factors = np.arange(1, end, step)  # rounding of the end adds an element at 1.06 and 1.11: published so
    down, across = (
        [np.eye(side), *(zoom_matrix(side, float(factor)) for factor in factors)] for side in (height, width)
    )
    targets, sources, weights = zip(*map(_two_sided, down, across), strict=True)
    shares = np.concatenate(weights) * ((1 + _EXCESS) / len(down))
    return _operator(np.concatenate(targets), np.concatenate(sources), shares)


def _two_sided(down: Floats, across: Floats) -> tuple[Indices, Indices, Floats]:
    """Rows, columns and values of X -> A X Bᵀ as an operator on the pixels of X, for square matrices A and B."""
    first, second = np.nonzero(down), np.nonzero(across)
    targets, sources = ((len(across) * y[:, None] + x).ravel() for y, x in zip(first, second, strict=True))
    return targets, sources, np.outer(down[first], across[second]).ravel()


def _operator(targets: Indices, sources: Indices, weights: Floats) -> Operator:
    size = int(targets.max()) + 1
    return sparse.csr_array(sparse.coo_array((weights, (targets, sources)), shape=(size, size)))


def smoothed(images: Pixels, sigma: float) -> Pixels:
    """Returns images smoothed by a Gaussian as `blurred`, truncated.

    Two matrix products give the same sums in another order. Where that could decide between a level and the one below,
    as in even areas, the image is summed in the order of `blurred`.
    """
    if _reach(sigma) == 0:
        return images
    if max(images.shape[-2:]) > _LARGEST_PRODUCT:
        return truncated(blurred(images / 255, sigma) * 255)
    down, across = (_gaussian(side, sigma) for side in images.shape[-2:])
    values = np.matmul(down, np.matmul(images.astype(np.float64), across.T))
    nearest = np.rint(values)
    undecided = (np.abs(values - nearest) < _ROUNDING) & (
        values != 0
    )  # a sum of zeros is zero in every order
    rows = np.flatnonzero(undecided.any(axis=(1, 2, 3)))
    levels = truncated(values)
    if len(rows):
        levels[rows] = truncated(blurred(images[rows] / 255, sigma) * 255)
    return levels


@lru_cache(maxsize=16)
def _gaussian(side: int, sigma: float) -> Floats:
    """The smoothing of a row of pixels as a matrix, (side, side); the border's pixels are repeated."""
    reach = _reach(sigma)
    weights = np.exp(-0.5 / sigma**2 * np.arange(-reach, reach + 1) ** 2)
    matrix = np.zeros((side, side))
    for offset, weight in zip(range(-reach, reach + 1), weights / weights.sum(), strict=True):
        np.add.at(matrix, (np.arange(side), np.clip(np.arange(side) + offset, 0, side - 1)), weight)
    return matrix


def blurred(values: Floats, sigma: float) -> Floats:
    """Returns values smoothed on the last two axes by a Gaussian cut at four sigma, the border's pixels repeated.

    Sums run in the order of scipy's: in even areas the last bit decides between a level and the one below.
    """
    reach = _reach(sigma)
    weights = np.exp(-0.5 / sigma**2 * np.arange(-reach, reach + 1) ** 2)
    weights /= weights.sum()
    for axis in (-2, -1):
        values = _correlated(values, weights, axis)
    return values


def _reach(sigma: float) -> int:
    return int(4 * sigma + 0.5)


def _correlated(values: Floats, weights: Floats, axis: int) -> Floats:
    reach, size = len(weights) // 2, values.shape[axis]
    margin = [(0, 0)] * values.ndim
    margin[axis] = (reach, reach)
    padded = np.pad(values, margin, mode="edge").swapaxes(axis, -2)
    total: Floats = values.swapaxes(axis, -2) * weights[reach]
    pair = np.empty_like(total)
    for tap in range(reach):
        mirror = 2 * reach - tap
        np.add(padded[..., tap : tap + size, :], padded[..., mirror : mirror + size, :], out=pair)
        pair *= weights[tap]
        total += pair
    return total.swapaxes(axis, -2)


def glass_blur(batch: CorruptionBatch, constants: Constants) -> Pixels:
    """Returns the image smoothed, its pixels copied from near neighbours, smoothed: (sigma px, reach px, passes)."""
    sigma, reach, passes = constants
    images = smoothed(batch.images, sigma)
    reach = int(reach)
    size = (batch.block, 1, batch.height - 2 * reach, batch.width - 2 * reach)
    for _ in range(int(passes)):
        choice = batch.draw(lambda rng: rng.integers(0, 4 * reach**2, size, dtype=np.uint8))
        images = _scattered_by_one(images, choice) if reach == 1 else scattered(images, choice[:, 0], reach)
    return smoothed(images, sigma)


def _scattered_by_one(images: Pixels, choice: NDArray[np.uint8]) -> Pixels:
    return beside(images, left=choice & np.uint8(1), up=choice >> np.uint8(1))


def beside(images: Pixels, *, left: NDArray[np.uint8], up: NDArray[np.uint8]) -> Pixels:
    """Returns the images with each pixel from the third row and column on copied from a neighbour.

    The published loop runs from the lower right to the upper left and is meant to exchange two pixels, but
    exchanges two views of one array, so that both end as the neighbour; and its offsets are -1 or 0, since
    the draw excludes +1. So it never reads a pixel that it has written: it is one selection among four.

    Args:
        images: uint8, shape (N, C, H, W).
        left: 1 where a pixel comes from the column to the left, else 0; uint8, shape (N, 1, H - 2, W - 2).
        up: 1 where it comes from the row above, else 0; likewise.
    """
    from_left, from_up = -left, -up  # 0 or 255: selection by bits is many times faster than by np.where
    here, beside = images[..., 2:, 2:], images[..., 2:, 1:-1]
    above, across = images[..., 1:-1, 2:], images[..., 1:-1, 1:-1]
    level = here ^ ((here ^ beside) & from_left)
    higher = above ^ ((above ^ across) & from_left)
    result = images.copy()
    result[..., 2:, 2:] = level ^ ((level ^ higher) & from_up)
    return result


def scattered(images: Pixels, choice: NDArray[np.uint8], reach: int) -> Pixels:
    """Returns the images with each inner pixel copied from a neighbour at -reach … reach - 1 on both axes.

    Like `beside`, but over more than a pixel, where the loop also reads pixels that it has written: below, and to
    the right in the same row. Such a pixel has the value of its own neighbour, so the chain is followed to a pixel
    that was read before it was written.

    Args:
        images: uint8, shape (N, C, H, W).
        choice: The neighbour's number, row by row from the lower right, 0 … 4 reach² - 1; uint8, shape
            (N, H - 2 reach, W - 2 reach), for rows and columns from reach + 1 on.
        reach: px.
    """
    count, channels, height, width = images.shape
    source, written = _sources(choice, reach, height=height, width=width)
    final = source.copy()
    unfinished = np.flatnonzero(written)
    while len(unfinished):  # less than half of the pixels remain after each step
        link = final[unfinished]
        final[unfinished] = source[link]
        unfinished = unfinished[written[link]]
    size = height * width
    first = np.arange(count)[:, None] * ((channels - 1) * size) + final.reshape(count, size)
    levels = np.ascontiguousarray(images).reshape(-1)
    return np.stack([levels.take(first + c * size) for c in range(channels)], axis=1).reshape(images.shape)


def _sources(
    choice: NDArray[np.uint8], reach: int, *, height: int, width: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Indices of the pixels that are read for each pixel, and whether they had been written by then; flat."""
    inner = (slice(None), slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1))
    code = np.arange(4 * reach**2)
    ahead = (reach - 1 - code // (2 * reach)) * width + reach - 1 - code % (2 * reach)
    source = np.arange(len(choice) * height * width).reshape(-1, height, width)
    offset = ahead.take(choice)
    source[inner] += offset
    inside = np.zeros((len(choice), height, width), bool)
    inside[inner] = True
    written = np.zeros_like(inside)
    written[inner] = (offset > 0) & inside.reshape(-1).take(source[inner])
    return source.reshape(-1), written.reshape(-1)
