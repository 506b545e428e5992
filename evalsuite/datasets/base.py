"""The contract of a data set, and the checks that every set of images must pass."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalsuite.errors import DataError
from evalsuite.types import Array, ImageSet, Split


@dataclass(frozen=True, slots=True)
class Place:
    """Is where a run finds its data.

    Attributes:
        root: Folder with the user's data; ``None`` if none was named.
        download: Whether missing sets may be fetched.
        seed: First part of the address of every draw that changes images.
    """

    root: Path | None = None
    download: bool = False
    seed: int = 0


class DataSet(ABC):
    """Is a source of images; derive a frozen dataclass whose fields are the keys of the suite's table."""

    @abstractmethod
    def load(self, split: Split, place: Place) -> ImageSet:
        """Returns the images of one split; sets that only serve as outliers have ``test`` alone.

        Raises:
            DataError: If the files are not there; the sentence names them and how to get them.
        """


def load_checked(dataset: DataSet, split: Split, place: Place) -> ImageSet:
    """Returns a split after checking it.

    Raises:
        DataError: If the set is not there or breaks a rule of `check_image_set`.
    """
    return check_image_set(dataset.load(split, place))


def check_image_set(images: ImageSet) -> ImageSet:
    """Returns `images` unchanged if they are what `evalsuite.types.ImageSet` promises.

    Raises:
        DataError: Otherwise, in one sentence.
    """
    _check_images(images.name, images.images)
    if images.labels is not None:
        _check_labels(images.name, images.labels, len(images.images), images.classes)
    if images.names and len(images.names) != images.classes:
        raise DataError(
            f"image set {images.name!r}: found {len(images.names)} names of {images.classes} classes, expected one each"
        )
    return images


def _check_images(name: str, images: Array) -> None:
    if images.ndim != 4:
        raise DataError(f"image set {name!r}: found shape {images.shape}, expected (N, C, H, W)")
    if len(images) == 0:
        raise DataError(f"image set {name!r} is empty: expected at least one image")
    if images.dtype == np.uint8:
        return
    if images.dtype != np.float32:
        raise DataError(
            f"image set {name!r}: found dtype {images.dtype}, expected uint8 in 0..255 or float32 in [0, 1]"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"image set {name!r}: found float values from {low:g} to {high:g}, expected [0, 1]; "
            "the model does its own normalisation, so give images as they are on the screen"
        )


def _check_labels(name: str, labels: Array, count: int, classes: int) -> None:
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"image set {name!r}: found labels of shape {labels.shape} and dtype {labels.dtype}, "
            f"expected {count} integers, one per image"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"image set {name!r}: found labels from {low} to {high}, expected 0 to {classes - 1} for {classes} classes"
        )
    if low == high:
        raise DataError(
            f"image set {name!r}: every label is {low}; expected at least two classes, "
            "or labels=None for an out-of-distribution set"
        )


def digest(images: ImageSet) -> str:
    """Returns a hexadecimal digest of the pixels and labels."""
    total = hashlib.sha256(f"{images.images.dtype} {images.images.shape} {images.classes}".encode())
    for start in range(0, len(images.images), 4096):
        total.update(images.images[start : start + 4096].tobytes())
    if images.labels is not None:
        total.update(images.labels.astype(np.int64).tobytes())
    return total.hexdigest()
