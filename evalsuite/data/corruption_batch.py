"""What a corruption works on: images and the generators of their blocks; and the cast that ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evalsuite.randomness import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Constants = tuple[float, ...]
S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Batch:
    """Is a run of whole blocks of images; only the last block of all may be cut.

    Attributes:
        images: uint8, shape (N, 3, S, S), C-contiguous.
        generators: One for each block of `BLOCK` images.
        seed: What the generators' addresses begin with; for layers that all images share.
        textures: Photographs of frost, uint8, each of shape (H, W, 3); empty unless the user gave some.
    """

    images: Pixels
    generators: tuple[np.random.Generator, ...]
    seed: int
    textures: tuple[Pixels, ...] = ()

    @property
    def side(self) -> int:
        """Height and width of the images, px."""
        return int(self.images.shape[-1])

    def draw(self, sample: Callable[[np.random.Generator], NDArray[S]]) -> NDArray[S]:
        """Returns the draws of `sample`, which gives `BLOCK` rows at a time, cut to one row per image."""
        return np.concatenate([sample(generator) for generator in self.generators])[: len(self.images)]

    def uniform(self, *shape: int) -> NDArray[np.float32]:
        """Returns draws from U(0, 1), float32, shape (N, *shape)."""
        return self.draw(lambda generator: generator.random((BLOCK, *shape), dtype=np.float32))

    def normal(self, *shape: int) -> NDArray[np.float32]:
        """Returns draws from N(0, 1), float32, shape (N, *shape)."""
        return self.draw(lambda generator: generator.standard_normal((BLOCK, *shape), dtype=np.float32))

    def angles(self, low: float, high: float) -> NDArray[np.float32]:
        """Returns one angle in degrees for each image, U(low, high), float32, shape (N,)."""
        return low + (high - low) * self.uniform()


def truncated(values: Floats) -> Pixels:
    """Returns 0…255 levels as uint8, clipped and rounded down like the published files; overwrites `values`.

    >>> truncated(np.array([-3.0, 7.99, 300.0])).tolist()
    [0, 7, 255]
    """
    return np.clip(values, 0, 255, out=values).astype(np.uint8)
