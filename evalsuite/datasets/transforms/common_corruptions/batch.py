"""The input of a corruption, images with the random generators of their blocks, and the cast of its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evalsuite.random_streams import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Constants = tuple[float, ...]
S = TypeVar("S", bound=np.generic)


PIXELS_AT_ONCE = 1 << 18
"""Pixels that are corrupted at once: 256 images of 32 px."""


def block_size(height: int, width: int) -> int:
    """Returns how many images of a size in px share one generator.

    Draws are made for complete blocks. Up to 64 x 64 px a block is `BLOCK` images, above it as many as are corrupted
    at once: neither memory nor the cost of the last block grows with the size of the images.

    >>> block_size(32, 32), block_size(64, 64), block_size(224, 224)
    (64, 64, 5)
    """
    return min(BLOCK, max(1, PIXELS_AT_ONCE // (height * width)))


@dataclass(frozen=True, slots=True)
class CorruptionBatch:
    """Consecutive blocks of images; only the last block of all may be cut.

    Attributes:
        images: uint8, shape (N, C, H, W), C-contiguous.
        generators: One for each block of `block_size` images.
        seed: First part of the generators' addresses; for layers that all images share.
        textures: Photographs of frost, resized, uint8, each of shape (3, height, width); empty without the user's.
    """

    images: Pixels
    generators: tuple[np.random.Generator, ...]
    seed: int
    textures: tuple[Pixels, ...] = ()

    @property
    def block(self) -> int:
        """Images that share one generator."""
        return block_size(self.height, self.width)

    @property
    def height(self) -> int:
        """Height of the images, px."""
        return int(self.images.shape[-2])

    @property
    def width(self) -> int:
        """Width of the images, px."""
        return int(self.images.shape[-1])

    @property
    def grey(self) -> bool:
        """Whether the images have one channel."""
        return bool(self.images.shape[1] == 1)

    def draw(self, sample: Callable[[np.random.Generator], NDArray[S]]) -> NDArray[S]:
        """Returns the draws of `sample`, which gives `block` rows at a time, cut to one row per image."""
        return np.concatenate([sample(generator) for generator in self.generators])[: len(self.images)]

    def uniform(self, *shape: int) -> NDArray[np.float32]:
        """Returns draws from U(0, 1), float32, shape (N, *shape)."""
        return self.draw(lambda generator: generator.random((self.block, *shape), dtype=np.float32))

    def normal(self, *shape: int) -> NDArray[np.float32]:
        """Returns draws from N(0, 1), float32, shape (N, *shape)."""
        return self.draw(lambda generator: generator.standard_normal((self.block, *shape), dtype=np.float32))

    def angles(self, low: float, high: float) -> NDArray[np.float32]:
        """Returns one angle in degrees for each image, U(low, high), float32, shape (N,)."""
        return low + (high - low) * self.uniform()


def truncated(values: Floats) -> Pixels:
    """Returns 0…255 levels as uint8, clipped and rounded down like the published files; overwrites `values`.

    >>> truncated(np.array([-3.0, 7.99, 300.0])).tolist()
    [0, 7, 255]
    """
    return np.clip(values, 0, 255, out=values).astype(np.uint8)
