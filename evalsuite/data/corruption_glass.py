"""Glass blur: pixels copied from near neighbours, between two passes of a Gaussian."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evalsuite.data.corruption_blur import smoothed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evalsuite.data.corruption_batch import Batch, Constants, Pixels


def glass_blur(batch: Batch, constants: Constants) -> Pixels:
    """Returns the image smoothed, its pixels copied from near neighbours, smoothed: (sigma px, reach px, passes)."""
    sigma, reach, passes = constants
    images = smoothed(batch.images, sigma)
    reach = int(reach)
    size = (batch.block, 1, batch.side - 2 * reach, batch.side - 2 * reach)
    for _ in range(int(passes)):
        choice = batch.draw(lambda rng: rng.integers(0, 4 * reach**2, size, dtype=np.uint8))
        images = _scattered_by_one(images, choice) if reach == 1 else scattered(images, choice[:, 0], reach)
    return smoothed(images, sigma)


def _scattered_by_one(images: Pixels, choice: NDArray[np.uint8]) -> Pixels:
    return beside(images, left=choice & np.uint8(1), up=choice >> np.uint8(1))


def beside(images: Pixels, *, left: NDArray[np.uint8], up: NDArray[np.uint8]) -> Pixels:
    """Returns the images with each pixel from the third row and column on copied from a neighbour.

    The published loop runs from the lower right to the upper left and means to exchange two pixels, but
    exchanges two views of one array, so that both end as the neighbour; and its offsets are -1 or 0, since
    the draw excludes +1. What is read was therefore never written: the loop is one selection among four.

    Args:
        images: uint8, shape (N, 3, S, S).
        left: 1 where a pixel comes from the column to the left, else 0; uint8, shape (N, 1, S - 2, S - 2).
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

    Like `beside`, but of more than a pixel, where the loop also reads what it wrote before: below, and to the
    right in the same row. Such a pixel holds what its own neighbour held, so the chain is followed to a
    pixel that was read before it was written.

    Args:
        images: uint8, shape (N, 3, S, S).
        choice: The neighbour's number, row by row from the lower right, 0 … 4 reach² - 1; uint8, shape
            (N, S - 2 reach, S - 2 reach), for rows and columns from reach + 1 on.
        reach: px.
    """
    count, channels, side, _ = images.shape
    source, written = _sources(choice, reach, side=side)
    final = source.copy()
    open_ = np.flatnonzero(written)
    while len(open_):  # each link is followed by less than half of the pixels
        place = final[open_]
        final[open_] = source[place]
        open_ = open_[written[place]]
    size = side * side
    first = np.arange(count)[:, None] * ((channels - 1) * size) + final.reshape(count, size)
    levels = np.ascontiguousarray(images).reshape(-1)
    return np.stack([levels.take(first + c * size) for c in range(channels)], axis=1).reshape(images.shape)


def _sources(
    choice: NDArray[np.uint8], reach: int, *, side: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Finds where each pixel of each image is read from, and whether that had been written by then; flat."""
    inner = slice(reach + 1, side - reach + 1)
    code = np.arange(4 * reach**2)
    ahead = (reach - 1 - code // (2 * reach)) * side + reach - 1 - code % (2 * reach)
    source = np.arange(len(choice) * side * side).reshape(-1, side, side)
    offset = ahead.take(choice)
    source[:, inner, inner] += offset
    inside = np.zeros((len(choice), side, side), bool)
    inside[:, inner, inner] = True
    written = np.zeros_like(inside)
    written[:, inner, inner] = (offset > 0) & inside.reshape(-1).take(source[:, inner, inner])
    return source.reshape(-1), written.reshape(-1)
