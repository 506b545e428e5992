"""Common corruptions as transforms of test images, with the photographs of frost that the data root may have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from evalsuite.datasets.base import Place
from evalsuite.datasets.transforms.common_corruptions.kinds import corrupt, label
from evalsuite.datasets.views import Transform
from evalsuite.errors import DataError
from evalsuite.types import Array

TEXTURES = 5  # of its six frost pictures, the published generator draws from the first five


@dataclass(frozen=True)
class Corruption(Transform):
    """Is a common corruption at a severity of 1 to 5, generated."""

    kind: str
    severity: int

    def name(self, place: Place) -> str:
        """Returns for example ``fog/3``; ``frost*/3`` where the frost is painted and not photographed."""
        return f"{label(self.kind, textures=frost_textures(place.root))}/{self.severity}"

    def apply(self, images: Array, place: Place) -> Array:
        """Returns corrupted uint8 images."""
        return corrupt(images, self.kind, self.severity, seed=place.seed, textures=self.textures(place))

    def inputs(self, place: Place) -> Iterable[bytes]:
        """Yields the photographs that the corruption draws from."""
        return (texture.tobytes() for texture in self.textures(place))

    def textures(self, place: Place) -> tuple[Array, ...]:
        """Returns the photographs that the corruption needs and the data root has."""
        return frost_textures(place.root) if self.kind == "frost" else ()


@cache
def frost_textures(root: Path | None) -> tuple[Array, ...]:
    """Returns the pictures ``frost1`` to ``frost5`` of the data root's folder ``frost``, uint8 (H, W, 3), or none.

    Raises:
        DataError: If some are there and others not, or cannot be read: fewer pictures are another corruption, of the
            same name.
    """
    from PIL import Image

    found = sorted((root / "frost").glob("frost[1-9].*")) if root is not None else []
    if found and len(found) < TEXTURES:
        raise DataError(
            f"{found[0].parent}: found {len(found)} frost photographs, expected frost1 to frost{TEXTURES} of the "
            "published generator; add the others, or rename the folder to have the frost painted"
        )
    try:
        return tuple(np.asarray(Image.open(path).convert("RGB")) for path in found[:TEXTURES])
    except OSError as error:
        raise DataError(
            f"{found[0].parent}: a frost photograph is not a readable picture ({error})"
        ) from error
