"""scikit-learn's handwritten digits: 1,797 real images that need no download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from evalsuite.datasets.base import DataSet, Place
from evalsuite.types import Array, ImageSet, Split

SIDE = 32
"""Pixels of the height and width of the images."""
LEVELS = 16
"""Largest grey level of the original 8x8 scans."""
SPLIT_SEED = 0
"""Seed of the split, which must never change: results are compared across versions."""


@dataclass(frozen=True)
class Digits(DataSet):
    """1,797 handwritten digits of scikit-learn as 32x32 RGB: 40 % train, 10 % validation, 50 % test."""

    def load(self, split: Split, place: Place) -> ImageSet:  # noqa: ARG002  # ships with scikit-learn
        """Returns one split, uint8 (N, 3, 32, 32), stratified by class; the same on every machine."""
        images, labels = _upscaled()
        rows = _rows()[split]
        return ImageSet("digits", images[rows], labels[rows], 10, tuple(map(str, range(10))))


def enlarged(scans: Array, shape: tuple[int, int, int] = (3, SIDE, SIDE)) -> Array:
    """Returns 8x8 grey scans with levels 0..16 as uint8 (N, C, H, W), enlarged bilinearly, all channels alike.

    Args:
        scans: (N, 8, 8).
        shape: Of one image, (C, H, W).
    """
    channels, height, width = shape
    grey = np.rint(scans * (255 / LEVELS)).astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(scan).resize((width, height), Image.Resampling.BILINEAR)) for scan in grey
    ]
    return np.repeat(np.stack(large)[:, None], channels, axis=1)


@cache
def _upscaled() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return enlarged(digits.images), digits.target.astype(np.int64)


@cache
def _rows() -> dict[Split, Array]:
    from sklearn.model_selection import train_test_split

    labels = _upscaled()[1]
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=SPLIT_SEED
    )
    train, validation = train_test_split(rest, test_size=0.2, stratify=labels[rest], random_state=SPLIT_SEED)
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}
