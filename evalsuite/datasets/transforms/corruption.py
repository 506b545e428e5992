"""Common corruptions as transforms of test images, with the photographs of frost that the data root may hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt, corrupted_blocks, reported_kind
from evalsuite.datasets.views import Transform
from evalsuite.errors import DataError
from evalsuite.types import Array

if TYPE_CHECKING:
    from evalsuite.datasets.base import Place

TEXTURES = 5
"""Photographs of frost that are drawn from: the published generator has six and draws from the first five."""


@dataclass(frozen=True)
class Corruption(Transform):
    """A generated common corruption.

    Attributes:
        kind: One of the kinds in `evalsuite.datasets.transforms.common_corruptions.kinds`.
        severity: 1 to 5.
    """

    kind: str
    severity: int

    def name(self, place: Place) -> str:
        """Returns for example ``fog/3``; ``frost-synthetic/3`` where the data root has no photographs of frost."""
        return f"{reported_kind(self.kind, textures=frost_textures(place.root))}/{self.severity}"

    def apply(self, images: Array, place: Place) -> Array:
        """Returns corrupted uint8 images."""
        return corrupt(images, self.kind, self.severity, seed=place.seed, textures=self.textures(place))

    def blocks(self, images: Array, place: Place) -> Iterator[Array]:
        """Yields corrupted uint8 images, a few at a time."""
        yield from corrupted_blocks(
            images, self.kind, self.severity, seed=place.seed, textures=self.textures(place)
        )

    def inputs(self, place: Place) -> Iterable[bytes]:
        """Yields the photographs that the corruption draws from."""
        return (texture.tobytes() for texture in self.textures(place))

    def textures(self, place: Place) -> tuple[Array, ...]:
        """Returns the photographs that the corruption draws from; none if it needs none or the data root has none."""
        return frost_textures(place.root) if self.kind == "frost" else ()


@cache
def frost_textures(root: Path | None) -> tuple[Array, ...]:
    """Returns the pictures ``frost1`` to ``frost5`` of the data root's folder ``frost``, uint8 (H, W, 3), or none.

    Raises:
        DataError: If only some exist, or one cannot be read: with fewer pictures this is another corruption of the
            same name.
    """
    paths = sorted((root / "frost").glob("frost[1-9].*")) if root is not None else []
    if paths and len(paths) < TEXTURES:
        raise DataError(
            f"{paths[0].parent}: found {len(paths)} frost photographs, expected frost1 to frost{TEXTURES} of the "
            "published generator; add the others, or rename the folder to use synthetic frost"
        )
    try:
        return tuple(np.asarray(Image.open(path).convert("RGB")) for path in paths[:TEXTURES])
    except OSError as error:
        raise DataError(
            f"{paths[0].parent}: a frost photograph is not a readable picture ({error})"
        ) from error
