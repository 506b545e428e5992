"""Random noise on images: uniform and Gaussian, in any number of draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from evalsuite.datasets.views import Transform
from evalsuite.random_streams import BLOCK, blocks
from evalsuite.types import Array

if TYPE_CHECKING:
    from evalsuite.datasets.base import Place

NoiseKind = Literal["uniform", "gaussian"]


@dataclass(frozen=True)
class RandomNoise(Transform):
    """I.i.d. noise on [0, 1] images, clipped to [0, 1].

    Attributes:
        kind: ``uniform``: U(-epsilon, epsilon); ``gaussian``: N(0, epsilon^2).
        epsilon: Half-width or standard deviation in units of 1/255.
        draw: Number of the draw, from 0 on; the draws are independent.
    """

    kind: NoiseKind
    epsilon: float
    draw: int = 0

    def name(self, place: Place) -> str:  # noqa: ARG002  # the same everywhere
        """Returns for example ``uniform/8:255``, and ``uniform/8:255 draw 2`` for the second."""
        number = f" draw {self.draw + 1}" if self.draw else ""
        return f"{self.kind}/{self.epsilon:g}:255{number}"

    def apply(self, images: Array, place: Place) -> Array:
        """Returns float32 images in [0, 1]."""
        result, filled = np.empty(images.shape, np.float32), 0
        for part in self.blocks(images, place):
            result[filled : filled + len(part)] = part
            filled += len(part)
        return result

    def blocks(self, images: Array, place: Place) -> Iterator[Array]:
        """Yields float32 images in [0, 1], a few at a time."""
        scale = np.float32(255 if images.dtype == np.uint8 else 1)
        key = (place.seed, self.kind, float(self.epsilon), *([self.draw] if self.draw else []))
        for rows, draws in blocks(len(images), *key):
            noise = _unit(self.kind, draws, images.shape[1:])[: rows.stop - rows.start]
            scaled = images[rows].astype(np.float32) / scale
            yield (scaled + noise * np.float32(self.epsilon / 255)).clip(0, 1)


def packed(images: Array, *key: str | int | float) -> Iterator[tuple[slice, Array]]:
    """Yields images with a draw of U(0, 1) per value as further channels, a part of the images at a time.

    A model that splits them off can add noise after its own normalisation, where no image can carry it.

    Args:
        images: uint8, or float32 in [0, 1], (N, C, H, W).
        key: Address of the draws.

    Yields:
        The rows, and float32 in [0, 1], (n, 2C, H, W).
    """
    packed_blocks: list[Array] = []
    first = 0
    scale = np.float32(255 if images.dtype == np.uint8 else 1)
    for rows, draws in blocks(len(images), *key):
        uniform = draws.random((BLOCK, *images.shape[1:]), dtype=np.float32)[: rows.stop - rows.start]
        packed_blocks.append(np.concatenate([images[rows].astype(np.float32) / scale, uniform], axis=1))
        if len(packed_blocks) == _BLOCKS_AT_ONCE or rows.stop == len(images):
            yield slice(first, rows.stop), np.concatenate(packed_blocks)
            first, packed_blocks = rows.stop, []


_BLOCKS_AT_ONCE = 16
"""Blocks that are packed together, to bound the memory."""


def _unit(kind: NoiseKind, draws: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A block of noise of half-width or standard deviation 1, float32."""
    if kind == "gaussian":
        return draws.standard_normal((BLOCK, *shape), dtype=np.float32)
    return 2 * draws.random((BLOCK, *shape), dtype=np.float32) - 1
